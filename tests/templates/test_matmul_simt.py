"""matmul_simt: right on every kind of matmul it promises, and its knobs do what they say."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from gpu_tune import emulator, reference
from gpu_tune.cuda import cubin, nvrtc, sass
from gpu_tune.cuda.device import by_name
from gpu_tune.errors import InvalidConfig
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import render
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.matmul_simt import TEMPLATE
from gpu_tune.workload import Matmul

H200, A100, T4 = (by_name(f"nvidia-{n}") for n in ("h200", "a100", "t4"))
SMALL: dict[str, Any] = dict(
    block_m=32,
    block_n=32,
    block_k=16,
    thread_m=4,
    thread_n=4,
    warp_n=32,
    interleave_m=1,
    interleave_n=1,
    vector_width_a=1,
    vector_width_b=1,
    vector_width_out=1,
    shared_a="k_outer",
    shared_b="k_outer",
    shared_type="stored",
    padding_a=0,
    padding_b=0,
    stages=1,
    fragment_k=1,
    unroll=4,
    raster_group=1,
    split_k=1,
    min_blocks=0,
)
needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")
needs_emulator = pytest.mark.skipif(
    not nvrtc.available() or not emulator.available(), reason="NVRTC or a C++ compiler is not installed"
)


def run(
    workload: Matmul, config: Config | None = None, device: Any = A100, kind: str = "normal", **arrays: np.ndarray
) -> Any:
    """The emulator's report, after the result was compared with the reference."""
    config = config or TEMPLATE.default(workload, device)
    assert not TEMPLATE.violations(config, workload, device)
    inputs = {**reference.example_inputs(workload, 3, kind), **arrays}
    out = arrays.get("out", reference.allocate(workload.arrays()["out"], 77))
    scalars = reference.example_scalars(workload, kind)
    report = emulator.run_plan(
        render(TEMPLATE, config, workload, device),
        TEMPLATE.plan(config, workload, device),
        {**inputs, "out": out},
        scalars=scalars,
        arch=device.arch,
        device=device,
    )
    assert report.ok, report.findings
    result = reference.compare(report.arrays["out"], workload, inputs, scalars, exact=kind == "integer")
    assert result.ok, str(result)
    return report


@needs_emulator
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_leading_dimensions_beyond_the_rows_and_unreadable_gaps(layout: str) -> None:
    workload = Matmul(
        33, 17, 29, layout=layout, dtype="float16", lda=40, ldb=37, ldc=20, epilogue="bias+residual", batch=2
    )
    run(workload)


@needs_emulator
def test_general_beta_of_zero_never_reads_c() -> None:
    workload = Matmul(20, 24, 16, dtype="float32", alpha="any", beta="any")
    config = TEMPLATE.default(workload, A100)
    inputs = reference.example_inputs(workload, 1)
    inputs["c"][...] = np.nan
    out = reference.allocate(workload.arrays()["out"])
    report = emulator.run_plan(
        render(TEMPLATE, config, workload, A100),
        TEMPLATE.plan(config, workload, A100),
        {**inputs, "out": out},
        scalars={"alpha": 2.0, "beta": 0.0},
        arch="sm_80",
    )
    assert report.ok, report.findings
    np.testing.assert_allclose(report.arrays["out"], 2.0 * inputs["a"] @ inputs["b"], rtol=1e-4, atol=1e-4)


@needs_emulator
@pytest.mark.parametrize("split_k", [1, 4])
def test_out_may_be_c(split_k: int) -> None:
    workload = Matmul(40, 36, 64, dtype="float32", beta="1")
    inputs = reference.example_inputs(workload, 2)
    expected = inputs["a"] @ inputs["b"] + inputs["c"]
    config = Config(SMALL, split_k=split_k)
    assert not TEMPLATE.violations(config, workload, A100)
    report = emulator.run_plan(
        render(TEMPLATE, config, workload, A100),
        TEMPLATE.plan(config, workload, A100),
        {**inputs, "out": inputs["c"]},
        arch="sm_80",
    )
    assert report.ok, report.findings
    np.testing.assert_allclose(report.arrays["out"], expected, rtol=1e-4, atol=1e-4)


@needs_emulator
def test_block_scales_meet_their_blocks_of_k() -> None:
    """K = 300 ends inside the third block of 128; slices of K end inside blocks."""
    workload = Matmul(24, 136, 300, dtype="float8_e4m3", layout="nt", scales="block128", out_dtype="float32")
    run(workload, device=H200, kind="integer")
    run(workload, Config(SMALL, split_k=4), device=A100, kind="integer")
    run(workload, Config(SMALL, block_m=16, block_n=256, thread_n=8, thread_m=1, warp_n=128), device=T4)


@needs_emulator
def test_batches_beyond_the_grid_limit_are_folded() -> None:
    workload = Matmul(1, 2, 3, batch=65536, dtype="int8", layout="nt")
    config = Config(SMALL, block_m=16, block_n=16, thread_m=4, thread_n=2, warp_n=16)
    plan = TEMPLATE.plan(config, workload, A100)
    assert plan.kernels[0].grid == (65536, 1, 1)
    small = dataclasses.replace(workload, batch=3)
    assert TEMPLATE.plan(config, small, A100).kernels[0].grid == (1, 1, 3)
    assert "blockIdx.x / 1" in render(TEMPLATE, config, workload, A100)
    run(small, config)


@needs_emulator
def test_int8_multiplies_four_at_a_time_where_k_is_contiguous() -> None:
    workload = Matmul(48, 40, 64, dtype="int8", layout="nt", out_dtype="int8", scales="row_col", epilogue="bias+relu")
    config = TEMPLATE.default(workload, A100)
    assert "__dp4a" in render(TEMPLATE, config, workload, A100)
    run(workload, config)


