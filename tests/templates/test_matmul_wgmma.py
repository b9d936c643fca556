"""matmul_wgmma: what NVRTC and ptxas make of it, what the emulator computes with it, and what it refuses."""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_tune.cuda import device
from gpu_tune.errors import InvalidConfig
from gpu_tune.plan import TensorMapArg
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import render, variables
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.lib.wgmma import tiles
from gpu_tune.templates.matmul_wgmma import TEMPLATE
from gpu_tune.workload import ITEMSIZE, OUT_DTYPES, Matmul
from tests.helpers import wgmma_checks as checks
from tests.helpers.wgmma_checks import H200, PLAIN, chip, config, needs_emulator, needs_nvrtc

BIG = Matmul(8192, 8192, 8192, dtype="bfloat16", layout="nt")
assert_assembles_cleanly = functools.partial(checks.assert_assembles_cleanly, TEMPLATE)
assert_computes = functools.partial(checks.assert_computes, TEMPLATE)


def random_workload(r: random.Random) -> Matmul:
    """Any supported workload of up to a few tiles: every dtype, layout, output, scale, epilogue and row length."""
    dtype = r.choice(("bfloat16", "float16", "bfloat16", "float16", "float32", "float8_e4m3", "float8_e5m2", "int8"))
    row = 16 // ITEMSIZE[dtype]
    layout = r.choice(("nn", "nt", "tn", "tt") if ITEMSIZE[dtype] == 2 else ("nn", "nt", "nt", "tn", "tt"))
    m, n = (r.choice((r.randint(1, 40), r.randint(1, 300), r.choice((64, 128, 192, 256, 320)))) for _ in "mn")
    k = r.choice((r.randint(1, 64), r.randint(1, 400), 128, 256))
    lda, ldb = (
        -(-columns // row) * row + row * r.choice((0, 0, 1))
        for columns in (k if layout[0] == "n" else m, n if layout[1] == "n" else k)
    )
    out_dtype = r.choice(OUT_DTYPES[dtype])
    out_row = 16 // ITEMSIZE[out_dtype]
    scales = (
        r.choice({"int8": ("none", "tensor", "row_col")}.get(dtype, ("none", "tensor", "row_col", "block128")))
        if ITEMSIZE[dtype] == 1
        else "none"
    )
    operations = r.sample(
        ("scale", "bias", "row_bias", "residual", "relu", "gelu", "gelu_tanh", "silu", "clamp(-1,2)"),
        r.choice((0, 0, 1, 2, 4)),
    )
    math = {"float32": ("tf32",)}.get(
        dtype, ("fast_accumulate",) if dtype.startswith("float8") and r.random() < 0.4 else ()
    )
    exact = out_dtype == "int32"
    return Matmul(
        m,
        n,
        k,
        r.choice((1, 1, 2, 3)),
        dtype,
        out_dtype,
        layout,
        lda,
        ldb,
        r.choice((n, n + 3, -(-n // out_row) * out_row)),
        alpha="1" if exact else r.choice(("1", "any")),
        beta=r.choice(("0", "1") if exact else ("0", "0", "1", "any")),
        epilogue="" if exact else "+".join(operations),
        scales="none" if exact else scales,
        math=math,
    )


def test_the_source_uses_knobs_workload_device_and_launch_alone() -> None:
    assert variables(TEMPLATE) <= {k.name for k in TEMPLATE.knobs} | {"workload", "device", "launch"}


# ---- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workload", "reason"),
    [
        (Matmul(64, 64, 64, dtype="float32", layout="nt"), "permission math=('tf32',)"),
        (Matmul(64, 64, 100, dtype="float16", layout="nt"), "lda=100 is 200 bytes"),
        (Matmul(64, 100, 64, dtype="float16", layout="nn"), "ldb=100 is 200 bytes"),
        (Matmul(64, 64, 64, dtype="float16", layout="nt", alignment=8), "alignment=8"),
        (Matmul(2**31 - 1, 64, 64, dtype="float16", layout="nt"), "below 2^31"),
    ],
)
def test_unsupported_workloads_get_the_reason(workload: Matmul, reason: str) -> None:
    assert reason in str(TEMPLATE.supported(workload, H200))


def test_operands_that_wgmma_does_not_transpose_may_have_rows_of_any_length() -> None:
    workload = Matmul(63, 37, 64, dtype="int8", layout="tn", out_dtype="int32")
    assert TEMPLATE.supported(workload, H200) is True
    plan = TEMPLATE.plan(TEMPLATE.default(workload, H200), workload, H200)
    assert [step.kernel for step in plan.kernels][:2] == ["transpose_a", "transpose_b"]


def test_only_compute_capability_9_0_is_served() -> None:
    assert "needs compute capability 9.0" in str(TEMPLATE.supported(BIG, device.by_name("nvidia-b200")))
    assert TEMPLATE.supported(BIG, H200) is True


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (dict(block_m=192), "wgmma_left"),
        (dict(consumers=3, schedule="pingpong", block_m=64), "pingpong_pair"),
        (dict(stages=12), "shared_memory"),
        (dict(block_k=32), "block_k_spans"),
        (dict(block_m=256, block_n=256), "accumulators"),
        (dict(consumers=3, block_m=192, block_n=256), "instruction_registers"),
        (dict(cluster_m=4, cluster_n=2), "cluster_size"),
        (dict(block_n=24, cluster_m=2), "multicast_slices"),
        (dict(swap_ab=True), "swap_short_m"),
        (dict(block_n=24, epilogue="ring"), "tma_store"),
        (dict(split_k=2), "split_few_tiles"),
        (dict(split_k=3, reduction="cluster", grid="units"), "cluster_sum"),
        (dict(split_k=2, reduction="cluster", grid="units", stages=2, block_n=256), "part_in_ring"),
    ],
)
def test_configs_that_could_hang_spill_or_fault_are_invalid(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"\b{rule}: "):
        TEMPLATE.check(Config({**PLAIN, **changes}), BIG, H200)


def test_strict_float8_sums_leave_the_tensor_cores_every_128_of_k() -> None:
    changes = dict(block_m=128, block_n=64, block_k=256, stages=2)
    permitted = Matmul(4096, 4096, 4096, dtype="float8_e4m3", layout="nt", math=("fast_accumulate",))
    TEMPLATE.check(Config({**PLAIN, **changes}), permitted, H200)
    with pytest.raises(InvalidConfig, match=r"\bpromotion: "):
        TEMPLATE.check(Config({**PLAIN, **changes}), dataclasses.replace(permitted, math=()), H200)
    assert (
        TEMPLATE.numerics(config(), dataclasses.replace(permitted, math=())).input_eps
        < TEMPLATE.numerics(config(), permitted).input_eps
    )


def test_setmaxnreg_never_asks_for_more_registers_than_the_launch_gave() -> None:
    for consumers, min_blocks, producer in ((n, b, p) for n in (1, 2, 3) for b in (1, 2) for p in (40, 56)):
        c = config(consumers=consumers, min_blocks=min_blocks, producer_registers=producer)
        at_launch, each = tiles.launch_registers(consumers, min_blocks, H200), tiles.consumer_registers(c, H200)
        assert producer + consumers * each <= (consumers + 1) * at_launch
        assert each % 8 == 0 and at_launch <= each <= 240


def test_tensor_maps_keep_the_drivers_rules() -> None:
    r = random.Random(5)
    for _ in range(8):
        workload = random_workload(r)
        for c in BoundTemplate(TEMPLATE, workload, H200).space().sample(20, np.random.default_rng(r.randrange(99))):
            for a in (
                a for step in TEMPLATE.plan(c, workload, H200).kernels for a in step.args if isinstance(a, TensorMapArg)
            ):
                itemsize = {"uint8": 1, "bfloat16": 2, "float16": 2}.get(a.dtype, 4)
                assert all(s % 16 == 0 for s in a.strides) and all(1 <= b <= 256 for b in a.box)
                assert a.box[0] * itemsize % 16 == 0 and a.box[0] * itemsize <= a.swizzle


# ---- what NVRTC and ptxas make of it ---------------------------------------------------------------------------------

WORKLOADS = [
    BIG,
    Matmul(4096, 4096, 4096, dtype="float16", layout="nn", out_dtype="float32", epilogue="bias+gelu"),
    Matmul(64, 8192, 8192, dtype="bfloat16", layout="nt", beta="any", alpha="any"),
    Matmul(4096, 7168, 2048, dtype="float8_e4m3", layout="nt", scales="block128"),
    Matmul(4096, 4096, 4096, dtype="int8", layout="nt", out_dtype="int8", scales="row_col", epilogue="bias+relu"),
    Matmul(1000, 1000, 1000, 3, dtype="float32", layout="nt", math=("tf32",), epilogue="residual"),
]


@needs_nvrtc
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.key[:60])
def test_default_and_seeds_assemble_without_spills_or_notes(workload: Matmul) -> None:
    default = TEMPLATE.default(workload, H200)
    assert not TEMPLATE.violations(default, workload, H200)
    seeds = list(TEMPLATE.seeds(workload, H200))
    assert seeds
    for c in seeds[:2] if workload is not BIG else seeds[:6]:
        assert_assembles_cleanly(c, workload)


