"""The geometry of a wgmma kernel: everything its parts ask of ``g``. The words are those of :mod:`.hopper`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....cuda.device import Device
from ....workload import ITEMSIZE
from .tiles import (
    PROMOTED_K,
    blocks_of_64,
    box_bytes,
    cluster_size,
    clusters,
    consumer_registers,
    instruction,
    operand,
    out_boxes,
    part_pad,
    parts,
    right_rows,
    shared_bytes,
    staging_bytes,
    sums_in_cluster,
)


def geometry(
    c: Mapping[str, Any],
    device: Device,
    *,
    m: int,
    n: int,
    k_tiles: int,
    batch: int,
    dtype: str,
    mn_major: Mapping[str, bool],
    ldc: int,
    target: Any,
    promoted: bool,
    block_scales: bool,
) -> dict[str, Any]:
    """Everything the parts ask of ``g``.

    ``target`` is the workload whose epilogue the main kernel applies to ``m`` x ``n`` outputs in rows of ``ldc``, once
    for each matrix of the batch and part of K. ``k_tiles`` slices of K make one sum.
    """
    types, instruction_k = instruction(dtype)
    a, b = (operand(name, c, dtype, mn_major[name]) for name in ("a", "b"))
    swap, pingpong = bool(c["swap_ab"]), c["schedule"] == "pingpong"
    left, right = (b, a) if swap else (a, b)
    cluster, peers, together = cluster_size(c), c["cluster_m"] * c["cluster_n"], sums_in_cluster(c)
    tiles = (-(-m // (c["block_m"] * c["cluster_m"])), -(-n // (c["block_n"] * c["cluster_n"])))
    units = tiles[0] * tiles[1] * parts(c) * batch
    out_bytes = ITEMSIZE[target.out_dtype]
    mt, narrow, width = blocks_of_64(c), right_rows(c), box_bytes(c, out_bytes)
    store = "direct" if c["epilogue"] == "direct" else "tma"
    boxes = out_boxes(c, out_bytes) if store == "tma" else 0
    buffers = boxes if c["epilogue"] == "full" else min(2, boxes)
    box_rows = narrow if swap else 64
    names = {op.name for op in target.ops}
    reads_matrix = target.beta != "0" or "residual" in names
    ragged = {
        "ragged_m": m % (c["block_m"] * c["cluster_m"]) != 0,
        "ragged_n": n % (c["block_n"] * c["cluster_n"]) != 0,
    }
    reads_vector = bool(names & {"bias", "row_bias", "scale"}) or target.scales == "row_col"
    ring = c["stages"] * (a.bytes + b.bytes)
    staged = staging_bytes(c, out_bytes)
    releases = (1 if pingpong else c["consumers"]) * peers
    outputs = batch * parts(c)
    if together:
        vector = 4 if n % 4 == 0 and ldc % 4 == 0 else 1
    else:
        vector = 2 if not swap and n % 2 == 0 and ldc % 2 == 0 else 1
    single = clusters(c, units, device) == units and not pingpong
    split = c["split_k"] > 1
    hint = c["l2_keep"] != "both"
    return dict(
        ragged,
        c=c,
        m=m,
        batch=batch,
        rows=m,
        columns=n,
        ldc=ldc,
        per_unit=False,
        loads=[
            (3 if batch > 1 else 2, multicast, False, hint)
            for multicast in (False, True)
            if multicast in (a.share > 1, b.share > 1)
        ],
        hint=hint,
        a=a,
        b=b,
        left=left.name,
        right=right.name,
        swap=swap,
        pingpong=pingpong,
        consumers=c["consumers"],
        mt=mt,
        n=narrow,
        shape=f"m64n{narrow}k{instruction_k}",
        types=types,
        acc="int" if dtype == "int8" else "float",
        transpose=(int(left.mn_major), int(right.mn_major)) if ITEMSIZE[dtype] == 2 else None,
        k_steps=c["block_k"] // instruction_k,
        cluster=cluster,
        peers=peers,
        partial=parts(c) > 1,
        cluster_sum=together,
        part_pad=part_pad(c),
        threads=128 * (c["consumers"] + 1),
        units=units,
        clusters=clusters(c, units, device),
        single_unit=single,
        stride="CLUSTERS" if cluster > 1 else "BLOCKS",
        cluster_tiles_m=tiles[0],
        cluster_tiles_n=tiles[1],
        tiles_in_cluster_units=tiles[0] * tiles[1],
        rank=3 if batch > 1 else 2,
        out_rank=3 if outputs > 1 else 2,
        outputs=outputs,
        store=store,
        boxes=boxes,
        buffers=buffers,
        box_bytes=width,
        box_rows=box_rows,
        box_columns=width // out_bytes if width else 0,
        stmatrix=out_bytes == 2,
        out_bytes=out_bytes,
        vector=vector,
        wide=outputs * m * ldc >= 2**31,
        reads_at=store == "direct" or reads_matrix,
        guarded=(reads_matrix or reads_vector) and any(ragged.values()),
        split_rows=c["consumers"] > 1 and not pingpong,
        consumer_rows=64 * mt,
        split_out=store == "tma" and c["consumers"] > 1,
        out_bytes_each=staged // c["consumers"],
        out_offset=ring,
        barrier_offset=ring + staged,
        releases=releases,
        releases_comment="one for each consumer"
        + (
            " that reads the slot, in each block of the cluster"
            if peers > 1
            else ": a slot belongs to one of them"
            if pingpong
            else ""
        ),
        consumer_registers=consumer_registers(c, device),
        b_peers=sum(1 << i * c["cluster_n"] for i in range(c["cluster_m"])),
        k_tiles=k_tiles,
        first="unit.first" if split else "0",
        last="unit.last" if split else "SLICES",
        other_slices="other.last - other.first" if split else "SLICES",
        split_k=c["split_k"],
        promote=PROMOTED_K // c["block_k"] if promoted else 0,
        promote_k=PROMOTED_K,
        block_scales=block_scales,
        shared=shared_bytes(c, a.itemsize, out_bytes),
        tile_workload=target,
    )


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
