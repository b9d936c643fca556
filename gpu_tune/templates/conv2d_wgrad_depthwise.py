"""Gradient of a depthwise convolution's filters: many pixels are summed for few results; bound by memory.

A thread keeps the sums of all taps of its channels in registers and walks over pixels of dy, ``thread_p`` x
``thread_q`` at a time; the rows of x that they meet are read once each. Lanes, warps and then the ``split_k`` blocks
that share the channels add their sums in an order that is always the same: the same bits in every run.
"""

from __future__ import annotations

from .base import Template
from .lib.knobs import WGRAD_SPLIT_K
from .lib.simt.depthwise import launch, seeds
from .lib.simt.depthwise.constraints import FILTER_CONSTRAINTS, supports
from .lib.simt.depthwise.derived import derive

TEMPLATE: Template = Template(
    name="conv2d_wgrad_depthwise",
    op="conv2d",
    summary="gradient of a depthwise convolution's filters, all taps summed in registers",
    knobs=launch.knobs("rows of dy at a time", "columns of dy at a time", "pixels of one load of dy", WGRAD_SPLIT_K),
    tile=(("threads_p", "thread_p", "threads_q", "thread_q"), ("threads_c",), ()),
    constraints=FILTER_CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=lambda c, w, d: launch.resources("conv2d_wgrad_depthwise", c, w, d),
    plan=lambda c, w, d: launch.plan("conv2d_wgrad_depthwise", c, w, d),
    default=lambda w, d: seeds.filter_default(w, d, TEMPLATE),
    seeds=lambda w, d: seeds.filter_seeds(w, d, TEMPLATE),
    min_cc=75,
    directions=("wgrad",),
    special=True,
)
