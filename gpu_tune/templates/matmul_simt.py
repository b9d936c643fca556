"""Matrix multiplication on the plain arithmetic units: every workload, every device. The fallback of the matmuls.

A block computes ``block_m`` x ``block_n`` outputs from shared-memory tiles ``block_k`` deep, a warp a part ``warp_n``
wide, a thread ``thread_m`` x ``thread_n``. Accumulation is float32, or int32 for int8 data. ``stages`` chooses the
pipeline: 1 one buffer; 2 the next tile waits in registers; more: cp.async (sm_80 and newer). With ``split_k`` > 1
parts of K go to the workspace and a second kernel adds them in order, so results never depend on timing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..cuda.device import Device
from ..plan import LaunchPlan, MainLoop
from ..space.knob import Knob
from ..workload import ITEMSIZE
from .base import ResourceEstimate, Template
from .lib import knobs
from .lib.common import matmul_walks
from .lib.simt import launch, seeds
from .lib.simt import tiles as tile
from .lib.simt.constraints import CONSTRAINTS
from .lib.simt.derived import derive

KNOBS = (
    Knob("block_m", (16, 32, 64, 128, 256), "rows of C that a block computes"),
    Knob("block_n", (16, 32, 64, 128, 256), "columns of C that a block computes"),
    Knob("block_k", (4, 8, 16, 32, 64), "depth of a shared-memory tile"),
    Knob("thread_m", (1, 2, 4, 8, 16), "rows of C that a thread computes"),
    Knob("thread_n", (1, 2, 4, 8, 16), "columns of C that a thread computes"),
    Knob("warp_n", (4, 8, 16, 32, 64, 128, 256), "columns of C that a warp covers; its rows follow"),
    Knob("interleave_m", (1, 2, 4), "pieces that a thread's rows are cut into, spread over the warp's rows"),
    Knob("interleave_n", (1, 2, 4), "pieces that a thread's columns are cut into, spread over the warp's columns"),
    Knob("vector_width_a", (1, 2, 4, 8, 16), "elements of A that one global load takes"),
    Knob("vector_width_b", (1, 2, 4, 8, 16), "elements of B that one global load takes"),
    Knob("vector_width_out", (1, 2, 4, 8, 16), "elements that one store of C takes"),
    Knob(
        "shared_a", ("k_outer", "k_inner"), "A in shared memory: block_k rows of m, or block_m rows of k", ordinal=False
    ),
    Knob(
        "shared_b", ("k_outer", "k_inner"), "B in shared memory: block_k rows of n, or block_n rows of k", ordinal=False
    ),
    Knob(
        "shared_type",
        ("stored", "wide"),
        "shared memory holds elements as stored, or already as float (int)",
        ordinal=False,
    ),
    Knob("padding_a", (0, 1, 2, 4), "32-bit words appended to each row of A's tile against bank conflicts"),
    Knob("padding_b", (0, 1, 2, 4), "32-bit words appended to each row of B's tile against bank conflicts"),
    replace(knobs.STAGES, meaning="1 one tile, 2 next tile in registers, 3 and more tiles in flight by cp.async"),
    Knob("fragment_k", (1, 2, 4), "k values read from shared memory at once"),
    Knob("unroll", (1, 2, 4, 8, 16, 32, 64), "steps of fragment_k unrolled"),
    knobs.RASTER_GROUP,
    knobs.SPLIT_K,
    knobs.MIN_BLOCKS,
)


def _live(extent: int, block: int, lanes: int, piece: int, pieces: int) -> int:
    """Rows (columns) of a thread that lie inside the matrix for at least one thread."""
    if extent >= block:
        return piece * pieces
    return sum(min(piece, max(0, extent - p * lanes * piece)) for p in range(pieces))


def resources(c: Mapping[str, Any], w: Any, device: Device) -> ResourceEstimate:
    """Threads, shared memory, accumulators and workspace of a config."""
    g = derive(c, w, device)
    if g.pipeline.steps > c["split_k"]:
        sums = tile.accumulators(c, w)
    else:  # one tile of K for each: scaled at once, and the compiler may finish one row of sums after the other
        sums = c["thread_m"] * c["thread_n"] if c["block_k"] > 8 else c["thread_n"]
    # where the tile reaches past the matrix, the compiler drops the sums that no thread has inside
    live = _live(w.m, c["block_m"], g.layout.lanes_m, g.layout.piece_m, c["interleave_m"])
    live *= _live(w.n, c["block_n"], g.layout.lanes_n, g.layout.piece_n, c["interleave_n"])
    sums = sums * live // (c["thread_m"] * c["thread_n"])
    workspace = launch.workspace_bytes(c["split_k"], w, w.m * w.n)
    depth = g.pipeline.per_part * c["block_k"] * ITEMSIZE[w.dtype]
    loop = MainLoop(
        "matmul_simt",
        g.pipeline.per_part,
        macs=g.launch.threads * live * c["block_k"],
        tiles=(g.layout.tiles_m, g.layout.tiles_n, c["split_k"] * w.batch),
        reads=(c["block_m"] * depth, c["block_n"] * depth),
        band=c["raster_group"],
        stages=c["stages"],
        walks=matmul_walks(w, c["block_m"], c["block_n"], c["block_k"]),
    )
    return ResourceEstimate(g.launch.threads, g.storage.shared_bytes, sums, workspace, loop)


def plan(c: Mapping[str, Any], w: Any, device: Device) -> LaunchPlan:
    """One launch, and with ``split_k`` a second one."""
    g, vector = derive(c, w, device), c["vector_width_out"]
    blocks = g.layout.tiles_m * g.layout.tiles_n
    return launch.plan("matmul_simt", g, w, ("a", "b"), blocks, c["split_k"], w.m * w.n, vector)


TEMPLATE: Template = Template(
    name="matmul_simt",
    op="matmul",
    summary="plain arithmetic units, every layout, dtype, size and epilogue",
    knobs=KNOBS,
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=CONSTRAINTS,
    supports=lambda workload, device: True,
    derive=derive,
    resources=resources,
    plan=plan,
    default=lambda w, d: seeds.default(w, d, TEMPLATE),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE),
    min_cc=75,
    open_sizes=("m",),
    partial_sums=lambda c, w, d: derive(c, w, d).storage.sums,
    whole_masks=lambda c, w, d: derive(c, w, d).storage.byte_lanes > 0,
)
