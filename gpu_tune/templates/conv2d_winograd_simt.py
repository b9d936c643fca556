"""3x3 convolution by Winograd's F(2x2) or F(4x4) in strict float32 arithmetic (any device), by permission."""

from __future__ import annotations

from .lib.winograd.launch import Winograd
from .matmul_simt import TEMPLATE as MATMUL

TEMPLATE = Winograd(
    "conv2d_winograd_simt", "Winograd F(2x2) / F(4x4): transforms around products on the plain units", MATMUL, {}
).template
