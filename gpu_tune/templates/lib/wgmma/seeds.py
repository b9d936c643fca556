"""Where a search over a wgmma family starts: known tiles in the order of a rough estimate of their time.

The estimate contains what decides between tiles on this chip before anything is measured: whole waves of tiles over the
SMs, the tensor cores' pace by width, what L2 and shared memory deliver, the part of an epilogue that nothing hides, the
second kernel of a split K. Rates are public microbenchmarks of Hopper (arXiv 2402.13499), rounded; they serve to order
configs, never to predict a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ....cuda.device import Device
from ....space.knob import Config
from ....workload import ITEMSIZE, Workload
from ...base import Template
from ..common import ceil_div
from ..knobs import SPLIT_K
from . import tiles
from .tiles import Problem

L2_BYTES, FILL_BYTES, SHARED_BYTES = 32, 48, 128
"""Bytes a clock for one SM: its share of L2 when all read, what it takes in alone, what its shared memory reads."""
LATENCY = 900
"""Clocks from the request of a k tile to its arrival, on a busy chip."""
SECOND_KERNEL = 3500
"""Clocks that a kernel behind the first one costs before it does anything."""
SUM_IN_CLUSTER = 900
"""Clocks that the blocks of a cluster wait for one another and for each other's shared memory."""
PROVEN = 0.97
"""For the tile that public kernels reach cuBLAS with: a better estimate alone does not take the first place from it."""
COUNT = 14
_COOPERATIVE = (
    *((128, n, 2) for n in (256, 240, 224, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16)),
    *((256, n, 2) for n in (192, 160, 128, 96, 64, 32)),
    *((192, n, 3) for n in (192, 160, 128, 96, 64)),
    *((64, n, 1) for n in (256, 192, 160, 128, 96, 64, 48, 32, 16)),
    *((128, n, 1) for n in (96, 64, 32)),
)
_PINGPONG = (
    *((64, n, 2) for n in (256, 224, 192, 160, 128, 96, 64, 32)),
    *((128, n, 2) for n in (192, 160, 128, 96, 64)),
)
_TILES: tuple[tuple[Any, dict[str, Any]], ...] = (
    (_COOPERATIVE, dict(schedule="cooperative")),
    (((128, 96, 2), (128, 64, 2), (64, 128, 1), (64, 64, 1)), dict(schedule="cooperative", min_blocks=2)),
    (_PINGPONG, dict(schedule="pingpong")),
)
"""(block_m, block_n, consumers) and what else a tile means."""
_TRANSPOSED = ((64, 1), (128, 2), (192, 3), (256, 2), (128, 1))
_SHAPE = ("block_m", "block_n", "consumers", "schedule", "swap_ab", "reduction", "min_blocks")
_CLUSTERS = ((1, 1), (2, 1), (1, 2), (2, 2))
_SPLITS = (2, 3, 4, 6, 8, 12, 16)


def seeds(w: Workload, device: Device, template: Template, problem: Problem, base: Mapping[str, Any]) -> list[Config]:
    """Up to COUNT configs, the most promising first; a tile shape appears once with its best cluster and split."""
    found: dict[tuple[Any, ...], Config] = {}
    for c in sorted(_candidates(w, device, template, problem, base), key=lambda c: cost(c, w, device, problem)):
        shape = (*(c[name] for name in _SHAPE), c["split_k"] > 1)
        if len(found) < COUNT and shape not in found and not template.violations(Config(c), w, device):
            found[shape] = Config(c)
    return list(found.values())


