"""Where a search over conv2d_depthwise starts: thread tiles in the order of preference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .....cuda.device import Device
from .....space.knob import Config
from ....base import Template
from . import tiles as tile


def _choices(w: Any) -> list[dict[str, Any]]:
    """Thread tiles in the order of preference, spread over a block; the last ones fit every supported filter."""
    nhwc = w.layout == "nhwc"
    made = []
    for v in (8, 4, 2, 1):
        for p, q in ((4, 4), (2, 4), (2, 2), (1, 4), (1, 2), (1, 1)):
            if nhwc:
                tc = max(t for t in (1, 2, 4, 8, 16, 32) if t == 1 or t * v < 2 * w.k)
                tq = max(t for t in (1, 2, 4, 8, 16, 32) if t * tc <= 128 and (t * q < 2 * w.q or t * q <= 32))
            else:
                tq = max(t for t in (1, 2, 4, 8, 16, 32) if t * q < 2 * w.q or t * q <= 8)
                tc = 1
            tp = max(t for t in (1, 2, 4, 8) if t * tc * tq <= 128 and (t == 1 or t * p < 2 * w.p))
            while not nhwc and tc * tp * tq < 64 and tc < 64 and 2 * tc < 2 * w.k:
                tc *= 2
            for filters in ("registers", "shared", "memory"):
                made.append(
                    dict(
                        thread_p=p,
                        thread_q=q,
                        threads_c=tc,
                        threads_p=tp,
                        threads_q=tq,
                        vector_width=v,
                        filters=filters,
                    )
                )
    single: dict[str, Any] = dict(thread_p=1, thread_q=1, threads_p=1, vector_width=1, filters="memory")
    made += [dict(single, threads_c=tc, threads_q=tq) for tc, tq in ((1, 32), (32, 1), (1, 128))]
    return [dict(raster_along="n", min_blocks=1, **choice) for choice in made]


def default(workload: Any, device: Device, template: Template) -> Config:
    """The first preferred tile that keeps every constraint, keeps all SMs busy and leaves registers for 16 warps an SM.

    Memory is the limit, and only many loads in flight reach it: a smaller tile with more warps beats one that reuses
    more, as long as L1 serves what tiles read twice: up to six loads an output.
    """

    def light(c: Mapping[str, Any]) -> bool:
        loads: float = math.prod(tile.window(c, workload)) / (c["thread_p"] * c["thread_q"])
        return loads <= 6 and tile.registers(c, workload) <= device.registers_per_sm // (16 * 32)

    valid = [c for c in map(Config, _choices(workload)) if not template.violations(c, workload, device)]
    busy = [c for c in valid if math.prod(tile.tiles(c, workload)) * workload.n >= device.sm_count]
    return next((c for c in busy if light(c)), (busy or valid)[0])


def seeds(workload: Any, device: Device, template: Template) -> list[Config]:
    """Every preferred tile with its filter in registers."""
    chosen = [
        Config(c) for c in _choices(workload) if c["filters"] == "registers" and c["thread_p"] * c["thread_q"] > 1
    ]
    return [c for c in dict.fromkeys(chosen) if not template.violations(c, workload, device)][:6]
