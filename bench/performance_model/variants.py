"""Which shapes of the logs are judged, and which kernel stands for each of their variants.

A variant is what a Triton compile depends on: architecture, dtype, layout, the alignment of the strides and sizes,
whether K is a multiple of BLOCK_K, and the config. Sizes are constants of the kernel, as in what was timed, but shapes
share a kernel: its sizes are representative, of the same alignment. K matters most, since ptxas unrolls loops of a
known length; K_CLASSES says which K stands for which. bfloat16 shares float16's kernel, which has the same
instructions, pipes and widths.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.transfer.autoheuristic import Config, Shape
from gpu_tune.workload import ITEMSIZE, Matmul

K_CLASSES = (16, 32, 64, 128, 192, 256, 384, 512, 768, 32768)
"""A shape's K is represented by the first of these that is not below it: ptxas unrolls the short loops wholly, and what
is longer it leaves a loop."""
SIZE = 4096
"""What stands for M and N."""
HELD = 3
"""Tenths of the sizes on which no choice was made."""
MIN_CONFIGS, MIN_TIMED = 16, 12


@dataclass(frozen=True)
class Variant:
    """``kind``: "16" (float16 or bfloat16), "tf32" or "f32". ``align_*``: bytes, of A's and B's leading dimension, of
    K, M (where A is transposed: its rows wrap there, else 16) and N."""

    cc: int
    kind: str
    layout: str
    align_a: int
    align_b: int
    align_k: int
    align_m: int
    align_n: int
    even_k: bool
    k: int
    config: Config

    @property
    def name(self) -> str:
        """A file name."""
        block_m, block_k, block_n, stages, warps = self.config
        wrap = "" if self.align_m == 16 else f"m{self.align_m}"
        aligned = f"a{self.align_a}b{self.align_b}k{self.align_k}{wrap}n{self.align_n}"
        return (
            f"sm{self.cc}-{self.kind}-{self.layout}-{aligned}-{'even' if self.even_k else 'ragged'}-k{self.k}-"
            f"{block_m}x{block_k}x{block_n}-s{stages}-w{warps}"
        )

    def request(self) -> dict[str, Any]:
        """What ``triton_matmul.py`` compiles for it."""
        item = 2 if self.kind == "16" else 4
        k = self.k
        if not self.even_k:
            k += self.align_k // item
        elif k % self.config[1]:
            k += self.config[1] - k % self.config[1]
        m = _aligned(SIZE, self.align_m, item)
        n = _aligned(SIZE, self.align_n, item)
        lda = _aligned(m if self.layout[0] == "t" else k, self.align_a, item)
        ldb = _aligned(n if self.layout[1] == "n" else k, self.align_b, item)
        a = (1, lda) if self.layout[0] == "t" else (lda, 1)
        b = (1, ldb) if self.layout[1] == "t" else (ldb, 1)
        return {
            "name": self.name,
            "cc": self.cc,
            "dtype": "float16" if self.kind == "16" else "float32",
            "tf32": self.kind == "tf32",
            "m": m,
            "n": n,
            "k": k,
            "strides": [*a, *b],
            "config": list(self.config),
        }


def variant(s: Shape, config: Config) -> Variant:
    """The variant that ``config`` is for the product of ``s``."""
    w = s.workload
    item = ITEMSIZE[w.dtype]
    return Variant(
        cc=s.device.cc,
        kind=kind(w),
        layout=w.layout,
        align_a=alignment(w.lda * item),
        align_b=alignment(w.ldb * item),
        align_k=alignment(w.k * item),
        align_m=alignment(w.m * item) if w.layout[0] == "t" else 16,
        align_n=alignment(w.n * item),
        even_k=w.k % config[1] == 0,
        k=next((k for k in K_CLASSES if w.k <= k), K_CLASSES[-1]),
        config=config,
    )


def kind(w: Matmul) -> str:
    """How a product is computed: "16", "tf32" or "f32"."""
    return "16" if ITEMSIZE[w.dtype] == 2 else "tf32" if "tf32" in w.math else "f32"


def alignment(size: int) -> int:
    """Bytes of the widest load (16 at most) that a stride of ``size`` bytes permits."""
    return min(16, size & -size)


def is_held(w: Matmul) -> bool:
    """Whether the sizes of a product belong to the held part, whatever its dtype and layout."""
    digest = hashlib.md5(f"test{w.m}x{w.n}x{w.k}".encode(), usedforsecurity=False).hexdigest()
    return int(digest, 16) % 10 < HELD


def is_listed(s: Shape) -> bool:
    """Whether a shape is of the fixed list that is judged: at least MIN_CONFIGS configs, MIN_TIMED of them timed;
    strides and K of a multiple of 16 bytes; K a multiple of every config's BLOCK_K; float16 and bfloat16, and on the
    A100 (the H100's are too few) float32 without TF32."""
    w = s.workload
    item = ITEMSIZE[w.dtype]
    return (
        is_usable(s)
        and kind(w) in (("16", "f32") if s.device.cc == 80 else ("16",))
        and all(alignment(size * item) == 16 for size in (w.lda, w.ldb, w.k))
        and all(w.k % config[1] == 0 for config in s.runs)
    )


def is_usable(s: Shape) -> bool:
    """Whether a shape has enough timed configs to rank."""
    return len(s.runs) >= MIN_CONFIGS and int(np.isfinite(s.times()).sum()) >= MIN_TIMED


def requests(shapes: Sequence[Shape]) -> Iterable[dict[str, Any]]:
    """What to compile for ``shapes``, each variant once: first those of the most shapes, so that most are covered
    early."""
    groups: dict[frozenset[Variant], int] = {}
    for s in shapes:
        key = frozenset(variant(s, config) for config in s.runs)
        groups[key] = groups.get(key, 0) + 1
    seen: set[str] = set()
    for key in sorted(groups, key=lambda g: (-groups[g] / len(g), min(v.name for v in g))):
        for found in sorted(key, key=lambda v: v.name):
            if found.name not in seen:
                seen.add(found.name)
                yield found.request()


def _aligned(size: int, bytes_: int, item: int) -> int:
    """The first size not below ``size``, a multiple of 16 bytes, that is aligned to ``bytes_`` and no more."""
    up = math.ceil(size * item / 16) * 16
    return (up if bytes_ == 16 else up + bytes_) // item
