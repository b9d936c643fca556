"""Gradient of a convolution's image on the plain arithmetic units: every dgrad, every device. The fallback.

A strided convolution scatters: pixels of dx that lie a stride apart meet the same filter taps, and no others. Each such
phase is a dense product of pixels x channels of x, over the channels of dy and its taps; nothing is multiplied by the
zeros that a stride puts between elements of dy. All phases run in one launch. Filters are flipped and transposed by
indexing alone. With ``split_k`` > 1 the sums of parts of the depth go to the workspace, and a second kernel adds them
in order.
"""

from __future__ import annotations

from .base import Template
from .lib.simt.backward import launch, seeds
from .lib.simt.backward.constraints import CONSTRAINTS, supports
from .lib.simt.backward.derived import derive

TEMPLATE: Template = Template(
    name="conv2d_dgrad_simt",
    op="conv2d",
    summary="gradient of the image on plain arithmetic units, every stride, layout, dtype, filter and group",
    knobs=launch.knobs("pixels of a phase", "channels of x", "channels of dy at one filter tap"),
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=lambda c, w, d: launch.resources("conv2d_dgrad_simt", c, w, d),
    plan=lambda c, w, d: launch.plan("conv2d_dgrad_simt", c, w, d),
    default=lambda w, d: seeds.default(w, d, TEMPLATE),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE),
    min_cc=75,
    directions=("dgrad",),
)