@needs_nvrtc
def test_random_configs_assemble_without_spills_or_notes() -> None:
    r = random.Random(11)
    for i in range(12):
        workload = (
            dataclasses.replace(random_workload(r), m=r.choice((100, 4096)), n=2048, k=2048, lda=0, ldb=0, ldc=0)
            if i % 2
            else random_workload(r)
        )
        if TEMPLATE.supported(workload, H200) is True:
            for c in BoundTemplate(TEMPLATE, workload, H200).space().sample(1, np.random.default_rng(i)):
                assert_assembles_cleanly(c, workload)


@needs_nvrtc
def test_the_flagship_is_wgmma_multicast_copies_and_bulk_stores(tmp_path: Path) -> None:
    flagship = TEMPLATE.default(BIG, H200)
    text = checks.sass(TEMPLATE, flagship, BIG, tmp_path)
    for name in (
        "HGMMA.64x256x16.F32.BF16",
        "UTMALDG.2D ",
        "UTMALDG.2D.MULTICAST",
        "UTMASTG.2D",
        "STSM.16.M88.4",
        "USETMAXREG",
    ):
        assert name in text, name
    assert not re.search(r"\b(LDL|STL|HMMA)\b", text)
    # no fence of the whole GPU, no loop over the threads of a warp around a copy, one copy of each tile
    assert "MEMBAR.ALL.GPU" not in text and "BRA.U.ANY" not in text and text.count("UTMALDG") == 2


