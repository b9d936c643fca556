"""Where a search over a Winograd family starts: the inner product's default and seeds, completed by the transforms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....cuda.device import Device
from ....space.knob import Config
from ...base import Template
from .tiles import Inner, product


def complete(found: Mapping[str, Any], w: Any, device: Device, template: Template) -> Config | None:
    """A valid config around ``found``, one of the inner product; None when there is none."""
    for tile in (w.winograd_tile, 6 - w.winograd_tile):
        for channels in (4, 2, 1):
            for filters in (4, 2, 1):
                values = {**found, "tile": tile, "channels": channels, "filters": filters, "transform_threads": 128}
                config = Config({k.name: values[k.name] for k in template.knobs})
                if not template.violations(config, w, device):
                    return config
    return None


def default(w: Any, device: Device, template: Template, inner: Inner) -> Config:
    """The first seed; else around the inner families' fallback: one tile size must work for both transforms."""
    ranked = seeds(w, device, template, inner)
    config = ranked[0] if ranked else complete(inner.template.default(product(w, 2), device), w, device, template)
    assert config is not None, "supports() said that a config exists"
    return config


def seeds(w: Any, device: Device, template: Template, inner: Inner) -> list[Config]:
    """The inner product's default and seeds, its K unsplit."""
    inside = product(w, w.winograd_tile)
    ranked = [inner.template.default(inside, device), *inner.template.seeds(inside, device)]
    found = (complete({**c, "split_k": 1}, w, device, template) for c in ranked)
    return list(dict.fromkeys(c for c in found if c is not None))
