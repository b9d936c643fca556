"""A family that leaves a size open makes one kernel for every size: the argument, guards, grids and tensor maps.

A sample; ``python -m bench.any_size`` runs every epilogue and hundreds of sizes.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import gpu_tune as gt
from gpu_tune.cuda.device import by_name
from gpu_tune.errors import InvalidConfig, InvalidInput, Unsupported
from gpu_tune.measure import emulated
from gpu_tune.plan.size import Size
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import bind, registry

H200 = by_name("nvidia-h200")
FAMILIES = ("matmul_simt", "matmul_mma", "matmul_wgmma")
SPLIT = {"matmul_simt": {}, "matmul_mma": {"reduction": "last_arrival"}, "matmul_wgmma": {"reduction": "workspace"}}


def bound(family: str, size: int, most: int = 200, layout: str = "nt", **fields) -> BoundTemplate:
    workload = gt.Matmul(gt.any_of(1, most), 96, 256, layout=layout, **fields)
    (found,) = bind(workload, H200, {family: registry()[family]}, size)
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", [1, 2])
def test_one_source_computes_every_size(family, split):
    b = bound(family, 100, epilogue="row_bias+residual+gelu", beta="any", batch=split)
    config = b.default()
    if split > 1:
        config = next(c for c in _variants(b, config, split_k=split, **SPLIT[family]) if not b.violations(c))
    rendered = b.render(config)
    tile = rendered.estimate.loop and config["block_m"]
    sizes = sorted({1, 2, 63, tile - 1, tile, tile + 1, 2 * tile + 1, 200} & set(range(1, 201)))
    assert re.search(r"const int m\b", rendered.source) and rendered.plan == rendered.open_plan.at(100)
    assert len({rendered.open_plan.at(s).kernels[0].grid for s in sizes}) > 1
    for check in emulated.check_sizes(b, config, sizes):
        assert check.ok, f"{check.workload}: {check.detail}"


def test_a_split_tail_is_of_every_size_its_own():
    """4 SMs and 3 columns of tiles: some sizes leave no tile over, some fill no wave."""
    b = replace(bound("matmul_mma", 200, epilogue="residual"), device=replace(H200, sm_count=4))
    tile = dict(block_m=32, warp_m=16, block_n=32, warp_n=32, slice_k=1, min_blocks=1, stages=2)
    tail = dict(grid="split_tail", split_k=2, reduction="last_arrival")
    config = b.default().replace(**tile, **tail)
    rendered = b.render(config)
    assert len({rendered.open_plan.at(m).workspace_bytes for m in (1, 128, 200)}) == 1
    for check in emulated.check_sizes(b, config, [1, 33, 65, 128, 129, 200]):
        assert check.ok, f"{check.workload}: {check.detail}"
    for m in (1, 128, 200):
        assert replace(b, workload=b.workload.resized(m), tuned=200).estimate(config).loop.tail == -(-m // 32) * 3 % 4


@pytest.mark.parametrize(("family", "layout", "fields"), [
    ("matmul_simt", "tt", {"batch": 2}), ("matmul_mma", "tn", {"batch": 2}), ("matmul_wgmma", "tn", {}),
    ("matmul_mma", "tt", {"dtype": "int8", "out_dtype": "float32"})])  # fmt: skip
def test_rows_of_a_may_be_of_open_length(family, layout, fields):
    """They begin anywhere, so that a config for 128 must not count on the 16 bytes that 128 is a multiple of."""
    b = bound(family, 128, layout=layout, **fields)
    assert b.asked.lda == 129 and b.computed.lda == 128 and b.whole.lda == b.whole.open == b.open
    assert b.computed.resized(7).lda == 7 and b.whole.at(7) == b.computed.resized(7)
    if family == "matmul_simt":
        wide = b.default().replace(vector_width_a=4)
        assert b.violations(wide) and not replace(b, open=None).violations(wide)
    for check in emulated.check_sizes(b, b.default(), [1, 63, 65, 200]):
        assert check.ok, f"{check.workload}: {check.detail}"
    with pytest.raises(InvalidInput, match=r"lda: 256 is given for rows of A \(k,m\), whose length m is open"):
        replace(b.whole, lda=256)


def _variants(b, config, **changes):
    """The config with ``changes``, and with other values of what they need."""
    stages = (config["stages"], 2, 3) if "stages" in config else (1,)
    for k in (config["block_k"], 16, 32, 64):
        for s in stages:
            more = {"grid": "one_per_tile", "swap_ab": False} if "swap_ab" in config else {}
            store = (
                {"epilogue_store": "direct" if "swap_ab" in config else "staged"} if "epilogue_store" in config else {}
            )
            yield config.replace(block_k=k, stages=s, **{**more, **store, **changes})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_source_of_numbers_is_as_without_open_sizes(family):
    b = bound(family, 128)
    exact = replace(b, open=None)
    config = b.default()
    assert not re.search(r"const int m\b", exact.render(config).source) and exact.render(config).open_plan is None
    assert b.hash != exact.hash == registry()[family].hash()
    wider = replace(b, open=Size("m", (1, 201)))
    assert wider.hash != b.hash and exact.whole == exact.workload


def test_a_config_is_chosen_for_one_size_and_runs_at_others():
    b = bound("matmul_mma", 200)
    config = b.default().replace(block_m=128, warp_m=64, block_n=64, warp_n=32, raster_group=1)
    assert not b.violations(config)
    small = replace(b, workload=b.workload.resized(5))
    with pytest.raises(InvalidConfig, match="block_m_useful"):
        small.render(config)
    there = replace(small, tuned=200).render(config)
    assert there.plan == b.render(config).open_plan.at(5) and there.source == b.render(config).source


@pytest.mark.parametrize(("family", "layout", "groups", "split"), [
    ("conv2d_direct", "nhwc", 1, 2), ("conv2d_direct", "nchw", 2, 1), ("conv2d_depthwise", "nhwc", 8, 1),
    ("conv2d_igemm_mma", "nhwc", 1, 2), ("conv2d_igemm_mma", "nchw", 2, 1),
    ("conv2d_igemm_wgmma", "nhwc", 1, 2)])  # fmt: skip
def test_one_source_computes_any_number_of_images(family, layout, groups, split):
    c = 16 * split if groups == 1 else 8
    w = gt.Conv2d(gt.any_of(1, 9), c, 9, 11, 8, 3, 3, padding=1, layout=layout, groups=groups, epilogue="bias+residual")
    (b,) = bind(w, H200, {family: registry()[family]}, 4)
    config = b.default()
    if split > 1:
        parts = {"stages": 2, "epilogue_store": "direct"} if "igemm" in family else {}
        config = config.replace(split_k=split, **parts)
    assert re.search(r"const int n\b", b.render(config).source) and b.render(config).open_plan.open == w.open
    for check in emulated.check_sizes(b, config, [1, 2, 9]):
        assert check.ok, f"{check.workload}: {check.detail}"


def test_what_leaves_no_size_open_refuses_and_names_it():
    w = gt.Conv2d(gt.any_of(1, 8), 8, 9, 9, 8, 3, 3, layout="nhwc", math=("winograd",))
    with pytest.raises(Unsupported, match=r"conv2d_winograd leaves no size open, and n is 1\.\.8"):
        bind(w, H200, {"conv2d_winograd": registry()["conv2d_winograd"]})
