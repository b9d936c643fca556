"""Depthwise convolution: one filter for each channel; bound by memory, so inputs stay in registers.

A thread computes ``thread_p`` x ``thread_q`` outputs of its channels (``vector_width`` of them for NHWC). Input rows
slide through its registers: each is read once and used for every output row that it touches. What neighbouring threads
both read hits in L1.
"""

from __future__ import annotations

from .base import Template
from .lib.simt.depthwise import launch, seeds
from .lib.simt.depthwise.constraints import CONSTRAINTS, supports
from .lib.simt.depthwise.derived import derive

TEMPLATE: Template = Template(
    name="conv2d_depthwise",
    op="conv2d",
    summary="depthwise convolution, input rows sliding through registers",
    knobs=launch.knobs("output rows", "output columns", "outputs of one store", *launch.PIXELS),
    tile=(("threads_p", "thread_p", "threads_q", "thread_q"), ("threads_c",), ()),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=lambda c, w, d: launch.resources("conv2d_depthwise", c, w, d),
    plan=lambda c, w, d: launch.plan("conv2d_depthwise", c, w, d),
    default=lambda w, d: seeds.default(w, d, TEMPLATE),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE),
    min_cc=75,
    open_sizes=("n",),
    special=True,
)
