"""Kernels that stand in for those of recorded spaces compute what their specification says, and a space is judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.performance_model import recorded
from bench.performance_model.recorded_problems import Problem, convolution, dedispersion, pnpoly
from gpu_tune.cuda import cubin as cubins
from gpu_tune.cuda import nvrtc
from gpu_tune.emulator.launch import emulate
from gpu_tune.errors import InvalidInput
from gpu_tune.space.knob import Config
from tests.helpers.emulator.snippets import needs_emulator, needs_nvrtc

CONVOLUTION = {"read_only": 0, "use_padding": 0, "use_shmem": 1, "use_cmem": 1, "filter_height": 15, "filter_width": 15}
BLOCK = {"block_size_x": 16, "block_size_y": 2, "tile_size_x": 2, "tile_size_y": 1}
RNG = np.random.default_rng(3)


def run(problem: Problem, config: Config, *args: object, **symbols: np.ndarray) -> np.ndarray:
    """The array that the kernel writes."""
    k = recorded.knobs(config)
    report = emulate(
        problem.source(config), problem.kernel, problem.grid(k), problem.block(k), args, symbols=symbols,
        device="nvidia-rtx-3090",
    )  # fmt: skip
    assert report.ok, report
    return report.results[next(i for i, a in enumerate(args) if isinstance(a, np.ndarray) and a.flags.writeable)]


def constant(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@needs_nvrtc
@needs_emulator
@pytest.mark.parametrize("knobs", [{"use_padding": 1}, {"use_shmem": 0, "read_only": 1}])
def test_the_filter(knobs: dict[str, int]) -> None:
    width, height = 50, 3
    problem, config = convolution(width, height), Config({**BLOCK, **CONVOLUTION, **knobs})
    k = recorded.knobs(config)
    across = problem.grid(k)[0] * 32 + 14
    image, weights = (RNG.integers(0, 4, size).astype(np.float32) for size in ((4 + 14, across), (15, 15)))
    assert list(problem.arguments(k)[1:]) == [image.nbytes, weights.nbytes]
    out = run(
        problem, config, np.zeros((height, width), np.float32), constant(image), constant(weights), d_filter=weights
    )
    windows = np.lib.stride_tricks.sliding_window_view(image, (15, 15))[:height, :width]
    np.testing.assert_array_equal(out, np.einsum("yxij,ij->yx", windows, weights))


@needs_nvrtc
@needs_emulator
@pytest.mark.parametrize("method", [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_points_in_a_polygon(method: tuple[int, int]) -> None:
    """A regular polygon: what lies well inside its circle, and what lies well outside it."""
    between, use = method
    config = Config(between_method=between, use_method=use, block_size_x=32, tile_size=2)
    angle = np.arange(12) * (2 * np.pi / 12) + 0.1
    corners = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    points = (RNG.random((90, 2)) * 2.4 - 1.2).astype(np.float32)
    radius = np.linalg.norm(points, axis=1)
    found = run(pnpoly(90, 12), config, np.zeros(90, np.int32), constant(points), np.int32(90), d_vertices=corners)
    assert found[radius < 0.95].all() and not found[radius > 1].any() and (radius < 0.95).sum() > 20


@needs_nvrtc
@needs_emulator
@pytest.mark.parametrize("stride", [0, 1])
def test_sums_over_delayed_samples(stride: int) -> None:
    samples, dms, channels = 40, 6, 5
    problem = dedispersion(samples, dms, channels)
    config = Config({**BLOCK, "tile_stride_x": stride, "tile_stride_y": stride})
    data = RNG.integers(0, 256, (channels, problem.defines["PITCH"]), np.uint8)
    delays = np.arange(channels, dtype=np.float32)
    found = run(
        problem, config, constant(data), np.zeros((dms, samples), np.float32), np.float32(1), np.float32(2),
        d_delays=delays,
    )  # fmt: skip
    delay = ((1 + 2 * np.arange(dms))[:, None] * delays).astype(int)
    np.testing.assert_array_equal(
        found, [sum(data[c, d[c] : d[c] + samples].astype(np.float32) for c in range(channels)) for d in delay]
    )


@needs_nvrtc
def test_loops_are_counted_however_far_the_compiler_unrolled_them() -> None:
    config = Config(between_method=0, use_method=0, block_size_x=32, tile_size=1)
    for unroll in (1, 3):
        problem = pnpoly(1000, 600)
        source = problem.source(config).replace("    for (int v", f"#pragma unroll {unroll}\n    for (int v")
        program = cubins.programs(nvrtc.to_cubin(source, "sm_86").data)["cn_pnpoly"]
        assert recorded.trips_of(problem, program, recorded.knobs(config)) == 600 / unroll


@needs_nvrtc
def test_a_space_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A space of four configs, one of which failed; more points a thread are faster."""
    keys = ["between_method", "use_method", "block_size_x", "tile_size"]
    rows = [(0, 0, 32, 1, 9.0), (0, 0, 32, 2, 6.0), (0, 0, 32, 4, 3.0), (0, 0, 64, 2, "RuntimeFailedConfig")]
    space = {
        "device_name": "NVIDIA GeForce RTX 3090", "kernel_name": "cn_pnpoly", "problem_size": 3000000,
        "tune_params_keys": keys, "objective": "time",
        "tune_params": {name: sorted({row[i] for row in rows}) for i, name in enumerate(keys)},
        "cache": {",".join(map(str, r[:4])): {**dict(zip(keys, r)), "time": r[4]} for r in rows},
    }  # fmt: skip
    (tmp_path / "tiny.json").write_text(json.dumps(space))
    recorded.main([str(tmp_path / "tiny.json"), "--json", str(tmp_path / "out.json"), "--limit", "9"])
    told = capsys.readouterr().out
    assert "The code differs from what was timed" in told and max(map(len, told.splitlines())) <= 80
    found = json.loads((tmp_path / "out.json").read_text())["spaces"]["tiny"]
    assert (found["configs"], found["not predicted"]) == (3, 0), "what failed is not drawn"
    assert found["rows"]["the model"]["top1"] == 1 and found["rows"]["the model"]["rank"] == pytest.approx(1)
    assert found["sample over space"] == 1 and found["median over best"] == 2
    with pytest.raises(InvalidInput, match="recorded space's device: 'NVIDIA Nothing' is none of"):
        recorded.device_of("NVIDIA Nothing")
