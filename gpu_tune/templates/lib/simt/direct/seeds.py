"""Where a search over conv2d_direct starts: tiles in the order of preference, completed for the workload."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .....cuda.device import Device
from .....space.knob import Config
from ....base import Template
from ..tiles import widest
from . import tiles as tile
from .constraints import vector_out, vector_w, vector_x


def _widest(fits: Callable[[Mapping[str, Any], Any], bool], knob: str, c: Mapping[str, Any], w: Any) -> int:
    return widest(lambda v: fits({**c, knob: v}, w))


def complete(w: Any, **chosen: Any) -> Config:
    """A config from the main choices: the widest legal copies, filter columns unrolled where they are few."""
    cg = tile.channels(w)[0]
    c: dict[str, Any] = dict(
        columns="adjacent",
        lanes="pixels",
        stage_x="shared",
        stage_w="shared",
        shared_x="c_outer",
        shared_w="k_inner",
        shared_type="stored" if w.dtype == "float32" else "wide",
        padding_x=0,
        padding_w=4,
        stages=1,
        fragment_c=1,
        reuse_row=False,
        unroll="none",
        unroll_c=1,
        raster_along="n",
        split_k=1,
        min_blocks=1,
    )
    c.update(chosen)
    while c["block_c"] > 1 and c["block_c"] >= 2 * cg:
        c["block_c"] //= 2
    if c["stage_w"] == "global":
        c["padding_w"] = 0
    if c["stage_x"] == c["stage_w"] == "global":
        c["shared_type"] = "stored"
    for name, fits in (("x", vector_x), ("w", vector_w), ("out", vector_out)):
        c[f"vector_width_{name}"] = _widest(fits, f"vector_width_{name}", c, w)
    for unroll, taps in (("s", w.s), ("rs", w.r * w.s)):
        if (
            (w.s if unroll == "s" else w.r) > 1
            and taps <= 16
            and tile.sums(c) * taps * c["fragment_c"] * c["unroll_c"] <= 1024
        ):
            c["unroll"] = unroll
    if c["reuse_row"] and (c["unroll"] == "none" or w.s == 1 or tile.row_length(c, w) * c["thread_p"] > 48):
        c["reuse_row"] = False
    return Config(c)


def _choices(w: Any) -> Iterator[dict[str, Any]]:
    """Tiles in the order of preference; the last ones need no shared memory and fit every convolution."""
    kg = tile.channels(w)[1]
    q = min((v for v in (4, 7, 8, 14, 16, 28, 32) if v >= w.q), default=28 if w.q % 28 == 0 else 32 if w.q > 64 else 16)
    p = min((v for v in (1, 2, 4, 7, 8) if v >= w.p), default=4)
    blocks_k = [k for k in (64, 32, 16, 8, 4, 2, 1) if k < 2 * kg]
    for k in blocks_k:
        for tk in (8, 4, 2, 1):
            for tq in (4, 7, 2, 1):
                if k % tk == 0 and q % tq == 0 and 48 <= k // tk * p * (q // tq) <= 512:
                    yield dict(
                        block_k=k,
                        block_p=p,
                        block_q=q,
                        block_c=8,
                        thread_k=tk,
                        thread_p=1,
                        thread_q=tq,
                        reuse_row=True,
                    )
    for k in blocks_k:
        yield dict(block_k=k, block_p=max(1, 8 // k), block_q=16, block_c=4, thread_k=1, thread_p=1, thread_q=1)
    for bk, bp, bq, tp in ((1, 1, 32, 1), (1, 8, 4, 1), (1, 16, 64, 1), (1, 16, 64, 4), (8, 1, 4, 1), (8, 2, 8, 1)):
        tile_sizes = dict(block_k=bk, block_p=bp, block_q=bq, block_c=1, thread_k=1, thread_p=tp, thread_q=1)
        yield dict(tile_sizes, stage_x="global", stage_w="global")


def default(workload: Any, device: Device, template: Template) -> Config:
    """The first preferred tile that keeps every constraint, with the channels split where too few blocks would run."""
    for choice in _choices(workload):
        config = complete(workload, **choice)
        if not template.violations(config, workload, device):
            blocks, steps = tile.grid(config, workload), tile.parts(config, workload)[0]
            wanted = min(device.sm_count // max(1, blocks), steps // 4)
            for split in (16, 8, 4, 2):
                candidate = config.replace(split_k=split)
                if split <= wanted and not template.violations(candidate, workload, device):
                    return candidate
            return config
    raise AssertionError(f"no default for {workload.key}")  # the contract test shows that the last choices always fit


def seeds(workload: Any, device: Device, template: Template) -> list[Config]:
    """Bigger thread tiles, filters unstaged, and a cp.async pipeline beside the default."""
    w = workload
    nhwc = w.layout == "nhwc"
    common: list[dict[str, Any]] = [
        dict(block_k=32, block_p=4, block_q=16, block_c=8, thread_k=8, thread_p=2, thread_q=2),
        dict(block_k=16, block_p=2, block_q=32, block_c=4, thread_k=4, thread_p=1, thread_q=4, reuse_row=True),
        dict(block_k=32, block_p=7, block_q=7, block_c=8, thread_k=4, thread_p=1, thread_q=7, reuse_row=True),
        dict(block_k=64, block_p=2, block_q=8, block_c=16, thread_k=8, thread_p=1, thread_q=4, stage_w="global"),
    ]
    if device.cc >= 80 and (w.dtype == "float32" or nhwc):
        inner = {"shared_x": "c_inner", "shared_w": "c_inner", "fragment_c": 4} if nhwc else {}
        common.append(
            dict(
                block_k=32,
                block_p=4,
                block_q=8,
                block_c=8,
                thread_k=4,
                thread_p=1,
                thread_q=4,
                stages=2,
                shared_type="stored",
                **inner,
            )
        )
    made = [complete(w, **choice) for choice in common]
    return [c for c in dict.fromkeys(made) if not template.violations(c, w, device)]
