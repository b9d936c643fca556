"""What a Winograd family can compute, and the constraints of its transforms."""

from __future__ import annotations

from typing import Any

from ....cuda.device import Device
from ....space.knob import Constraint
from ....workload import ITEMSIZE
from .. import knobs
from .tiles import Inner, Tiling, product

STORE_EPS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def supports(w: Any, device: Device, inner: Inner) -> bool | str:
    """True, or why a Winograd family cannot compute ``w``."""
    if "winograd" not in w.math:
        return "changes the arithmetic: math does not permit 'winograd'"
    if (w.r, w.s, w.stride, w.dilation, w.groups) != (3, 3, (1, 1), (1, 1), 1):
        return "needs a 3x3 filter, stride 1, dilation 1 and one group"
    if w.dtype not in STORE_EPS:
        return f"computes float32, float16 and bfloat16, not {w.dtype}"
    for tile in (2, 4):
        g = Tiling(w, tile)
        if g.alpha**2 * max(g.tiles * max(w.c, w.k), w.k * w.c) >= 2**31:
            return "the transformed tensors have more than 2^31 elements"
    return inner.template.supported(product(w, 2), device)


def constraints(inner: Inner) -> tuple[Constraint, ...]:
    """Those of the transforms, then those of the inner product that its remaining knobs can break."""
    own = {k.name for k in inner.knobs}
    inherited = (x for x in inner.template.constraints if any(k in own for k in x.knobs))
    rounds = tuple(v for v in knobs.GRID.values if v != "split_tail")
    whole = knobs.only(knobs.GRID, rounds, "a second kernel adds the parts of a split K: those of every tile")
    return (*_TRANSFORMS, *((whole,) if "grid" in own else ()), *(_wrapped(x, own, inner) for x in inherited))


def _wrapped(x: Constraint, own: set[str], inner: Inner) -> Constraint:
    """A constraint of the inner product as one of the convolution."""
    return Constraint(
        f"product_{x.name}",
        tuple(dict.fromkeys((*(k for k in x.knobs if k in own), "tile"))),
        lambda c, w, d: x.holds(inner.complete(c, w), product(w, c["tile"]), d),
        f"of the inner product: {x.message}",
    )


_TRANSFORMS = (
    Constraint(
        "channels_divide",
        ("channels",),
        lambda c, w, d: w.c % c["channels"] == 0 and (w.layout == "nhwc" or c["channels"] == 1),
        "channels divides c (and is 1 in nchw, where threads run along the image)",
    ),
    Constraint(
        "filters_divide",
        ("filters",),
        lambda c, w, d: w.k % c["filters"] == 0 and (w.layout == "nhwc" or c["filters"] == 1),
        "filters divides k (and is 1 in nchw, where threads run along the image)",
    ),
    Constraint(
        "channels_aligned",
        ("channels",),
        lambda c, w, d: c["channels"] * ITEMSIZE[w.dtype] <= w.alignment,
        "a vector of channels is as aligned as the arrays",
    ),
    Constraint(
        "filters_aligned",
        ("filters",),
        lambda c, w, d: c["filters"] * ITEMSIZE[w.out_dtype] <= w.alignment,
        "a vector of filters is as aligned as the arrays",
    ),
    Constraint(
        "input_registers_fit",
        ("tile", "channels"),
        lambda c, w, d: (c["tile"] + 2) ** 2 * c["channels"] <= 80,
        "an input tile of all channels of a thread takes at most 80 registers",
    ),
    Constraint(
        "output_registers_fit",
        ("tile", "filters"),
        lambda c, w, d: (c["tile"] + 2) ** 2 * c["filters"] <= 80,
        "an output tile of all filters of a thread takes at most 80 registers",
    ),
    Constraint(
        "tile_legal",
        ("tile",),
        lambda c, w, d: w.weights == "plain" or c["tile"] == w.winograd_tile,
        "pretransformed filters are made for the workload's winograd_tile",
    ),
    Constraint(
        "rounding_legal",
        ("tile",),
        lambda c, w, d: c["tile"] == 2 or w.dtype != "bfloat16",
        "F(4x4) needs more than the 8 significant bits of bfloat16",
    ),
    Constraint(
        "workspace_fits",
        ("tile",),
        lambda c, w, d: Tiling(w, c["tile"]).offsets(0)["end"] <= d.memory_bytes // 8,
        "the transformed tensors take at most an eighth of the device's memory",
    ),
)
