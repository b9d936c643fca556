"""What a kernel family declares, and how one of its configs is rendered.

A kernel family is two files, in this folder or elsewhere (:mod:`.outside`): ``<name>.cu.j2`` and ``<name>.py``, whose
module-level ``TEMPLATE`` is a :class:`Template`. Nothing else needs to know of it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from ..cuda.device import Device
from ..errors import TemplateError
from ..plan import LaunchPlan, ResourceEstimate
from ..plan.size import Size, ceil_div, label, upper
from ..reference import Numerics
from ..space.knob import Config, Constraint, Knob
from ..workload import Workload
from .identity import family_hash
from .lib.partial_sums import PartialSums

FOLDER = Path(__file__).parent
PREFIX = "gpu_tune.templates."
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|//.*')


@dataclass(frozen=True)
class Template:
    """A kernel family: source ``<name>.cu.j2`` and this declaration beside it.

    Every function takes ``(workload, device)`` or ``(config, workload, device)``. ``supports`` returns True or the
    reason why not. ``derive`` returns what the source sees as ``launch`` (tile counts, offsets, step facts); ``plan``
    builds the launch plan. ``default`` and ``seeds`` return configs (seeds may be dropped by constraints). ``features``
    adds numbers for the ranker to the common ones. ``numerics`` may depend on config and workload. ``tile`` names the
    knobs whose products are the rows, the columns and the depth of a block's tile, each possibly none; of a convolution
    the rows are pixels and the columns output channels. ``open_sizes``: fields of the workload that may be open. The
    source, ``derive`` and ``plan`` then see an expression (:mod:`gpu_tune.plan.size`) and make one kernel for all its
    sizes; everything else is asked about the one size for which a config is chosen, with rows that begin anywhere where
    their length is open. ``directions``: what of a convolution the family computes. ``partial_sums``: what the kernels
    of a config leave of the sums that ``dbias`` adds up; None where they leave nothing, and the result is read again.
    ``whole_masks``: whether they write masks by whole bytes; elsewhere bits are added to zeros. ``special``: whether
    the family is made for one kind of workload alone, of which it then gives the untuned default.
    """

    name: str
    op: str
    summary: str
    knobs: tuple[Knob, ...]
    constraints: tuple[Constraint, ...]
    supports: Callable[[Workload, Device], bool | str]
    derive: Callable[[Config, Workload, Device], Any]
    resources: Callable[[Config, Workload, Device], ResourceEstimate]
    plan: Callable[[Config, Workload, Device], LaunchPlan]
    default: Callable[[Workload, Device], Config]
    seeds: Callable[[Workload, Device], Sequence[Config]] = lambda workload, device: ()
    numerics: Callable[[Config, Workload], Numerics] = lambda config, workload: Numerics()
    features: Callable[[Config, Workload, Device], Mapping[str, float]] = lambda config, workload, device: {}
    tile: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] = ((), (), ())
    min_cc: int = 75
    only_cc: int = 0
    open_sizes: tuple[str, ...] = ()
    directions: tuple[str, ...] = ("fprop",)
    partial_sums: Callable[[Config, Workload, Device], PartialSums | None] = lambda config, workload, device: None
    whole_masks: Callable[[Config, Workload, Device], bool] = lambda config, workload, device: False
    special: bool = False
    folder: Path = field(default=FOLDER)

    @property
    def source(self) -> Path:
        return self.folder / f"{self.name}.cu.j2"

    @property
    def knob(self) -> dict[str, Knob]:
        return {k.name: k for k in self.knobs}

    def supported(self, workload: Workload, device: Device) -> bool | str:
        """True, or why this template cannot compute ``workload`` on ``device`` (operation and capability included)."""
        if workload.op != self.op:
            return f"computes {self.op}, not {workload.op}"
        direction = getattr(workload, "direction", "fprop")
        if direction not in self.directions:
            return f"computes {' and '.join(self.directions)}, not {direction}"
        if self.only_cc and device.cc != self.only_cc:
            return f"needs compute capability {self.only_cc / 10:.1f}, {device.name} has {device.cc / 10:.1f}"
        if device.cc < self.min_cc:
            return f"needs compute capability {self.min_cc / 10:.1f} or newer, {device.name} has {device.cc / 10:.1f}"
        if workload.open is None:
            return self.supports(workload, device)
        if workload.open.name not in self.open_sizes:
            return f"leaves no size open, and {workload.open.name} is {label(workload.open)}"
        answers = (self.supports(workload.at(size).unaligned(), device) for size in workload.open.bounds)
        return next((answer for answer in answers if answer is not True), True)

    def violations(self, config: Config, workload: Workload, device: Device) -> list[str]:
        """Why ``config`` is invalid: unknown or missing knobs, unlisted values, broken constraints (empty: valid)."""
        found = [f"unknown knob {n!r} (knobs: {', '.join(self.knob)})" for n in config if n not in self.knob]
        for knob in self.knobs:
            if knob.name not in config:
                found.append(f"knob {knob.name} is missing")
            elif not any(
                config[knob.name] is v or (type(config[knob.name]) is type(v) and config[knob.name] == v)
                for v in knob.values
            ):
                found.append(f"knob {knob.name}={config[knob.name]!r} is not one of {knob.values}")
        if found:
            return found
        return [f"{c.name}: {c.message}" for c in self.constraints if not c.holds(config, workload, device)]

    def hash(self) -> str:
        """Identity of the family: its source, its declaration, and what they include and import (12 hex digits)."""
        return _family_hash(self.folder, self.name)


def render(template: Template, config: Config, workload: Workload, device: Device) -> str:
    """The CUDA source of a candidate: self-contained, deterministic, without the header comment a winner carries."""
    names: dict[str, Any] = dict(config)
    names.update(workload=workload, device=device, launch=template.derive(config, workload, device))
    try:
        text = _environment(template.folder).get_template(template.source.name).render(names)
    except jinja2.TemplateError as error:
        place = template.source.name
        if isinstance(error, jinja2.TemplateSyntaxError):
            place = f"{error.filename or error.name or place}:{error.lineno}"
        raise TemplateError(
            f"template {place}: {error.message or error}; "
            "it may use its knobs, workload, device, launch and imported parts"
        ) from error
    lines = [line.rstrip() for line in text.splitlines()]
    kept = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]
    return "\n".join(kept).strip() + "\n"


def render_text(text: str, names: Mapping[str, Any]) -> str:
    """The Jinja source ``text``, which may import this folder's parts, rendered with ``names``."""
    return _environment(FOLDER).from_string(text).render(names)


