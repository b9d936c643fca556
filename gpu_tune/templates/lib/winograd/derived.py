"""What follows from a config of the Winograd families, in the order in which it is derived.

:class:`Layout` says how the output is cut into tiles, :class:`Storage` how far offsets reach, :class:`Pipeline` what is
multiplied between which transforms, :class:`Launch` what the transforms are launched with. Sources see one
:class:`Derived`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....cuda.device import Device
from ....reference import Numerics
from ....reference import winograd as matrices
from ....workload import Matmul
from ..derived import DerivedOf
from .constraints import STORE_EPS
from .tiles import Inner, Tiling

Config = Mapping[str, Any]
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Layout:
    """``tiles`` of ``tile`` x ``tile`` outputs, ``rows`` x ``columns`` an image, from ``alpha`` x ``alpha`` inputs."""

    tile: int
    alpha: int
    rows: int
    columns: int
    tiles: int

    def __str__(self) -> str:
        return f"{self.tiles} tiles of {self.tile} x {self.tile} outputs from {self.alpha} x {self.alpha} inputs"


def layout(c: Config, w: Any) -> Layout:
    t = Tiling(w, int(c["tile"]))
    return Layout(t.tile, t.alpha, t.rows, t.columns, t.tiles)


@dataclass(frozen=True)
class Storage:
    """``wide_in``, ``wide_out``: offsets in the image and in the output need 64 bits."""

    wide_in: bool
    wide_out: bool

    def __str__(self) -> str:
        bits = [64 if wide else 32 for wide in (self.wide_in, self.wide_out)]
        return f"offsets of {bits[0]} bits in the image and {bits[1]} in the output"


def storage(w: Any) -> Storage:
    return Storage(wide_in=w.n * w.h * w.w * w.c >= 2**31, wide_out=w.n * w.p * w.q * w.k >= 2**31)


@dataclass(frozen=True)
class Pipeline:
    """The matrices of the transforms, B^T, G and A^T of F(m x m, 3x3), and the products between them.

    ``product``: the products as a workload; ``inner``: what the inner family derives for them; ``fixed``: those of its
    knobs that are no choice here.
    """

    bt: Matrix
    g: Matrix
    at: Matrix
    product: Matmul
    inner: Any
    fixed: Mapping[str, Any]

    def __str__(self) -> str:
        w = self.product
        return f"{w.batch} products of {w.m} x {w.n} x {w.k} between the transforms"


def pipeline(c: Config, w: Any, device: Device, tiles: Layout, inner: Inner) -> Pipeline:
    product, m = Tiling(w, tiles.tile).product(), tiles.tile
    made = inner.template.derive(inner.config(c, w), product, device)
    fixed = inner.complete({}, w)
    return Pipeline(matrices.INPUT[m], matrices.FILTER[m], matrices.OUTPUT[m], product, made, fixed)


@dataclass(frozen=True)
class Launch:
    """Kernels of the transforms, named after the family ``name``, of ``threads`` a block."""

    name: str
    threads: int

    def __str__(self) -> str:
        return f"transforms of {self.threads} threads a block"


def launch(name: str, c: Config) -> Launch:
    return Launch(name, int(c["transform_threads"]))


Derived = DerivedOf[Layout, Storage, Pipeline, Launch]


def derived(name: str, c: Config, w: Any, device: Device, inner: Inner) -> Derived:
    """Layout, storage, pipeline and launch of the family ``name``, in this order."""
    tiles = layout(c, w)
    return Derived(c, tiles, storage(w), pipeline(c, w, device, tiles, inner), launch(name, c))


def numerics(c: Config, w: Any, inner: Inner) -> Numerics:
    """Rounding of what is stored between the transforms, which amplify it."""
    arithmetic = inner.complete(c, w).get("arithmetic")
    half = arithmetic == "fp16_accumulate"
    return Numerics(
        "float16" if half else "float32",
        input_eps=8 * max(STORE_EPS[w.dtype], 2.0**-11 if arithmetic == "tf32" else 0.0),
        winograd=int(c["tile"]),
        exact_integers=c["tile"] == 2 and not half,
        propagates_nonfinite=False,
    )
