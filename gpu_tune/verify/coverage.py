"""What a sweep covered: cells, pairs of knob values, tail residues, and the branches of the template's source."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jinja2 import nodes

from ..device import Device
from ..space.knob import Config
from ..templates import base
from ..templates.base import Template
from ..workload import Conv2d, Matmul, Workload
from .cases import Cell, Variant, knob_pairs, random_config, supported_cells

RESIDUE = 16
"""Tails are counted by the size modulo this; every copy, fragment and store of the templates divides it."""
Branch = tuple[str, int, str]


@dataclass
class Coverage:
    """Sets of what was seen; ``summary`` compares them with what there is."""

    variants: int = 0
    cells: set[tuple[str, Cell]] = field(default_factory=set)
    pairs: set[Any] = field(default_factory=set)
    residues: set[tuple[str, int]] = field(default_factory=set)
    branches: set[Branch] = field(default_factory=set)

    def add(self, variant: Variant, branches: Iterable[Branch] = ()) -> None:
        """Count one variant that was checked."""
        w = variant.workload
        epilogue = w.epilogue
        self.variants += 1
        self.cells.add((variant.device.arch, Cell(w.dtype, w.layout, epilogue)))
        self.pairs.update(knob_pairs(variant.config))
        self.residues.update((name, size % RESIDUE) for name, size in sizes(w))
        self.branches.update(branches)

    def summary(self, template: Template, devices: Iterable[Device], reachable: int) -> list[str]:
        """Lines that say how much of what there is was covered. ``reachable``: pairs of knob values (see below)."""
        every = {(d.arch, c) for d in devices for c in supported_cells(template, d)}
        names = sorted({n for n, _ in self.residues})
        own, known = template.source.name, all_branches(template)
        here = {b for b in known if b[0] == own}
        missed = sorted(here - self.branches)
        lines = [
            f"cells (dtype x layout x epilogue, per architecture): {len(self.cells & every)} of {len(every)}",
            f"pairs of knob values: {len(self.pairs)} of about {reachable} that valid configs reach",
            f"tail residues modulo {RESIDUE} of {', '.join(names)}: {len(self.residues)} of {RESIDUE * len(names)}",
            f"template branches: {len(here) - len(missed)} of {len(here)} in {own}, "
            f"{len(known & self.branches - here)} of {len(known - here)} in the parts it imports",
        ]
        shown = [f"line {line} {kind}" for _, line, kind in missed]
        if shown:
            lines.append(
                f"branches of {own} never taken: {', '.join(shown[:12])}" + (" ..." if len(shown) > 12 else "")
            )
        return lines


def sizes(workload: Workload) -> Iterator[tuple[str, int]]:
    """The sizes whose tails matter."""
    if isinstance(workload, Matmul):
        yield from (("m", workload.m), ("n", workload.n), ("k", workload.k))
    else:
        assert isinstance(workload, Conv2d)
        groups = workload.groups
        yield from (
            ("c", workload.c // groups),
            ("k", workload.k // groups),
            ("pixels", workload.n * workload.p * workload.q),
        )


def reachable_pairs(template: Template, variants: Iterable[Variant], seed: int = 0, each: int = 150) -> int:
    """How many pairs of knob values random configs for the workloads of ``variants`` contain (a lower bound)."""
    rng, found = np.random.default_rng(seed), set[Any]()
    for variant in variants:
        for _ in range(each):
            config = random_config(template, variant.workload, variant.device, rng)
            found.update(knob_pairs(config) if config else ())
    return len(found)


def all_branches(template: Template) -> set[Branch]:
    """Every branch in the template's source and in the parts that it imports, directly or not."""
    environment, found = _environment(template.folder), set[Branch]()
    todo, done = [template.source.name], set[str]()
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.add(name)
        assert environment.loader is not None
        tree = environment.parse(environment.loader.get_source(environment, name)[0], name)
        found.update((name, line, kind) for line, kind, _ in _bodies(tree))
        for node in tree.find_all((nodes.FromImport, nodes.Import, nodes.Include)):
            target = getattr(node, "template", None)
            if isinstance(target, nodes.Const):
                todo.append(target.value)
    return found


def taken_branches(template: Template, config: Config, workload: Workload, device: Device) -> set[Branch]:
    """The branches that rendering this variant takes."""
    environment = _environment(template.folder)
    seen: set[Branch] = environment.globals["branches_"]  # type: ignore[assignment]
    seen.clear()
    names: dict[str, Any] = dict(config)
    names.update(workload=workload, device=device, launch=template.derive(config, workload, device))
    environment.get_template(template.source.name).render(names)
    return set(seen)


class _Marking(jinja2.Environment):
    """Puts a call at the head of each branch that notes the branch; the text that it renders is not used."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for line, kind, body in list(_bodies(tree)):
            arguments: list[nodes.Expr] = [nodes.Const(name), nodes.Const(line), nodes.Const(kind)]
            call = nodes.Call(nodes.Name("note_branch_", "load"), arguments, [], None, None)
            body.insert(0, nodes.Output([call]).set_lineno(line))
        return tree


def _bodies(tree: nodes.Template) -> Iterator[tuple[int, str, list[nodes.Node]]]:
    """(line, kind, statements) of every branch."""
    alternatives = {id(e) for node in tree.find_all(nodes.If) for e in node.elif_}
    for node in tree.find_all(nodes.If):
        yield node.lineno, "elif" if id(node) in alternatives else "if", node.body
        if node.else_:
            yield node.else_[0].lineno, "else", node.else_
    for loop in tree.find_all(nodes.For):
        yield loop.lineno, "for", loop.body
    for macro in tree.find_all(nodes.Macro):
        yield macro.lineno, "macro", macro.body


@functools.cache
def _environment(folder: Path) -> jinja2.Environment:
    """The rendering environment of ``templates.base``, marking."""
    environment = base._environment(folder).overlay()
    environment.__class__ = _Marking
    environment.cache = {}
    seen: set[Branch] = set()

    def note(file: str, line: int, kind: str) -> str:
        seen.add((file, line, kind))
        return ""

    environment.globals = {**environment.globals, "note_branch_": note, "branches_": seen}
    return environment
