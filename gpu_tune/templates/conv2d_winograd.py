"""3x3 convolution by Winograd's F(2x2) or F(4x4), the products on tensor cores (sm_80 and newer), by permission.

float16 and bfloat16 data; float32 where the workload also permits TF32.
"""

from __future__ import annotations

from typing import Any

from .lib.winograd.launch import Winograd
from .matmul_mma import TEMPLATE as MATMUL


def _arithmetic(w: Any) -> str:
    if w.dtype != "float32":
        return "strict"
    return "tf32" if "tf32" in w.math else "tf32x3"


TEMPLATE = Winograd(
    "conv2d_winograd",
    "Winograd F(2x2) / F(4x4): transforms around products on tensor cores",
    MATMUL,
    {"reduction": lambda w: "workspace", "arithmetic": _arithmetic},
).template
