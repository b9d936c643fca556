"""Which variants a sweep draws: directed at what was not covered yet, and a pure function of a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jinja2
import numpy as np

from ..device import Device, by_name
from ..errors import GpuTuneError, InvalidInput
from ..space.knob import Config
from ..templates.base import Template
from ..workload import Workload
from .branches import Branch, reachable_branches, taken_branches
from .cases import DEVICES, Cell, Variant, supported_cells
from .configs import Pairs
from .workloads import RESIDUE, Residue, busy, draw_workload, residues, sizes

_FIRST = 100
"""Variants before branches are sought: most are met by chance until then."""
_BUSY_FLOPS = 6e7
_VAIN = 50
"""Searches in a row without a new branch after which branches are sought no longer."""


@dataclass(frozen=True)
class Drawn:
    """A variant, and the branches that rendering it takes."""

    variant: Variant
    branches: frozenset[Branch]


class Drawing:
    """An endless stream of variants, a pure function of the template, ``seed`` and ``devices``.

    Cells that no variant had come first, evenly over what they consist of; then workloads with tails that were not had,
    configs with pairs of knob values that were not had, and now and then several variants are rendered and the one
    with most unseen branches is taken. Every tenth has the template's default or one of its seeds. Now and then the
    chip has few SMs (a persistent block then computes several tiles).
    """

    def __init__(self, template: Template, seed: int, devices: tuple[str, ...] = DEVICES) -> None:
        self.template = template
        self.devices = [d for d in map(by_name, devices) if supported_cells(template, d)]
        if not self.devices:
            raise InvalidInput(
                "verify template",
                template.name,
                f"supports nothing on {', '.join(devices)}",
                "name a device that it is for",
            )
        self.pairs = Pairs(template)
        self.cells = {d.name: dict(supported_cells(template, d)) for d in self.devices}
        self.unseen_cells = {d: list(cells) for d, cells in self.cells.items()}
        self.unseen_branches = set(reachable_branches(template))
        self.unseen_residues: set[Residue] = set()
        self._residues_known = False
        self._seen: Counter[Any] = Counter()
        self._rng = np.random.default_rng([seed, *template.name.encode()])
        self._misses = self._given = self._vain = 0

    def __iter__(self) -> Iterator[Drawn]:
        return self

    def __next__(self) -> Drawn:
        choices = [self._one()]
        if self._given >= _FIRST and self.unseen_branches and self._vain < _VAIN and self._rng.random() < 0.3:
            choices += [self._one() for _ in range(2)]
        best = max(choices, key=lambda drawn: len(drawn.branches & self.unseen_branches))
        if len(choices) > 1:
            self._vain = 0 if best.branches & self.unseen_branches else self._vain + 1
        self._count(best)
        return best

    def _count(self, drawn: Drawn) -> None:
        v = drawn.variant
        cell = Cell(v.workload.dtype, v.workload.layout, v.workload.epilogue)
        self._given += 1
        self._seen.update(_parts(cell))
        if cell in (unseen := self.unseen_cells[v.device.name]):
            unseen.remove(cell)
        self.pairs.add(v.config)
        self.unseen_branches -= drawn.branches
        self.unseen_residues -= residues(v.workload)

    def _one(self) -> Drawn:
        rng, template = self._rng, self.template
        while True:
            device = self._device()
            cell = self._cell(device.name)
            if rng.random() < 0.4:
                device = replace(device, sm_count=int(rng.integers(1, 5)))
            permitted = self.cells[device.name][cell]
            workload = draw_workload(template, cell, permitted, device, rng, self.unseen_residues)
            config = None if workload is None else self._config(workload, device)
            if workload is None or config is None:
                self._misses += 1
                if self._misses > 40 + 10 * self._given:
                    raise InvalidInput(
                        "verify template",
                        template.name,
                        "has no valid config for any workload that was tried",
                        "check its constraints",
                    )
                continue
            if not self._residues_known:
                self.unseen_residues = {(name, r) for name, _ in sizes(workload) for r in range(RESIDUE)}
                self._residues_known = True
            variant = Variant(template.name, workload, device, config, int(rng.integers(2**31)))
            try:
                branches = taken_branches(template, config, workload, device)
            except jinja2.TemplateError:  # the check of the variant says what is wrong
                branches = set()
            return Drawn(variant, frozenset(branches))

    def _device(self) -> Device:
        """One with many unseen cells, the first twice as likely."""
        weights = np.array([len(self.unseen_cells[d.name]) + 0.1 for d in self.devices])
        weights[0] *= 2
        return self.devices[self._rng.choice(len(weights), p=weights / weights.sum())]

    def _cell(self, device: str) -> Cell:
        """An unseen cell of the device if there is one; of those, one whose parts were seen least."""
        cells = list(self.cells[device])
        if self._rng.random() < 0.9:  # a cell that has no workload or config must not stop the others
            cells = self.unseen_cells[device] or cells

        def rank(cell: Cell) -> tuple[int, ...]:
            whole, types, with_dtype, with_layout = (self._seen[p] for p in _parts(cell))
            return (types, with_dtype + with_layout, whole)

        least = min(map(rank, cells))
        return (best := [c for c in cells if rank(c) == least])[self._rng.integers(len(best))]

    def _config(self, workload: Workload, device: Device) -> Config | None:
        template, rng = self.template, self._rng
        if self._given % 10 == 9:
            named = [template.default(workload, device), *template.seeds(workload, device)]
            named = [c for c in named if not template.violations(c, workload, device)]
            if named:
                return named[rng.integers(len(named))]
        return self.pairs.config(template, workload, device, rng)


def filling(template: Template, variant: Variant) -> Variant | None:
    """``variant`` with a workload in which every instruction matters; None where the template does not take it.

    The pipeline goes round twice and blocks compute several tiles, on a slice of the chip with 2 SMs.
    """
    device = replace(variant.device, sm_count=2)
    try:
        workload = busy(variant.workload, variant.config)
        fits = template.supported(workload, device) is True
    except GpuTuneError:
        return None
    if not fits or workload.flops > _BUSY_FLOPS or template.violations(variant.config, workload, device):
        return None
    return replace(variant, workload=workload, device=device)


def variants(template: Template, seed: int, devices: tuple[str, ...] = DEVICES) -> Iterator[Variant]:
    """The variants of :class:`Drawing`."""
    return (drawn.variant for drawn in Drawing(template, seed, devices))


def _parts(cell: Cell) -> tuple[Any, ...]:
    return (cell, (cell.dtype, cell.layout), (cell.dtype, "e", cell.epilogue), (cell.layout, "e", cell.epilogue))
