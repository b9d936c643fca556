"""What the sources of the wgmma families see as ``launch``, and their parts as ``g``; the words are those of tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....cuda.device import Device
from ....workload import ITEMSIZE, Workload
from ..common import ceil_div
from .launch import SUM_THREADS, target
from .tiles import (
    PROMOTED_K,
    Operand,
    Problem,
    blocks_of_64,
    box_bytes,
    buffers,
    cluster_size,
    clusters,
    consumer_registers,
    instruction,
    operand,
    out_boxes,
    part_pad,
    parts,
    promotes,
    right_rows,
    shared_bytes,
    staging_bytes,
    sums_in_cluster,
)

Config = Mapping[str, Any]


def derived(c: Config, w: Workload, device: Device, problem: Problem, mn_major: Mapping[str, bool]) -> dict[str, Any]:
    """Everything that the parts ask of ``g``: operands and instructions, units of work, output, sum of a split K."""
    a, b = (operand(name, c, w.dtype, mn_major[name]) for name in ("a", "b"))
    to = target(c, w, problem)
    columns, ldc = (problem.n, problem.ldc) if to is w else (to.n, to.n)
    return {
        **_multiplication(c, w, a, b),
        **_work(c, device, problem, columns),
        **_output(c, problem, to, columns, ldc, c["stages"] * (a.bytes + b.bytes)),
        "c": c,
        "shared": shared_bytes(c, a.itemsize, ITEMSIZE[to.out_dtype]),
        "per_unit": False,
        "n_total": problem.n,
        "out_ld": problem.ldc,
        "ld_partial": to.n if parts(c) > 1 else 0,
        "sum_vector": 4 if problem.n % 4 == 0 and problem.ldc % 4 == 0 else 1,
        "sum_threads": SUM_THREADS,
        "sum_wide": problem.batch * problem.m * problem.ldc >= 2**31,
        "scale_parameters": "",
    }


def _multiplication(c: Config, w: Workload, a: Operand, b: Operand) -> dict[str, Any]:
    """The operands, how they are loaded, and the instructions that multiply them."""
    types, instruction_k = instruction(w.dtype)
    left, right = (b, a) if c["swap_ab"] else (a, b)
    narrow, rank, hint = right_rows(c), 3 if w.batch > 1 else 2, c["l2_keep"] != "both"
    return {
        "a": a,
        "b": b,
        "left": left.name,
        "right": right.name,
        "swap": bool(c["swap_ab"]),
        "rank": rank,
        "hint": hint,
        "loads": [(rank, shared, False, hint) for shared in sorted({a.share > 1, b.share > 1})],
        "b_peers": sum(1 << i * c["cluster_n"] for i in range(c["cluster_m"])),
        "mt": blocks_of_64(c),
        "n": narrow,
        "shape": f"m64n{narrow}k{instruction_k}",
        "types": types,
        "acc": "int" if w.dtype == "int8" else "float",
        "transpose": (int(left.mn_major), int(right.mn_major)) if a.itemsize == 2 else None,
        "k_steps": c["block_k"] // instruction_k,
        "promote": PROMOTED_K // c["block_k"] if promotes(w) else 0,
        "promote_k": PROMOTED_K,
        "block_scales": w.scales == "block128",
    }


def _work(c: Config, device: Device, p: Problem, n: int) -> dict[str, Any]:
    """The tiles of an output of ``n`` columns, who works on them, and over which slices of K."""
    rows, columns = c["block_m"] * c["cluster_m"], c["block_n"] * c["cluster_n"]
    tiles = ceil_div(p.m, rows), ceil_div(n, columns)
    units, k_tiles = tiles[0] * tiles[1] * parts(c) * p.batch, p.k_tiles(c)
    launched, cluster, peers = clusters(c, units, device), cluster_size(c), c["cluster_m"] * c["cluster_n"]
    pingpong, split = c["schedule"] == "pingpong", c["split_k"] > 1
    readers = " that reads the slot, in each block of the cluster" if peers > 1 else ""
    if pingpong and peers == 1:
        readers = ": a slot belongs to one of them"
    return {
        "m": p.m,
        "batch": p.batch,
        "rows": p.m,
        "columns": n,
        "ragged_m": p.m % rows != 0,
        "ragged_n": n % columns != 0,
        "cluster_tiles_m": tiles[0],
        "cluster_tiles_n": tiles[1],
        "tiles_in_cluster_units": tiles[0] * tiles[1],
        "units": units,
        "clusters": launched,
        "single_unit": launched == units and not pingpong,
        "stride": "CLUSTERS" if cluster > 1 else "BLOCKS",
        "cluster": cluster,
        "peers": peers,
        "pingpong": pingpong,
        "consumers": c["consumers"],
        "threads": 128 * (c["consumers"] + 1),
        "consumer_registers": consumer_registers(c, device),
        "releases": (1 if pingpong else c["consumers"]) * peers,
        "releases_comment": f"one for each consumer{readers}",
        "k_tiles": k_tiles,
        "split_k": c["split_k"],
        "first": "unit.first" if split else "0",
        "last": "unit.last" if split else "SLICES",
        "other_slices": "other.last - other.first" if split else "SLICES",
        "partial": parts(c) > 1,
        "cluster_sum": sums_in_cluster(c),
        "part_pad": part_pad(c),
    }


def _output(c: Config, p: Problem, to: Any, n: int, ldc: int, ring: int) -> dict[str, Any]:
    """How sums leave for an output of ``n`` columns in rows of ``ldc``; the ring takes ``ring`` bytes before them.

    ``to`` is the workload whose epilogue the main kernel applies, for each matrix of the batch and part of K.
    """
    item, tma, outputs = ITEMSIZE[to.out_dtype], c["epilogue"] != "direct", p.batch * parts(c)
    width, staged, several = box_bytes(c, item), staging_bytes(c, item), c["consumers"] > 1
    names = {op.name for op in to.ops}
    reads_matrix = to.beta != "0" or "residual" in names
    reads_vector = bool(names & {"bias", "row_bias", "scale"}) or to.scales == "row_col"
    ragged = p.m % (c["block_m"] * c["cluster_m"]) or n % (c["block_n"] * c["cluster_n"])
    widest = 4 if sums_in_cluster(c) else 1 if c["swap_ab"] else 2
    return {
        "tile_workload": to,
        "ldc": ldc,
        "outputs": outputs,
        "out_rank": 3 if outputs > 1 else 2,
        "out_bytes": item,
        "store": "tma" if tma else "direct",
        "boxes": out_boxes(c, item) if tma else 0,
        "buffers": buffers(c, item) if tma else 0,
        "box_bytes": width,
        "box_rows": right_rows(c) if c["swap_ab"] else 64,
        "box_columns": width // item,
        "stmatrix": item == 2,
        "vector": widest if n % widest == 0 and ldc % widest == 0 else 1,
        "wide": outputs * p.m * ldc >= 2**31,
        "reads_at": not tma or reads_matrix,
        "guarded": (reads_matrix or reads_vector) and bool(ragged),
        "split_rows": several and c["schedule"] != "pingpong",
        "consumer_rows": 64 * blocks_of_64(c),
        "split_out": tma and several,
        "out_bytes_each": staged // c["consumers"],
        "out_offset": ring,
        "barrier_offset": ring + staged,
    }


def about(c: Mapping[str, Any], g: Mapping[str, Any]) -> list[str]:
    """The comment at the head of a source: how this variant works, one line each."""
    who = {1: "warpgroup 1 multiplies", 2: "warpgroups 1 and 2 multiply", 3: "warpgroups 1 to 3 multiply"}
    lines = [
        f"Warpgroup 0 copies tiles into a ring of {c['stages']} slots (TMA), {who[c['consumers']]} (wgmma).",
        "Two barriers for each slot: full counts the bytes that arrived, empty the consumers that are done with it.",
    ]
    if g["pingpong"]:
        lines.append("Each consumer has every other tile to itself, so one stores its tile while the other multiplies.")
    if g["peers"] > 1:
        shared = [f"{g[x.lower()].share} blocks share a tile of {x}" for x in "AB" if g[x.lower()].share > 1]
        lines.append(f"In a cluster, {' and '.join(shared)}: each reads a slice and multicasts it, which")
        lines.append("saves reads of L2, and with them power.")
    if not g["single_unit"]:
        residents = f"{g['clusters']} {'clusters' if g['cluster'] > 1 else 'blocks'}"
        lines.append(f"{residents} stay resident and walk over {g['units']} units of work.")
    if g["swap"]:
        lines.append("Computed transposed: the 64 rows of a wgmma run along n, so that a short m leaves none empty.")
    if g["cluster_sum"]:
        lines.append(
            f"The {c['split_k']} blocks of a cluster each multiply a part of K; they leave their sums in shared"
        )
        lines.append("memory, and each adds up a share of the tile, the parts in order, so results repeat.")
    elif c["split_k"] > 1:
        lines.append(f"K is split into {c['split_k']} parts; sum_parts adds them in order, so results repeat.")
    return lines
