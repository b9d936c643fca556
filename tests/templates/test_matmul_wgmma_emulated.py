"""matmul_wgmma: what the emulator computes with it."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import pytest

from gpu_tune.templates.base import render
from gpu_tune.templates.matmul_wgmma import TEMPLATE
from gpu_tune.workload import Matmul
from tests.helpers import wgmma_checks as checks
from tests.helpers.wgmma_checks import chip, config, needs_emulator

assert_computes = functools.partial(checks.assert_computes, TEMPLATE)
BF16 = Matmul(300, 264, 136, dtype="bfloat16", layout="nt")
FEATURES: dict[str, tuple[dict[str, Any], Matmul]] = {
    "cooperative": (dict(), BF16),
    "ring of two boxes": (dict(epilogue_store="staged", block_n=192), BF16),
    "whole tile staged": (dict(epilogue_store="staged_tile"), BF16),
    "two blocks of 64 rows": (dict(block_m=256, epilogue_store="staged"), BF16),
    "three consumers": (dict(block_m=192, consumers=3, epilogue_store="staged", block_n=96), BF16),
    "one consumer, no setmaxnreg": (dict(block_m=64, consumers=1, producer_registers=0), BF16),
    "pingpong": (dict(schedule="pingpong", epilogue_store="staged"), BF16),
    "pingpong, boxes shared": (dict(schedule="pingpong", epilogue_store="staged_shared", block_m=64, block_n=96), BF16),
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
        dict(split_k=4, reduction="cluster", grid="one_per_tile"),
        dataclasses.replace(BF16, k=328, lda=0, ldb=0, epilogue="bias+relu", beta="any"),
    ),
    "K split over a cluster, transposed": (
        dict(split_k=2, reduction="cluster", grid="one_per_tile", swap_ab=True, block_m=24, stages=4),
        dataclasses.replace(BF16, m=37, n=130, k=328, batch=2, lda=0, ldb=0, ldc=0, epilogue="row_bias"),
    ),
    "transposed": (dict(swap_ab=True, block_m=24, epilogue_store="staged_tile"), dataclasses.replace(BF16, m=37)),
    "transposed, float32": (
        dict(swap_ab=True, block_m=40 + 8, epilogue_store="staged"),
        dataclasses.replace(BF16, m=37, out_dtype="float32"),
    ),
    "batch": (
        dict(epilogue_store="staged_tile", producer_registers=56),
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
        (dict(epilogue_store="staged"), {}),
        (dict(epilogue_store="staged"), dict(out_dtype="float32")),
        (dict(epilogue_store="staged_narrow"), dict(out_dtype="float32")),
        (dict(epilogue_store="staged", swap_ab=True, block_m=64), dict(m=64)),
        (dict(split_k=2, reduction="cluster", grid="one_per_tile", stages=4), {}),
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
    assert_computes(config(dtype, epilogue_store="direct"), workload, seed=1, kind="normal")
    assert_computes(config(dtype, epilogue_store="staged"), dataclasses.replace(workload, ldc=208), seed=2)


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
    c = config(epilogue_store="staged", cluster_m=2)
    source = render(TEMPLATE, c, BF16, chip(2))
    assert bug in source
    with pytest.raises(AssertionError):
        assert_computes(c, BF16, sms=2, source=source.replace(bug, repair))


@needs_emulator
@pytest.mark.parametrize(
    ("bug", "repair"),
    [
        ("if (thread == 0) mbarrier_wait(store_turns + 8 * consumer, turn ^ 1);", ""),
        ("tma_store_wait_read<0>();\n                mbarrier_arrive(store", "mbarrier_arrive(store"),
    ],
)
def test_consumers_that_share_boxes_out_of_turn_are_found(bug: str, repair: str) -> None:
    c = config(schedule="pingpong", epilogue_store="staged_shared", block_m=64, block_n=96)
    source = render(TEMPLATE, c, BF16, chip(2))
    assert bug in source
    with pytest.raises(AssertionError):
        assert_computes(c, BF16, sms=2, source=source.replace(bug, repair))


@needs_emulator
def test_a_block_that_leaves_before_the_others_of_its_cluster_are_done_with_it_is_found() -> None:
    c = config(epilogue_store="staged", cluster_m=2)
    source = render(TEMPLATE, c, BF16, chip(2))
    drain = "for (unsigned i = 0; i < STAGES; ++i) {\n                mbarrier_wait"
    assert drain in source
    with pytest.raises(AssertionError, match="exited_cta"):
        for seed in range(20):
            assert_computes(c, BF16, sms=2, seed=seed, source=source.replace(drain, drain.replace("STAGES", "0")))
