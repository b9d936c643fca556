"""The declaration of a Winograd family around the matmul family that multiplies between its transforms."""

from __future__ import annotations

from ...base import Template
from . import launch, seeds
from .constraints import constraints, supports
from .derived import derived, numerics
from .tiles import KNOBS, Inner


def family(name: str, summary: str, inner: Inner) -> Template:
    """Knobs and constraints of the transforms and those of ``inner`` that are a choice here; the rest follows."""
    template = Template(
        name=name,
        op="conv2d",
        summary=summary,
        knobs=(*KNOBS, *inner.knobs),
        tile=inner.template.tile,
        constraints=constraints(inner),
        supports=lambda w, d: supports(w, d, inner),
        derive=lambda c, w, d: derived(name, c, w, d, inner),
        resources=lambda c, w, d: launch.resources(c, w, d, inner),
        plan=lambda c, w, d: launch.plan(name, c, w, d, inner),
        default=lambda w, d: seeds.default(w, d, template, inner),
        seeds=lambda w, d: seeds.seeds(w, d, template, inner),
        numerics=lambda c, w: numerics(c, w, inner),
        min_cc=inner.template.min_cc,
    )
    return template
