"""Where a search over matmul_simt starts: tiles that won elsewhere, completed for the workload and the chip."""

from __future__ import annotations

from typing import Any

from ....cuda.device import Device
from ....space.knob import Config
from ....workload import ITEMSIZE
from ...base import Template
from ..common import ceil_div
from . import tiles as tile_of
from .constraints import split_fits, vector_constraint, vector_out
from .tiles import widest


def _widest(w: Any, which: str, block: int, block_k: int, device: Device) -> int:
    holds, name = vector_constraint(which).holds, "block_m" if which == "a" else "block_n"
    return widest(lambda v: holds({f"vector_width_{which}": v, name: block, "block_k": block_k}, w, device))


def complete(w: Any, device: Device, template: Template, **chosen: Any) -> Config:
    """A config from the main choices: the widest legal copies and shared-memory layouts that suit them."""
    dp4a = w.dtype == "int8" and w.layout == "nt" and chosen["block_k"] >= 16
    c: dict[str, Any] = dict(
        interleave_m=1,
        interleave_n=1,
        padding_a=0,
        padding_b=0,
        fragment_k=4 if dp4a else 1,
        raster_group=1,
        split_k=1,
        min_blocks=1,
        stages=2,
        unroll=0,
        shared_type="stored" if w.dtype == "float32" or dp4a else "wide",
    )
    c.update(chosen)
    for x, block in (("a", "block_m"), ("b", "block_n")):
        c.setdefault(f"vector_width_{x}", _widest(w, x, c[block], c["block_k"], device))
        c.setdefault(f"shared_{x}", "k_inner" if dp4a else "k_outer")
        if tile_of.along_k(w, x) and not chosen.get(f"padding_{x}"):
            c[f"padding_{x}"] = 4
    c["vector_width_out"] = widest(lambda v: vector_out({**c, "vector_width_out": v}, w), (1, 2, 4, 8))
    c["unroll"] = c["unroll"] or max(
        u for u in (1, 2, 4, 8, 16, 32, 64) if u * c["fragment_k"] <= min(16, c["block_k"])
    )
    while not split_fits(c, w, device):
        c["split_k"] = max(v for v in template.knob["split_k"].values if isinstance(v, int) and v < c["split_k"])
    tiles_m, tiles_n = tile_of.tiles(c, w)
    while c["raster_group"] > 1 and (c["raster_group"] > tiles_m or tiles_n == 1):
        c["raster_group"] //= 2
    return Config(c)


def default(workload: Any, device: Device, template: Template) -> Config:
    """Tiles by the size of C, split-K where too few blocks would run."""
    w = workload
    if w.m <= 16 or w.n <= 16:
        small_m = w.m <= w.n
        tile = dict(
            block_m=16 if small_m else 64,
            block_n=64 if small_m else 16,
            block_k=16,
            thread_m=4 if not small_m else 2,
            thread_n=4 if small_m else 2,
            warp_n=32 if small_m else 16,
        )
    elif ceil_div(w.m, 128) * ceil_div(w.n, 128) * w.batch >= device.sm_count and w.scales != "block128":
        tile = dict(
            block_m=128,
            block_n=128,
            block_k=8 if ITEMSIZE[w.dtype] > 1 else 16,
            thread_m=8,
            thread_n=8,
            warp_n=64,
            interleave_m=2,
            interleave_n=2,
            raster_group=8,
        )
    elif ceil_div(w.m, 64) * ceil_div(w.n, 64) * w.batch * 2 >= device.sm_count:
        tile = dict(block_m=64, block_n=64, block_k=16, thread_m=4, thread_n=4, warp_n=32, raster_group=4)
    else:
        tile = dict(block_m=32, block_n=32, block_k=16, thread_m=2, thread_n=4, warp_n=32)
    blocks = ceil_div(w.m, tile["block_m"]) * ceil_div(w.n, tile["block_n"]) * w.batch
    wanted = min(device.sm_count * 2 // blocks, w.k // 256)
    split = max((v for v in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if v <= wanted), default=1)
    streamed = _streamed(w, device, template, split) if min(w.m, w.n) <= 16 else None
    if streamed:
        return streamed
    if tile["block_m"] == 128:  # ptxas else takes more than 128 registers for the 64 sums, and one block resides alone
        both = complete(w, device, template, **tile, split_k=split, min_blocks=2)
        if not template.violations(both, w, device):
            return both
    return complete(w, device, template, **tile, split_k=split)


def _streamed(w: Any, device: Device, template: Template, split: int) -> Config | None:
    """Few rows or columns: memory is the limit, so deep tiles fly ahead by cp.async, each in its own order."""
    small_m = w.m <= w.n
    c = complete(
        w,
        device,
        template,
        block_m=16 if small_m else 64,
        block_n=64 if small_m else 16,
        block_k=64,
        thread_m=2 if small_m else 4,
        thread_n=4 if small_m else 2,
        warp_n=32 if small_m else 16,
        stages=3,
        fragment_k=4,
        shared_type="stored",
        split_k=split,
        # neighbouring threads read neighbouring rows of k: those of one thread lie apart
        interleave_m=4 if not small_m and tile_of.along_k(w, "a") else 1,
        interleave_n=4 if small_m and tile_of.along_k(w, "b") else 1,
        **{f"shared_{x}": "k_inner" if tile_of.along_k(w, x) else "k_outer" for x in "ab"},
    )
    return None if w.k < 512 or template.violations(c, w, device) else c


def seeds(workload: Any, device: Device, template: Template) -> list[Config]:
    """Tiles that won elsewhere: 128x128 and 64x128 thread tiles of 8x8 and 8x4, 64x64x16 of 4x4, cp.async pipelines."""
    w = workload
    common: list[dict[str, Any]] = [
        dict(
            block_m=128,
            block_n=128,
            block_k=16,
            thread_m=8,
            thread_n=8,
            warp_n=64,
            interleave_n=2,
            interleave_m=2,
            raster_group=8,
        ),
        dict(block_m=64, block_n=128, block_k=16, thread_m=8, thread_n=4, warp_n=32, raster_group=4),
        dict(block_m=64, block_n=64, block_k=16, thread_m=4, thread_n=4, warp_n=32, stages=1),
        dict(block_m=32, block_n=64, block_k=32, thread_m=4, thread_n=2, warp_n=16, split_k=4),
    ]
    if device.cc >= 80 and w.dtype == "float32":
        piped = {f"vector_width_{x}": 1 for x in "ab" if tile_of.along_k(w, x)}
        common.append(
            dict(
                block_m=128,
                block_n=64,
                block_k=16,
                thread_m=8,
                thread_n=8,
                warp_n=32,
                interleave_m=2,
                interleave_n=2,
                stages=4,
                **piped,
            )
        )
    streamed = _streamed(w, device, template, 4)
    made = [complete(w, device, template, **choice) for choice in common] + ([streamed] if streamed else [])
    return [c for c in made if not template.violations(c, w, device)]
