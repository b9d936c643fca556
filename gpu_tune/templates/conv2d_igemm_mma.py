"""conv2d as an implicit matrix product on tensor cores: mma.sync fed by a multistage pipeline (sm_80 and newer).

One product per group: pixels (n p q) by output channels over (r, s, c). NHWC: A is the gathered image, B the filters; k
runs over r, s, c with c innermost, so a pixel's channels are copied 16 bytes at a time. NCHW: A is the filters, B the
gathered image; k runs over c, r, s and pixels are read element by element, neighbours by neighbouring threads. The main
loop, split K, raster and epilogue are those of matmul_mma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..cuda.device import Device
from ..plan import LaunchPlan
from ..reference.numerics import Numerics
from ..space.knob import Config, Constraint, Knob
from ..workload import FP8, ITEMSIZE, Conv2d, Workload
from .base import ResourceEstimate, Template
from .lib.mma import launch
from .lib.mma.constraints import WARPS, Problem, rules, threads
from .lib.mma.derived import ImageLoader, Loader
from .lib.mma.seeds import complete, default, features, seeds
from .lib.mma.tiles import KNOBS, Operand, Shape, copy_width, promotes
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


def _image(config: Mapping[str, Any], w: Conv2d) -> Operand:
    size, nhwc = ITEMSIZE[w.dtype], w.layout == "nhwc"
    width = copy_width(config["copy_bytes"], w.c // w.groups * size, w.alignment) if nhwc else 0
    extent = config["block_m" if nhwc else "block_n"]
    return Operand("image", extent, config["block_k"], size, "k", config["shared_layout"], width if width >= 4 else 0)


def _filters(config: Mapping[str, Any], w: Conv2d) -> Operand:
    size, k = ITEMSIZE[w.dtype], problem(w).k
    width = copy_width(config["copy_bytes"], k * size, w.alignment)
    extent = config["block_n" if w.layout == "nhwc" else "block_m"]
    return Operand("filters", extent, config["block_k"], size, "k", config["shared_layout"], width if width >= 4 else 0)


def operands(config: Mapping[str, Any], w: Any) -> tuple[Operand, Operand]:
    """A's and B's tiles."""
    image, filters = _image(config, w), _filters(config, w)
    return (image, filters) if w.layout == "nhwc" else (filters, image)


def loaders(config: Mapping[str, Any], w: Any, count: int) -> tuple[ImageLoader, Loader]:
    """How the image's and the filters' tiles are copied by ``count`` threads."""
    p, filters = problem(w), _filters(config, w)
    text = f"filters: {filters.extent} rows of {filters.block_k} elements (k runs along a row)"
    image = ImageLoader(_image(config, w), count, w, config["iterator"], p.k_tiles(config))
    return image, Loader(filters, count, p.k * filters.itemsize, w.k // w.groups, p.k, False, text)


def _constraints() -> tuple[Constraint, ...]:
    probe = dict(shared_layout="xor", copy_bytes=16)

    def iterator(c: Any, w: Any, d: Any) -> bool:
        image = _image({**probe, **c, "block_m": 16, "block_n": 16}, w)
        if c["iterator"] == "masks":
            return bool(image.copy) and w.c // w.groups % c["block_k"] == 0 and 1 < w.r * w.s <= 32
        k = problem(w).k
        return c["iterator"] != "table" or (not image.copy and -(-k // c["block_k"]) * c["block_k"] <= TABLE)

    def aligned(c: Any, w: Any, d: Any) -> bool:
        image, count = _image({**probe, **c}, w), threads(c)
        if count == 0:
            return True
        if image.copy:
            return count % (c["block_k"] * image.itemsize // image.copy) == 0
        return image.extent % count == 0 or count % image.extent == 0

    def state(c: Any, w: Any, d: Any) -> bool:
        image, count = _image({**probe, **c}, w), threads(c)
        if not image.copy or count == 0:
            return True
        return -(-image.extent * (c["block_k"] * image.itemsize // image.copy) // count) <= 8

    return (
        *rules(problem, operands, _atomics, state=12),
        Constraint(
            "iterator_legal",
            ("block_k", "iterator"),
            iterator,
            "masks need copied pixels, channels that block_k divides and 2 to 32 taps; a table needs pixels read by "
            f"element and at most {TABLE} k",
        ),
        Constraint(
            "pixels_aligned",
            (*WARPS, "block_k", "copy_bytes"),
            aligned,
            "a thread's vectors lie at one place in k; pixels read by element divide among the threads evenly",
        ),
        Constraint(
            "pixels_per_thread", (*WARPS, "block_k", "copy_bytes"), state, "a thread keeps track of at most 8 pixels"
        ),
    )


def _supports(w: Workload, device: Device) -> bool | str:
    assert isinstance(w, Conv2d)
    if w.weights != "plain":
        return "takes plain filters, not pretransformed ones"
    if w.dtype == "float32" and not {"tf32", "tf32x3"} & set(w.math):
        return "computes float32 data only as TF32 or 3xTF32, and math permits neither 'tf32' nor 'tf32x3'"
    if w.dtype in FP8 and device.cc < 89:
        return f"needs compute capability 8.9 for float8, {device.name} has {device.cc / 10:.1f}"
    p = problem(w)
    if max(p.m, p.n, p.k) >= 2**31 - 512:
        return "has 2^31 output pixels or more"
    if complete({}, w, device, TEMPLATE) is None:
        return "no tile is valid for it"
    return True


def _row_elements(w: Any) -> int:
    """Elements of ``out`` that lie side by side and start at a multiple of their number."""
    return math.gcd(w.k, w.k // w.groups) if w.layout == "nhwc" else int(w.p * w.q)


def _derive(config: Config, w: Workload, device: Device) -> Mapping[str, Any]:
    assert isinstance(w, Conv2d)
    shape = Shape(config, w.dtype, promotes(w, device))
    image, filters = loaders(config, w, shape.threads)
    nhwc, channels, area = w.layout == "nhwc", w.k // w.groups, w.p * w.q
    wide = w.n * w.k * area >= 2**31
    group = f"z * {channels} + " if w.groups > 1 else ""
    long = "(long long)" if wide else ""

    def place(row: str, column: str) -> str:
        if nhwc:
            return f"{long}{row} * {w.k} + " + (f"({group}{column})" if group else column)
        if w.n == 1:
            return f"{long}" + (f"({group}{row})" if group else row) + f" * {area} + {column}"
        return (
            f"{long}({column} / {area}) * {w.k * area} + "
            + (f"({group}{row})" if group else row)
            + f" * {area} + {column} % {area}"
        )

    def coordinates(row: str, column: str) -> str:
        return f"{row}, {group}{column}" if nhwc else f"{column}, {group}{row}"

    found = launch.facts(
        config,
        w,
        device,
        problem(w),
        (image, filters) if nhwc else (filters, image),
        name="conv2d_igemm_mma",
        row_elements=_row_elements(w),
        place=place,
        coordinates=coordinates,
        along="n" if nhwc else "m",
        wide=wide,
    )
    pixel, channel = ("m", "n") if nhwc else ("n", "m")
    k = f"first_k_tile * {config['block_k']}"
    found.update(
        image=image,
        filters=filters,
        image_tile="tile_a" if nhwc else "tile_b",
        filter_tile="tile_b" if nhwc else "tile_a",
        image_origin=f"tile_{pixel} * {config['block_' + pixel]}, {k}",
        filter_origin=f"tile_{channel} * {config['block_' + channel]}, {k}",
        filter_batch=channels * problem(w).k,
    )
    return found


def _plan(config: Config, w: Workload, device: Device) -> LaunchPlan:
    return launch.plan(config, w, device, problem(w), operands(config, w), "conv2d_igemm_mma", _row_elements(w))


def _resources(config: Config, w: Workload, device: Device) -> ResourceEstimate:
    return launch.resources(config, w, device, problem(w), operands(config, w))


def _atomics(w: Any) -> bool:
    return not w.ops and (w.out_dtype == "int32" or (w.out_dtype == "float32" and not w.deterministic))


def _numerics(config: Mapping[str, Any], w: Workload) -> Numerics:
    return numerics(config, w)


def _default(w: Workload, device: Device) -> Config:
    return default(w, device, TEMPLATE, problem(w))


def _seeds(w: Workload, device: Device) -> Sequence[Config]:
    return seeds(w, device, TEMPLATE, problem(w))


def _features(config: Config, w: Workload, device: Device) -> Mapping[str, float]:
    return features(config, w, device, problem(w))


TEMPLATE = Template(
    name="conv2d_igemm_mma",
    op="conv2d",
    summary="implicit matrix product on tensor cores by mma.sync, any layout, stride and group",
    knobs=(*KNOBS, ITERATOR),
    constraints=_constraints(),
    supports=_supports,
    derive=_derive,
    resources=_resources,
    plan=_plan,
    default=_default,
    seeds=_seeds,
    features=_features,
    numerics=_numerics,
    min_cc=80,
)
