"""3x3 convolution by Winograd's F(2x2) or F(4x4), the products on tensor cores (sm_80 and newer), by permission.

float16 and bfloat16 data; float32 where the workload also permits TF32. The products are those of matmul_mma.
"""

from __future__ import annotations

from typing import Any

from .base import Template
from .lib.winograd.family import family
from .lib.winograd.tiles import Inner
from .matmul_mma import TEMPLATE as MATMUL


def _arithmetic(w: Any) -> str:
    if w.dtype != "float32":
        return "strict"
    return "tf32" if "tf32" in w.math else "tf32x3"


INNER = Inner(MATMUL, {"reduction": lambda w: "workspace", "arithmetic": _arithmetic})

TEMPLATE: Template = family(
    name="conv2d_winograd",
    summary="Winograd F(2x2) / F(4x4): transforms around products on tensor cores",
    inner=INNER,
)
