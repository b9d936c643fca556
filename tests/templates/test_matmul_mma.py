"""matmul_mma: right on the emulator over dtypes, layouts, epilogues and tails; no spills, no bank conflicts."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpu_tune import emulator, reference
from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.cubin import programs
from gpu_tune.cuda.device import Device, by_name
from gpu_tune.errors import InvalidConfig
from gpu_tune.model.performance.prediction import predict_kernel
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import render
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.lib.mma.seeds import complete
from gpu_tune.templates.matmul_mma import TEMPLATE
from gpu_tune.workload import Matmul
from tests.helpers import mma_sweep as sweep

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")
emulated = pytest.mark.skipif(not emulator.available(), reason=f"no emulator: {emulator.unavailable_reason()}")
A100, ADA, H200 = by_name("a100"), by_name("rtx-4090"), by_name("h200")
LARGE = {
    "float16": Matmul(4096, 4096, 4096, dtype="float16", layout="nt", epilogue="bias+gelu"),
    "bfloat16": Matmul(512, 28672, 4096, dtype="bfloat16", layout="nn", beta="1"),
    "float32": Matmul(1000, 1001, 999, dtype="float32", layout="nt", math=("tf32x3",)),
    "int8": Matmul(2048, 2048, 2048, dtype="int8", layout="nt", out_dtype="float16", scales="row_col"),
    "float8_e4m3": Matmul(128, 7168, 2048, dtype="float8_e4m3", layout="nt", scales="block128"),
    "decode": Matmul(4, 4096, 4096, dtype="bfloat16", layout="nt"),
}


def config(workload: Matmul, device: object = A100, **known: object) -> Config:
    made = complete(known, workload, device, TEMPLATE)  # type: ignore[arg-type]
    assert made is not None and all(made[k] == v for k, v in known.items()), (workload, known, made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("chip", sweep.CHIPS, ids=lambda d: d.name)
def test_defaults_compile_without_spills(name: str, chip: object) -> None:
    workload = LARGE[name]
    if TEMPLATE.supported(workload, chip) is not True:  # type: ignore[arg-type]
        pytest.skip(f"{workload.dtype} needs a newer chip")
    _, report = sweep.cubin(TEMPLATE, TEMPLATE.default(workload, chip), workload, chip)  # type: ignore[arg-type]
    assert report.spill_bytes == report.stack_bytes == 0 and not report.notes, report


@pytest.mark.parametrize("chip", sweep.CHIPS, ids=lambda d: d.name)
def test_defaults_suit_the_shape(chip: Device) -> None:
    """Wide tiles for a large product, low ones for few rows, K split where tiles alone leave SMs idle, and no warps of
    different slices of K to be added where K has few tiles."""
    workload = Matmul(4096, 4096, 4096, dtype="float16", layout="nt")
    large = TEMPLATE.default(workload, chip)
    assert large["block_m"] * large["block_n"] >= 128 * 64 and large["stages"] >= 3
    left = {"nvidia-rtx-3090": 20, "nvidia-rtx-5090": 4}  # tiles beyond whole waves, of 82 and 340
    assert (large["split_k"] > 1) == (large["grid"] == "split_tail") == (chip.name in left)
    if chip.name in left:
        assert TEMPLATE.derive(large, workload, chip).layout.tail == left[chip.name]
    decode = TEMPLATE.default(Matmul(8, 4096, 4096, dtype="float16", layout="nt"), chip)
    assert decode["block_m"] == 16
    assert -(-4096 // decode["block_n"]) * decode["split_k"] >= 0.4 * chip.sm_count
    deep = TEMPLATE.default(Matmul(256, 256, 16384, dtype="float16", layout="nt"), chip)
    assert deep["split_k"] > 1
    tiny = TEMPLATE.default(Matmul(64, 1024, 128, dtype="bfloat16", layout="nt"), chip)
    assert (tiny["slice_k"], tiny["split_k"]) == (1, 1) and tiny["block_m"] <= 32


def test_seeds_are_many_and_compile_without_spills() -> None:
    workload, seeds = LARGE["float16"], TEMPLATE.seeds(LARGE["float16"], A100)
    assert len(seeds) >= 6
    for seed in seeds[::4]:
        _, report = sweep.cubin(TEMPLATE, seed, workload, A100)
        assert report.spill_bytes == report.stack_bytes == 0, (seed, report)


@pytest.mark.parametrize(
    "dtype, opcode",
    [("bfloat16", "HMMA.16816.F32.BF16"), ("float32", "HMMA.1688.F32.TF32"), ("int8", "IMMA.16832.S8.S8")],
)
def test_sass_has_the_tensor_instructions(dtype: str, opcode: str, tmp_path: Path) -> None:
    tool = sweep.disassembler()
    if tool is None:
        pytest.skip("nvdisasm (wheel nvidia-cuda-nvdisasm) is not installed")
    workload = Matmul(256, 256, 256, dtype=dtype, layout="nt", math=("tf32",) if dtype == "float32" else ())
    data, _ = sweep.cubin(TEMPLATE, TEMPLATE.default(workload, A100), workload, A100)
    (tmp_path / "k.cubin").write_bytes(data)
    text = subprocess.run([tool, str(tmp_path / "k.cubin")], capture_output=True, text=True, check=True).stdout
    for name in (opcode, "LDSM.16.M88.4", "LDGSTS.E.BYPASS"):
        assert name in text, name
    assert "STL" not in text and "LDL" not in text


def test_spread_copies_start_between_the_instructions_and_staged_results_leave_without_a_loop() -> None:
    """In the machine code: how far the main loop has come when its last copy starts, and what follows the last MMA."""
    workload = Matmul(4096, 4096, 4096, dtype="float16", layout="nt")
    tile = dict(block_m=128, block_n=128, block_k=64, warp_m=64, warp_n=64, slice_k=1, stages=3, split_k=1)
    done, shares = {}, {}
    for schedule in ("together", "spread"):
        data, _ = sweep.cubin(TEMPLATE, config(workload, **tile, copy_schedule=schedule), workload, A100)
        program = programs(data)[TEMPLATE.name]
        assert program.hot_loop is not None
        first, last = program.hot_loop
        multiplies, copies = program.is_("HMMA"), np.flatnonzero(program.is_("LDGSTS"))
        done[schedule] = multiplies[first : copies[copies <= last].max()].sum() / multiplies[first : last + 1].sum()
        after = int(np.flatnonzero(multiplies).max())
        assert len(program) - after < 300 and not [s for s in program.loops if after < s[0] < s[1]]
        assert program.is_("STG")[after:].sum() == 128 * 128 // 128 // 8  # eight results of a thread in each
        played = predict_kernel(data, TEMPLATE.name, (1024, 1, 1), (128, 1, 1), A100, shared_bytes=3 << 15, trips=64)
        shares[schedule] = played.shares["mma"]
    assert done["together"] < 0.4 and done["spread"] > 0.9, done  # the first part starts behind the barrier
    assert shares["spread"] > 1.1 * shares["together"], shares  # of the tensor cores' time, as the model plays it


@emulated
@pytest.mark.parametrize("buffers, schedule", [(1, "together"), (2, "together"), (2, "spread")])
def test_tf32_operands_are_rounded_to_nearest_and_stay_infinite_or_nan(buffers: int, schedule: str) -> None:
    workload = Matmul(32, 32, 32, dtype="float32", layout="nt", math=("tf32",))
    tile = dict(block_m=32, block_n=32, block_k=32, warp_m=32, warp_n=16, slice_k=1, split_k=1)
    chosen = config(workload, **tile, stages=2, fragment_buffers=buffers, copy_schedule=schedule)
    a = np.random.default_rng(3).standard_normal((32, 32)).astype(np.float32)
    # ties go away from zero; a number below the smallest normal one; the largest one whose nearest is finite
    a[0, :6] = 1 + 2**-11, -1 - 2**-11, 1 + 2**-11 - 2**-23, 2.0**-130 + 2.0**-140, 2.0**127 * (2 - 2**-10), -0.0
    a[3, 5], a[4, 6] = np.inf, np.uint32(0x7FFFFFFF).view(np.float32)
    out = reference.allocate(workload.arrays()["out"])
    source, plan = render(TEMPLATE, chosen, workload, A100), TEMPLATE.plan(chosen, workload, A100)
    report = emulator.run_plan(source, plan, {"a": a, "b": np.eye(32, dtype=np.float32), "out": out}, arch="sm_80")
    got = report.arrays["out"]
    nearest = ((a.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    finite = [r for r in range(32) if r not in (3, 4)]
    assert not report.findings and np.array_equal(got[finite], nearest[finite])
    assert got[3, 5] == np.inf and np.isnan(got[4]).all()


@emulated
@pytest.mark.parametrize("layout", ["nt", "tn"])
@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
def test_tails_read_and_write_nothing_outside(dtype: str, layout: str) -> None:
    math = ("tf32",) if dtype == "float32" else ()
    for m, n, k in ((1, 1, 1), (17, 31, 33), (33, 18, 71), (16, 66, 127)):
        workload = Matmul(m, n, k, dtype=dtype, layout=layout, math=math, epilogue="" if dtype == "int8" else "bias")
        sweep.right(TEMPLATE, TEMPLATE.default(workload, A100), workload, A100, m)


@emulated
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_swizzled_shared_memory_has_no_bank_conflicts(layout: str) -> None:
    for block_m, block_n, block_k, store in ((64, 48, 32, "direct"), (48, 64, 64, "staged")):
        workload = Matmul(96, 96, 128, dtype="float16", layout=layout)
        chosen = config(
            workload,
            block_m=block_m,
            block_n=block_n,
            block_k=block_k,
            warp_m=16,
            warp_n=block_n,
            shared_layout="xor",
            epilogue_store=store,
        )
        conflicts = sweep.right(TEMPLATE, chosen, workload, A100, 1).bank_conflicts
        assert conflicts.load_wavefronts and conflicts.load_extra == conflicts.store_extra == 0, (chosen, conflicts)


@emulated
@pytest.mark.parametrize("reduction", ["workspace", "serial", "last_arrival"])
def test_split_k_is_deterministic(reduction: str) -> None:
    workload = Matmul(20, 40, 500, dtype="float16", layout="nt", out_dtype="float32", epilogue="bias")
    chosen = config(workload, block_m=16, block_n=32, split_k=4, reduction=reduction)
    runs = [sweep.right(TEMPLATE, chosen, workload, A100, seed).arrays["out"] for seed in (2, 4)]
    inputs_differ = not np.array_equal(runs[0], runs[1])
    source, plan = render(TEMPLATE, chosen, workload, A100), TEMPLATE.plan(chosen, workload, A100)
    arrays = {**reference.example_inputs(workload, 2), "out": reference.allocate(workload.arrays()["out"])}
    again = [emulator.run_plan(source, plan, arrays, arch="sm_80", seed=s).arrays["out"] for s in (7, 8, 9)]
    assert inputs_differ and all(np.array_equal(runs[0], other) for other in again)


@emulated
@pytest.mark.parametrize("store, split", [("direct", 1), ("staged", 1), ("direct", 3)])
def test_persistent_blocks_walk_over_many_tiles(store: str, split: int) -> None:
    small = replace(A100, sm_count=3)
    workload = Matmul(70, 90, 200, batch=2, dtype="bfloat16", layout="tn", epilogue="bias")
    chosen = complete(
        dict(
            block_m=32,
            block_n=32,
            block_k=32,
            grid="all",
            epilogue_store=store,
            split_k=split,
            reduction="last_arrival" if split > 1 else "workspace",
        ),
        workload,
        small,
        TEMPLATE,
    )
    assert chosen is not None and chosen["epilogue_store"] == store and chosen["split_k"] == split
    assert TEMPLATE.plan(chosen, workload, small).kernels[0].blocks == 3
    sweep.right(TEMPLATE, chosen, workload, small, 4)


@emulated
@pytest.mark.parametrize("store, split, slices", [("direct", 2, 1), ("staged", 3, 2)])
def test_tiles_beyond_whole_waves_are_computed_in_parts(store: str, split: int, slices: int) -> None:
    """18 tiles on 4 SMs: 4 whole waves, and the K of the last 2 tiles split; the same bits whoever arrives last."""
    small = replace(A100, sm_count=4)
    workload = Matmul(70, 90, 500, batch=2, dtype="float16", layout="nt", out_dtype="float32", epilogue="bias")
    tile = dict(block_m=32, block_n=32, block_k=64, slice_k=slices, fragment_buffers=3 - slices, stages=2)
    tail = dict(grid="split_tail", split_k=split, reduction="last_arrival", epilogue_store=store)
    chosen = config(workload, small, **tile, **tail)
    plan, found = TEMPLATE.plan(chosen, workload, small), TEMPLATE.derive(chosen, workload, small).layout
    assert plan.kernels[0].blocks == 4 and (found.whole_tiles, found.tail, found.work) == (16, 2, 16 + 2 * split)
    assert plan.workspace_bytes == 256 + 2 * split * 32 * 32 * 4 and plan.zeroed_span == 256
    runs = [sweep.right(TEMPLATE, chosen, workload, small, seed).arrays["out"] for seed in (2, 3)]
    arrays = {**reference.example_inputs(workload, 2), "out": reference.allocate(workload.arrays()["out"])}
    source = render(TEMPLATE, chosen, workload, small)
    again = [emulator.run_plan(source, plan, arrays, arch="sm_80", seed=s).arrays["out"] for s in (7, 8)]
    assert all(np.array_equal(runs[0], other) for other in again) and not np.array_equal(*runs)


def test_a_tail_is_split_where_it_takes_less_than_a_wave() -> None:
    """On 108 SMs 128 x 128 tiles of 4096 x 4096 are 9 waves and 52 tiles, of 3456 x 4096 exactly 8 waves."""
    tile = dict(
        block_m=128, block_n=128, block_k=32, warp_m=64, warp_n=64, slice_k=1, stages=4, min_blocks=1, raster_group=1
    )
    plain = config(Matmul(4096, 4096, 4096, dtype="bfloat16", layout="nt"), **tile)

    def broken(m: int, **change: object) -> list[str]:
        changed = plain.replace(**{"grid": "split_tail", "split_k": 2, "reduction": "last_arrival", **change})
        found = TEMPLATE.violations(changed, Matmul(m, 4096, 4096, dtype="bfloat16", layout="nt"), A100)
        return [text.split(":")[0] for text in found]

    assert broken(4096) == [] == broken(4096, split_k=3)
    assert broken(3456) == broken(128) == ["split_tail_useful"]  # no tile is left; there is no whole wave
    assert broken(4096, split_k=1, reduction="workspace") == ["split_tail_legal", "split_tail_useful"]
    assert "split_tail_legal" in broken(4096, reduction="workspace")
    assert broken(4096, min_blocks=2) == ["split_tail_useful"]  # 160 of 216 are left, more than half a wave
    assert broken(4096, min_blocks=2, split_k=4) == []  # which are three rounds of quarters


@emulated
def test_atomics_only_without_determinism() -> None:
    strict = Matmul(32, 32, 512, dtype="float16", layout="nt", out_dtype="float32")
    loose = Matmul(32, 32, 512, dtype="float16", layout="nt", out_dtype="float32", deterministic=False)
    chosen = config(loose, block_m=32, block_n=32, split_k=4, reduction="atomic")
    sweep.right(TEMPLATE, chosen, loose, A100, 3)
    with pytest.raises(InvalidConfig, match="reduction_legal"):
        BoundTemplate(TEMPLATE, strict, A100).render(chosen)


@pytest.mark.parametrize(
    "change, rule",
    [
        (dict(warp_m=128, warp_n=128, block_m=128, block_n=128), "warp_tile_fits"),
        (dict(block_m=128, block_n=256, block_k=64, warp_m=64, warp_n=64, stages=8), "stages_fit"),
        (dict(block_m=128, block_n=128, warp_m=64, warp_n=64, min_blocks=4), "registers_fit"),
        (dict(block_m=96, warp_m=64), "warp_m_divides"),
        (dict(block_k=256), "block_k_legal"),
        (dict(arithmetic="tf32"), "arithmetic_permitted"),
    ],
)
def test_what_cannot_run_is_rejected_by_name(change: dict[str, object], rule: str) -> None:
    workload = Matmul(4096, 4096, 4096, dtype="bfloat16", layout="nt")
    broken = TEMPLATE.default(workload, A100).replace(**change)  # type: ignore[arg-type]
    assert any(text.startswith(f"{rule}:") for text in TEMPLATE.violations(broken, workload, A100))


def test_refusals_name_the_reason() -> None:
    assert "tf32" in str(TEMPLATE.supported(Matmul(64, 64, 64, dtype="float32"), A100))
    assert "8.9" in str(TEMPLATE.supported(Matmul(64, 64, 64, dtype="float8_e4m3"), A100))
    assert "8.0" in str(TEMPLATE.supported(Matmul(64, 64, 64, dtype="float16"), by_name("t4")))


def test_accepts_random_legal_workloads(capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)
    asked = [sweep.random_matmul(rng, rng.choice(sweep.DTYPES), largest=5000) for _ in range(300)]
    taken = [w for w in asked if TEMPLATE.supported(w, ADA) is True]
    for workload in taken[:40]:
        assert not TEMPLATE.violations(TEMPLATE.default(workload, ADA), workload, ADA)
    with capsys.disabled():
        print(f" [matmul_mma takes {len(taken)} of {len(asked)} random legal workloads] ", end="")
    assert len(taken) > 0.95 * len(asked)
