"""Predictions of whole plans: every family, every architecture, what their parts say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from gpu_tune.cuda import cubin, nvrtc
from gpu_tune.cuda.device import Device, by_name
from gpu_tune.errors import CorruptData
from gpu_tune.model.performance import KernelLanes, Prediction, judged, launch, predict, trace
from gpu_tune.model.performance.prediction import predict_kernel
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import bind
from gpu_tune.workload import Conv2d, Matmul, Workload

pytestmark = [
    pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed"),
    pytest.mark.usefixtures("compile_once"),
]
HALF = Matmul(1024, 1024, 1024, dtype="float16", layout="nt")
IMAGE = Conv2d(n=1, c=64, h=28, w=28, k=64, r=3, s=3, stride=1, padding=1, layout="nhwc", dtype="float16")
DEEP = replace(IMAGE, groups=64)


def of(name: str, workload: Workload, device: Device) -> tuple[BoundTemplate, Any, bytes]:
    bound = next(b for b in bind(workload, device) if b.name == name)
    rendered = bound.render(bound.default())
    return bound, rendered, nvrtc.to_cubin(rendered.source, device.arch).data


def predicted(name: str, workload: Workload, device: str, **options: Any) -> Prediction:
    chip = by_name(device)
    bound, rendered, code = of(name, workload, chip)
    return predict(code, rendered.plan, rendered.estimate, bound.computed, chip, **options)


@pytest.mark.parametrize(
    ("name", "workload", "device", "flops"),
    [
        ("matmul_mma", HALF, "nvidia-a100", "fp16"),
        ("matmul_simt", HALF, "nvidia-t4", "fp32"),
        ("matmul_mma", HALF, "nvidia-rtx-5090", "fp16"),
        ("matmul_wgmma", HALF, "nvidia-h100", "fp16"),
        ("conv2d_direct", IMAGE, "nvidia-a100", "fp32"),
        ("conv2d_igemm_mma", IMAGE, "nvidia-a100", "fp16"),
        ("conv2d_depthwise", DEEP, "nvidia-a100", "fp32"),
    ],
)
def test_no_time_is_below_what_the_data_sheet_allows(name: str, workload: Workload, device: str, flops: str) -> None:
    found = predicted(name, workload, device)
    chip = by_name(device)
    ideal = workload.flops / (chip.peak_flops(flops) or chip.peak_flops("fp32"))
    assert ideal < found.seconds < 200 * ideal + 1e-4
    assert found.resident >= 1 and found.waves >= 1 and found.trips > 0
    assert found.limiter in found.causes and all(v >= 0 and math.isfinite(v) for v in found.causes.values())
    terms = found.terms()
    assert 12 <= len(terms) <= 20 and all(isinstance(v, float) for v in terms.values())
    assert found.seconds == terms["seconds"]


def test_a_warm_cache_and_wider_lanes_change_the_time() -> None:
    narrow = Matmul(64, 4096, 2048, dtype="float16", layout="nt")
    cold, warm = (predicted("matmul_mma", narrow, "nvidia-a100", cold=c) for c in (True, False))
    assert warm.seconds < cold.seconds
    _, rendered, code = of("matmul_simt", HALF, by_name("nvidia-a100"))
    loop = rendered.estimate.loop

    program = cubin.programs(code)[loop.kernel]
    loads = [i for i in range(len(program)) if program.is_("LDS")[i]]
    plain, conflicts = (
        predict(
            code, rendered.plan, rendered.estimate, HALF, by_name("nvidia-a100"),
            lanes={loop.kernel: KernelLanes(shared=dict.fromkeys(loads, wavefronts))},
        )
        for wavefronts in (2.0, 16.0)
    )  # fmt: skip
    assert conflicts.seconds > 1.5 * plain.seconds and conflicts.limiter == "shared"


def test_what_does_not_fit_takes_forever() -> None:
    chip = by_name("nvidia-a100")
    _, rendered, code = of("matmul_mma", HALF, chip)
    small = replace(chip, shared_bytes_per_block=1024)
    found = predict(code, rendered.plan, rendered.estimate, HALF, small)
    assert found.resident == 0 and math.isinf(found.seconds)


def test_only_judged_kinds_have_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    found = predicted("matmul_mma", HALF, "nvidia-a100")
    intervals = judged.Interval("", 0.5, 2.0, 100, 0.9), judged.Interval(found.limiter, 0.9, 1.1, 30, 0.8)
    row = judged.Judgement(
        80, "matmul", "mma", "cp.async", ("float16",), "NVIDIA A100", "timings", 10, "held", 0.9, 0.95, 0.99, 0.9,
        intervals, "2026-11-29",
    )  # fmt: skip
    assert row.interval("another") == intervals[0] and "where" not in row.words("another")
    seen = "not blind: judged 3 times"
    assert seen in replace(row, openings=3, blind=False).words("") and seen not in replace(row, openings=3).words("")
    assert replace(row, intervals=intervals[1:]).interval("another") is None
    monkeypatch.setattr(judged, "judgements", lambda: (row,))
    found = predicted("matmul_mma", HALF, "nvidia-a100")
    assert (found.low, found.high) == (0.9 * found.seconds, 1.1 * found.seconds)
    assert found.judged.endswith(f"where {found.limiter} limits, measured times lie between 0.90 and 1.10 of the "
                                 "predicted ones in 80%")  # fmt: skip
    other = predicted("conv2d_igemm_mma", IMAGE, "nvidia-a100")
    assert other.judged == "" and math.isnan(other.low)


def test_a_split_product_pays_for_its_second_kernel() -> None:
    chip = by_name("nvidia-a100")
    deep = Matmul(256, 256, 8192, dtype="float16", layout="nt")
    bound = next(b for b in bind(deep, chip) if b.name == "matmul_mma")
    config = next(c for c in bound.space().seeds() if c["split_k"] > 1)
    rendered = bound.render(config)
    code = nvrtc.to_cubin(rendered.source, chip.arch).data
    whole = predict(code, rendered.plan, rendered.estimate, deep, chip)
    main = replace(rendered.plan, steps=rendered.plan.kernels[:1])
    alone = predict(code, main, rendered.estimate, deep, chip)
    assert (whole.seconds > alone.seconds) == (len(rendered.plan.steps) > 1)


def test_a_kernel_without_a_template_and_one_that_is_not_there() -> None:
    chip = by_name("nvidia-a100")
    _, rendered, code = of("matmul_mma", HALF, chip)
    step = rendered.plan.kernels[0]
    some, more = (
        predict_kernel(code, step.kernel, step.grid, step.block, chip, shared_bytes=step.shared_bytes, trips=t)
        for t in (16, 32)
    )
    assert 0 < some.seconds < more.seconds
    with pytest.raises(CorruptData, match="has no kernel 'nothing'"):
        predict_kernel(code, "nothing", step.grid, step.block, chip)


def test_a_loop_of_copies_inside_the_main_loop_is_not_taken_for_it() -> None:
    """Tiles copied by 4 bytes take a loop of their own; it has no arithmetic, and runs more than once."""
    chip, workload = by_name("nvidia-a100"), Matmul(4096, 4096, 4096, dtype="float16", layout="nt")
    bound = next(b for b in bind(workload, chip) if b.name == "matmul_mma")
    found = []
    for copy_bytes in (4, 16):
        shape = {"block_m": 128, "block_n": 128, "block_k": 64, "stages": 4}
        alike = {"fragment_buffers": 1, "copy_schedule": "together", "copy_bytes": copy_bytes}
        rendered = bound.render(bound.default().replace(**shape, **alike))
        code = nvrtc.to_cubin(rendered.source, chip.arch).data
        found.append(predict(code, rendered.plan, rendered.estimate, workload, chip))
        program = cubin.programs(code)["matmul_mma"]
        assert program.hot_loop is not None and (program.hot_loop in program.inner_loops) == (copy_bytes == 16)
    narrow, wide = found
    assert narrow.shares["mma"] > 0.3
    assert narrow.seconds > wide.seconds > workload.flops / chip.peak_flops("fp16")


def test_a_split_tail_takes_whole_waves_and_its_parts() -> None:
    """896 tiles on 108 SMs with 4 blocks each: two waves and 32 tiles, which whole take a wave of their own."""
    chip, workload = by_name("nvidia-a100"), Matmul(2048, 1792, 2048, dtype="float16", layout="nt")
    bound = next(b for b in bind(workload, chip) if b.name == "matmul_mma")
    tile = dict(block_m=64, block_n=64, block_k=32, warp_m=32, warp_n=32, slice_k=1, stages=4, min_blocks=4)
    plain = bound.default().replace(**tile, copy_schedule="together", split_k=1, reduction="workspace")
    found, paths = {}, {}
    for grid, split in (("all", 1), ("split_tail", 2), ("split_tail", 4)):
        reduction = "workspace" if split == 1 else "last_arrival"
        rendered = bound.render(plain.replace(grid=grid, split_k=split, reduction=reduction))
        code, loop = nvrtc.to_cubin(rendered.source, chip.arch).data, rendered.estimate.loop
        assert loop is not None and (loop.tail, loop.parts) == ((32, split) if split > 1 else (0, 1))
        found[split] = predict(code, rendered.plan, rendered.estimate, workload, chip)
        program = cubin.programs(code)["matmul_mma"]
        way = trace.path(program, whole=split > 1).tail
        paths[split] = [int(program.is_(names)[way].sum()) for names in ("STG", "LDG ATOMG")]
    assert paths[1] == paths[2] == paths[4] and paths[1][1] == 0  # a whole tile's way, around the sum of parts
    whole, halves, quarters = (found[s].seconds for s in (1, 2, 4))
    assert 2 / 3 * whole < quarters < halves < whole


def test_a_tail_reads_its_own_rows_and_columns() -> None:
    """64 x 64 tiles, 8 rows at a time; 100 run together and read 8 rows and 13 columns, the last 96 only 12."""
    chip = replace(by_name("nvidia-a100"), l2_bytes=1)
    tiling = launch.Tiling(64, 64, 10.0, 1.0, compulsory=704.0, written=50.0)
    wave, last = 8 * 10 + 13, 8 * 10 + 12
    moved, tail = tiling.dram_bytes(100, chip, True, tail=96)
    assert moved == 40 * wave + last + 50 and tail == pytest.approx(moved * last / (40 * wave + last))
    assert tiling.dram_bytes(100, chip, True, tail=196)[0] == moved
    few, _ = tiling.dram_bytes(100, chip, True, tail=8)
    assert few == 40 * wave + (8 * 10 + 11) + (8 * 10 + 1) + 50


def test_a_short_last_wave_reads_the_tiles_that_it_has() -> None:
    """64 x 64 tiles, 8 rows at a time; 96 tiles are left behind whole waves of 100 or of 200, and 1 behind 4,095."""
    chip = replace(by_name("nvidia-a100"), l2_bytes=1)
    tiling = launch.Tiling(64, 64, 10.0, 1.0, compulsory=704.0, written=50.0)
    last = 8 * 10 + 12
    assert tiling.dram_bytes(100, chip, True) == (40 * (8 * 10 + 13) + last + 50, 0.0)
    assert tiling.dram_bytes(200, chip, True)[0] == 20 * (8 * 10 + 25) + last + 50
    assert tiling.dram_bytes(4095, chip, True)[0] == 704 + (10 + 1) + 50
    few = replace(tiling, down=3, across=5, compulsory=30.0)  # all run at once: each row and column once
    assert few.dram_bytes(100, chip, True)[0] == 3 * 10 + 5 + 50