def reindent(text: str, step: int = 4) -> str:
    """``text`` with every line indented by its depth in braces; one that starts with ``:`` continues the last."""
    depth = 0
    lines: list[str] = []
    for line in (raw.strip() for raw in text.splitlines()):
        code = _LITERAL.sub("", line)
        closing = len(code) - len(code.lstrip("}"))
        inside = max(depth - closing, 0) * step + (13 if line.startswith((": ", ":: ")) else 0)
        if line.startswith("else") and lines and lines[-1].strip() == "}":
            lines[-1] += " " + line
        elif line:
            lines.append(" " * inside + line)
        elif lines and lines[-1] and not lines[-1].endswith("{"):
            lines.append("")
        depth += code.count("{") - code.count("}")
    return "\n".join(lines) + "\n"


@functools.cache
def _environment(folder: Path) -> jinja2.Environment:
    loader = jinja2.FileSystemLoader([str(folder), str(FOLDER)])
    env = jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.globals.update(min=min, max=max, ceil_div=ceil_div, upper=upper, open=lambda x: isinstance(x, Size))
    env.filters["long"] = lambda x, suffix: f"(long long){x}" if isinstance(x, Size) else f"{x}{suffix}"
    env.filters["reindent"] = reindent
    return env


@functools.cache
def _family_hash(folder: Path, name: str) -> str:
    return family_hash(folder, name, FOLDER, _environment(folder))


@functools.cache
def addition_hash(name: str) -> str:
    """The identity of kernels that come behind those of any family: ``lib/<name>.py`` and its part (12 hex digits)."""
    return family_hash(FOLDER / "lib", name, FOLDER, _environment(FOLDER), f"parts/common/{name}.cuh.j2")
