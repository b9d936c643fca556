"""Transfer: what trials of other workloads and chips say about this one.

History becomes groups, one per template, workload and chip; a ranker learns from all groups at once, each compared only
within itself. Its score is a hint: it picks part of the first batches and is one coordinate and the linear mean of the
smooth model, which finds out from the first own trials how far to believe it. Predicted times never teach a search that
has measured ones.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cuda.device import GIB, KNOWN, Device
from ..errors import InvalidConfig
from ..space.features import distance
from ..space.grid import Rows
from ..space.knob import Config
from ..space.space import Space, TemplateSpace
from ..trial import MEASURED, PREDICTED, Measurement
from .ranker import POOLED, Ranker

log = logging.getLogger(__name__)
GROUPS, BEST_ROWS, OTHER_ROWS = 16, 150, 150
"""How much history one model learns from: the nearest groups, and of each its best trials and a draw of the others."""
ROWS = 1_600
"""Trials that one template's history gives at most, all groups together: describing each costs half a millisecond."""
OTHER_CHIP = 2.0
"""How unlike another chip is, in the unit of ``features.distance`` (a doubling of one dimension is 1)."""


@dataclass(frozen=True)
class Past:
    """Trials of one template (or recorded kernel) on one workload and chip. ``times`` are seconds, nan for failures;
    ``unlike`` is how far the group is from the workload and chip that are searched now."""

    name: str
    group: str
    features: NDArray[np.float32]
    names: tuple[str, ...]
    times: NDArray[np.float64]
    configs: tuple[Config, ...]
    unlike: float = 0.0
    source: str = MEASURED

    @classmethod
    def of(cls, space: Space, measurements: Iterable[Measurement], group: str, unlike: float = 0.0) -> Past:
        """From measurements of configs in ``space``; configs that are not valid there (any more) are left out, and of
        equal configs the last counts."""
        last = {
            m.candidate.config.key: m
            for m in measurements
            if m.candidate.template == space.name and m.status != "pruned"  # nothing is known of its time
        }
        kept: list[Measurement] = []
        rows: list[Rows] = []
        for m in last.values():
            try:
                row = space.rows([m.candidate.config])
            except InvalidConfig:
                continue
            if space.grid.valid(row)[0]:
                kept.append(m)
                rows.append(row[0])
        x, names = space.describe(np.array(rows, dtype=np.uint16).reshape(len(rows), len(space.knobs)))
        source = kept[0].source if kept else MEASURED
        return cls(
            space.name,
            group,
            x,
            tuple(names),
            np.array([m.time if m.ok else math.nan for m in kept]),
            tuple(m.candidate.config for m in kept),
            unlike,
            source,
        )

    @property
    def ok(self) -> bool:
        """Whether anything can be learned from it: two trials with times."""
        return int(np.isfinite(self.times).sum()) >= 2

    def winners(self, n: int) -> list[Config]:
        """Its ``n`` fastest configs."""
        order = np.argsort(np.where(np.isfinite(self.times), self.times, np.inf), kind="stable")
        return [self.configs[i] for i in order[:n] if np.isfinite(self.times[i])]

    def thinned(self, rng: np.random.Generator) -> Past:
        """At most ``BEST_ROWS`` best and ``OTHER_ROWS`` other trials."""
        if len(self.times) <= BEST_ROWS + OTHER_ROWS:
            return self
        order = np.argsort(np.where(np.isfinite(self.times), self.times, np.inf), kind="stable")
        keep = np.sort(np.concatenate([order[:BEST_ROWS], rng.permutation(order[BEST_ROWS:])[:OTHER_ROWS]]))
        return Past(
            self.name,
            self.group,
            self.features[keep],
            self.names,
            self.times[keep],
            tuple(self.configs[i] for i in keep),
            self.unlike,
            self.source,
        )


