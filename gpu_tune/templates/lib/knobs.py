"""Knobs that several families have: one name, one meaning and one list of values, so that what is learned of one family
is true of the next. A family that cannot honour a value says so in a constraint of that knob alone (:func:`only`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...cuda.device import Device
from ...plan.size import ceil_div, least
from ...space.knob import Constraint, Knob, Value

STAGES = Knob("stages", (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), "k tiles in shared memory at once")
RASTER_GROUP = Knob("raster_group", (1, 2, 4, 8, 16, 32), "tiles that a band of the raster is wide, for reuse in L2")
RASTER_ALONG = Knob(
    "raster_along",
    ("m", "n"),
    "direction in which the raster advances last; of a convolution m are pixels and n channels",
    ordinal=False,
)
GRID = Knob(
    "grid",
    ("one_per_tile", "all", "multiple_of_16", "co_resident", "min_waves", "split_tail"),
    "blocks: one for every tile; or as many as run at once, the same in multiples of 16, as many as surely run at once "
    "in clusters, or the fewest that need as many waves, each walking over several tiles; split_tail: as many as run "
    "at once, which split the K of the tiles beyond whole waves alone",
    ordinal=False,
)
SPLIT_K = Knob(
    "split_k", (1, 2, 3, 4, 6, 8, 12, 16, 24, 32), "blocks that share an output tile, each with its part of K"
)
WGRAD_SPLIT_K = replace(SPLIT_K, values=(*SPLIT_K.values, 48, 64, 96, 128, 192, 256, 384, 512))
"""Of a gradient of filters, which sums over all pixels for few results: more parts than other products can use."""
REDUCTION = Knob(
    "reduction",
    ("workspace", "serial", "last_arrival", "atomic", "cluster"),
    "who adds the parts of a split K: a second kernel, block after block, the block that arrives last, atomics, or "
    "each block of a cluster a share of the tile",
    ordinal=False,
)
EPILOGUE_STORE = Knob(
    "epilogue_store",
    ("direct", "staged", "staged_narrow", "staged_tile", "staged_shared"),
    "results leave from registers, or through shared memory: in rows (of 128 bytes where the copy engine stores them), "
    "in rows of 64 bytes, the whole tile at once, or in rows that consumers with tiles of their own share, in turns",
    ordinal=False,
)
MIN_BLOCKS = Knob(
    "min_blocks", (0, 1, 2, 3, 4, 6, 8), "blocks per SM that the compiler must leave registers for (0: no demand)"
)
SHARED = {k.name: k for k in (STAGES, RASTER_GROUP, RASTER_ALONG, GRID, SPLIT_K, REDUCTION, EPILOGUE_STORE, MIN_BLOCKS)}
"""All of them by name."""
KINDS = {
    "permitted": "the workload permits it",
    "supported": "the family or the chip has it",
    "legal": "these values go together",
    "aligned": "accesses are as aligned as they are wide",
    "divides": "a size divides another",
    "fits": "a resource holds what is asked of it",
    "useful": "no smaller or simpler config does the same",
}
"""The last word of a constraint's name, and what such a constraint says. ("divide" and "fit" after a plural.)"""
FREE_STAGES = 6
"""Stages that :func:`stages_useful` takes without asking for as many k tiles."""


def only(knob: Knob, values: tuple[Value, ...], why: str) -> Constraint:
    """The values of a shared knob that a family can honour."""
    return Constraint(f"{knob.name}_supported", (knob.name,), lambda c, w, d: c[knob.name] in values, why)


def stages_useful(block: str, k_tiles: Callable[[Mapping[str, Any], Any], int]) -> Constraint:
    """More than a few stages want as many k tiles; ``k_tiles`` counts those of a part, ``block`` is their depth."""
    return Constraint(
        "stages_useful",
        (block, "stages", "split_k"),
        lambda c, w, d: c["stages"] <= max(FREE_STAGES, k_tiles(c, w)),
        f"more than {FREE_STAGES} stages need as many k tiles",
    )


def used_sms(grid: Value, device: Device) -> int:
    """SMs that a ``grid`` of blocks that walk over several tiles uses."""
    sms = device.sm_count
    return sms // 16 * 16 if grid == "multiple_of_16" and sms > 16 else sms


def blocks(grid: Value, tiles: Any, places: int) -> Any:
    """Blocks of a ``grid`` over so many ``tiles``, of which ``places`` run at once; an expression where tiles are."""
    if grid == "one_per_tile":
        return tiles
    return ceil_div(tiles, ceil_div(tiles, places)) if grid == "min_waves" else least(tiles, places)
