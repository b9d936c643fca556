"""Kernel families: one ``.cu.j2`` and the declaration beside it. ``parts/`` is the device library they share."""

from .base import Estimate, Numerics, Template, registry, render, supporting, variables

__all__ = ["Estimate", "Numerics", "Template", "registry", "render", "supporting", "variables"]
