"""Knob features, hardware features of real templates, and suggestions from outside."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_tune.cuda.device import by_name
from gpu_tune.model.transfer import suggest
from gpu_tune.space.features import (
    Encoder,
    LaunchSummary,
    distance,
    gemm_shape,
    launch_features,
    operands,
)
from gpu_tune.space.knob import Knob
from gpu_tune.templates.bound import BoundTemplate, TemplateSpace, hardware
from gpu_tune.templates.registry import registry
from gpu_tune.workload import Conv2d, Matmul, Workload

H200 = by_name("nvidia-h200")
SQUARE = Matmul(4096, 4096, 1024, dtype="float32", layout="nn")
NAMES = tuple(launch_features(LaunchSummary(128, 100, 0, 1, 64.0, 64.0), SQUARE, H200))


def feature(space: TemplateSpace, name: str, **changes: Any) -> float:
    default = space.default()
    assert default is not None
    x, names = hardware(space.bound, [default.replace(**changes)])
    return float(x[0, names.index(name)])


def test_features_of_the_default_are_what_one_computes_by_hand() -> None:
    space = BoundTemplate(registry()["matmul_simt"], SQUARE, H200).space()
    default = space.default()
    assert default is not None
    estimate = space.bound.estimate(default)
    bm, bn = int(default["block_m"]), int(default["block_n"])
    tiles = (4096 // bm) * (4096 // bn)
    assert feature(space, "log2 threads") == np.float32(np.log2(estimate.threads))
    assert feature(space, "tile intensity") == pytest.approx(bm * bn / (bm + bn))
    assert feature(space, "log2 L2 bytes") == pytest.approx(
        np.log2(tiles * (bm + bn) * 1024 * 4 + 4096 * 4096 * 4), abs=1e-4
    )
    resident = feature(space, "resident blocks")
    waves = tiles / (H200.sm_count * resident)
    assert feature(space, "last wave share") == pytest.approx(waves / np.ceil(waves), abs=1e-5)
    assert feature(space, "padded work") == 1.0
    sms = H200.sm_count
    assert feature(space, "SM balance") == pytest.approx(tiles / (sms * np.ceil(tiles / sms)), abs=1e-5)
    together = min(tiles, int(sms * resident))
    columns = min(-(-together // 8), 4096 // bn)
    wave = (min(-(-together // columns), 4096 // bm) * bm + columns * bn) * 1024 * 4
    traffic = -(-tiles // together) * wave + 4096 * 4096 * 4
    assert feature(space, "log2 wave bytes per L2 byte") == pytest.approx(np.log2(wave / H200.l2_bytes), abs=1e-4)
    assert feature(space, "log2 memory bytes per useful byte") == pytest.approx(
        np.log2(traffic / SQUARE.bytes), abs=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry()))
def test_every_template_has_finite_features_with_one_set_of_names(name: str) -> None:
    template = registry()[name]
    workloads: list[Workload] = [
        SQUARE,
        Matmul(65, 1000, 72, dtype="float16", layout="nt"),
        Matmul(16, 512, 512, dtype="bfloat16", layout="nt"),
        Conv2d(1, 64, 56, 56, 64, 3, 3, padding=1),
        Conv2d(1, 64, 28, 28, 64, 3, 3, padding=1, groups=64),
        Conv2d(2, 32, 14, 14, 64, 3, 3, padding=1, dtype="float32"),
        Conv2d(1, 64, 56, 56, 64, 3, 3, padding=1, dtype="float32", layout="nchw", math=("winograd",)),
        Conv2d(1, 64, 56, 56, 64, 3, 3, padding=1, math=("winograd",)),
    ]
    seen = []
    for workload in workloads:
        if template.supported(workload, H200) is True:
            space = BoundTemplate(template, workload, H200).space()
            x, names = hardware(space.bound, space.sample(5, np.random.default_rng(0)))
            assert np.isfinite(x).all()
            seen.append(names)
    if not seen:
        pytest.skip(f"{name} supports none of the workloads listed here")
    assert all(names == seen[0] and names[: len(NAMES)] == list(NAMES) for names in seen)


def test_workloads_are_alike_by_shape_and_kind() -> None:
    near, far = (
        Matmul(4096, 4096, 2048, dtype="float32", layout="nn"),
        Matmul(64, 4096, 1024, dtype="float16", layout="nt"),
    )
    assert distance(SQUARE, SQUARE) == 0 < distance(SQUARE, near) == 1 < distance(SQUARE, far)
    conv = Conv2d(1, 64, 56, 56, 128, 3, 3, padding=1)
    assert distance(SQUARE, conv) == np.inf and gemm_shape(conv) == (56 * 56, 128, 64 * 9, 1)


def fake_package(answers: list[Any]) -> Any:
    class Interface:
        def __init__(self, backend: Any, gpu: Any) -> None:
            assert gpu == "H200"

        def makeNvMatmulHeuristicsProblem(self, *shape: Any) -> Any:
            return shape

        def get(self, problem: Any, count: int, precision: str) -> list[Any]:
            assert precision == "SSS" and problem[:3] == (4096, 4096, 1024)
            return [{"kernel": a, "runtime": a.runtime} for a in answers[:count]]

    return SimpleNamespace(
        NvMatmulHeuristicsInterfaceEx=Interface,
        NvMatmulHeuristicsTarget=SimpleNamespace(CUTLASS3=4),
        NvMatmulHeuristicsNvidiaGpu={"H200_SXM": "H200"},
        boolsToNvMatmulHeuristicsLayout=lambda a, b: (a, b),
    )


def test_suggestions_become_valid_configs_near_what_was_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    space = BoundTemplate(registry()["matmul_simt"], SQUARE, H200).space()
    answers = [
        SimpleNamespace(cta_tile_m=m, cta_tile_n=n, cta_tile_k=16, stages=2, cta_order=order, runtime=runtime)
        for m, n, order, runtime in (
            (64, 250, 0, 3e-4),  # not in the order of their runtimes
            *((128, 128, order, 2e-4) for order in range(16)),  # twins: no knob says their order
            (32, 64, 0, 2.5e-4),
            (100_000, 1, 0, 9e-4),
        )
    ]
    monkeypatch.setitem(sys.modules, "nvMatmulHeuristics", fake_package(answers))
    found = suggest(space)
    assert 3 <= len(found) <= 4 and all(c in space for c in found)
    assert [(c["block_m"], c["block_n"]) for c in found[:3]] == [(128, 128), (32, 64), (64, 256)]
    monkeypatch.setitem(sys.modules, "nvMatmulHeuristics", SimpleNamespace())  # of another version, say
    assert suggest(space) == []
    monkeypatch.setitem(sys.modules, "nvMatmulHeuristics", None)  # not installed
    assert suggest(space) == []


def test_a_tiled_product_of_others_has_the_features_of_an_equal_one_of_ours() -> None:
    space = BoundTemplate(registry()["matmul_simt"], SQUARE, H200).space()
    for config in space.sample(20, np.random.default_rng(3)):
        estimate, plan = space.bound.estimate(config), space.bound.plan(config)
        main = max(plan.kernels, key=lambda step: step.blocks * step.threads)
        launch = LaunchSummary(
            threads=estimate.threads,
            blocks=main.blocks,
            shared_bytes=estimate.shared_bytes,
            accumulators=estimate.accumulators,
            tile_m=float(config["block_m"]),
            tile_n=float(config["block_n"]),
            tile_k=float(config["block_k"]),
            stages=float(config.get("stages", 1)),
            split_k=float(config.get("split_k", 1)),
            workspace_bytes=estimate.workspace_bytes,
            kernels=len(plan.steps),
        )
        assert np.array([*launch_features(launch, SQUARE, H200).values()], dtype=np.float32).tolist() == (
            hardware(space.bound, [config])[0][0, : len(NAMES)].tolist()
        )


def test_layout_alignment_and_the_padding_of_k_are_features() -> None:
    simt, odd = registry()["matmul_simt"], Matmul(4096, 4096, 1001, dtype="float32", layout="tn", lda=4104)
    space = BoundTemplate(simt, odd, H200).space()
    names = "A transposed", "B transposed", "log2 A alignment", "log2 B alignment"
    assert [feature(space, n) for n in names] == [1.0, 0.0, 5.0, 14.0]
    default = space.default()
    assert default is not None
    block, split = default["block_k"], default.get("split_k", 1)
    padded = int(np.ceil(1001 / (block * split))) * block * split
    assert feature(space, "padded k") == pytest.approx(padded / 1001) and padded > 1001
    nhwc = Conv2d(1, 24, 56, 56, 128, 3, 3, padding=1)
    nchw = Conv2d(1, 24, 56, 54, 128, 3, 3, padding=1, dtype="float32", layout="nchw")
    assert [tuple(operands(w).values()) for w in (nhwc, nchw)] == [(0.0, 1.0, 4.0, 4.0), (1.0, 1.0, 3.0, 5.0)]


def test_features_are_logs_products_and_ratios() -> None:
    knobs = (
        Knob("m", (16, 64), ""),
        Knob("n", (1, 2, 8), ""),
        Knob("pad", (0, 4), ""),
        Knob("kind", ("a", "b", "c"), "", False),
        Knob("one", (5,), ""),
    )
    encoder = Encoder(knobs)
    assert encoder.names == ["log2 m", "log2 n", "pad", "kind", "log2 m*n", "log2 m/n"]
    rows = np.array([[1, 2, 1, 2, 0], [0, 0, 0, 0, 0]], dtype=np.uint16)
    assert encoder(rows).tolist() == [[6, 3, 4, 2, 9, 3], [4, 0, 0, 0, 4, 4]]


def test_coordinates_fill_a_unit_cube_and_keep_labels_equally_far() -> None:
    knobs = (Knob("n", (1, 2, 8), ""), Knob("kind", ("a", "b", "c"), "", False), Knob("flag", (False, True), "", False))
    c = Encoder(knobs).coordinates(np.array([[0, 0, 0], [1, 1, 1], [2, 2, 0]], dtype=np.uint16))
    assert c.min() == 0 and c.max() == 1
    assert np.allclose(c[:, 0], [0, 1 / 3, 1])
    kind = c[:, 1:4]
    assert np.allclose([((kind[i] - kind[j]) ** 2).sum() for i, j in ((0, 1), (0, 2), (1, 2))], 1.0)


def test_factors_of_two_are_a_feature_where_values_are_not_all_powers_of_two() -> None:
    encoder = Encoder((Knob("bx", (32, 48, 80, 128), ""), Knob("m", (2, 4), ""), Knob("odd", (1, 3), "")))
    assert encoder.names[-1] == "twos of bx"  # not of m (the log says it) nor of odd (nothing to say)
    rows = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]], dtype=np.uint16)
    assert encoder(rows)[:, -1].tolist() == [5, 4, 4, 7]
    assert np.allclose(encoder.coordinates(rows)[:, -1], np.array([5, 4, 4, 7]) / 7)
