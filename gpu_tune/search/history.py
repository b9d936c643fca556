"""History for spaces of one's own: what was measured of the same kernel elsewhere."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import require
from ..model.transfer import HistoryGroup
from ..space.knob import Config
from ..space.space import Space
from ..store.interchange import load
from ..trial import MEASURED, SOURCES, Measurement

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class History:
    """Trials of the space called ``name`` in other circumstances: another device, problem size or compiler (``group``
    says which, for people). Times are compared with each other only, never with those of the search.

    ``configs`` and ``times`` (seconds, nan: failed) belong together. A space learns from what fits: knobs that it does
    not have are left aside (of configs that then coincide the fastest counts), knobs that the history does not have are
    unknown to the model, configs with values that the space does not list are left out, and the log says how many.
    """

    name: str
    configs: tuple[Config, ...]
    times: tuple[float, ...]
    group: str = ""
    source: str = MEASURED

    def __post_init__(self) -> None:
        subject = f"history of {self.name}"
        same = len(self.configs) == len(self.times)
        require(same, subject, len(self.times), f"times for {len(self.configs)} configs", "give one for each")
        require(self.source in SOURCES, f"{subject}: source", self.source, "is unknown", f"use one of {SOURCES}")
        for time in self.times:
            rule = "is no positive time in seconds"
            require(isinstance(time, float | int | np.number), subject, time, rule, "give nan for a failure")
            require(math.isnan(time) or 0 < time < math.inf, subject, time, rule, "give nan for a failure")

    @classmethod
    def of(cls, measurements: Iterable[Measurement], group: str = "", name: str = "") -> History:
        """From measurements of one space, as ``tuner.observations`` holds them; of equal configs the last counts.
        ``name``: of the space to learn, where it has another one."""
        given = list(measurements)
        for m in given:
            require(isinstance(m, Measurement), "history", m, "is no measurement", "give tuner.observations")
        last = {m.candidate: m for m in given if m.status != "pruned"}
        names = sorted({c.template for c in last})
        require(len(names) == 1, "history", names, "are not measurements of one space", "make one history of each")
        source = next(iter(last.values())).source
        times = tuple(m.time if m.ok else math.nan for m in last.values())
        return cls(name or names[0], tuple(c.config for c in last), times, group, source)

    @classmethod
    def load(cls, path: str | os.PathLike[str], name: str = "") -> History:
        """From a Kernel Tuner cache file or T4 results; ``name``: of the space to learn, where it is not called as the
        file's kernel. InvalidInput or CorruptData where that cannot be read."""
        named = isinstance(path, str | os.PathLike)
        require(named, "history file", path, "is no path", "give a .json or .json.gz file")
        recorded = load(path)
        times = tuple(math.nan if t.time is None else t.time for t in recorded.trials)
        group = " ".join([recorded.device, *map(str, recorded.problem_size)])
        return cls(name or recorded.kernel, tuple(t.config for t in recorded.trials), times, group)

    def groups(self, spaces: Sequence[Space]) -> list[HistoryGroup]:
        """What a model of the space with this name learns from: one group, or none that fits, which the log says."""
        space = next((s for s in spaces if s.name == self.name), None)
        if space is None:
            names = [s.name for s in spaces]
            log.warning("history of %r is left aside: the spaces are %s; see History(name=...)", self.name, names)
            return []
        if space.workload is not None:
            log.warning("history of %r is left aside: a kernel template learns from records", self.name)
            return []
        best: dict[Config, float] = {}
        spelt = {k.name: {v: v for v in k.values} for k in space.knobs}
        for config, time in zip(self.configs, self.times):
            own = {name: value for name, value in config.items() if name in spelt}
            if all(value in spelt[name] for name, value in own.items()):
                fitting = Config({name: spelt[name][value] for name, value in own.items()})
                best[fitting] = float(np.fmin(best.get(fitting, math.nan), time))
        used = sum(all(c[k] in values for k, values in spelt.items() if k in c) for c in self.configs)
        if used < len(self.configs):
            log.warning(
                "history of %r (%s): %d of %d configs have values that the space does not list, and are left out",
                self.name,
                self.group,
                len(self.configs) - used,
                len(self.configs),
            )
        shared = [name for name in spelt if best and all(name in config for config in best)]
        if not shared:
            log.warning("history of %r (%s) is left aside: nothing of it fits the space", self.name, self.group)
            return []
        if len(shared) < len(spelt):
            unknown = sorted(set(spelt) - set(shared))
            log.warning("history of %r (%s) says nothing of the knobs %s", self.name, self.group, unknown)
        return [HistoryGroup.partial(space, best, shared, self.group or self.name, self.source)]
