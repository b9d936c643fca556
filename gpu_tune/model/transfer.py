"""What is known from elsewhere: trials of other workloads and chips, and NVIDIA's own advice.

History becomes groups, one per template, workload and chip; a ranker learns from all groups at once, each compared only
within itself. What it predicts picks part of the first batches and is one coordinate and the linear mean of the
Gaussian process, which finds out from the first own trials how much it is worth. Predicted times never teach a search
that has measured ones.

``suggest`` asks nvidia-matmul-heuristics, an optional, proprietary package (``pip install nvidia-matmul-heuristics``).
Its answers name tiles, stages, clusters and split-K; each becomes the nearest valid config of a space whose knobs carry
those names. They are starts to be measured like any other, not truths: many of them are ties.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cuda.device import GIB, KNOWN, Device
from ..space.features import distance
from ..space.knob import Config
from ..space.space import Space
from ..templates.bound import TemplateSpace
from ..trial import MEASURED, PREDICTED, Measurement
from ..workload import Matmul, Workload
from .ranker import POOLED, Ranker

log = logging.getLogger(__name__)
GROUPS, BEST_ROWS, OTHER_ROWS = 16, 150, 150
"""How much history one model learns from: the nearest groups, and of each its best trials and a draw of the others."""
ROWS = 1_600
"""Trials that one template's history gives at most, all groups together: describing each costs half a millisecond."""
OTHER_CHIP = 2.0
"""How far another chip is, in the unit of ``features.distance`` (a doubling of one dimension is 1)."""
NEVER = 9.0
"""log2 of seconds over the least, for what does not fit."""
ALIKE = 1e-6
"""Scores nearer to each other than this are one."""
PROBES = 4
"""Trials of a history without some of the knobs that tell which features depend on those."""
SUGGESTIONS = 64
"""Answers that nvidia-matmul-heuristics is asked for; a few of them are distinct here."""
_GPUS = {
    "nvidia-a100": "A100_SXM_80GB",
    "nvidia-a10": "A10_PCIE",
    "nvidia-rtx-3090": "RTX_3090",
    "nvidia-rtx-4090": "RTX_4090",
    "nvidia-l40s": "L40S",
    "nvidia-h100": "H100_SXM",
    "nvidia-h100-pcie": "H100_PCIE",
    "nvidia-h200": "H200_SXM",
    "nvidia-b200": "B200",
    "nvidia-rtx-5090": "RTX_5090",
}
_PRECISIONS = {
    ("float16", "float16"): "HSH",
    ("float16", "float32"): "HSS",
    ("bfloat16", "bfloat16"): "TST",
    ("bfloat16", "float32"): "TSS",
    ("float32", "float32"): "SSS",
}
"""Letters for input, accumulation and output; others are not documented well enough to be asked for."""
_KNOBS = {
    "block_m": "cta_tile_m",
    "block_n": "cta_tile_n",
    "block_k": "cta_tile_k",
    "warp_m": "warp_tile_m",
    "warp_n": "warp_tile_n",
    "stages": "stages",
    "split_k": "split_k",
    "cluster_m": "cluster_m",
    "cluster_n": "cluster_n",
    "raster_group": "swizzle_factor",
}


