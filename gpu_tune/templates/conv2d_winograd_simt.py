"""3x3 convolution by Winograd's F(2x2) or F(4x4) in strict float32 arithmetic (any device), by permission.

The products are those of matmul_simt.
"""

from __future__ import annotations

from .base import Template
from .lib.winograd.family import family
from .lib.winograd.tiles import Inner
from .matmul_simt import TEMPLATE as MATMUL

INNER = Inner(MATMUL, {})

TEMPLATE: Template = family(
    name="conv2d_winograd_simt",
    summary="Winograd F(2x2) / F(4x4): transforms around products on the plain units",
    inner=INNER,
)
