"""What a sweep covered: cells, pairs of knob values, tail residues, and the branches of the template's source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..workload import Workload
from .branches import Branch, all_branches, reachable_branches
from .cases import RESIDUE, Cell, Residue, Variant, existing, residues
from .draw import Drawing, Pair, knob_pairs

_NAMED = 12
"""How many of what was not reached a line names."""


@dataclass
class Coverage:
    """Sets of what was seen; ``summary`` compares them with what there is. ``workloads``: of every variant."""

    workloads: list[Workload] = field(default_factory=list)
    cells: set[tuple[str, Cell]] = field(default_factory=set)
    pairs: set[Pair] = field(default_factory=set)
    residues: set[Residue] = field(default_factory=set)
    branches: set[Branch] = field(default_factory=set)

    def add(self, variant: Variant, branches: Iterable[Branch] = ()) -> None:
        w = variant.workload
        self.workloads.append(w)
        self.cells.add((variant.device.arch, Cell(w.dtype, w.layout, w.epilogue)))
        self.pairs.update(knob_pairs(variant.config))
        self.residues |= residues(w)
        self.branches.update(branches)

    def summary(self, drawing: Drawing) -> list[str]:
        """Lines that say how much of what there is was covered, and name what was not."""
        return [line for part in (self._cells, self._pairs, self._residues, self._branches) for line in part(drawing)]

    def _cells(self, drawing: Drawing) -> list[str]:
        every = {(d.arch, c) for d in drawing.devices for c in drawing.cells[d.name]}
        head = f"cells (dtype x layout x epilogue, per architecture): {len(self.cells & every)} of {len(every)}"
        return [head, *_missed("cells not reached", sorted(f"{a} {c}" for a, c in every - self.cells))]

    def _pairs(self, drawing: Drawing) -> list[str]:
        impossible = set(drawing.pairs.impossible) - self.pairs
        missing = (set(drawing.pairs.missing) | drawing.pairs.seen) - self.pairs - impossible
        head = f"pairs of knob values: {len(self.pairs)} of {len(self.pairs) + len(missing)}"
        if impossible:
            head += f"; {len(impossible)} more that no config has, as far as searched"
        named = [f"{a}={x} {b}={y}" for (a, x), (b, y) in sorted(missing, key=str)]
        return [head, *_missed("pairs not tried or not found yet", named)]

    def _residues(self, drawing: Drawing) -> list[str]:
        names = sorted({name for name, _ in self.residues})
        every = {(name, r) for name in names for r in range(RESIDUE)}
        unseen = {r for r in every - self.residues if r[0] != "pixels"}
        none = unseen - existing(drawing.template, drawing.devices, unseen)
        head = (
            f"tail residues modulo {RESIDUE} of {', '.join(names)}: "
            f"{len(self.residues)} of {len(every - none)} that it supports"
        )
        return [head, *_missed("residues not reached", [f"{n} {r}" for n, r in sorted(every - none - self.residues)])]

    def _branches(self, drawing: Drawing) -> list[str]:
        own, known = drawing.template.source.name, reachable_branches(drawing.template)
        here = {b for b in known if b[0] == own}
        head = (
            f"template branches: {len(here & self.branches)} of {len(here)} in {own}, "
            f"{len(known & self.branches - here)} of {len(known - here)} in the parts it imports"
        )
        if beyond := len(all_branches(drawing.template) - known):
            head += f"; {beyond} more are for other templates or operations"
        named = [f"{file.removeprefix('parts/')}:{line} {kind}" for file, line, kind in sorted(known - self.branches)]
        return [head, *_missed("branches never taken", named)]


def _missed(what: str, named: list[Any]) -> list[str]:
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return [f"{what}: {', '.join(named[:_NAMED])}{more}"] if named else []
