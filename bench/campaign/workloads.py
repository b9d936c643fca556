"""What a campaign is about: the workloads to tune, the shapes of the random spaces, small ones for the checks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from bench.campaign.setup import Setup
from gpu_tune.errors import GpuTuneError
from gpu_tune.report import suites
from gpu_tune.workload import Conv2d, Matmul, Workload

SHAPES = (
    (4096, 4096, 4096),
    (8192, 8192, 1024),
    (1024, 1024, 1024),
    (128, 8192, 4096),
    (2048, 1536, 1000),
    (16, 4096, 4096),
)
"""(m, n, k) of the spaces that are sampled at random."""
FIRST = tuple(
    f"matmul-{shape}-bfloat16-nt"
    for shape in ("4096x6144x4096", "16x57344x8192", "8192x12288x16384", "512x512x512", "1x4608x3584", "128x28672x4096")
)
"""Headline workloads that tell most: a prefill, a decode, a large, a small, a matrix-vector and a skinny one."""


def tuned(setup: Setup) -> Iterator[Workload]:
    """What is tuned, the most telling first: six of the headline, then a fixed stride through it and conv."""
    if setup.toy:
        yield from (Matmul(24, 20, 16, dtype="float32"), Matmul(16, 16, 32, dtype="float32"))
        return
    entries = {e.workload.key: e.workload for e in suites.load("headline").entries}
    stride, keys = 7, list(entries)  # coprime to most lengths: sizes and decades mix
    order = [entries[k] for k in FIRST]
    order += [entries[keys[i]] for s in range(stride) for i in range(s, len(keys), stride)]
    conv = [e.workload for e in suites.load("resnet18-n16").entries]
    mixed = order[:3] + [w for pair in zip(conv, order[3:]) for w in pair] + order[3 + len(conv) :]
    if setup.scale < 1:
        mixed = [entries["matmul-512x512x512-bfloat16-nt"], conv[1]]
    yield from {w.key: w for w in mixed}.values()


def spaces(setup: Setup) -> list[Matmul]:
    """The workloads whose spaces are sampled at random."""
    shapes: tuple[tuple[int, int, int], ...] = SHAPES
    options: dict[str, Any] = {"dtype": "bfloat16", "layout": "nt"}
    if setup.scale < 1:
        shapes = tuple((min(m, 512), min(n, 512), min(k, 512)) for m, n, k in SHAPES[:2])
    if setup.toy:
        shapes, options = ((24, 20, 16), (16, 16, 32)), {"dtype": "float32", "layout": "nn"}
    return [Matmul(m, n, k, **options) for m, n, k in shapes]


def small(setup: Setup, template: str, limit: int = 1) -> list[Workload]:
    """At most ``limit`` small workloads that ``template`` supports: tails, several tiles."""
    known = setup.templates[template]
    every = [Matmul(40, 33, 24, dtype="float32")] if setup.toy else _small()
    return [w for w in every if known.supported(w, setup.device) is True][:limit]


def _small() -> list[Workload]:
    made: list[Workload] = []
    for dtype in ("bfloat16", "float16", "float32", "int8", "float8_e4m3"):
        math = ("tf32",) if dtype == "float32" else ()
        made += [Matmul(m, n, k, dtype=dtype, layout="nt", math=math) for m, n, k in ((272, 400, 208), (130, 264, 96))]
        made += [Matmul(130, 120, 72, dtype=dtype, layout="nn", epilogue="bias+relu" if dtype != "int8" else "")]
        for winograd in ((), ("winograd",)):
            with contextlib.suppress(GpuTuneError):  # not every permission means something for every dtype
                made += [Conv2d(2, 64, 14, 14, 64, 3, 3, padding=1, dtype=dtype, math=winograd)]
        groups = 64 if dtype in ("float16", "float32") else 1
        made += [Conv2d(2, 64, 14, 14, 64, 3, 3, padding=1, dtype=dtype, groups=groups)]
        for direction in ("dgrad", "wgrad"):
            shape: dict[str, Any] = {"padding": 1, "dtype": dtype, "direction": direction}
            with contextlib.suppress(GpuTuneError):
                made += [Conv2d(2, 64, 15, 14, 64, 3, 3, stride=2, **shape)]
                made += [Conv2d(2, 64, 14, 14, 64, 3, 3, **shape), Conv2d(2, 64, 14, 14, 64, 3, 3, groups=64, **shape)]
    return made