@needs_nvrtc
@pytest.mark.parametrize(
    ("dtype", "instruction"),
    [
        ("float8_e4m3", "QGMMA.64x128x32.F32.E4M3.E4M3"),
        ("int8", "IGMMA.64x128x32.S8.S8"),
        ("float32", "HGMMA.64x128x8.F32.TF32"),
    ],
)
def test_each_dtype_has_its_tensor_instruction(dtype: str, instruction: str, tmp_path: Path) -> None:
    workload = Matmul(512, 512, 512, dtype=dtype, layout="nt", math=("tf32",) if dtype == "float32" else ())
    assert instruction in checks.sass(TEMPLATE, config(dtype), workload, tmp_path)


def test_a_lone_block_has_no_cluster_attribute_and_nothing_of_clusters() -> None:
    source = render(TEMPLATE, config(), BIG, H200)
    assert "__cluster_dims__" not in source and "cluster_sync" not in source and "multicast" not in source
    assert "__cluster_dims__(2, 1, 1)" in render(TEMPLATE, config(cluster_n=2), BIG, H200)


def test_sources_are_self_contained_and_deterministic() -> None:
    source = render(TEMPLATE, TEMPLATE.default(BIG, H200), BIG, H200)
    assert "#include" not in source
    assert source == render(TEMPLATE, TEMPLATE.default(BIG, H200), BIG, H200)


# ---- what the emulator computes with it ------------------------------------------------------------------------------

