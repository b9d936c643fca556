"""Random valid configs, directed at pairs of knob values that were not tried yet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..device import Device
from ..space.knob import Config
from ..templates.base import Template
from ..workload import Workload

Pair = tuple[tuple[str, Any], tuple[str, Any]]
_STEPS = 5000
_PROBES = 6
_FIRST = 40
"""Configs before single pairs are sought: each has many unseen ones until then."""
PATIENCE = 12
"""Workloads for which a pair is sought before it counts as one that no valid config has."""


def knob_pairs(config: Mapping[str, Any]) -> Iterator[Pair]:
    """Every pair of (knob, value) in ``config``."""
    return itertools.combinations(sorted(config.items()), 2)


class Pairs:
    """Which pairs of knob values configs have had (``seen``), and which were sought in vain (``sought``: how often)."""

    def __init__(self, template: Template) -> None:
        knobs = sorted(template.knobs, key=lambda k: k.name)
        self.seen: set[Pair] = set()
        self.asked, self.grew = 0, True
        self.sought: dict[Pair, int] = {
            ((a.name, x), (b.name, y)): 0
            for a, b in itertools.combinations(knobs, 2)
            for x, y in itertools.product(a.values, b.values)
        }

    def add(self, config: Config) -> None:
        """Count ``config``'s pairs as seen."""
        before = len(self.seen)
        for pair in knob_pairs(config):
            self.seen.add(pair)
            self.sought.pop(pair, None)
        self.grew = len(self.seen) > before

    def config(self, template: Template, workload: Workload, device: Device, rng: np.random.Generator) -> Config | None:
        """A valid config with unseen pairs where there is one, else any; None when there is none or luck ran out."""
        self.asked += 1
        if self.asked < _FIRST and self.grew:
            return random_config(template, workload, device, rng, seen=self.seen)
        for _ in range(_PROBES):
            least = min(self.sought.values(), default=PATIENCE)
            if least >= PATIENCE:
                break
            open_ = [p for p, tries in self.sought.items() if tries == least]
            pair = open_[rng.integers(len(open_))]
            self.sought[pair] += 1
            config = random_config(template, workload, device, rng, dict(pair), self.seen)
            if config is not None:
                return config
        return random_config(template, workload, device, rng)

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
    seen: set[Pair] | None = None,
) -> Config | None:
    """A random valid config in milliseconds, not uniform over the space; None when there is none or luck ran out.

    Knob by knob in declared order (``fixed`` values first), each rule checked as soon as its knobs have values. When a
    knob has no value left, the search returns to the latest knob that a broken rule named (conflict-directed
    backjumping, Prosser 1993). A space's ``sample`` is uniform, but looks at the whole space first, which is too dear
    for one config. With ``seen``, values that make most pairs outside of it come first (as in AETG, Cohen et al. 1997).
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
        if seen is None:
            return shuffled
        others = [(k.name, values[k.name]) for k in knobs[:depth]]

        def fresh(value: Any) -> int:
            here = (knob.name, value)
            return sum(((o, here) if o[0] < knob.name else (here, o)) not in seen for o in others)

        return sorted(shuffled, key=fresh)

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
        if broken is not None:
            blame[depth] |= broken
            entering = False
        elif depth == len(knobs) - 1:
            return Config({k.name: values[k.name] for k in template.knobs})
        else:
            depth, entering = depth + 1, True
    return None
