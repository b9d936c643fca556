"""Sizes of a Winograd convolution: tiles, the products between the transforms, and what lies where in the workspace."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from ....space.knob import Knob
from ....workload import ITEMSIZE, Conv2d, Matmul
from ..common import ceil_div

KNOBS = (
    Knob("tile", (2, 4), "m of F(m x m, 3x3): output tile; larger multiplies less and rounds more"),
    Knob("channels", (1, 2, 4), "channels that a thread of the input transform takes"),
    Knob("filters", (1, 2, 4), "output channels that a thread of the output transform takes"),
    Knob("transform_threads", (64, 128, 256), "threads of a block of the transforms"),
)
ALIGNMENT = 256


@dataclass(frozen=True)
class Geometry:
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

    def inner(self) -> Matmul:
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
    return Geometry(w, tile).inner()
