"""3x3 convolution by Winograd's F(2x2) or F(4x4) in strict float32 arithmetic (any device), by permission.

The products are those of matmul_simt.
"""

from __future__ import annotations

from .base import Template
from .lib.winograd import launch, seeds
from .lib.winograd.constraints import constraints, supports
from .lib.winograd.derived import derived, numerics
from .lib.winograd.tiles import KNOBS, Inner
from .matmul_simt import TEMPLATE as MATMUL

INNER = Inner(MATMUL, {})

TEMPLATE: Template = Template(
    name="conv2d_winograd_simt",
    op="conv2d",
    summary="Winograd F(2x2) / F(4x4): transforms around products on the plain units",
    knobs=(*KNOBS, *INNER.knobs),
    tile=MATMUL.tile,
    constraints=constraints(INNER),
    supports=lambda w, d: supports(w, d, INNER),
    derive=lambda c, w, d: derived("conv2d_winograd_simt", c, w, d, INNER),
    resources=lambda c, w, d: launch.resources(c, w, d, INNER),
    plan=lambda c, w, d: launch.plan("conv2d_winograd_simt", c, w, d, INNER),
    default=lambda w, d: seeds.default(w, d, TEMPLATE, INNER),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE, INNER),
    numerics=lambda c, w: numerics(c, w, INNER),
    min_cc=MATMUL.min_cc,
)
