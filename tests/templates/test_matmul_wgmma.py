"""matmul_wgmma: what it refuses, what NVRTC and ptxas make of it, and where a search starts."""

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
from gpu_tune.templates.base import render
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.lib.wgmma import tiles
from gpu_tune.templates.matmul_wgmma import TEMPLATE
from gpu_tune.workload import Matmul
from tests.helpers import wgmma_checks as checks
from tests.helpers.template_names import variables
from tests.helpers.wgmma_checks import H200, PLAIN, config, needs_nvrtc, random_workload

BIG = Matmul(8192, 8192, 8192, dtype="bfloat16", layout="nt")
assert_assembles_cleanly = functools.partial(checks.assert_assembles_cleanly, TEMPLATE)


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
        (dict(block_m=192), "left_rows_legal"),
        (dict(consumers=3, schedule="pingpong", block_m=64), "schedule_legal"),
        (dict(stages=12), "shared_memory_fits"),
        (dict(block_k=32), "block_k_legal"),
        (dict(block_m=256, block_n=256), "accumulators_fit"),
        (dict(consumers=3, block_m=192, block_n=256), "instruction_registers_fit"),
        (dict(cluster_m=4, cluster_n=2), "cluster_fits"),
        (dict(block_n=24, cluster_m=2), "multicast_aligned"),
        (dict(swap_ab=True), "swap_ab_useful"),
        (dict(block_n=24, epilogue_store="staged"), "epilogue_store_legal"),
        (dict(epilogue_store="staged_shared"), "epilogue_store_legal"),
        (dict(split_k=2), "split_k_useful"),
        (dict(split_k=3, reduction="cluster", grid="one_per_tile"), "cluster_legal"),
        (dict(split_k=2, reduction="cluster", grid="one_per_tile", stages=2, block_n=256), "part_fits"),
    ],
)
def test_configs_that_could_hang_spill_or_fault_are_invalid(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"\b{rule}: "):
        BoundTemplate(TEMPLATE, BIG, H200).render(Config({**PLAIN, **changes}))


def test_strict_float8_sums_leave_the_tensor_cores_every_128_of_k() -> None:
    changes = dict(block_m=128, block_n=64, block_k=256, stages=2)
    permitted = Matmul(4096, 4096, 4096, dtype="float8_e4m3", layout="nt", math=("fast_accumulate",))
    assert not TEMPLATE.violations(Config({**PLAIN, **changes}), permitted, H200)
    with pytest.raises(InvalidConfig, match=r"\bpromotion_divides: "):
        BoundTemplate(TEMPLATE, dataclasses.replace(permitted, math=()), H200).render(Config({**PLAIN, **changes}))
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


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.key[:60])
def test_default_and_seeds_assemble_without_spills_or_notes(workload: Matmul) -> None:
    default = TEMPLATE.default(workload, H200)
    assert not TEMPLATE.violations(default, workload, H200)
    seeds = list(TEMPLATE.seeds(workload, H200))
    assert seeds
    for c in seeds[:2] if workload is not BIG else seeds[:6]:
        assert_assembles_cleanly(c, workload)


@pytest.mark.slow
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
        for grid in ("all", "co_resident")
    }
    assert blocks == {"all": 132, "co_resident": 116}


# ---- where ptxas departs from PTX ------------------------------------------------------------------------------------

PRODUCTS = re.compile(r"^ *wgmma\((\w+\[\d\]), \w+ \| \((\w+) \+ (.+?)\), \w+ \| \((\w+) \+ (.+?)\), ", re.MULTILINE)
LOOP = re.compile(r"for \(int (\w+) = 0; \1 < (\d+); \+\+\1\) \{(.*?)^ *\}", re.MULTILINE | re.DOTALL)


def test_what_ptxas_drops_or_folds_without_a_word_does_not_occur() -> None:
    """setmaxnreg without a number of blocks is dropped by some releases; 12.0 to 13.5 make one of two accumulating
    wgmma of a stage that have the same operands."""
    rng, stages = random.Random(5), 0
    for number in range(12):
        workload = random_workload(rng) if number else BIG
        space = BoundTemplate(TEMPLATE, workload, H200).space()
        for drawn in space.sample(3, np.random.default_rng(number)):
            source = render(TEMPLATE, drawn, workload, H200)
            if "setmaxnreg" in source:
                entry = source[: source.index("setmaxnreg.inc")].rpartition("__launch_bounds__")[2]
                assert re.match(r"\(\d+, \d+\)", entry), entry[:40]
            for index, steps, body in LOOP.findall(source):
                made = PRODUCTS.findall(body)
                at = [
                    (sums, left, eval(x.replace("/", "//"), {index: i}), right, eval(y.replace("/", "//"), {index: i}))
                    for i in range(int(steps))
                    for sums, left, x, right, y in made
                ]
                assert len(set(at)) == len(at), body
                stages += bool(made)
    assert stages >= 12
