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
LATER = ("conv2d_dgrad_simt", "conv2d_wgrad_simt")
"""Families that were added after the golden outputs were recorded."""
TEXTS = {
    "every slice has": "every part has",
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
