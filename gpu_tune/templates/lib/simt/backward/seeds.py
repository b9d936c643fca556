"""Where a search over the gradients starts: tiles by the size of the product, completed for the workload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .....cuda.device import Device
from .....space.knob import Config
from ....base import Template
from ..tiles import widest
from . import tiles as tile
from .constraints import VECTOR_A, VECTOR_B, split_fits, vector_out


def complete(w: Any, device: Device, **chosen: Any) -> Config:
    """A config from the main choices: the widest legal copies, the next tile in registers, short loops unrolled."""
    c: dict[str, Any] = dict(stages=2, lanes="n", raster_group=1, split_k=1, min_blocks=1)
    c.update(chosen)
    for x, constraint in (("a", VECTOR_A), ("b", VECTOR_B)):
        knob = f"vector_width_{x}"
        c[knob] = widest(lambda v: constraint.holds({**c, knob: v}, w, device))  # noqa: B023 - called at once
        # what arrives along the depth is turned: padding keeps its stores off one bank
        c.setdefault(f"padding_{x}", 4 if tile.along_depth(w, x) else 0)
    c["vector_width_out"] = widest(lambda v: vector_out({**c, "vector_width_out": v}, w), (1, 2, 4))
    deepest = max(1, min(c["block_k"], 512 // tile.sums(c)))
    c.setdefault("unroll", max(u for u in (1, 2, 4, 8, 16) if u <= deepest))
    if (w.direction, w.layout) == ("dgrad", "nchw") and c["block_m"] > c["thread_m"] and c["block_n"] > c["thread_n"]:
        c["lanes"] = "m"  # pixels are neighbours in memory
    return Config(c)


def _choices(w: Any) -> Iterator[dict[str, int]]:
    """Tiles in the order of preference, the largest first; the last one fits every workload."""
    rows, columns = tile.extents(w)
    for m, n, thread_m, thread_n in (
        (128, 128, 8, 8),
        (128, 64, 8, 4),
        (64, 64, 4, 4),
        (32, 64, 4, 4),
        (64, 32, 4, 4),
        (32, 32, 2, 4),
        (128, 16, 4, 4),
        (64, 8, 4, 2),
        (16, 64, 4, 4),
        (8, 64, 2, 4),
        *([(64, 1, 1, 1)] if columns <= 2 else []),
        *([(1, 32, 1, 1)] if rows <= 2 else []),
    ):
        for block_k in (16, 8, 4):
            yield dict(block_m=m, block_n=n, block_k=block_k, thread_m=thread_m, thread_n=thread_n)
    yield dict(block_m=16, block_n=16, block_k=4, thread_m=2, thread_n=2)


def _waste(c: Mapping[str, Any], w: Any) -> float:
    """What the tiles compute over what the product has."""
    (rows, columns), (down, across) = tile.extents(w), tile.tiles(c, w)
    return float(down * c["block_m"] * across * c["block_n"] / (rows * columns))


def default(workload: Any, device: Device, template: Template) -> Config:
    """The largest tile that wastes little and fills the chip, the depth split where too few blocks would run."""
    valid = [
        config
        for choice in _choices(workload)
        if not template.violations(config := complete(workload, device, **choice), workload, device)
    ]
    least = min(_waste(c, workload) for c in valid)
    lean = [c for c in valid if _waste(c, workload) <= 1.5 * least]
    found = next((c for c in lean if tile.grid(c, workload) * _parts(c, workload) >= 2 * device.sm_count), lean[0])
    return _split(found, workload, device, template)


def _parts(c: Config, w: Any) -> int:
    """Parts of the depth that are long enough to be worth a second kernel."""
    return max(1, min(512 if w.direction == "wgrad" else 32, tile.steps(c, w) // 16))


def _split(c: Config, w: Any, device: Device, template: Template) -> Config:
    """``c`` with as many parts as fill the chip twice."""
    wanted = min(_parts(c, w), 2 * device.sm_count // tile.grid(c, w))
    values = [v for v in template.knob["split_k"].values if isinstance(v, int) and v <= max(1, wanted)]
    fitting = (c.replace(split_k=v) for v in sorted(values, reverse=True))
    return next(s for s in fitting if split_fits(s, w, device) and not template.violations(s, w, device))


def seeds(workload: Any, device: Device, template: Template) -> list[Config]:
    """Larger and smaller tiles than the default's, one of them without the next tile in registers."""
    common: list[dict[str, Any]] = [
        dict(block_m=128, block_n=128, block_k=8, thread_m=8, thread_n=8, raster_group=4),
        dict(block_m=128, block_n=64, block_k=16, thread_m=8, thread_n=8),
        dict(block_m=64, block_n=128, block_k=16, thread_m=8, thread_n=8, stages=1),
        dict(block_m=64, block_n=64, block_k=16, thread_m=4, thread_n=4),
        dict(block_m=32, block_n=32, block_k=32, thread_m=2, thread_n=4),
    ]
    made = [_safe(complete(workload, device, **choice), workload, device, template) for choice in common]
    return [c for c in dict.fromkeys(made) if not template.violations(c, workload, device)]


def _safe(c: Config, w: Any, device: Device, template: Template) -> Config:
    """``c`` with a raster group that its tiles allow, and split where it would leave the chip idle."""
    plain = c if not template.violations(c, w, device) else c.replace(raster_group=1)
    return plain if template.violations(plain, w, device) else _split(plain, w, device, template)
