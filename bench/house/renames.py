"""Knobs and values that were renamed after the golden outputs were recorded, and how to go from either to the other.

Cases, configs and texts keep the names of their recording: a case is translated before it is used, what comes of it
before it is compared. Adapt ``KNOBS`` with every rename.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from bench.house.golden_parts import digest

Values = Mapping[Any, Any]
_RASTER: Values = {"pixels": "n", "channels": "m"}
_SIMT: dict[str, tuple[str, Values]] = {"group_m": ("raster_group", {})}
_MMA: dict[str, tuple[str, Values]] = {
    "reduction": ("reduction", {"turnstile": "serial", "last_block": "last_arrival"}),
    "persistent": ("grid", {False: "one_per_tile", True: "all"}),
}
_GRID: Values = {
    "sixteens": "multiple_of_16",
    "fewest": "min_waves",
    "resident": "co_resident",
    "units": "one_per_tile",
}
_WGMMA: dict[str, tuple[str, Values]] = {
    "grid": ("grid", _GRID),
    "reduction": ("reduction", {"kernel": "workspace"}),
    "epilogue": ("epilogue_store", {"narrow_ring": "staged_narrow", "ring": "staged", "full": "staged_tile"}),
}
KNOBS: dict[str, dict[str, tuple[str, Values]]] = {
    "matmul_simt": _SIMT,
    "matmul_wgmma": _WGMMA,
    "conv2d_igemm_wgmma": _WGMMA,
    "matmul_mma": _MMA,
    "conv2d_igemm_mma": _MMA,
    "conv2d_winograd": _MMA,
    "conv2d_direct": {"split_c": ("split_k", {}), "raster": ("raster_along", _RASTER)},
    "conv2d_depthwise": {"raster": ("raster_along", _RASTER)},
    "conv2d_winograd_simt": _SIMT,
}
"""By family and old name: the new name, and new values by old ones."""
ADDED: dict[str, dict[str, Any]] = {
    name: {"copy_schedule": "together"} for name in ("matmul_mma", "conv2d_igemm_mma", "conv2d_winograd")
}
"""By family: knobs that were added since, and the value that means what was done before."""
LATER = tuple(f"conv2d_{d}_{kind}" for d in ("dgrad", "wgrad") for kind in ("simt", "mma", "depthwise", "wgmma"))
"""Families that were added after the golden outputs were recorded."""
TEXTS = {
    "every slice has": "every part has",
    "a group has no more rows": "a band of the raster has no more rows",
    "fit shared memory, over which the slices meet": "fit into shared memory, through which the slices are added",
    "a slice of K is one or two 128-byte spans": "a k tile is one or two swizzles of 128 bytes",
    "every part of K has at least one slice": "every part of K has at least one k tile",
    "is whole swizzle spans of at least": "is whole swizzles of at least",
    "lie in one group and slices of K are whole": "lie in one group and k tiles are whole",
    "resident differs from all for larger": "co_resident differs from all for larger",
    "split_c: every slice has channels": "split_k: every slice has channels",
    "turnstile_in_order: a turnstile waits": "serial_in_order: a serial sum waits",
    "so blocks must start in order: not persistent": "so blocks must start in order: grid is one_per_tile",
}
"""Words of constraints that changed, old to new."""
_SIMT_RULES = {
    "threads": "threads_fit",
    "warp_tile": "warp_tile_divides",
    "vector_out": "vector_out_aligned",
    "fragment": "fragment_fits",
    "shared_type": "shared_type_useful",
    "copies": "copies_fit",
    "code_size": "code_fits",
    "accumulators": "accumulators_fit",
    "registers": "registers_fit",
    "min_blocks_threads": "min_blocks_threads_fit",
    "min_blocks_shared": "min_blocks_shared_fit",
    "group": "raster_useful",
    "grid": "grid_fits",
    "vector_a": "vector_a_aligned",
    "vector_b": "vector_b_aligned",
    "cp_async_a": "cp_async_a_supported",
    "cp_async_b": "cp_async_b_supported",
    "shared_memory": "shared_memory_fits",
    "interleave_m": "interleave_m_divides",
    "interleave_n": "interleave_n_divides",
    "split_k": "split_k_fits",
}
_MMA_RULES = {
    "warps": "warps_fit",
    "warp_tile": "warp_tile_fits",
    "slices_divide_k": "slice_k_divides",
    "buffers_need_steps": "fragment_buffers_useful",
    "resident_threads": "min_blocks_threads_fit",
    "registers": "registers_fit",
    "staging": "staging_fits",
    "block_k_bytes": "block_k_legal",
    "workspace": "workspace_fits",
    "grid": "grid_fits",
    "serial_in_order": "serial_legal",
    "copy_width": "copy_bytes_aligned",
    "prefetch_needs_copies": "prefetch_bytes_useful",
    "direct_epilogue": "direct_store_fits",
    "epilogue_of_parts": "epilogue_store_legal",
    "split_useful": "split_k_fits",
}
_WGMMA_RULES = {
    "wgmma_left": "left_rows_legal",
    "wgmma_right": "right_rows_legal",
    "box_rows": "box_rows_fit",
    "pingpong_pair": "schedule_legal",
    "block_k_spans": "block_k_legal",
    "cluster_size": "cluster_fits",
    "cluster_sum": "cluster_legal",
    "grid_resident": "grid_useful",
    "multicast_slices": "multicast_aligned",
    "setmaxnreg": "producer_registers_fit",
    "instruction_registers": "instruction_registers_fit",
    "accumulators": "accumulators_fit",
    "promotion": "promotion_divides",
    "block_scale_tiles": "block_scales_legal",
    "swap_short_m": "swap_ab_useful",
    "split_has_work": "split_k_fits",
    "split_few_tiles": "split_k_useful",
    "part_in_ring": "part_fits",
    "tma_store": "epilogue_store_legal",
    "shared_memory": "shared_memory_fits",
}
_WINOGRAD_RULES = {
    "input_alignment": "channels_aligned",
    "output_alignment": "filters_aligned",
    "registers": "input_registers_fit",
    "output_registers": "output_registers_fit",
    "pretransformed_tile": "tile_legal",
    "rounding": "rounding_legal",
    "workspace": "workspace_fits",
}
_SHARED_RULES = {
    "registers": "registers_fit",
    "min_blocks_threads": "min_blocks_threads_fit",
    "min_blocks_shared": "min_blocks_shared_fit",
    "raster": "raster_useful",
    "grid": "grid_fits",
}
_PRODUCT = "product_"
CONSTRAINTS: dict[str, dict[str, str]] = {
    "matmul_simt": _SIMT_RULES,
    "matmul_mma": _MMA_RULES,
    "matmul_wgmma": {**_WGMMA_RULES, "mn_major_span": "mn_major_aligned"},
    "conv2d_igemm_mma": {**_MMA_RULES, "pixels_per_thread": "pixels_fit"},
    "conv2d_igemm_wgmma": {**_WGMMA_RULES, "groups": "groups_legal"},
    "conv2d_winograd": {**_WINOGRAD_RULES, **{_PRODUCT + old: _PRODUCT + new for old, new in _MMA_RULES.items()}},
    "conv2d_winograd_simt": {**_WINOGRAD_RULES, **{_PRODUCT + old: _PRODUCT + new for old, new in _SIMT_RULES.items()}},
    "conv2d_direct": {
        **_SHARED_RULES,
        "threads": "threads_fit",
        "sums": "sums_fit",
        "columns": "columns_useful",
        "global_x": "shared_x_useful",
        "global_w": "shared_w_useful",
        "padding_w_words": "padding_w_aligned",
        "staged": "staging_useful",
        "vector_x": "vector_x_aligned",
        "vector_w": "vector_w_aligned",
        "vector_out": "vector_out_aligned",
        "cp_async_x": "cp_async_x_supported",
        "cp_async_w": "cp_async_w_supported",
        "unroll": "unroll_useful",
        "reuse_row": "reuse_row_legal",
        "code_size": "code_fits",
        "shared_memory": "shared_memory_fits",
        "fragment": "fragment_fits",
        "shared_type": "shared_type_useful",
        "split_k": "split_k_fits",
        "thread_k": "thread_k_divides",
        "thread_p": "thread_p_divides",
        "thread_q": "thread_q_divides",
        "fitting_k": "block_k_useful",
        "fitting_p": "block_p_useful",
        "fitting_q": "block_q_useful",
        "fitting_c": "block_c_useful",
    },
    "conv2d_depthwise": {
        **_SHARED_RULES,
        "threads": "threads_fit",
        "vector_width": "vector_width_aligned",
        "fitting_c": "block_c_useful",
        "code_size": "code_fits",
        "shared_memory": "shared_memory_fits",
        "fitting_p": "block_p_useful",
        "fitting_q": "block_q_useful",
    },
}
"""Names of constraints by family, new by old."""
_STAGES = {"read_stage": "now", "write_stage": "free"}
_WGMMA_NAMES = {
    "stage": "slot",
    "a_stage": "a_slot",
    "b_stage": "b_slot",
    "K_TILES": "SLICES",
    "k_tile": "k",
    "skipped": "slices",
    "k_block": "kk",
    "WorkTile": "Unit",
    "work_tile": "unit",
    "work_tile_at": "unit_at",
    "WORK_TILES": "UNITS",
    "corner_m": "unit_m",
    "corner_n": "unit_n",
}
_MMA_NAMES = {"k_block": "step", "k_tile": "k", "work_tile": "unit"}
_SIMT_NAMES = {**_STAGES, "k_tile": "tile", "part": "slice"}
NAMES: dict[str, dict[str, str]] = {
    "matmul_simt": _SIMT_NAMES,
    "conv2d_winograd_simt": _SIMT_NAMES,
    "matmul_wgmma": _WGMMA_NAMES,
    "conv2d_igemm_wgmma": _WGMMA_NAMES,
    "matmul_mma": _MMA_NAMES,
    "conv2d_igemm_mma": _MMA_NAMES,
    "conv2d_winograd": _MMA_NAMES,
    "conv2d_direct": {**_STAGES, "k_tile": "step", "part": "slice"},
}
"""Identifiers of the device code that were renamed, by family, new to old."""
_TOKEN = re.compile(
    r'(?P<skip>//[^\n]*|/\*.*?\*/|\s+)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<name>[A-Za-z_]\w*)|(?P<other>\d[\w.]*|.)', re.S
)


def today(case: dict[str, Any]) -> dict[str, Any]:
    """A recorded case with today's knobs and values."""
    return {**case, "config": config_today(case["template"], case["config"])}