BF16 = Matmul(300, 264, 136, dtype="bfloat16", layout="nt")
FEATURES: dict[str, tuple[dict[str, Any], Matmul]] = {
    "cooperative": (dict(), BF16),
    "ring of two boxes": (dict(epilogue="ring", block_n=192), BF16),
    "whole tile staged": (dict(epilogue="full"), BF16),
    "two blocks of 64 rows": (dict(block_m=256, epilogue="ring"), BF16),
    "three consumers": (dict(block_m=192, consumers=3, epilogue="ring", block_n=96), BF16),
    "one consumer, no setmaxnreg": (dict(block_m=64, consumers=1, producer_registers=0), BF16),
    "pingpong": (dict(schedule="pingpong", epilogue="ring"), BF16),
    "pingpong on one slice of K": (
        dict(schedule="pingpong", block_m=64, block_n=32),
        dataclasses.replace(BF16, k=8, lda=0, ldb=0),
    ),
    "cluster along m": (dict(cluster_m=2), BF16),
    "cluster along n": (dict(cluster_n=4, block_n=64), BF16),
    "square cluster, pingpong": (dict(cluster_m=2, cluster_n=2, block_n=64, block_m=64, schedule="pingpong"), BF16),
    "two spans a slice": (dict(block_k=128, stages=2), BF16),
    "split K": (dict(split_k=2), dataclasses.replace(BF16, k=328, lda=0, ldb=0, epilogue="bias+relu", beta="any")),
    "K split over a cluster": (
        dict(split_k=4, reduction="cluster", grid="units"),
        dataclasses.replace(BF16, k=328, lda=0, ldb=0, epilogue="bias+relu", beta="any"),
    ),
    "K split over a cluster, transposed": (
        dict(split_k=2, reduction="cluster", grid="units", swap_ab=True, block_m=24, stages=4),
        dataclasses.replace(BF16, m=37, n=130, k=328, batch=2, lda=0, ldb=0, ldc=0, epilogue="row_bias"),
    ),
    "transposed": (dict(swap_ab=True, block_m=24, epilogue="full"), dataclasses.replace(BF16, m=37)),
    "transposed, float32": (
        dict(swap_ab=True, block_m=40 + 8, epilogue="ring"),
        dataclasses.replace(BF16, m=37, out_dtype="float32"),
    ),
    "batch": (
        dict(epilogue="full", producer_registers=56),
        dataclasses.replace(BF16, batch=3, m=130, n=72, epilogue="residual+silu"),
    ),
    "tn": (dict(cluster_m=2, cluster_n=2), dataclasses.replace(BF16, layout="tn", m=304, lda=0, ldb=0)),
    "narrow nn": (dict(block_n=48), dataclasses.replace(BF16, layout="nn", ldb=0)),
    "odd columns": (dict(), dataclasses.replace(BF16, n=129, ldc=0, epilogue="bias+row_bias+residual")),
}


@needs_emulator
@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_computes_the_product(name: str) -> None:
    changes, workload = FEATURES[name]
    assert_computes(config(**changes), workload, sms=2 if not re.search("cluster|split", name) else 10, seed=len(name))


@needs_emulator
@pytest.mark.parametrize(
    ("changes", "more"),
    [
        (dict(epilogue="ring"), {}),
        (dict(epilogue="ring"), dict(out_dtype="float32")),
        (dict(epilogue="narrow_ring"), dict(out_dtype="float32")),
        (dict(epilogue="ring", swap_ab=True, block_m=64), dict(m=64)),
        (dict(split_k=2, reduction="cluster", grid="units", stages=4), {}),
    ],
)
def test_what_is_staged_meets_no_bank_conflicts(changes: dict[str, Any], more: dict[str, Any]) -> None:
    result = assert_computes(
        config(**changes), Matmul(**{**dict(m=128, n=128, k=128), **dict(dtype="bfloat16", layout="nt"), **more})
    )
    assert result.bank_conflicts.store_wavefronts > 0 and result.bank_conflicts.share == 0


@needs_emulator
@pytest.mark.parametrize(
    ("dtype", "more"),
    [
        ("float8_e4m3", dict(scales="block128")),
        ("float8_e5m2", dict(scales="row_col", out_dtype="float8_e5m2")),
        ("float8_e4m3", dict(math=("fast_accumulate",))),
        ("int8", dict(out_dtype="int32")),
        ("int8", dict(out_dtype="int8", scales="tensor", epilogue="clamp(0,50)")),
        ("float32", dict(math=("tf32",))),
    ],
)
def test_every_dtype_computes_the_product(dtype: str, more: dict[str, Any]) -> None:
    workload = Matmul(150, 200, 400, dtype=dtype, layout="nt", **more)
    assert_computes(config(dtype, epilogue="direct"), workload, seed=1, kind="normal")
    assert_computes(config(dtype, epilogue="ring"), dataclasses.replace(workload, ldc=208), seed=2)


@needs_emulator
@pytest.mark.parametrize(
    ("dtype", "layout", "more"),
    [
        ("int8", "nn", dict(out_dtype="int32")),
        ("float8_e4m3", "tn", dict(scales="block128", batch=2)),
        ("float32", "tt", dict(math=("tf32",), epilogue="row_bias")),
    ],
)
def test_operands_that_wgmma_does_not_transpose_are_copied_first(dtype: str, layout: str, more: dict[str, Any]) -> None:
    workload = Matmul(67, 131, 200, dtype=dtype, layout=layout, lda=224, ldb=217 if layout[1] == "n" else 224, **more)
    assert_computes(config(dtype, split_k=2, producer_registers=56, stages=2), workload, seed=3)


