"""Gradient of a depthwise convolution's image: each pixel of dy is read once and scattered to what its taps meet.

A thread computes the pixels of dx that ``thread_p`` x ``thread_q`` pixels of a stride's grid have, all phases of them,
so which taps meet which pixel is known to the compiler and nothing is multiplied by the zeros that a stride puts
between elements of dy. Rows of dy slide through its registers as the input rows of conv2d_depthwise do.
"""

from __future__ import annotations

from .base import Template
from .lib.simt.depthwise import launch, seeds
from .lib.simt.depthwise.constraints import CONSTRAINTS, supports
from .lib.simt.depthwise.derived import derive

TEMPLATE: Template = Template(
    name="conv2d_dgrad_depthwise",
    op="conv2d",
    summary="gradient of a depthwise convolution's image, rows of dy sliding through registers",
    knobs=launch.knobs("rows of dx, in strides,", "columns of dx, in strides,", "pixels of one store", *launch.PIXELS),
    tile=(("threads_p", "thread_p", "threads_q", "thread_q"), ("threads_c",), ()),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=lambda c, w, d: launch.resources("conv2d_dgrad_depthwise", c, w, d),
    plan=lambda c, w, d: launch.plan("conv2d_dgrad_depthwise", c, w, d),
    default=lambda w, d: seeds.default(w, d, TEMPLATE),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE),
    min_cc=75,
    directions=("dgrad",),
    special=True,
)
