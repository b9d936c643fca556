"""Where a search over an mma.sync family starts: well-known tiles, made valid for the workload and the chip."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ....cuda.device import Device
from ....space.knob import Config, Constraint
from ....workload import ITEMSIZE, Conv2d, Workload
from ...base import Template
from ..common import ceil_div
from ..knobs import MIN_BLOCKS, SPLIT_K
from .tiles import CHUNK, Problem, Shape, native_fp8, promotes, resident_blocks, tail_tiles

TILES = (  # block m, n, bytes of k, warp m, n, slices, stages
    (128, 256, 64, 64, 64, 1, 3),
    (256, 128, 64, 64, 64, 1, 3),
    (128, 128, 64, 64, 64, 1, 4),
    (128, 128, 128, 64, 64, 2, 3),
    (256, 128, 128, 64, 64, 1, 3),
    (128, 128, 128, 64, 32, 1, 3),
    (128, 160, 64, 64, 80, 1, 4),
    (160, 128, 64, 80, 64, 1, 4),
    (128, 64, 128, 64, 32, 1, 4),
    (64, 128, 128, 32, 64, 1, 4),
    (64, 64, 128, 32, 32, 1, 5),
    (32, 64, 128, 16, 32, 1, 5),
    (64, 32, 128, 32, 16, 1, 5),
    (64, 64, 128, 32, 32, 2, 4),
    (32, 128, 128, 32, 32, 1, 4),
    (16, 128, 128, 16, 32, 1, 5),
    (16, 64, 256, 16, 16, 1, 4),
    (16, 64, 256, 16, 32, 4, 4),
    (128, 16, 128, 32, 16, 1, 5),
    (32, 32, 128, 16, 16, 1, 6),
    (32, 32, 256, 32, 16, 2, 4),
    (16, 16, 256, 16, 16, 4, 4),
    (32, 32, 64, 16, 16, 1, 4),
    (16, 32, 64, 16, 16, 1, 2),
    (16, 16, 32, 16, 16, 1, 2),
    (256, 256, 32, 64, 64, 1, 2),
)
"""The usual winners on large and middle shapes, then narrow tiles for few rows or columns, then what fits anything."""
SCHEDULERS = 4
"""Of an SM, each with its tensor core."""
ALONE = {80: 1.06}
"""By compute capability: longer k tiles of a block that is alone on its SM, at whose barrier nobody else multiplies.
Played on 4096^3: 128x256 tiles keep the tensor cores of an A100 busy for 0.964 of the time, 128x128 ones, of which two
reside, for 0.997; on an H100 the larger tiles are 15 % faster nevertheless, on an RTX 4090 1 %."""
LONG_ROW = 12_288
"""Bytes of K from which on (as played) two blocks touch so many pages at once that they lose what they gain."""
CROWDED = {80: 0.04}
"""By compute capability: by how much longer a k tile takes for blocks that share an SM, times the square of the
LONG_ROWs of K beyond the first. Played on an A100: 128x128 tiles of 16-bit operands take 1.00 times as long as 256x128
ones of one block an SM at K = 4096, 1.03 times at 8192; of K = 16384 1.12 times, of 4096 x 8192 x 28672 1.5 times."""
SPREADS = {80: 128 * 64, 90: 128 * 128}
"""By compute capability, where instructions wait for the copies of a whole stage: results of a tile of 16-bit operands
from which on copies are spread over four k blocks."""
SPLITS = (2, 3, 4, 6, 8, 12, 16)
SHARED_PARTS = max(v for v in SPLIT_K.values if isinstance(v, int))
"""The most parts of K but for a gradient of filters, which has few results for many pixels."""
SPLIT_ROUNDS = 8
"""Rounds of blocks up to which K is split: beyond, the last one costs little, and parts cost more."""
TAIL_WORTH = 0.97
"""Of the rounds of whole tiles, what splitting the last ones may take at most to be tried."""
SPLIT_WORTH = 0.995
"""Of a whole K's estimate, what a split one may take at most to be the default: where memory is the floor, both are
level but for what the parts cost."""
TAILS = 4
PART_ROUNDS = 0.01
"""Of a round, about what each part of a tail's tiles costs: its sums are written and read."""
STEADY = 8
"""k tiles from which on a block's pace is steady."""
UNBUFFERED = 1.3
"""Longer k tiles with one fragment buffer: every instruction waits for its operands. Played on an A100: 128x160 tiles
keep the tensor cores busy for 0.73 of the time."""
_PLAIN: dict[str, Any] = dict(
    shared_layout="xor",
    fragment_buffers=2,
    mma_order="serpentine",
    copy_bytes=16,
    prefetch_bytes=128,
    copy_schedule="together",
    raster_group=8,
    raster_along="m",
    grid="one_per_tile",
    split_k=1,
    reduction="workspace",
    epilogue_store="staged",
    min_blocks=1,
    arithmetic="strict",
    iterator="masks",
)
_RETREATS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("arithmetic", ("tf32", "tf32x3")),
    ("iterator", ("table", "analytic")),
    ("copy_schedule", ("together",)),
    ("copy_bytes", (8, 4)),
    ("prefetch_bytes", (0,)),
    ("raster_group", (4, 2, 1)),
    ("block_k", (128, 64, 32, 16)),
    ("fragment_buffers", (1,)),
    ("stages", (10, 9, 8, 7, 6, 5, 4, 3, 2)),
    ("epilogue_store", ("direct",)),
    ("warp_n", (32, 16)),
    ("warp_m", (32, 16)),
    ("iterator", ("masks", "table", "analytic")),
    ("split_k", (1,)),
    ("reduction", ("workspace",)),
)


