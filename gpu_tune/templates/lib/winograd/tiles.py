"""Sizes of a Winograd convolution: tiles, the products between the transforms and the family that multiplies them.

In nhwc a product is M[tiles, k] = V[tiles, c] U[k, c]^T, in nchw M[k, tiles] = U[k, c] V[c, tiles], so that every
access runs along contiguous memory. U and V are stored in the data's dtype, M in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....space.knob import Config, Knob, Value
from ....workload import ITEMSIZE, Conv2d, Matmul
from ...base import Template
from ..common import ceil_div

KNOBS = (
    Knob("tile", (2, 4), "m of F(m x m, 3x3): output tile; larger multiplies less and rounds more"),
    Knob("channels", (1, 2, 4), "channels that a thread of the input transform takes"),
    Knob("filters", (1, 2, 4), "output channels that a thread of the output transform takes"),
    Knob("transform_threads", (64, 128, 256), "threads of a block of the transforms"),
)
ALIGNMENT = 256
ONLY_8_BIT: dict[str, tuple[Value, ...]] = {
    "block_k": (256,),
    "vector_width_a": (16,),
    "vector_width_b": (16,),
    "vector_width_out": (8, 16),
}
"""Values of the inner families that 16-bit and 32-bit operands, or float32 products, never reach."""


@dataclass(frozen=True)
class Tiling:
    """Sizes of a convolution cut into tiles of ``tile`` x ``tile`` outputs."""

    workload: Conv2d
    tile: int

    @property
    def alpha(self) -> int:
        """Rows of an input tile."""
        return self.tile + 2

    @property
    def rows(self) -> int:
        return ceil_div(self.workload.p, self.tile)

    @property
    def columns(self) -> int:
        return ceil_div(self.workload.q, self.tile)

    @property
    def tiles(self) -> int:
        return self.workload.n * self.rows * self.columns

    def product(self) -> Matmul:
        """The alpha^2 products between the transforms."""
        w = self.workload
        common: dict[str, Any] = dict(
            batch=self.alpha**2,
            dtype=w.dtype,
            out_dtype="float32",
            deterministic=w.deterministic,
            # the parts of the workspace are aligned; filters transformed ahead are the caller's
            alignment=16 if w.weights == "plain" else min(16, w.alignment),
        )
        permissions = tuple(p for p in w.math if p in ("tf32", "tf32x3", "fp16_accumulate"))
        if w.layout == "nhwc":
            return Matmul(self.tiles, w.k, w.c, layout="nt", math=permissions, **common)
        return Matmul(w.k, self.tiles, w.c, layout="nn", math=permissions, **common)

    def offsets(self, inner_workspace: int) -> dict[str, int]:
        """Bytes from the workspace's start to V, U, M and the inner family's own part; ``end`` is the total."""
        w, size = self.workload, ITEMSIZE[self.workload.dtype]
        plain = w.weights == "plain"
        parts = {
            "v": self.alpha**2 * self.tiles * w.c * size,
            "u": self.alpha**2 * w.k * w.c * size if plain else 0,
            "m": self.alpha**2 * self.tiles * w.k * 4,
            "inner": inner_workspace,
        }
        found, at = {}, 0
        for name, size in parts.items():
            found[name] = at
            at += ceil_div(size, ALIGNMENT) * ALIGNMENT
        return {**found, "end": at}


@functools.lru_cache(maxsize=512)
def product(w: Conv2d, tile: int) -> Matmul:
    """The products of a convolution in tiles of ``tile`` x ``tile``."""
    return Tiling(w, tile).product()


@dataclass(frozen=True)
class Inner:
    """The matmul family ``template`` that multiplies between the transforms.

    ``fixed``: its knobs that are no choice here, by name, and which value a workload gets.
    """

    template: Template
    fixed: Mapping[str, Callable[[Any], Value]]

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs that the convolution takes over, with the values that can occur."""
        return tuple(_reachable(k) for k in self.template.knobs if k.name not in self.fixed)

    def complete(self, config: Mapping[str, Any], w: Any) -> dict[str, Any]:
        """``config`` and the fixed values."""
        return {**config, **{name: value(w) for name, value in self.fixed.items()}}

    def config(self, config: Mapping[str, Any], w: Any) -> Config:
        """The inner family's part of a config of the convolution."""
        values = self.complete(config, w)
        return Config({k.name: values[k.name] for k in self.template.knobs})


def _reachable(knob: Knob) -> Knob:
    return replace(knob, values=tuple(v for v in knob.values if v not in ONLY_8_BIT.get(knob.name, ())))
