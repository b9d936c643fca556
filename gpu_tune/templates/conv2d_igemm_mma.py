"""conv2d as an implicit matrix product on tensor cores: mma.sync fed by a cp.async pipeline (sm_80 and newer).

One product per group: pixels (n p q) by output channels over (r, s, c). NHWC: A is the gathered image, B the filters; k
runs over r, s, c with c innermost, so a pixel's channels are copied 16 bytes at a time. NCHW: A is the filters, B the
gathered image; k runs over c, r, s and pixels are read one element at a time, neighbouring pixels by neighbouring
threads. The main loop, split K, raster and epilogue are those of matmul_mma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..cuda.device import Device
from ..plan.size import upper
from ..space.knob import Constraint, Knob
from .base import Template
from .lib.common import ceil_div, derived_once
from .lib.mma import launch, seeds
from .lib.mma.constraints import WARPS, constraints, threads
from .lib.mma.derived import Derived, Out, derived
from .lib.mma.loader import image_loader, loader
from .lib.mma.tiles import KNOBS, Operand, Problem, Shape, multiplies, operand, promotes
from .matmul_mma import numerics

ITERATOR = Knob(
    "iterator",
    ("analytic", "masks", "table"),
    "how a pixel's taps are found: by division in every k tile; by one step and a bit mask (k tiles inside one tap); "
    "or from a table of offsets in constant memory (images read by element)",
    ordinal=False,
)
TABLE = 1024
"""Most k that a table of taps may have."""


def problem(w: Any) -> Problem:
    """The product of one group; groups are its batch."""
    pixels, channels = w.n * w.p * w.q, w.k // w.groups
    k = w.c // w.groups * w.r * w.s
    return Problem(pixels, channels, k, w.groups) if w.layout == "nhwc" else Problem(channels, pixels, k, w.groups)


def _image(c: Mapping[str, Any], w: Any) -> Operand:
    if w.layout == "nhwc":
        return operand("image", c["block_m"], c, w, w.c // w.groups)
    return operand("image", c["block_n"], c, w, 0)


def operands(c: Mapping[str, Any], w: Any) -> tuple[Operand, Operand]:
    if w.layout == "nhwc":
        return _image(c, w), operand("filters", c["block_n"], c, w, problem(w).k)
    return operand("filters", c["block_m"], c, w, problem(w).k), _image(c, w)


def _probed(c: Mapping[str, Any], w: Any) -> tuple[Operand, int]:
    return _image({"shared_layout": "xor", "copy_bytes": 16, "block_m": 16, "block_n": 16, **c}, w), threads(c)


def _iterator_is_legal(c: Mapping[str, Any], w: Any, d: Device) -> bool:
    image = _image({"shared_layout": "xor", "copy_bytes": 16, **c, "block_m": 16, "block_n": 16}, w)
    if c["iterator"] == "masks":
        return bool(image.copy) and w.c // w.groups % c["block_k"] == 0 and 1 < w.r * w.s <= 32
    return c["iterator"] != "table" or (not image.copy and problem(w).k_tiles(c) * c["block_k"] <= TABLE)


def _pixels_are_aligned(c: Mapping[str, Any], w: Any, d: Device) -> bool:
    image, count = _probed(c, w)
    if count and image.copy:
        return count % (c["block_k"] * image.itemsize // image.copy) == 0
    return count == 0 or image.extent % count == 0 or count % image.extent == 0


def _pixels_are_few(c: Mapping[str, Any], w: Any, d: Device) -> bool:
    image, count = _probed(c, w)
    if not image.copy or count == 0:
        return True
    return ceil_div(image.extent * (c["block_k"] * image.itemsize // image.copy), count) <= 8


def _atomics(w: Any) -> bool:
    return not w.ops and (w.out_dtype == "int32" or (w.out_dtype == "float32" and not w.deterministic))


CONSTRAINTS = (
    *constraints(problem, operands, _atomics, state=12),
    Constraint(
        "iterator_legal",
        ("block_k", "iterator"),
        _iterator_is_legal,
        "masks need copied pixels, channels that block_k divides and 2 to 32 taps; a table needs pixels read by "
        f"element and at most {TABLE} k",
    ),
    Constraint(
        "pixels_aligned",
        (*WARPS, "block_k", "copy_bytes"),
        _pixels_are_aligned,
        "a thread's vectors lie at one place in k; pixels read by element divide among the threads evenly",
    ),
    Constraint(
        "pixels_fit",
        (*WARPS, "block_k", "copy_bytes"),
        _pixels_are_few,
        "a thread keeps track of at most 8 pixels",
    ),
)


def supports(w: Any, device: Device) -> bool | str:
    if w.weights != "plain":
        return "takes plain filters, not pretransformed ones"
    if (answer := multiplies(w, device)) is not True:
        return answer
    return seeds.has_tile(problem(w), w, device, TEMPLATE)


@derived_once
def derive(config: Mapping[str, Any], w: Any, device: Device) -> Derived:
    nhwc, channels, area, product = w.layout == "nhwc", w.k // w.groups, w.p * w.q, problem(w)
    pixels, rows = operands(config, w) if nhwc else operands(config, w)[::-1]
    count = Shape.of(config, w.dtype, promotes(w, device)).threads
    image = image_loader(pixels, count, w, config["iterator"], product.k_tiles(config))
    filters = loader(rows, count, w, product.k, (channels, product.k))
    # channels of all groups, or pixels of an image, lie side by side; vectors start at multiples of their size
    side_by_side = math.gcd(w.k, channels) if nhwc else area
    loaders = (image, filters) if nhwc else (filters, image)
    out = Out(side_by_side, upper(w.n) * w.k * area >= 2**31, along="n" if nhwc else "m")
    return derived("conv2d_igemm_mma", config, w, device, product, loaders, out)


TEMPLATE: Template = Template(
    name="conv2d_igemm_mma",
    op="conv2d",
    summary="implicit matrix product on tensor cores by mma.sync, any layout, stride and group",
    knobs=(*KNOBS, ITERATOR),
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=lambda c, w, d: launch.resources("conv2d_igemm_mma", c, w, d, problem(w), operands(c, w)),
    plan=lambda c, w, d: launch.plan(derive(c, w, d), c, w, problem(w)),
    default=lambda w, d: seeds.default(w, d, TEMPLATE, problem(w)),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE, problem(w)),
    features=lambda c, w, d: seeds.features(c, w, d, problem(w)),
    numerics=numerics,
    min_cc=80,
    open_sizes=("n",),
    partial_sums=lambda c, w, d: derive(c, w, d).storage.sums,
    whole_masks=lambda c, w, d: derive(c, w, d).storage.byte_lanes > 0,
)
