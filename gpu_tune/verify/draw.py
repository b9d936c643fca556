"""Which variants a sweep draws: directed at what was not covered yet, and a pure function of a seed."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jinja2
import numpy as np

from ..cuda.device import Device, by_name
from ..errors import GpuTuneError, require
from ..space.knob import Config
from ..templates.base import Template
from ..workload import Workload
from .branches import Branch, reachable_branches, taken_branches
from .cases import DEVICES, RESIDUE, Cell, Residue, Variant, busy, draw_workload, residues, sizes, supported_cells

Chosen = tuple[str, Any]
"""A knob's name and value."""
Pair = tuple[Chosen, Chosen]
_NOTHING: set[Chosen] = set()
_STEPS = 5000
_PROBES = 6
_FIRST_PAIRS = 40
"""Configs before single pairs are sought: each has many unseen ones until then."""
PATIENCE = 12
"""Workloads for which a pair is sought before it counts as one that no valid config has."""


def knob_pairs(config: Mapping[str, Any]) -> Iterator[Pair]:
    """Every pair of (knob, value) in ``config``."""
    return itertools.combinations(sorted(config.items()), 2)


class Pairs:
    """Which pairs of knob values configs have had, and which were sought in vain (``sought``: how often).

    ``met``: by knob value, every other knob value that a config had together with it.
    """

    def __init__(self, template: Template) -> None:
        knobs = sorted(template.knobs, key=lambda k: k.name)
        self.met: defaultdict[Chosen, set[Chosen]] = defaultdict(set)
        self.asked, self.grew = 0, True
        self.sought: dict[Pair, int] = {
            ((a.name, x), (b.name, y)): 0
            for a, b in itertools.combinations(knobs, 2)
            for x, y in itertools.product(a.values, b.values)
        }

    def add(self, config: Config) -> None:
        self.grew = False
        for one, other in knob_pairs(config):
            self.grew |= other not in self.met[one]
            self.met[one].add(other)
            self.met[other].add(one)
            self.sought.pop((one, other), None)

    def config(self, template: Template, workload: Workload, device: Device, rng: np.random.Generator) -> Config | None:
        """A valid config with unseen pairs where there is one, else any; None when there is none or luck ran out."""
        self.asked += 1
        if self.asked < _FIRST_PAIRS and self.grew:
            return random_config(template, workload, device, rng, met=self.met)
        for _ in range(_PROBES):
            least = min(self.sought.values(), default=PATIENCE)
            if least >= PATIENCE:
                break
            open_ = [p for p, tries in self.sought.items() if tries == least]
            pair = open_[rng.integers(len(open_))]
            self.sought[pair] += 1
            config = random_config(template, workload, device, rng, dict(pair), self.met)
            if config is not None:
                return config
        return random_config(template, workload, device, rng)

    @property
    def seen(self) -> set[Pair]:
        """The pairs that configs have had."""
        return {(one, other) for one, others in self.met.items() for other in others if one[0] < other[0]}

    @property
    def impossible(self) -> list[Pair]:
        """Pairs that no config has for any of the ``PATIENCE`` workloads, drawn at random, that it was sought for."""
        return [p for p, tries in self.sought.items() if tries >= PATIENCE]

    @property
    def missing(self) -> list[Pair]:
        """Pairs that were neither had nor sought often enough to say that no config has them."""
        return [p for p, tries in self.sought.items() if tries < PATIENCE]


def random_config(
    template: Template,
    workload: Workload,
    device: Device,
    rng: np.random.Generator,
    fixed: Mapping[str, Any] | None = None,
    met: Mapping[Chosen, set[Chosen]] | None = None,
) -> Config | None:
    """A random valid config in milliseconds, not uniform over the space; None when there is none or luck ran out.

    Knob by knob in declared order (``fixed`` values first), each rule checked as soon as its knobs have values. When a
    knob has no value left, the search returns to the latest knob that a broken rule named (conflict-directed
    backjumping, Prosser 1993). A space's ``sample`` is uniform, but looks at the whole space first, which is too dear
    for one config. With ``met`` (see :class:`Pairs`), the values that make most new pairs come first (as in AETG,
    Cohen et al. 1997).
    """
    fixed = fixed or {}
    knobs = sorted(template.knobs, key=lambda k: k.name not in fixed)
    place = {k.name: n for n, k in enumerate(knobs)}
    due: list[list[tuple[Any, frozenset[int]]]] = [[] for _ in knobs]
    for rule in template.constraints:
        columns = sorted(place[n] for n in rule.knobs)
        due[columns[-1] if columns else 0].append((rule.holds, frozenset(columns[:-1])))
    values: dict[str, Any] = {}
    untried: list[list[Any]] = [[] for _ in knobs]
    blame: list[set[int]] = [set() for _ in knobs]

    def order(depth: int) -> list[Any]:
        """The knob's values, the one to try first last."""
        knob = knobs[depth]
        if knob.name in fixed:
            return [fixed[knob.name]]
        shuffled = [knob.values[i] for i in rng.permutation(len(knob.values))]
        if met is None:
            return shuffled
        others = {(k.name, values[k.name]) for k in knobs[:depth]}
        return sorted(shuffled, key=lambda value: -len(others & met.get((knob.name, value), _NOTHING)))

    depth, entering = 0, True
    for _ in range(_STEPS):
        if entering:
            untried[depth], blame[depth] = order(depth), set()
        if not untried[depth]:
            if not blame[depth]:
                return None
            back = max(blame[depth])
            blame[back] |= blame[depth] - {back}
            depth, entering = back, False
            continue
        values[knobs[depth].name] = untried[depth].pop()
        broken = next((others for holds, others in due[depth] if not holds(values, workload, device)), None)
        entering = broken is None
        if broken is not None:
            blame[depth] |= broken
        elif depth == len(knobs) - 1:
            return Config({k.name: values[k.name] for k in template.knobs})
        else:
            depth += 1
    return None


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
        rule = f"supports nothing on {', '.join(devices)}"
        require(self.devices, "verify template", template.name, rule, "name a device that it is for")
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
                require(
                    self._misses <= 40 + 10 * self._given,
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
    return (drawn.variant for drawn in Drawing(template, seed, devices))


def _parts(cell: Cell) -> tuple[Any, ...]:
    return (cell, (cell.dtype, cell.layout), (cell.dtype, "e", cell.epilogue), (cell.layout, "e", cell.epilogue))
