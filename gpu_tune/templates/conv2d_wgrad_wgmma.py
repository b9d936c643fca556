"""Gradient of a convolution's filters on Hopper: TMA copies, mbarriers and wgmma (sm_90a only), NHWC, 16-bit data.

Rows are filters, columns all taps and channels of a filter, as dw lies in memory, and K runs over pixels of dy: of dy
a k tile is rows as they lie, of x the pixels that a tap meets, gathered by the copy engine (TMA im2col). Both are read
along rows or columns of the product. A tile's columns may be those of several taps, each box those of one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..cuda.device import Device
from ..plan import LaunchPlan, TensorMapArg
from ..space.knob import Config, Constraint
from ..workload import ITEMSIZE
from .base import Template
from .lib.common import ceil_div, channels, derived_once
from .lib.knobs import SPLIT_K
from .lib.wgmma import constraints, derived, launch, seeds, tiles
from .lib.wgmma.gradients import knobs, sixteen_bits, width
from .lib.wgmma.images import gathered, image_map, with_image
from .matmul_wgmma import FLAGSHIP, PLAIN, numerics


def supports(w: Any, device: Device) -> bool | str:
    answer = sixteen_bits(w)
    if answer is not True:
        return answer
    cg, kg = channels(w)
    if w.k % 8:
        return f"the copy engine needs pixels of dy at multiples of 16 bytes: k={w.k} are {2 * w.k} bytes"
    if not _one_box(w) and cg % 16:
        return f"a box of the copy engine is 32 bytes or more of one tap and group: {cg} channels are no multiple of 16"
    if w.groups > 1 and kg % 64:
        return f"groups={w.groups}: a group must have filters in multiples of 64, not {kg}"
    return gathered(w)


def _one_box(w: Any) -> bool:
    """Whether columns are the channels of one tap and group."""
    return bool(w.r * w.s * w.groups == 1)


def problem(w: Any) -> tiles.Problem:
    """Filters by taps and channels of one filter, over pixels of dy."""
    columns = w.r * w.s * channels(w)[0]
    return tiles.Problem(w.k, columns, 1, columns, lambda c: ceil_div(w.n * w.p * w.q, c["block_k"]))


@derived_once
def derive(c: Mapping[str, Any], w: Any, device: Device) -> derived.Derived:
    g = derived.derived("conv2d_wgrad_wgmma", c, w, device, problem(w), {"a": True, "b": True})
    return replace(g, storage=with_image(g.storage, "b", 2))


def plan(c: Mapping[str, Any], w: Any, device: Device) -> LaunchPlan:
    g, a = derive(c, w, device), derive(c, w, device).storage.a
    pixels = TensorMapArg(
        "dy",
        tiles.MAP_DTYPE[w.dtype],
        (w.k, w.n * w.p * w.q),
        (w.k * ITEMSIZE[w.dtype],),
        (a.box_inner, a.slice_rows),
        swizzle=a.swizzle_bytes,
        l2_promotion=launch.L2_PROMOTION,
    )
    return launch.plan(c, w, problem(w), g, (pixels, image_map("x", w, g.storage.b)))


def _boxes_are_whole(c: Mapping[str, Any], w: Any, d: Device) -> bool:
    """Whether a box of x, as wide as the widest swizzle that divides the tile, has channels of one tap alone."""
    inner = next((n for n in (64, 32, 16) if c["block_n"] % n == 0), 0)
    return _one_box(w) or (inner > 0 and channels(w)[0] % inner == 0)


CONSTRAINTS = (
    *constraints.constraints(problem),
    Constraint(
        "boxes_divide",
        ("block_n",),
        _boxes_are_whole,
        "a box of block_n (64, 32 or 16 columns) lies in one tap and one group: it divides the channels of a group",
    ),
    Constraint(
        "groups_legal",
        ("block_m", "cluster_m"),
        lambda c, w, d: w.groups == 1 or channels(w)[1] % (c["block_m"] * c["cluster_m"]) == 0,
        "with groups, the rows of a cluster lie in one group",
    ),
)


def _default(w: Any, device: Device) -> Config:
    plain = Config({**PLAIN, "block_n": width(1 if _one_box(w) else 2, channels(w)[0]), "block_k": 64})
    return next(iter(_seeds(w, device)), plain)


@functools.lru_cache(maxsize=256)
def _seeds(w: Any, device: Device) -> Sequence[Config]:
    return tuple(seeds.seeds(w, device, TEMPLATE, problem(w), FLAGSHIP))


TEMPLATE: Template = Template(
    name="conv2d_wgrad_wgmma",
    op="conv2d",
    summary="gradient of the filters on Hopper tensor cores (wgmma), x gathered by the copy engine, any stride, NHWC",
    knobs=knobs("block_m", "block_n", split_k=replace(SPLIT_K, values=(*SPLIT_K.values, 48, 64))),
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=lambda c, w, d: launch.resources("conv2d_wgrad_wgmma", c, w, problem(w)),
    plan=plan,
    default=_default,
    seeds=_seeds,
    features=lambda c, w, d: seeds.features(c, w, d, problem(w)),
    numerics=numerics,
    min_cc=90,
    only_cc=90,
    directions=("wgrad",),
)