def config_today(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config in today's names; what no rename concerns stays."""
    table, found = KNOBS.get(family, {}), {}
    for name, value in config.items():
        new, values = table.get(name, (name, {}))
        found[new] = next((v for old, v in values.items() if _same(old, value)), value)
    return found | {k: v for k, v in ADDED.get(family, {}).items() if k not in found}


def config_recorded(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`config_today`."""
    back = {new: (old, values) for old, (new, values) in KNOBS.get(family, {}).items()}
    found = {}
    for name, value in config.items():
        if _same(value, ADDED.get(family, {}).get(name, ...)):
            continue
        old, values = back.get(name, (name, {}))
        found[old] = next((v for v, new in values.items() if _same(new, value)), value)
    return found


def key_recorded(key: str) -> str:
    """A candidate's key, which is the family's name and the config as JSON, in recorded names."""
    family, _, text = key.partition(" ")
    if family not in KNOBS or not text.startswith("{"):
        return key
    return f"{family} {config_key(config_recorded(family, json.loads(text)))}"


def config_key(config: Mapping[str, Any]) -> str:
    """The canonical text of a config."""
    return json.dumps(dict(config), sort_keys=True, separators=(",", ":"))


def text_recorded(family: str, text: str) -> str:
    """A message about a config in recorded names: knobs where they are called so, values in quotes."""
    for old, new in CONSTRAINTS.get(family, {}).items():
        text = re.sub(rf"(?<!\w){new}(?=: )", old, text)
    for before, after in TEXTS.items():
        text = text.replace(after, before)
    for old, (new, values) in KNOBS.get(family, {}).items():
        text = re.sub(rf"(?<=knob ){new}\b|(?<=[ ,]){new}(?=[,)])", old, text)
        for before, after in values.items():
            text = text.replace(repr(after), repr(before))
    for name in ADDED.get(family, {}):
        text = re.sub(rf", {name}(?=[,)])", "", text)  # in a list of all knobs
    return text


def tokens_recorded(source: str, family: str) -> str:
    """16 hex digits of a CUDA source without comments and white space, identifiers in recorded names.

    A digest equal to a recorded one means the same tokens, and so the same code; a name that is used for two things
    makes it another one.
    """
    found, names = [], NAMES.get(family, {})
    for match in _TOKEN.finditer(source):
        kind, text = match.lastgroup, match[0]
        if kind == "text":
            found.append(text)
        elif kind == "name":
            found.append(names.get(text, text))
        elif kind == "other":
            found.append(text)
    return digest("\n".join(found))[:16]


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)
