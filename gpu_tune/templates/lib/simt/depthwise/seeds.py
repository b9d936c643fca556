"""Where a search over a depthwise family starts: thread tiles in the order of preference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .....cuda.device import Device
from .....space.knob import Config
from ....base import Template
from ...common import ceil_div
from ...knobs import WGRAD_SPLIT_K
from . import tiles as tile


def _threads(w: Any, v: int, p: int, q: int) -> tuple[int, int, int]:
    """Threads of a block along channels, rows and columns, for tiles of p x q pixels and vectors of v."""
    rows, columns = tile.pixels(w)
    if w.layout == "nhwc":
        tc = max(t for t in (1, 2, 4, 8, 16, 32) if t == 1 or t * v < 2 * w.k)
        tq = max(t for t in (1, 2, 4, 8, 16, 32) if t * tc <= 128 and (t * q < 2 * columns or t * q <= 32))
    else:
        tq = max(t for t in (1, 2, 4, 8, 16, 32) if t * q < 2 * columns or t * q <= 8)
        tc = 1
    tp = max(t for t in (1, 2, 4, 8) if t * tc * tq <= 128 and (t == 1 or t * p < 2 * rows))
    while w.layout != "nhwc" and tc * tp * tq < 64 and tc < 64 and 2 * tc < 2 * w.k:
        tc *= 2
    return tc, tp, tq


def _choices(w: Any, widths: tuple[int, ...], more: list[dict[str, Any]], last: dict[str, Any]) -> list[dict[str, Any]]:
    """Thread tiles of vectors of each of ``widths`` in the order of preference, spread over a block, with each of
    ``more``; the last ones, with ``last``, fit every supported filter."""
    made = []
    for v in widths:
        for p, q in ((4, 4), (2, 4), (2, 2), (1, 4), (1, 2), (1, 1)):
            tc, tp, tq = _threads(w, v, p, q)
            common = dict(thread_p=p, thread_q=q, threads_c=tc, threads_p=tp, threads_q=tq, vector_width=v)
            made += [{**common, **choice} for choice in more]
    single: dict[str, Any] = dict(thread_p=1, thread_q=1, threads_p=1, vector_width=1, **last)
    return made + [dict(single, threads_c=tc, threads_q=tq) for tc, tq in ((1, 32), (32, 1), (1, 128))]


def _image_choices(w: Any) -> list[dict[str, Any]]:
    places = [dict(filters=filters, raster_along="n", min_blocks=1) for filters in ("registers", "shared", "memory")]
    return _choices(w, (4, 2, 8, 1) if w.direction == "dgrad" else (8, 4, 2, 1), places, places[-1])


def default(workload: Any, device: Device, template: Template) -> Config:
    """The first preferred tile that keeps every constraint, keeps all SMs busy and leaves registers for 16 warps an SM
    (in a dgrad, whose pixels of one load are used more often, for 12).

    Memory is the limit, and only many loads in flight reach it: a smaller tile with more warps beats one that reuses
    more, as long as L1 serves what tiles read twice: up to six loads an output.
    """

    def light(c: Mapping[str, Any]) -> bool:
        loads: float = math.prod(tile.window(c, workload)) / math.prod(tile.results(c, workload))
        return loads <= 6 and tile.registers(c, workload) <= device.registers_per_sm // (warps * 32)

    warps = 12 if workload.direction == "dgrad" else 16
    valid = [c for c in map(Config, _image_choices(workload)) if not template.violations(c, workload, device)]
    busy = [c for c in valid if math.prod(tile.tiles(c, workload)) * workload.n >= device.sm_count]
    return next((c for c in busy if light(c)), (busy or valid)[0])


def seeds(workload: Any, device: Device, template: Template) -> list[Config]:
    """Every preferred tile with its filter in registers."""
    chosen = [
        Config(c) for c in _image_choices(workload) if c["filters"] == "registers" and c["thread_p"] * c["thread_q"] > 1
    ]
    return [c for c in dict.fromkeys(chosen) if not template.violations(c, workload, device)][:6]


def filter_default(workload: Any, device: Device, template: Template) -> Config:
    """As :func:`default`, for a gradient of filters: pixels are split so that blocks fill the chip evenly,
    and at most 36 loads of x are in flight."""
    valid = _filter_choices(workload, device, template)

    def light(c: Mapping[str, Any]) -> bool:
        few = math.prod(tile.window(c, workload)) <= 36
        return few and tile.registers(c, workload) <= device.registers_per_sm // (16 * 32)

    return next((c for c in valid if light(c)), valid[0])


def filter_seeds(workload: Any, device: Device, template: Template) -> list[Config]:
    """Every preferred tile."""
    single = {"thread_p": 1, "thread_q": 1}
    chosen = [c for c in _filter_choices(workload, device, template) if not single.items() <= c.items()]
    return list(dict.fromkeys(chosen))[:6]


def _filter_choices(w: Any, device: Device, template: Template) -> list[Config]:
    """The valid choices, the widest tiles of 4 bytes of channels first, each with as many parts as fill the chip."""
    widths = (4, 2, 8, 1) if w.dtype == "int8" else (2, 4, 1, 8)
    found = [_split(c, w, device) for c in _choices(w, widths, [dict(min_blocks=1)], dict(min_blocks=1))]
    return [c for c in found if not template.violations(c, w, device)]


def _split(c: Mapping[str, Any], w: Any, device: Device) -> Config:
    """``c`` with the parts that take the fewest tiles of pixels one after the other, over all waves of blocks.

    A block starts and adds its sums in about the time of two tiles.
    """
    threads, blocks = tile.threads(c), tile.tiles(c, w)[0]
    resident = max(
        1, min(device.registers_per_sm // (tile.registers(c, w) * threads), device.threads_per_sm // threads)
    )

    def tiles_in_turn(parts: int) -> int:
        waves = ceil_div(parts * blocks, device.sm_count * resident)
        return int((ceil_div(tile.steps(c, w), parts) + 2) * waves)

    fitting = [
        v for v in WGRAD_SPLIT_K.values if isinstance(v, int) and tile.split_fits({**c, "split_k": v}, w, device)
    ]
    return Config({**c, "split_k": min(fitting, key=tiles_in_turn)})