@dataclass(frozen=True)
class HistoryGroup:
    """Trials of one template (or recorded kernel) on one workload and chip. ``times`` are seconds, nan for failures;
    ``distance`` is how far the group is from the workload and chip that are searched now. ``chip``: "" where it is not
    known; ``predicted``: :func:`predicted_columns` of the trials, None where none was predicted."""

    name: str
    group: str
    features: NDArray[np.float32]
    names: tuple[str, ...]
    times: NDArray[np.float64]
    configs: tuple[Config, ...]
    distance: float = 0.0
    source: str = MEASURED
    chip: str = ""
    predicted: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, space: Space, measurements: Iterable[Measurement], group: str, distance: float = 0.0) -> HistoryGroup:
        """From measurements of configs in ``space``; configs that are not valid there (any more) are left out, and of
        equal configs the last counts."""
        last = {
            m.candidate.config.key: m
            for m in measurements
            if m.candidate.template == space.name and m.status != "pruned"  # nothing is known of its time
        }
        kept = [m for m in last.values() if m.candidate.config in space]
        x, names = space.describe(space.rows(m.candidate.config for m in kept))
        foreseen = any(m.prediction for m in kept)
        return cls(
            name=space.name,
            group=group,
            features=x,
            names=tuple(names),
            times=np.array([m.time if m.ok else math.nan for m in kept]),
            configs=tuple(m.candidate.config for m in kept),
            distance=distance,
            source=kept[0].source if kept else MEASURED,
            chip=space.device.chip if space.device is not None else "",
            predicted=predicted_columns([m.prediction for m in kept]) if foreseen else None,
        )

    @classmethod
    def partial(
        cls, space: Space, trials: Mapping[Config, float], shared: Sequence[str], group: str, source: str = MEASURED
    ) -> HistoryGroup:
        """From configs (and seconds, nan for failures) of which only the knobs ``shared`` are known here: features that
        change with any value of another one are nan, which trees take for unknown."""
        unknown = {k.name: k.values[0] for k in space.knobs if k.name not in shared}
        rows = space.rows(Config({**{name: config[name] for name in shared}, **unknown}) for config in trials)
        x, names = space.describe(rows)
        known = np.ones(len(names), dtype=np.bool_)
        for column, knob in enumerate(space.knobs):
            if knob.name in unknown:
                values = np.arange(len(knob.values), dtype=np.uint16)
                changed = np.repeat(rows[:PROBES], len(values), axis=0)
                changed[:, column] = np.tile(values, len(changed) // len(values))
                known &= (space.describe(changed)[0] == np.repeat(x[:PROBES], len(values), axis=0)).all(axis=0)
        times = np.array(list(trials.values()), dtype=np.float64)
        features = np.where(known, x, np.float32(np.nan))
        return cls(space.name, group, features, tuple(names), times, tuple(trials), source=source)

    def rebased(self, names: Sequence[str]) -> HistoryGroup | None:
        """The same with the features ``names``: nan where it has none of that name; None where it has none of them."""
        if tuple(names) == self.names:
            return self
        column = {name: i for i, name in enumerate(self.names)}
        missing = [name for name in names if name not in column]
        told = f"history of {self.name} ({self.group})"
        if len(missing) == len(names):
            log.warning("%s is left aside: it has none of the features that the space has", told)
            return None
        if missing:
            log.warning("%s: %d of %d features are unknown: %s", told, len(missing), len(names), ", ".join(missing[:8]))
        unknown = np.full((len(self.times), 1), np.nan, dtype=np.float32)
        wide = np.concatenate([self.features, unknown], axis=1)
        return replace(self, features=wide[:, [column.get(name, -1) for name in names]], names=tuple(names))

    def positive(self) -> HistoryGroup:
        """The same without trials whose times are 0 or less, which the log counts."""
        good = ~(self.times <= 0)  # nan, a failure, stays
        if good.all():
            return self
        told = "history of %s (%s): %d of %d times are not positive; those trials are left out"
        log.warning(told, self.name, self.group, int((~good).sum()), len(good))
        return self._only(np.flatnonzero(good))

    @property
    def ok(self) -> bool:
        """Whether anything can be learned from it: two trials with times."""
        return int(np.isfinite(self.times).sum()) >= 2

    def winners(self, n: int) -> list[Config]:
        order = np.argsort(self.times, kind="stable")
        return [self.configs[i] for i in order[:n] if np.isfinite(self.times[i])]

    def thinned(self, rng: np.random.Generator) -> HistoryGroup:
        """At most ``BEST_ROWS`` best and ``OTHER_ROWS`` other trials."""
        if len(self.times) <= BEST_ROWS + OTHER_ROWS:
            return self
        order = np.argsort(self.times, kind="stable")  # failures, nan, come last
        keep = np.sort(np.concatenate([order[:BEST_ROWS], rng.permutation(order[BEST_ROWS:])[:OTHER_ROWS]]))
        return self._only(keep)

    def _only(self, rows: NDArray[np.intp]) -> HistoryGroup:
        """Some of the trials, by number."""
        return replace(
            self,
            features=self.features[rows],
            times=self.times[rows],
            configs=tuple(self.configs[i] for i in rows),
            predicted=None if self.predicted is None else self.predicted[rows],
        )


def predicted_columns(predictions: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """What a model learns from predicted times of one workload's configs (their ``Prediction.terms``, {}: not
    predicted): (n, 6). log2 of the seconds over the least; log2 of the cycles of an iteration of one block; resident
    blocks; cycles of the tail, of DRAM and of latency as shares of all. Rows are nan where nothing was predicted, and
    ``NEVER`` where the config does not fit."""
    known = [p["seconds"] for p in predictions if math.isfinite(p.get("seconds", math.nan))]
    columns = np.full((len(predictions), 6), np.nan)
    for row, p in zip(columns, predictions):
        if "seconds" not in p:
            continue
        if not math.isfinite(p["seconds"]):
            row[:] = NEVER
            continue
        cycles = {k.removesuffix(" cycles"): v for k, v in p.items() if k.endswith(" cycles")}
        total = max(1.0, sum(cycles.values()) - cycles.get("tail", 0.0))
        iteration, resident = p.get("iteration", 0.0), p.get("resident", 1.0)
        row[:] = (
            math.log2(p["seconds"] / min(known)),
            math.log2(max(1.0, iteration) / max(1.0, resident)),
            resident,
            *(cycles.get(name, 0.0) / total for name in ("tail", "dram", "latency")),
        )
    return columns


def gather(history: Iterable[Any], spaces: Sequence[Space], source: str | None = None) -> dict[str, list[HistoryGroup]]:
    """History by space name, nearest first: a ``HistoryGroup`` as it is, records grouped by template, workload and
    chip. Records of a space's own workload and chip are left out (they are told, not transferred), and those of chips
    whose limits are not known here (see ``device_of``). ``source``: the one to learn from; by default everything but
    predicted trials, or those where there is nothing else."""
    items = list(history)
    sources = {i.source for i in items}
    wanted = {source} if source else sources - {PREDICTED} or sources
    found: dict[str, list[HistoryGroup]] = {}
    records: dict[str, dict[tuple[Workload, str], list[Measurement]]] = {}
    for item in items:
        if item.source not in wanted:
            continue
        if isinstance(item, HistoryGroup):
            group = item.positive()
            found.setdefault(item.name, []).append(group)
            if not group.ok:
                log.warning("history of %s (%s) has fewer than two times: nothing to learn", item.name, item.group)
        else:
            m = item.measurement
            records.setdefault(m.candidate.template, {}).setdefault((item.workload, item.chip), []).append(m)
    for space in spaces:
        if isinstance(space, TemplateSpace) and space.name in records:
            found.setdefault(space.name, []).extend(_nearest_groups(space, records[space.name]))
        elif space.name in records:  # a space of one's own
            own = records[space.name].items()
            groups = (HistoryGroup.of(space, ms, f"{workload.key} on {chip}") for (workload, chip), ms in own)
            found.setdefault(space.name, []).extend(groups)
    return {
        s.name: sorted((g for g in found[s.name] if g.ok), key=lambda g: (g.distance, g.group))[:GROUPS]
        for s in spaces
        if found.get(s.name)
    }


def _nearest_groups(
    space: TemplateSpace, records: Mapping[tuple[Workload, str], Sequence[Measurement]]
) -> list[HistoryGroup]:
    """The nearest ``GROUPS`` of the template's records by workload and chip, each thinned so that all together are at
    most ``ROWS``."""
    near = []
    for (workload, chip), measurements in records.items():
        device = device_of(chip, space)
        if device is not None and (workload, chip) != (space.workload, space.device.chip):
            away = distance(workload, space.workload) + OTHER_CHIP * (chip != space.device.chip)
            near.append((away, workload, device, measurements))
    nearest = sorted(near, key=lambda g: (g[0], g[1].key, g[2].chip))[:GROUPS]
    found = []
    for away, workload, device, measurements in nearest:
        best, others = (min(rows, ROWS // (2 * len(nearest))) for rows in (BEST_ROWS, OTHER_ROWS))
        order = sorted(measurements, key=lambda m: (m.time if m.ok else math.inf, m.candidate.key))
        step = max(1, (len(order) - best) // others)
        some = order[:best] + order[best::step][:others]
        name = f"{workload.key} on {device.chip}"
        found.append(HistoryGroup.of(TemplateSpace(space.bound.on(workload, device)), some, name, away))
    return found


class TransferModel:
    """What history expects of a space's configs: ``predict`` is near 0 for an ordinary config, near 1 for the best."""

    def __init__(self, ranker: Ranker, low: float, high: float) -> None:
        self._ranker, self._low, self._span = ranker, low, max(high - low, 1e-9)

    @classmethod
    def of(cls, space: Space, history: Sequence[HistoryGroup], seed: int) -> TransferModel | None:
        """Fitted on the groups that have some of the space's features; None when nothing can be learned: all configs of
        a draw look alike to it."""
        rng = np.random.default_rng(seed)
        sample = space.grid.sample(512, rng)
        if not len(sample):
            return None
        x, names = space.describe(sample)
        fitting = [g for g in (group.rebased(names) for group in history if group.ok) if g is not None]
        groups = [g.thinned(rng) for g in fitting]
        if not groups:
            return None
        ranker = Ranker.fit(
            np.concatenate([g.features for g in groups]),
            np.concatenate([g.times for g in groups]),
            [len(g.times) for g in groups],
            seed=seed,
            shape=POOLED,
            names=names,
        )
        if ranker is None:
            return None
        score = ranker.score(x)
        if np.ptp(score) < ALIKE:
            log.warning("history of %s tells no two configs of a draw apart: no model learns from it", space.name)
            return None
        return cls(ranker, float(np.median(score)), float(np.max(score)))

    def predict(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n,) for features (n, f)."""
        return np.clip((self._ranker.score(x) - self._low) / self._span, -1.0, 1.5)


def device_of(chip: str, space: Any = None) -> Device | None:
    """The chip that records name, as far as it is known here: the space's own, one of the device table, or a slice or
    another make of one in the table (same name, other SM count or memory; L2 and bandwidth go with the memory). Records
    of any other chip are not learned from: their features need its limits, which records do not hold."""
    known = [d for d in (getattr(space, "device", None), *KNOWN.values()) if d is not None]
    found = next((d for d in known if d.chip == chip), None)
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


def suggest(space: Space, n: int = 4) -> list[Config]:
    """At most ``n`` distinct valid configs; none when the package, the GPU, the dtype or the knobs are not there."""
    if not isinstance(space, TemplateSpace) or not isinstance(space.workload, Matmul):
        return []
    default = space.default()
    precision = _PRECISIONS.get((space.workload.dtype, space.workload.out_dtype))
    gpu = _GPUS.get(space.device.name)
    if default is None or precision is None or gpu is None or not {"block_m", "block_n"} <= set(default):
        return []
    wanted = (_wanted(space, answer) for answer in _ask(space.workload, gpu, precision))
    distinct = {tuple(sorted(values.items())): values for values in wanted}  # twins differ in what no knob here says
    found: list[Config] = []
    for values in distinct.values():
        config = _nearest(space, default.replace(**values)) if len(found) < n else None
        if config is not None and config not in found:
            found.append(config)
    return found


def _ask(workload: Matmul, gpu: str, precision: str) -> list[Any]:
    """The package's kernels, least estimated runtime first: it gives them in another order, with many twins among them.
    It is not ours: whatever goes wrong in it means no suggestion."""
    try:
        import nvMatmulHeuristics as package

        interface = package.NvMatmulHeuristicsInterfaceEx(
            backend=package.NvMatmulHeuristicsTarget.CUTLASS3, gpu=package.NvMatmulHeuristicsNvidiaGpu[gpu]
        )
        layout = package.boolsToNvMatmulHeuristicsLayout(workload.layout[0] == "t", workload.layout[1] == "t")
        problem = interface.makeNvMatmulHeuristicsProblem(workload.m, workload.n, workload.k, layout, workload.batch)
        answers = interface.get(problem, SUGGESTIONS, precision)
        return [answer["kernel"] for answer in sorted(answers, key=lambda answer: float(answer["runtime"]))]
    except Exception as error:
        log.debug("nvidia-matmul-heuristics gave no suggestion for %s: %s", workload.key, error)
        return []


def _wanted(space: TemplateSpace, answer: Any) -> dict[str, int]:
    """The answer's tiles, stages and the like, at the values that the space's knobs list nearest to them."""
    wanted = {}
    for knob in space.knobs:
        value = getattr(answer, _KNOBS.get(knob.name, ""), None)
        numbers = [v for v in knob.values if isinstance(v, int) and not isinstance(v, bool) and v > 0]
        if isinstance(value, int) and value > 0 and len(numbers) == len(knob.values):
            wanted[knob.name] = min(numbers, key=lambda v: abs(np.log2(v / value)))
    return wanted


def _nearest(space: TemplateSpace, config: Config) -> Config | None:
    """``config`` made valid by small steps."""
    row = space.grid.repair(space.rows([config])[0], np.random.default_rng(0))
    return None if row is None else space.configs(row[None])[0]
