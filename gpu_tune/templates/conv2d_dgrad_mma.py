"""Gradient of a convolution's image on tensor cores: mma.sync fed by a cp.async pipeline (sm_80 and newer), NHWC.

With stride 1 it is a convolution of dy with the filters flipped and transposed: A is the gathered dy, B the filters,
whose rows are channels of dy; both are flipped and transposed by indexing alone. Strided ones are left to
conv2d_dgrad_simt. The main loop, split K, raster and epilogue are those of matmul_mma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..cuda.device import Device
from ..space.knob import Constraint
from ..workload import ITEMSIZE
from .base import Template
from .lib.common import derived_once
from .lib.mma import launch, seeds
from .lib.mma.constraints import WARPS, constraints
from .lib.mma.derived import Derived, derived
from .lib.mma.gradients import SHALLOW, channels, filter_rows, forward, image_operands, image_problem, refusal
from .lib.mma.loader import image_loader
from .lib.mma.tiles import KNOBS, Shape, promotes
from .matmul_mma import numerics


def _pixels(c: Mapping[str, Any], w: Any) -> tuple[int, int]:
    """Threads of a block, and those that copy one pixel."""
    dy = image_operands({"shared_layout": "xor", "copy_bytes": 16, "block_m": 16, "block_n": 16, **c}, w)[0]
    count = 32 * (c["block_m"] // c["warp_m"]) * (c["block_n"] // c["warp_n"]) * c["slice_k"]
    return count, c["block_k"] * dy.itemsize // max(1, dy.copy)


def _pixels_are_few(c: Mapping[str, Any], w: Any, d: Device) -> bool:
    count, row = _pixels(c, w)
    return count > 0 and count % row == 0 and c["block_m"] * row <= 8 * count


CONSTRAINTS = (
    *constraints(
        image_problem,
        image_operands,
        lambda w: not w.ops and w.out_dtype == "float32" and not w.deterministic,
        state=16,
    ),
    Constraint(
        "taps_whole",
        ("block_k",),
        lambda c, w, d: channels(w)[1] % c["block_k"] == 0,
        "block_k divides the channels of dy of a group, so that a k tile lies inside one filter tap",
    ),
    Constraint(
        "pixels_per_thread",
        (*WARPS, "block_k", "copy_bytes"),
        _pixels_are_few,
        "a thread's vectors lie at one place in k, and it keeps track of at most 8 pixels",
    ),
    SHALLOW,
)


def _supports(w: Any, device: Device) -> bool | str:
    if w.stride != (1, 1):
        return f"takes stride 1, not {w.stride[0]}x{w.stride[1]}"
    cg, kg = channels(w)
    if why := refusal(w, math.gcd(cg, kg), "channels"):
        return why
    reach = [d * (f - 1) for d, f in zip(w.dilation, (w.r, w.s))]
    if max(w.padding[:2]) > reach[0] or max(w.padding[2:]) > reach[1]:
        return "takes padding up to dilation times (filter - 1), beyond which dy is cut"
    if image_problem(w).m >= 2**31 - 512:
        return "has 2^31 pixels or more"
    if kg % (least := 64 // ITEMSIZE[w.dtype]):
        return f"takes channels of dy in k tiles of 64 bytes or more: {kg} of a group are no multiple of {least}"
    if seeds.complete({}, w, device, TEMPLATE) is None:
        return "no tile is valid for it"
    return True


@derived_once
def _derived(config: Mapping[str, Any], w: Any, device: Device) -> Derived:
    count, cg = Shape.of(config, w.dtype, promotes(w, device)).threads, channels(w)[0]
    product, (dy, filters), like = image_problem(w), image_operands(config, w), forward(w)
    iterator = "masks" if 1 < w.r * w.s <= 32 else "analytic"
    loaders = image_loader(dy, count, like, iterator, product.k_tiles(config)), filter_rows(filters, count, w)
    name, wide = "conv2d_dgrad_mma", w.n * w.h * w.w * w.c >= 2**31
    return derived(name, config, w, device, product, loaders, row_elements=math.gcd(w.c, cg), along="n", wide=wide)


TEMPLATE: Template = Template(
    name="conv2d_dgrad_mma",
    op="conv2d",
    summary="gradient of the image on tensor cores by mma.sync, stride 1, any group, nhwc",
    knobs=KNOBS,
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=CONSTRAINTS,
    supports=_supports,
    derive=_derived,
    resources=lambda c, w, d: launch.resources("conv2d_dgrad_mma", c, w, d, image_problem(w), image_operands(c, w)),
    plan=lambda c, w, d: launch.plan(_derived(c, w, d), c, w, image_problem(w)),
    default=lambda w, d: seeds.default(w, d, TEMPLATE, image_problem(w)),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE, image_problem(w)),
    features=lambda c, w, d: seeds.features(c, w, d, image_problem(w)),
    numerics=numerics,
    min_cc=80,
    directions=("dgrad",),
)
