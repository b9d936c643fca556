"""3x3 convolution by Winograd's F(2x2) or F(4x4), the products on tensor cores (sm_80 and newer), by permission.

float16 and bfloat16 data; float32 where the workload also permits TF32. The products are those of matmul_mma.
"""

from __future__ import annotations

from typing import Any

from .base import Template
from .lib.winograd import launch, seeds
from .lib.winograd.constraints import constraints, supports
from .lib.winograd.derived import derived, numerics
from .lib.winograd.tiles import KNOBS, Inner
from .matmul_mma import TEMPLATE as MATMUL


def _arithmetic(w: Any) -> str:
    if w.dtype != "float32":
        return "strict"
    return "tf32" if "tf32" in w.math else "tf32x3"


INNER = Inner(MATMUL, {"reduction": lambda w: "workspace", "arithmetic": _arithmetic})

TEMPLATE: Template = Template(
    name="conv2d_winograd",
    op="conv2d",
    summary="Winograd F(2x2) / F(4x4): transforms around products on tensor cores",
    knobs=(*KNOBS, *INNER.knobs),
    tile=MATMUL.tile,
    constraints=constraints(INNER),
    supports=lambda w, d: supports(w, d, INNER),
    derive=lambda c, w, d: derived("conv2d_winograd", c, w, d, INNER),
    resources=lambda c, w, d: launch.resources(c, w, d, INNER),
    plan=lambda c, w, d: launch.plan("conv2d_winograd", c, w, d, INNER),
    default=lambda w, d: seeds.default(w, d, TEMPLATE, INNER),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE, INNER),
    numerics=lambda c, w: numerics(c, w, INNER),
    min_cc=MATMUL.min_cc,
)