def _candidates(
    w: Workload, device: Device, template: Template, problem: Problem, base: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Every tile of the lists that is not mostly empty, with each cluster and the splits that fill the chip."""
    wide = template.knob["split_k"].values != SPLIT_K.values
    parts = (*_SPLITS, 24, 32, 48, 64) if wide else _SPLITS
    for tile in _tiles(problem):
        for cluster_m, cluster_n in _CLUSTERS:
            c = {**base, **tile, "cluster_m": cluster_m, "cluster_n": cluster_n}
            c["block_k"] = 128 // ITEMSIZE[w.dtype]
            rows, columns = ceil_div(problem.m, c["block_m"]), ceil_div(problem.n, c["block_n"])
            if cluster_m > rows or cluster_n > columns:
                continue
            room = device.sm_count * c["min_blocks"] // max(1, rows * columns * problem.batch)
            splits = [s for s in parts if s <= room and problem.k_tiles(c) // s >= 4]
            ways: list[dict[str, Any]] = [{"split_k": s} for s in (1, *splits[-2:])]
            if (cluster_m, cluster_n, c["schedule"]) == (1, 1, "cooperative"):
                ways += [{"split_k": s, "reduction": "cluster"} for s in (2, 4, 8) if s in splits]
            made = (_fitted({**c, **way}, w, device, problem) for way in ways)
            yield from (config for config in made if config is not None)


def _tiles(problem: Problem) -> Iterator[dict[str, Any]]:
    m, n = max(problem.m, 64), max(problem.n, 16)
    for shapes, rest in _TILES:
        for block_m, block_n, consumers in shapes:
            if block_m < 2 * m and block_n < 2 * n:
                yield dict(block_m=block_m, block_n=block_n, consumers=consumers, swap_ab=False, **rest)
    if problem.m <= 256:
        narrow = {b for b in tiles.ROWS if b >= problem.m}
        parts = {b for b in tiles.ROWS if b >= ceil_div(problem.m, 2)}
        for block_m in sorted({min(s) for s in (narrow, parts) if s}):
            for block_n, consumers in _TRANSPOSED:
                yield dict(block_m=block_m, block_n=block_n, consumers=consumers, schedule="cooperative", swap_ab=True)


def _fitted(c: dict[str, Any], w: Workload, device: Device, problem: Problem) -> dict[str, Any] | None:
    """``c`` with a store, as many stages as fit, and a walk over the tiles; None when two stages do not fit."""
    out_bytes = tiles.out_itemsize(c, w)
    if not tiles.blocks_of_64(c):
        return None
    row = (ceil_div(problem.n, 4) * 4 if tiles.parts(c) > 1 else problem.ldc) * out_bytes
    together = tiles.sums_in_cluster(c)
    few = c["swap_ab"] and c["block_m"] < 32  # rows: not worth staging
    c["epilogue_store"] = "staged"
    if few or row % 16 or together or not tiles.box_bytes(c, out_bytes):
        c["epilogue_store"] = "direct"
    stages = _stages(c, w, device)
    if c["epilogue_store"] == "staged" and not c["swap_ab"]:
        # played: a fifth stage of 64x256 tiles is worth 1 %; rows of 64 bytes take twice as many stores for the memory
        # that sharing saves
        way, enough = ("staged_shared", 5) if c["schedule"] == "pingpong" else ("staged_narrow", 4)
        smaller = {**c, "epilogue_store": way}
        if stages < enough and tiles.box_bytes(smaller, out_bytes) and _stages(smaller, w, device) > stages:
            c, stages = smaller, _stages(smaller, w, device)
    if not stages:
        return None
    work_tiles, places = _work_tiles(c, problem), _places(c, device)
    # a block never has more k tiles in flight than it multiplies; sums in a cluster need the ring's memory itself
    most = ceil_div(problem.k_tiles(c), c["split_k"]) * max(1, ceil_div(work_tiles, places))
    c["stages"] = stages if together else min(stages, max(2, most))
    alone = together or (work_tiles <= places and c["schedule"] != "pingpong")
    c["grid"] = "one_per_tile" if alone else "co_resident" if tiles.cluster_size(c) > 2 else "min_waves"
    height, width = c["block_m"] * c["cluster_m"], c["block_n"] * c["cluster_n"]
    c["raster_group"] = min((1, 2, 4, 8, 16), key=lambda g: g * height + ceil_div(places, g) * width)
    return c


def _stages(c: Mapping[str, Any], w: Workload, device: Device) -> int:
    """The most stages that fit (0: not even two)."""
    room = min(
        device.shared_bytes_per_block, device.shared_bytes_per_sm // c["min_blocks"] - device.shared_reserved_per_block
    )
    one, two = (tiles.shared_bytes({**c, "stages": s}, ITEMSIZE[w.dtype], tiles.out_itemsize(c, w)) for s in (1, 2))
    stages = 1 + (room - one) // (two - one)
    return min(12, stages) if stages > 1 else 0


def _work_tiles(c: Mapping[str, Any], problem: Problem) -> int:
    rows = ceil_div(problem.m, c["block_m"] * c["cluster_m"])
    columns = ceil_div(problem.n, c["block_n"] * c["cluster_n"])
    return int(rows * columns * problem.batch * tiles.parts(c))


def _places(c: Mapping[str, Any], device: Device) -> int:
    """Clusters that run at once; of larger ones, those that surely or usually do."""
    blocks = device.sm_count * c["min_blocks"]
    size = tiles.cluster_size(c)
    if tiles.sums_in_cluster(c):
        return max(1, int(blocks * {2: 1.0, 4: 0.92, 8: 0.85}[size]) // size)
    return tiles.clusters({**c, "grid": "co_resident", "schedule": "cooperative"}, 1 << 30, device)


def features(c: Mapping[str, Any], w: Workload, device: Device, problem: Problem) -> dict[str, float]:
    """The estimate and what it is made of, for a ranker to weigh: rounds of clusters, and how full they are."""
    work_tiles, places = _work_tiles(c, problem), _places(c, device)
    rounds = ceil_div(work_tiles, places)
    return {
        "log2 clocks": math.log2(cost(c, w, device, problem)),
        "log2 rounds": math.log2(rounds),
        "full rounds": work_tiles / (rounds * places),
        "tile overlap": float(c["schedule"] == "pingpong" or c["min_blocks"] > 1),
        "multicast": float(c["cluster_m"] * c["cluster_n"]),
    }


def cost(c: Mapping[str, Any], w: Workload, device: Device, problem: Problem) -> float:
    """A rough time in clocks, good enough to order starting points."""
    size, out_bytes = ITEMSIZE[w.dtype], tiles.out_itemsize(c, w)
    cluster, together = tiles.cluster_size(c), tiles.sums_in_cluster(c)
    work_tiles, places = _work_tiles(c, problem), _places(c, device)
    k_tiles = ceil_div(problem.k_tiles(c), c["split_k"])
    mt, narrow, pingpong = tiles.blocks_of_64(c), tiles.right_rows(c), c["schedule"] == "pingpong"
    own = 1 if pingpong else c["consumers"]  # consumers of a tile
    blocks = c["min_blocks"]  # on an SM
    if blocks > 1 and blocks * work_tiles <= places:
        blocks, places = 1, places // blocks

    # one k tile for a block, in clocks: a wgmma of 64 x N over 32 bytes of K takes N / 2 clocks of tensor cores,
    # or the time to read 64 + N rows of 32 bytes from shared memory (rates: see the module's head)
    row = c["block_k"] * size
    tensor = own * mt * row / 32 * max(narrow / 2, (64 + narrow) * 32 / SHARED_BYTES)
    read = row * (c["block_m"] / c["cluster_n"] + c["block_n"] / c["cluster_m"]) / L2_BYTES
    fill = row * (c["block_m"] + c["block_n"]) / FILL_BYTES
    # its instructions, 60 clocks to wait and release (no source), and 2 for each promoted sum of a thread
    alone = tensor / own + 60 + (mt * narrow if tiles.promotes(w) else 0)  # a consumer by itself
    busy = (tensor, read, fill)
    # the slowest unit sets the pace, and a tenth of the others' time is not hidden (no source)
    pace = max(*busy, alone * own / c["consumers"] / blocks, LATENCY / c["stages"] / blocks)
    pace += 0.1 * (sum(busy) - max(busy))

    # one tile: what the epilogue costs while its tensor cores wait
    sums = mt * narrow / 2  # of a thread
    store = 4.0 if together else 7.0 if c["epilogue_store"] != "direct" else 4.0 + 16.0 / out_bytes
    # 300 clocks to drain; clocks a sum: 4 to the cluster, 7 through the copy engine, 4 + 16 / bytes by plain stores,
    # and 4 for each operation of the epilogue (no source: they order stores of different widths)
    leave = 300 + sums * (store + 4.0 * len(w.ops))
    rounds = ceil_div(work_tiles, places)
    if pingpong or blocks > 1:  # two tiles at a time, one in its epilogue while the other multiplies
        pair = max(2 * k_tiles * pace, k_tiles * pace + leave)
        total = rounds * pair / (1 if blocks > 1 else 2) + leave + k_tiles * pace * (pingpong and rounds == 1)
    else:
        total = rounds * (k_tiles * pace + leave)
    # the first k tile's latency, and the clocks in which a cluster of 2, or of more, starts together (no source)
    total += LATENCY + {1: 0, 2: 500}.get(cluster, 1200)

    # no kernel beats the memory traffic that it cannot avoid: every operand and result once
    clocks_a_byte = device.clock_mhz * 1e6 / device.bandwidth
    k = problem.k_tiles(c) * c["block_k"]
    moved = problem.batch * (size * k * (problem.m + problem.n) + ITEMSIZE[w.out_dtype] * problem.m * problem.n)
    total = max(total, moved * clocks_a_byte) + 0.1 * min(total, moved * clocks_a_byte)
    if together:  # the parts go through shared memory twice, once of another block
        total += SUM_IN_CLUSTER + 8 * c["block_m"] * c["block_n"] / FILL_BYTES
    elif c["split_k"] > 1:
        partial = 4 * problem.batch * problem.m * problem.n * c["split_k"]
        total += SECOND_KERNEL + 2 * partial / (L2_BYTES * device.sm_count)
    known = (c["block_m"], c["block_n"]) in ((128, 256), (256, 128)) and c["consumers"] == 2 and cluster == 2
    return float(total * (PROVEN if known else 1.0))