@needs_emulator
def test_float8_output_saturates_and_nan_stays_nan_on_old_and_new_chips() -> None:
    workload = Matmul(16, 16, 16, dtype="float8_e4m3", out_dtype="float8_e4m3", layout="nn")
    inputs = reference.example_inputs(workload, 5)
    inputs["a"][0, :], inputs["b"][:, 0] = 448.0, 448.0
    inputs["a"][3, 2] = np.nan
    for device in (A100, H200):
        report = run(workload, device=device, a=inputs["a"], b=inputs["b"])
        out = report.arrays["out"].astype(np.float32)
        assert out[0, 0] == 448.0 and np.isnan(out[3]).all() and not np.isnan(out[2]).any()


@needs_nvrtc
def test_stages_choose_the_copies() -> None:
    workload = Matmul(256, 256, 256, dtype="float32", layout="tn")
    wide = Config(SMALL, vector_width_a=4, vector_width_b=4)
    for stages, asynchronous in ((1, False), (2, False), (3, True), (6, True)):
        source = render(TEMPLATE, wide.replace(stages=stages), workload, A100)
        assert ("cp.async.cg.shared.global" in source) == asynchronous
        assert nvrtc.to_cubin(source, "sm_80").data
    assert TEMPLATE.violations(wide.replace(stages=3), workload, T4)


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("name", ["t4", "a100", "rtx-3090", "rtx-4090", "h200", "rtx-5090"])
def test_seeds_compile_without_spills(name: str) -> None:
    device = by_name(name)
    for workload in (Matmul(4096, 4096, 4096, dtype="float32"), Matmul(2048, 2048, 2048, dtype="float16", layout="nt")):
        seeds = TEMPLATE.seeds(workload, device)
        assert len(seeds) >= 4
        for config in seeds[:: 2 if workload.dtype == "float16" else 1]:
            log = nvrtc.to_cubin(render(TEMPLATE, config, workload, device), device.arch).log
            assert not any(r.spill_bytes for r in cubin.read_log(log).values()), config


def bank_conflicts(program: sass.Program) -> tuple[int, int]:
    """FFMAs of the hot loop whose three registers have one parity (and so one bank), and how many FFMAs there are."""
    kept: dict[int, int] = {}
    conflicts = count = 0
    first, last = program.hot_loop or (0, 0)
    for low, high in program.words.reshape(-1, 2)[first : last + 1].tolist():
        if low & 0xFFF != 0x223:  # FFMA with three registers
            kept = {}
            continue
        operands = (low >> 24 & 255, low >> 32 & 255, high & 255)
        read = {register for slot, register in enumerate(operands) if kept.get(slot) != register}
        conflicts += len(read) == 3 and len({register % 2 for register in read}) == 1
        count += 1
        kept = {slot: operands[slot] for slot in range(3) if high >> 58 + slot & 1}  # reuse flags
    return conflicts, count


@pytest.mark.slow
@needs_emulator
def test_multiply_adds_of_an_a100_rarely_read_three_registers_of_one_bank() -> None:
    workload = Matmul(4096, 4096, 4096, dtype="float32")
    config = TEMPLATE.default(workload, A100)
    source = render(TEMPLATE, config, workload, A100)
    assert "moved(acc" in source
    conflicts, count = bank_conflicts(cubin.programs(nvrtc.to_cubin(source, A100.arch).data)["matmul_simt"])
    assert count == 512 and conflicts <= 14
    for other, device in ((workload, H200), (dataclasses.replace(workload, epilogue="bias"), A100)):
        assert "moved(" not in render(TEMPLATE, config, other, device)
    small = config.replace(raster_group=1)
    run(Matmul(128, 128, 16, dtype="float32"), small, kind="integer")
    run(Matmul(128, 128, 64, dtype="float32"), small.replace(split_k=2))


def test_offsets_beyond_32_bits_are_64_bit_where_they_can_occur() -> None:
    narrow, wide = Matmul(64, 64, 64, dtype="int8"), Matmul(70000, 64, 40000, dtype="int8", ldc=40000)
    assert "(long long)(m0" not in render(TEMPLATE, Config(SMALL), narrow, A100)
    source = render(TEMPLATE, Config(SMALL), wide, A100)
    assert "(long long)(m0 + a_outer) * 40000" in source and "(long long)row * 40000" in source


def test_masks_exist_only_where_tiles_do_not_divide() -> None:
    even, odd = Matmul(64, 64, 64, dtype="float32"), Matmul(65, 64, 64, dtype="float32")
    assert "row >= " not in render(TEMPLATE, Config(SMALL), even, A100)
    assert "row >= 65" in render(TEMPLATE, Config(SMALL), odd, A100)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (dict(thread_m=1, thread_n=1, block_m=64, block_n=64), "threads_fit"),
        (dict(warp_n=4, thread_n=8), "warp_tile_divides"),
        (dict(interleave_m=4, thread_m=2), "interleave_m_divides"),
        (dict(vector_width_a=16), "vector_a_aligned"),
        (
            dict(block_m=256, block_n=256, block_k=64, thread_m=16, thread_n=16, warp_n=64, stages=2),
            "shared_memory_fits",
        ),
        (dict(thread_m=16, thread_n=16, block_m=128, block_n=128, warp_n=64), "accumulators_fit"),
        (dict(fragment_k=4, unroll=8), "fragment_fits"),
        (dict(split_k=32), "split_k_fits"),
        (dict(stages=3, shared_type="wide"), "cp_async_a_supported"),
    ],
)
def test_broken_rules_are_named(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"\b{rule}: "):
        BoundTemplate(TEMPLATE, Matmul(256, 256, 256, dtype="float32"), A100).render(Config(SMALL, **changes))
