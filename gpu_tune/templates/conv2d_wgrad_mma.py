"""Gradient of a convolution's filters on tensor cores: mma.sync fed by a cp.async pipeline (sm_80 and newer), NHWC.

For each group and filter tap a product of filters x channels over all pixels of dy: A is dy, whose pixels are rows, and
B the pixels of x that the tap meets, gathered row by row as they are copied. Any stride, padding, dilation and groups.
The main loop, split K (the pixels), raster and epilogue are those of matmul_mma.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..cuda.device import Device
from .base import Template
from .lib.common import channels, derived_once
from .lib.knobs import WGRAD_SPLIT_K
from .lib.mma import launch, seeds
from .lib.mma.constraints import constraints
from .lib.mma.derived import Derived, Out, derived
from .lib.mma.gradients import SHALLOW, copied, filter_operands, filter_problem, pixel_rows
from .lib.mma.loader import loader
from .lib.mma.tiles import KNOBS, Shape, promotes
from .matmul_mma import numerics


def _atomics(w: Any) -> bool:
    return bool(w.beta == "0" and w.scales == "none" and w.out_dtype == "float32" and not w.deterministic)


def supports(w: Any, device: Device) -> bool | str:
    found = copied(w, device, channels(w)[0], "channels")
    if found is not True:
        return found
    return seeds.has_tile(filter_problem(w), w, device, TEMPLATE)


@derived_once
def derive(config: Mapping[str, Any], w: Any, device: Device) -> Derived:
    count, (cg, kg) = Shape.of(config, w.dtype, promotes(w, device)).threads, channels(w)
    product, (dy, pixels) = filter_problem(w), filter_operands(config, w)
    loaders = loader(dy, count, w, w.k, (product.k, kg)), pixel_rows(pixels, count, w)
    wide = w.k * w.r * w.s * cg >= 2**31
    name = "conv2d_wgrad_mma"
    return derived(name, config, w, device, product, loaders, Out(cg, wide))


TEMPLATE: Template = Template(
    name="conv2d_wgrad_mma",
    op="conv2d",
    summary="gradient of the filters on tensor cores by mma.sync, any stride and group, nhwc",
    knobs=tuple(WGRAD_SPLIT_K if knob.name == "split_k" else knob for knob in KNOBS),
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=(*constraints(filter_problem, filter_operands, _atomics, state=12), SHALLOW),
    supports=supports,
    derive=derive,
    resources=lambda c, w, d: launch.resources("conv2d_wgrad_mma", c, w, d, filter_problem(w), filter_operands(c, w)),
    plan=lambda c, w, d: launch.plan(derive(c, w, d), c, w, filter_problem(w)),
    default=lambda w, d: seeds.default(w, d, TEMPLATE, filter_problem(w)),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE, filter_problem(w)),
    features=lambda c, w, d: seeds.features(c, w, d, filter_problem(w)),
    numerics=numerics,
    min_cc=80,
    directions=("wgrad",),
)