def complete(known: Mapping[str, Any], w: Workload, device: Device, template: Template) -> Config | None:
    """A valid config with ``known`` and otherwise usual values, giving way to constraints; None when there is none."""
    tile: dict[str, Any] = dict(
        block_m=16, block_n=16, block_k=64 // ITEMSIZE[w.dtype], warp_m=16, warp_n=16, slice_k=1, stages=2
    )
    values = {name: value for name, value in {**tile, **_PLAIN, **known}.items() if name in template.knob}
    if ITEMSIZE[w.dtype] == 4 and "arithmetic" not in known:
        values["arithmetic"] = "tf32" if "tf32" in w.math else "tf32x3"
    broken = _broken(values, w, device, template)
    for knob, retreats in _RETREATS:
        if knob in values and any(knob in x.knobs for x in broken):
            legal = [values[knob], *(v for v in retreats if v in template.knob[knob].values)]
            left = [_broken({**values, knob: v}, w, device, template) for v in legal]
            broken = min(left, key=len)
            values[knob] = legal[left.index(broken)]
    config = Config({k.name: values[k.name] for k in template.knobs})
    return config if not template.violations(config, w, device) else None


def has_tile(p: Problem, w: Workload, device: Device, template: Template) -> bool | str:
    """True, or why no config computes the product ``p`` that ``w``, a convolution, is."""
    if max(p.m, p.n, p.k) >= 2**31 - 512:
        return "has 2^31 output pixels or more"
    return True if complete({}, w, device, template) is not None else "no tile is valid for it"


def _broken(values: Mapping[str, Any], w: Workload, device: Device, template: Template) -> list[Constraint]:
    return [x for x in template.constraints if not x.holds(values, w, device)]