def gather(history: Iterable[Any], spaces: Sequence[Space], source: str | None = None) -> dict[str, list[Past]]:
    """History by space name, nearest first: ``Past`` as it is, records grouped by template, workload and chip.
    Records of a space's own workload and chip are left out (they are told, not transferred), and those of chips whose
    limits are not known here (see ``device_of``). ``source``: the one to
    learn from; by default everything but predicted trials, or those where there is nothing else."""
    items = list(history)
    sources = {_source(i) for i in items}
    wanted = {source} if source else sources - {PREDICTED} or sources
    by_name = {s.name: s for s in spaces}
    found: dict[str, list[Past]] = {}
    records: dict[tuple[str, Any, str], list[Any]] = {}
    for item in items:
        if _source(item) not in wanted:
            continue
        if isinstance(item, Past):
            if item.name in by_name:
                found.setdefault(item.name, []).append(item)
        else:
            records.setdefault((item.measurement.candidate.template, item.workload, item.chip), []).append(item)
    near: dict[str, list[tuple[float, Any, Device, list[Any]]]] = {}
    for (name, workload, chip), group in records.items():
        space = by_name.get(name)
        device = device_of(chip, space)
        if (
            not isinstance(space, TemplateSpace)
            or device is None
            or (workload == space.workload and chip == space.device.chip)
        ):
            continue
        unlike = distance(workload, space.workload) + OTHER_CHIP * (chip != space.device.chip)
        near.setdefault(name, []).append((unlike, workload, device, group))
    for name, groups in near.items():
        template = by_name[name].template  # type: ignore[attr-defined]
        nearest = sorted(groups, key=lambda g: (g[0], g[1].key, g[2].chip))[:GROUPS]
        best = min(BEST_ROWS, ROWS // (2 * len(nearest)))
        others = min(OTHER_ROWS, ROWS // (2 * len(nearest)))
        for unlike, workload, device, group in nearest:
            order = sorted(
                (r.measurement for r in group), key=lambda m: (m.time if m.ok else math.inf, m.candidate.key)
            )
            step = max(1, (len(order) - best) // others)
            some = order[:best] + order[best::step][:others]
            past = Past.of(TemplateSpace(template, workload, device), some, f"{workload.key} on {device.chip}", unlike)
            found.setdefault(name, []).append(past)
    return {
        name: sorted((p for p in pasts if p.ok), key=lambda p: (p.unlike, p.group))[:GROUPS]
        for name, pasts in found.items()
    }


class Prior:
    """What history expects of a space's configs. ``hint`` is near 0 for an ordinary config, near 1 for the best."""

    def __init__(self, ranker: Ranker, low: float, high: float) -> None:
        self._ranker, self._low, self._span = ranker, low, max(high - low, 1e-9)

    @classmethod
    def of(cls, space: Space, pasts: Sequence[Past], seed: int) -> Prior | None:
        """Fitted on the groups that have the space's features; None when nothing can be learned."""
        rng = np.random.default_rng(seed)
        sample = space.grid.sample(512, rng)
        if not len(sample):
            return None
        x, names = space.describe(sample)
        groups = [p.thinned(rng) for p in pasts if list(p.names) == names and p.ok]
        if not groups:
            return None
        ranker = Ranker.fit(
            np.concatenate([p.features for p in groups]),
            np.concatenate([p.times for p in groups]),
            [len(p.times) for p in groups],
            seed=seed,
            shape=POOLED,
            names=names,
        )
        if ranker is None:
            return None
        score = ranker.score(x)
        return cls(ranker, float(np.median(score)), float(np.max(score)))

    def hint(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n,) for features (n, f)."""
        return np.clip((self._ranker.score(x) - self._low) / self._span, -1.0, 1.5)


def _source(item: Any) -> str:
    return str(item.source)


def device_of(chip: str, space: Any = None) -> Device | None:
    """The chip that records name, as far as it is known here: the space's own, one of the device table, or a slice or
    another make of one in the table (same name, other SM count or memory; L2 and bandwidth go with the memory). Records
    of any other chip are not learned from: their features need its limits, which records do not hold."""
    own = getattr(space, "device", None)
    if own is not None and own.chip == chip:
        return own
    found = next((d for d in KNOWN.values() if d.chip == chip), None)
    parts = re.fullmatch(r"(.+)-(\d+)sm-(\d+)gb", chip)
    twin = KNOWN.get(parts[1]) if parts else None
    if found is None and twin is not None and parts is not None and int(parts[2]) and int(parts[3]):
        share = min(1.0, int(parts[3]) * GIB / twin.memory_bytes)
        found = replace(
            twin,
            sm_count=int(parts[2]),
            memory_bytes=int(parts[3]) * GIB,
            l2_bytes=int(twin.l2_bytes * share),
            bandwidth=twin.bandwidth * share,
        )
    if found is None:
        log.debug("records of %s are not learned from: its limits are not in the device table", chip)
    return found
