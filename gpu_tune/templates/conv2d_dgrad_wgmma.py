"""Gradient of a convolution's image on Hopper: TMA im2col copies, mbarriers and wgmma (sm_90a only), NHWC, stride 1.

A dgrad is the convolution of dy with the filters flipped and transposed, both by indexing alone: rows are pixels of dx,
gathered from dy by the copy engine; columns are channels of x, along which wgmma reads 16-bit filters as they lie in
memory. The phases of a stride, whose results lie apart, are conv2d_dgrad_mma's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..cuda.device import Device
from ..plan import LaunchPlan
from ..space.knob import Config, Constraint
from ..workload import Conv2d
from .base import Template
from .lib.common import ceil_div, channels, derived_once
from .lib.wgmma import constraints, derived, launch, seeds, tiles
from .lib.wgmma.gradients import dense, knobs, sixteen_bits, width
from .lib.wgmma.images import filter_map, gathered, image_map, with_image
from .matmul_wgmma import FLAGSHIP, PLAIN, numerics


def supports(w: Any, device: Device) -> bool | str:
    answer = sixteen_bits(w)
    if answer is not True:
        return answer
    if w.stride != (1, 1):
        return f"takes stride 1: the copy engine stores no phases, whose pixels lie apart, stride={w.stride}"
    one = dense(w)
    if isinstance(one, str):
        return one
    cg, kg = channels(w)
    if cg % 8:
        return f"the copy engine needs rows of the filters at multiples of 16 bytes: {cg} channels are {2 * cg} bytes"
    if w.groups > 1 and (kg % 64 or cg % 16):
        return (
            f"groups={w.groups}: a group must have channels of dy in multiples of 64 and of x of 16, not {kg} and {cg}"
        )
    return gathered(one)


def problem(w: Any) -> tiles.Problem:
    """Pixels of dx by channels of x, each tap of the filter whole k tiles of channels of dy."""
    kg = channels(w)[1]
    return tiles.Problem(w.n * w.h * w.w, w.c, 1, w.c, lambda c: w.r * w.s * ceil_div(kg, c["block_k"]))


@dataclass(frozen=True)
class Gradient(derived.Derived):
    """``convolution``: the forward one, of dy, that the gradient is."""

    convolution: Conv2d | None = None


@derived_once
def derive(c: Mapping[str, Any], w: Any, device: Device) -> Gradient:
    g = derived.derived("conv2d_dgrad_wgmma", c, w, device, problem(w), {"a": False, "b": True})
    one = dense(w)
    assert isinstance(one, Conv2d), "supports() said that it is one"
    stored = with_image(g.storage, "a", 3)
    return Gradient(c, g.layout, stored, g.pipeline, g.launch, per_work_tile=True, convolution=one)


def plan(c: Mapping[str, Any], w: Any, device: Device) -> LaunchPlan:
    g = derive(c, w, device)
    maps = image_map("dy", g.convolution, g.storage.a), filter_map(w, g.storage.b)
    return launch.plan(c, w, problem(w), g, maps)


CONSTRAINTS = (
    *constraints.constraints(problem),
    Constraint(
        "groups_legal",
        ("block_n", "block_k", "cluster_n"),
        lambda c, w, d: (
            w.groups == 1
            or (channels(w)[0] % (c["block_n"] * c["cluster_n"]) == 0 and channels(w)[1] % c["block_k"] == 0)
        ),
        "with groups, the columns of a cluster lie in one group and k tiles are whole",
    ),
)


def _default(w: Any, device: Device) -> Config:
    plain = Config({**PLAIN, "block_n": width(w.groups, channels(w)[0]), "block_k": 64})
    return next(iter(_seeds(w, device)), plain)


@functools.lru_cache(maxsize=256)
def _seeds(w: Any, device: Device) -> Sequence[Config]:
    return tuple(seeds.seeds(w, device, TEMPLATE, problem(w), FLAGSHIP))


TEMPLATE: Template = Template(
    name="conv2d_dgrad_wgmma",
    op="conv2d",
    summary="gradient of the image on Hopper tensor cores (wgmma), dy gathered by the copy engine, stride 1, NHWC",
    knobs=knobs("block_n"),
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=lambda c, w, d: launch.resources("conv2d_dgrad_wgmma", c, w, problem(w)),
    plan=plan,
    default=_default,
    seeds=_seeds,
    features=lambda c, w, d: seeds.features(c, w, d, problem(w)),
    numerics=numerics,
    min_cc=90,
    only_cc=90,
    directions=("dgrad",),
    partial_sums=lambda c, w, d: derive(c, w, d).storage.sums,
    whole_masks=lambda c, w, d: derive(c, w, d).byte_lanes > 0,
)