def candidates(w: Workload, device: Device, template: Template, problem: Problem) -> Iterator[Config]:
    """Every tile of the list that can be made valid, the K split where tiles alone do not fill the chip."""
    for bm, bn, k_bytes, wm, wn, slices, stages in TILES:
        base: dict[str, Any] = dict(
            block_m=bm,
            block_n=bn,
            block_k=max(16, k_bytes // ITEMSIZE[w.dtype]),
            warp_m=wm,
            warp_n=wn,
            slice_k=slices,
            stages=stages,
        )
        if bm >= 2 * max(problem.m, 16) or bn >= 2 * max(problem.n, 16):
            continue
        if _gradient(w) and bm * bn >= 256 * 128 and k_bytes > 64:
            continue
        if problem.k_tiles(base) >= STEADY:
            base["copy_schedule"] = "spread" if _spreads(base, w, device) else "together"
            if min(bm, bn) >= 64 and problem.work_tiles(base) > device.sm_count:
                base["stages"] = _resident_stages(base, w, device)
        room = device.sm_count // max(1, problem.work_tiles(base))
        splits = [s for s in SPLITS if s <= room and problem.k_tiles(base) // s >= 4]
        splits = splits[-1:] + splits[:1] or _fuller(base, w, device, problem)
        ways: list[dict[str, Any]] = [dict(split_k=1, reduction="workspace")]
        ways += [dict(split_k=s, reduction="last_arrival") for s in splits]
        # more parts than one block should add, where a family has so many: a second kernel adds them on the whole chip
        wide = [s for s in template.knob["split_k"].values if isinstance(s, int) and SHARED_PARTS < s <= room]
        wide = [s for s in wide if problem.k_tiles(base) // s >= 4]
        ways += [dict(split_k=s, reduction="workspace") for s in wide[-1:]]
        for way in (*ways, *_tails(base, w, device, template, problem)):
            config, split = complete({**base, **way}, w, device, template), way["split_k"]
            # a deep tile whose memory suffices for two stages alone is no well-known one: on an RTX 4090 7 % slower
            if config is not None and int(config["stages"]) >= min(3, stages, max(2, problem.k_tiles(config) // split)):
                yield config


def _fuller(c: Mapping[str, Any], w: Workload, device: Device, problem: Problem) -> list[int]:
    """Where the last of a few rounds would be less than half full: the split of a long K whose rounds are fullest."""
    places = device.sm_count * _resident({**_PLAIN, **c}, w, device, Shape.of({**_PLAIN, **c}, w.dtype, False))
    tiles = problem.work_tiles(c)
    full, left = divmod(tiles, places)
    if not 1 <= full <= 2 or not 0 < left < places / 2:
        return []
    whole = [s for s in SPLITS if problem.k_tiles(c) // s >= 16 and tiles * s <= SPLIT_ROUNDS * places]
    return sorted(whole, key=lambda s: ceil_div(tiles * s, places) / s)[:1]


def _tails(
    c: Mapping[str, Any], w: Workload, device: Device, template: Template, problem: Problem
) -> Iterator[dict[str, Any]]:
    """Where whole waves leave tiles over: the split of their K with which they take the fewest rounds, if that is less
    than TAIL_WORTH of what they take whole."""
    if all(x.name != "split_tail_legal" for x in template.constraints):
        return
    known = {**_PLAIN, **c, "grid": "split_tail"}
    fits = _resident(known, w, device, Shape.of(known, w.dtype, False))
    known["min_blocks"] = max(b for b in map(int, MIN_BLOCKS.values) if b <= fits)
    tiles, places = problem.work_tiles(c), device.sm_count * known["min_blocks"]
    rounds = {}
    for split in SPLITS:
        known["split_k"] = split
        tail = tail_tiles(known, problem, device)
        if 0 < tail < tiles and problem.k_tiles(c) // split >= 4:
            rounds[split] = (tiles - tail) // places + ceil_div(tail * split, places) / split + split * PART_ROUNDS
    best = min(rounds, key=lambda split: rounds[split], default=0)
    if best and rounds[best] < TAIL_WORTH * ceil_div(tiles, places):
        yield dict(grid="split_tail", min_blocks=known["min_blocks"], split_k=best, reduction="last_arrival")


def _gradient(w: Workload) -> bool:
    """Whether operands are gathered as a convolution's gradients gather them.

    With warps of 64x64 results copies spread over two slices of K spill then, and so do 256x128 tiles that are 64 deep.
    """
    return isinstance(w, Conv2d) and w.direction != "fprop"


def _spreads(c: Mapping[str, Any], w: Workload, device: Device) -> bool:
    """Whether copies should be spread over a stage's k blocks: where there are enough of both.

    Played at 4096^3 on an A100, with four k blocks: 256x128 tiles 11 % faster, 128x128 and 128x64 ones 4 to 6 %, 64x64
    ones of float32 9 to 16 % and of 16 bits none; with two, 256x128 tiles and 128x128 ones in two slices of K 4 to 6 %,
    others none. On an H100 four k blocks of 128x128 gain 5 to 10 %, smaller tiles of 16 bits lose up to 4 %; on 8.6 and
    8.9 wide tiles gain up to 1 %, narrow ones lose 5 %.
    """
    k_blocks, area = c["block_k"] * ITEMSIZE[w.dtype] // 32 // c["slice_k"], c["block_m"] * c["block_n"]
    if device.cc not in SPREADS:
        return k_blocks >= 3 and area >= 128 * 128
    if k_blocks == 2:
        return area >= 128 * (128 if c["slice_k"] > 1 and not _gradient(w) else 256)
    return k_blocks >= 3 and area >= (64 * 64 if ITEMSIZE[w.dtype] == 4 else SPREADS[device.cc])


def _resident_stages(c: Mapping[str, Any], w: Workload, device: Device) -> int:
    """One stage less than listed where that lets two blocks reside on an SM instead of one, and three are left."""
    stages = int(c["stages"])
    each = device.shared_bytes_per_sm // 2 - device.shared_reserved_per_block
    stage = (c["block_m"] + c["block_n"]) * c["block_k"] * ITEMSIZE[w.dtype]
    return stages - 1 if stages > 3 and (stages - 1) * stage <= each < stages * stage else stages


def cost(config: Mapping[str, Any], w: Workload, device: Device, problem: Problem) -> float:
    """A rough time in clocks, good enough to order starting points.

    A k tile keeps an SM busy for as long as the slowest of its tensor pipes, issue slots, shared memory and share of
    L2, and a little of the others; a round of resident blocks lasts no less than one warp's chain of dependent steps
    and than the latency that its stages leave uncovered. No kernel beats the memory that it must read and write once.
    """
    c, size = config, ITEMSIZE[w.dtype]
    shape = Shape.of(config, w.dtype, promotes(w, device))
    tail = tail_tiles(c, problem, device)
    work = problem.work_tiles(c) * c["split_k"]
    k_tiles = problem.k_tiles(c) if tail else ceil_div(problem.k_tiles(c), c["split_k"])
    warps = shape.threads // 32
    area, edge = c["block_m"] * c["block_n"], (c["block_m"] + c["block_n"]) * c["block_k"] * size
    fits = _resident(c, w, device, shape)
    each = ceil_div(work, device.sm_count)

    # what a k tile takes of an SM, in clocks; a constant without a source named here has none: it only orders configs
    # rate: operations a clock of the SM's tensor pipes (table of devices), of which mma.sync reaches 0.62 on 9.0
    kind = {"float32": "tf32", "int8": "int8"}.get(w.dtype, "fp8" if native_fp8(w.dtype, device) else "fp16")
    rate = (device.flops_per_clock.get(kind, 0) or 512) * (0.62 if device.cc == 90 else 0.9)  # HGMMA alone is faster
    reads = shape.k_blocks * (shape.mmas_m + shape.mmas_n / 2)  # ldmatrix of a warp
    steps = shape.k_blocks * shape.mmas_m * shape.mmas_n  # instructions of the tensor cores
    # issue slots: 1.2 an mma (with address arithmetic), one an ldmatrix, 3 a 16-byte copy, 25 of loop overhead; a warp
    # instruction takes one slot of one of the SM's schedulers
    issue = warps * (1.2 * steps + reads + 3 * edge / (CHUNK * shape.threads) + 25) / SCHEDULERS
    # shared memory: 128 bytes a clock (32 banks of 4 bytes, CUDA programming guide); an ldmatrix.x4 reads 32 chunks
    shared = (warps * reads * 32 * CHUNK + edge) / 128
    l2 = edge / (40 if device.shared_bytes_per_sm > 2**17 else 18)  # bytes a clock that an SM gets: compute, consumer
    l2 *= min(1.0, work / device.sm_count) if k_tiles < STEADY else 1.0  # more where SMs idle for so short
    # an m16n8 instruction is 2 x 16 x 8 x (32 / size) operations; one scheduler's pipe does rate / SCHEDULERS a clock
    interval = 2 * 16 * 8 * 32 / size * SCHEDULERS / rate  # clocks of an instruction on its tensor core
    # a warp alone: 60 clocks of barrier and wait a k tile; 35 are the latency of an mma, and of an unbuffered ldmatrix
    chain = 60 + shape.k_blocks * (max(interval * shape.mmas_m * shape.mmas_n, 35) + 35 * (2 - c["fragment_buffers"]))

    def round_of(blocks: int, split: int = c["split_k"]) -> float:
        idle = SCHEDULERS / min(SCHEDULERS, warps * blocks)
        tensor = 2.0 * area * c["block_k"] / rate * idle * (UNBUFFERED if c["fragment_buffers"] == 1 else 1.0)
        if k_tiles >= STEADY:
            row = problem.k * size / LONG_ROW
            lonely = blocks == 1 and min(c["block_m"], c["block_n"]) >= 128 and row <= 1
            tensor *= ALONE.get(device.cc, 1.0) if lonely else 1.0
            tensor *= 1 + CROWDED.get(device.cc, 0.0) * max(0.0, row - 1) ** 2 * (fits > 1)
        parts = (tensor, issue, shared, l2)
        tile = blocks * (max(parts) + 0.15 * (sum(parts) - max(parts)))
        # epilogue: 1500 clocks of start and drain and 200 of every block's own, then results leave at 32 bytes a clock;
        # parts of a split K, which are written and read again, at 40. These follow the played defaults of an A100
        leave = 1500 + 200 * blocks + blocks * area * 4 / 32
        # slices of K are added in turn: 250 clocks each, which tells where k tiles are few (played: 64x1024x128)
        leave += 250 * (c["slice_k"] - 1) if k_tiles < STEADY else 0
        if split > SHARED_PARTS and c["reduction"] == "workspace":  # written by each, read by all SMs
            written, read = blocks * area * 4, problem.batch * problem.m * problem.n * 4 * split
            leave += 2000 + (written + read / device.sm_count) / 40
        elif split > 1:
            leave += 2000 + blocks * area * 4 * (1 + split) / 40
            # half of the threads write the parts of slices: 2000 clocks for 128x128, as played on an A100
            leave += 0.12 * area if c["slice_k"] > 1 and area >= 128 * 128 else 0
        # 700 clocks: latency of a copy from L2 or memory, shared by the stages in flight
        return (ceil_div(k_tiles, split) if tail else k_tiles) * max(tile, chain, 700 / max(1, c["stages"] - 1)) + leave

    if tail:
        grid, items = resident_blocks(c, device), tail * c["split_k"]
        clocks = (problem.work_tiles(c) - tail) // grid * round_of(c["min_blocks"], 1)
        clocks += ceil_div(items, grid) * round_of(ceil_div(min(items, grid), device.sm_count))
    else:
        full, rest = divmod(each, fits)
        clocks = full * round_of(fits) + (round_of(rest) if rest else 0)
    # bytes that must be read and written once, over the memory's bytes a second, in clocks
    moved = problem.batch * (size * problem.k * (problem.m + problem.n) + ITEMSIZE[w.out_dtype] * problem.m * problem.n)
    floor = moved / max(device.bandwidth, 1.0) * device.clock_mhz * 1e6
    return max(clocks, floor) + 0.1 * clocks


def features(config: Mapping[str, Any], w: Workload, device: Device, problem: Problem) -> dict[str, float]:
    """The rough time and what it is made of, for a ranker to weigh: rounds of blocks, how full they are, and how many
    tensor instructions a warp does for each of its reads.
    """
    shape = Shape.of(config, w.dtype, promotes(w, device))
    places = device.sm_count * _resident(config, w, device, shape)
    work, rounds = _rounds(config, device, problem, places)
    return {
        "log2 clocks": math.log2(cost(config, w, device, problem)),
        "log2 rounds": math.log2(rounds),
        "full rounds": work / (rounds * places),
        "multiplications a read": shape.mmas_m * shape.mmas_n / (shape.mmas_m + shape.mmas_n / 2),
    }


def _rounds(config: Mapping[str, Any], device: Device, problem: Problem, places: int) -> tuple[float, float]:
    """Tiles (parts of a split K) and how many rounds of ``places`` they take; of a split tail both in whole tiles."""
    tail, split = tail_tiles(config, problem, device), config["split_k"]
    if not tail:
        work = problem.work_tiles(config) * split
        return work, ceil_div(work, places)
    tiles, grid = problem.work_tiles(config), resident_blocks(config, device)
    return tiles * grid / places, (tiles - tail) // grid + ceil_div(tail * split, grid) / split


def _resident(config: Mapping[str, Any], w: Workload, device: Device, shape: Shape) -> int:
    """About how many blocks an SM holds at once."""
    stage = (config["block_m"] + config["block_n"]) * config["block_k"] * ITEMSIZE[w.dtype]
    fits = device.resident_blocks(shape.threads, shape.registers(False, device), stage * config["stages"])
    return max(1, config["min_blocks"], fits)


def default(w: Workload, device: Device, template: Template, problem: Problem) -> Config:
    """The candidate of least rough cost, with a split tail where that is ahead by more than the estimate may err; the
    smallest tile when none of the list is valid."""

    def rank(c: Config) -> float:
        worth = TAIL_WORTH if c["grid"] == "split_tail" else SPLIT_WORTH if c["split_k"] != 1 else 1.0
        return cost(c, w, device, problem) / worth

    found = min(candidates(w, device, template, problem), key=rank, default=None)
    found = found or complete({}, w, device, template)
    assert found is not None, "supports() said that a config exists"
    return found


def seeds(w: Workload, device: Device, template: Template, problem: Problem) -> list[Config]:
    """The valid candidates of least rough cost, at most twelve, of which at most TAILS have a split tail."""
    ordered = sorted(candidates(w, device, template, problem), key=lambda c: cost(c, w, device, problem))
    tails = [c for c in ordered if c["grid"] == "split_tail"][:TAILS]
    others = [c for c in ordered if c["grid"] != "split_tail"][: 12 - len(tails)]
    return [c for c in ordered if c in tails or c in others]
