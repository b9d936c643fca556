"""conv2d on Hopper as an implicit matrix product: TMA im2col copies, mbarriers and wgmma (sm_90a only), NHWC.

Rows are output pixels, columns output channels, K runs over the filter's places and, innermost, channels. The copy
engine handles padding, stride and image borders of a tile's pixels (cuTensorMapEncodeIm2col), so the
kernel is matmul_wgmma's but for the loads of the image. With groups, a tile's columns lie in one group and read its
channels, in whole k tiles: a partial one would read channels of the next group, and infinities there would spread.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..cuda.device import Device
from ..plan import LaunchPlan
from ..space.knob import Config, Constraint
from ..workload import ITEMSIZE
from .base import Template
from .lib.common import ceil_div, derived_once
from .lib.wgmma import constraints, derived, launch, seeds, tiles
from .lib.wgmma.images import filter_map, gathered, image_map, with_image
from .matmul_wgmma import FLAGSHIP, PLAIN, numerics


def _channel_tiles(c: Mapping[str, Any], w: Any) -> int:
    return ceil_div(w.c // w.groups, c["block_k"])


def problem(w: Any) -> tiles.Problem:
    """The implicit product: pixels by output channels, each place of the filter whole k tiles of channels."""
    return tiles.Problem(w.n * w.p * w.q, w.k, 1, w.k, lambda c: w.r * w.s * _channel_tiles(c, w))


CONSTRAINTS = (
    *constraints.constraints(problem),
    Constraint(
        "groups_legal",
        ("block_n", "block_k", "cluster_n"),
        lambda c, w, d: (
            w.groups == 1
            or (w.k // w.groups % (c["block_n"] * c["cluster_n"]) == 0 and w.c // w.groups % c["block_k"] == 0)
        ),
        "with groups, the columns of a cluster lie in one group and k tiles are whole",
    ),
)


def supports(w: Any, device: Device) -> bool | str:
    size = ITEMSIZE[w.dtype]
    if w.dtype == "float32" and "tf32" not in w.math:
        return "tensor cores round float32 to tf32: it needs the permission math=('tf32',)"
    if w.layout != "nhwc":
        return "the copy engine gathers pixels of contiguous channels: layout 'nhwc' only"
    if w.groups > 1 and (w.c // w.groups * size % tiles.SWIZZLE_BYTES or w.k // w.groups % 8):
        return (
            f"groups={w.groups}: a group must have input channels in multiples of {tiles.SWIZZLE_BYTES} bytes and "
            f"output channels in multiples of 8, not {w.c // w.groups * size} bytes and {w.k // w.groups} channels"
        )
    if w.weights != "plain":
        return "pretransformed filters are for Winograd templates"
    return gathered(w)


@derived_once
def derive(c: Mapping[str, Any], w: Any, device: Device) -> derived.Derived:
    g = derived.derived("conv2d_igemm_wgmma", c, w, device, problem(w), {"a": False, "b": False})
    return replace(g, storage=with_image(g.storage, "a", 3), per_work_tile=True)


def plan(c: Mapping[str, Any], w: Any, device: Device) -> LaunchPlan:
    g = derive(c, w, device)
    maps = image_map("x", w, g.storage.a), filter_map(w, g.storage.b)
    return launch.plan(c, w, problem(w), g, maps)


def _default(w: Any, device: Device) -> Config:
    width = 64 if w.groups == 1 else next(n for n in (64, 32, 16, 8) if w.k // w.groups % n == 0)
    plain = Config({**PLAIN, "block_n": width, "block_k": 128 // ITEMSIZE[w.dtype]})
    return next(iter(_seeds(w, device)), plain)


@functools.lru_cache(maxsize=256)
def _seeds(w: Any, device: Device) -> Sequence[Config]:
    return tuple(seeds.seeds(w, device, TEMPLATE, problem(w), FLAGSHIP))


TEMPLATE: Template = Template(
    name="conv2d_igemm_wgmma",
    op="conv2d",
    summary="implicit GEMM on Hopper tensor cores (wgmma), image gathered by the copy engine (TMA im2col), NHWC",
    knobs=tiles.KNOBS,
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=lambda c, w, d: launch.resources("conv2d_igemm_wgmma", c, w, problem(w)),
    plan=plan,
    default=_default,
    seeds=_seeds,
    features=lambda c, w, d: seeds.features(c, w, d, problem(w)),
    numerics=numerics,
    min_cc=90,
    only_cc=90,
    open_sizes=("n",),
    partial_sums=lambda c, w, d: derive(c, w, d).storage.sums,
    whole_masks=lambda c, w, d: derive(c, w, d).byte_lanes > 0,
)