@needs_emulator
@pytest.mark.parametrize("seed", range(24))
def test_random_configs_at_random_shapes_compute_the_product(seed: int) -> None:
    r = random.Random(1000 + seed)
    workload, sms = random_workload(r), r.choice((1, 2, 4, 7))
    (c,) = BoundTemplate(TEMPLATE, workload, chip(sms)).space().sample(1, np.random.default_rng(seed))
    assert_computes(c, workload, sms, seed, r.choice(("integer", "normal")))


@needs_emulator
@pytest.mark.parametrize(
    ("bug", "repair"),
    [
        ("    shared_writes_to_tma();\n", ""),
        ("mbarrier_expect(bar, A_BYTES + B_BYTES)", "mbarrier_expect(bar, A_BYTES)"),
        ("wgmma_wait<0>();", "wgmma_wait<1>();"),
        ("Ring ring = {0, 1};", "Ring ring = {0, 0};"),
    ],
)
def test_planted_bugs_do_not_pass(bug: str, repair: str) -> None:
    c = config(epilogue="ring", cluster_m=2)
    source = render(TEMPLATE, c, BF16, chip(2))
    assert bug in source
    with pytest.raises(AssertionError):
        assert_computes(c, BF16, sms=2, source=source.replace(bug, repair))


@needs_emulator
def test_a_block_that_leaves_before_the_others_of_its_cluster_are_done_with_it_is_found() -> None:
    c = config(epilogue="ring", cluster_m=2)
    source = render(TEMPLATE, c, BF16, chip(2))
    drain = "for (unsigned i = 0; i < STAGES; ++i) {\n                mbarrier_wait"
    assert drain in source
    with pytest.raises(AssertionError, match="exited_cta"):
        for seed in range(20):
            assert_computes(c, BF16, sms=2, seed=seed, source=source.replace(drain, drain.replace("STAGES", "0")))


# ---- where a search starts -------------------------------------------------------------------------------------------


def square(size: int, k: int = 0) -> Matmul:
    return Matmul(size, size, k or size, dtype="bfloat16", layout="nt")


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (square(8192), dict(block_m=128, block_n=256, consumers=2, schedule="cooperative", split_k=1)),
        (square(4096), dict(block_m=128, block_n=256, consumers=2, schedule="cooperative", split_k=1)),
        (
            square(3072),
            dict(block_m=192, block_n=192),
        ),  # 256 tiles in 2 rounds, where 128x256 takes 3 and idles a quarter
        (square(8192, 256), dict(schedule="pingpong")),  # a tile is so short that its store must hide
        (Matmul(16, 4096, 4096, dtype="bfloat16", layout="nt"), dict(swap_ab=True)),
    ],
)
def test_the_default_is_what_the_shape_asks_for(workload: Matmul, expected: dict[str, Any]) -> None:
    default = TEMPLATE.default(workload, H200)
    assert {name: default[name] for name in expected} == expected


def test_few_tiles_are_split_until_they_fill_the_chip() -> None:
    workload = Matmul(128, 4096, 4096, dtype="bfloat16", layout="nt")
    (main, *_) = TEMPLATE.plan(TEMPLATE.default(workload, H200), workload, H200).kernels
    assert main.blocks > 0.9 * H200.sm_count


def test_seeds_differ_in_shape_and_are_ordered_by_their_estimate() -> None:
    seeds = TEMPLATE.seeds(square(4096), H200)
    shapes = {(c["block_m"], c["block_n"], c["consumers"], c["schedule"], c["min_blocks"]) for c in seeds}
    clocks = [TEMPLATE.features(c, square(4096), H200)["log2 clocks"] for c in seeds]
    assert len(shapes) == len(seeds) > 8 and clocks == sorted(clocks)


def test_a_persistent_grid_of_clusters_of_four_may_leave_room_for_boards_with_uneven_processor_clusters() -> None:
    blocks = {
        grid: TEMPLATE.plan(config(cluster_m=2, cluster_n=2, grid=grid), BIG, H200).kernels[0].blocks
        for grid in ("all", "resident")
    }
    assert blocks == {"all": 132, "resident": 116}
