"""The runs of bench.search: one searcher over one recorded space, and the logs that warm runs are given."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.search.peers import checkout, kernel_tuner, optuna
from bench.search.plain import plain
from gpu_tune.model.transfer import HistoryGroup
from gpu_tune.search.history import History
from gpu_tune.search.search import Search
from gpu_tune.search.space_search import PIPELINED, Settings
from gpu_tune.space.knob import Config
from gpu_tune.store.interchange import RecordedSpace, load
from gpu_tune.trial import Measurement

TAUGHT = ("warm", "unrelated", "misled")
"""Searchers that are given history."""
SEARCHERS = ("random", "plain", "ga", "trees", "cold", "cold-late", *TAUGHT)
LOGS, LOG_TRIALS = 4, 200
ALONE = Settings(spread=1, gaussian_process=0.0, early=16, diversify=0.0)
TREES = replace(ALONE, trees=0.6, children=0.3, stalled=(0.0, 0.6, 0.0, 0.3))
GENETIC = replace(ALONE, trees=0.0, children=0.9, stalled=(0.0, 0.0, 0.0, 0.9))

_spaces: dict[str, RecordedSpace] = {}
_logs: dict[tuple[str, int], list[int]] = {}


def space_of(path: str) -> RecordedSpace:
    """The recorded space in ``path``, read once per process."""
    if path not in _spaces:
        _spaces[path] = RecordedSpace(load(path))
    return _spaces[path]


def run(
    job: tuple[str, str, int, argparse.Namespace, Sequence[Any]],
) -> tuple[str, str, int, list[float], float]:
    """One replay: (path, searcher, seed, times in the order tried (inf: failed), seconds spent searching)."""
    path, searcher, seed, args, history = job
    space = space_of(path)
    budget = min(args.trials, len(space))
    order: list[float]
    if searcher == "random":
        picks = np.random.default_rng(seed).permutation(len(space))[:budget]
        order, spent = list(space.times()[picks]), 0.0
    elif searcher == "plain":
        began = time.perf_counter()
        order = plain(space, seed, budget)
        spent = time.perf_counter() - began
    elif searcher.startswith("kt:"):
        order, spent = kernel_tuner(space, searcher[3:], seed, budget)
    elif searcher.startswith("optuna:"):
        order, spent = optuna(space, searcher[7:], seed, budget)
    elif searcher.startswith("at:"):
        order, spent = checkout(path, searcher[3:], seed, budget, args.batch)
    else:
        order, spent = ours(space, searcher, seed, budget, args, history)
    return path, searcher, seed, order, spent


def ratios(order: Sequence[float], optimum: float, budget: int) -> list[float]:
    """Optimum over the best time so far, after each of ``budget`` trials; a run that ended early keeps its last."""
    return list(optimum / np.minimum.accumulate([*order, *[np.inf] * (budget - len(order))]))


def ours(
    space: RecordedSpace,
    searcher: str,
    seed: int,
    budget: int,
    args: argparse.Namespace,
    history: Sequence[Any],
) -> tuple[list[float], float]:
    """Times in the order tried (inf: failed) and the seconds of ask and tell."""
    late = int(args.pipelined or searcher == "cold-late")
    own = replace(PIPELINED if late else Settings(), **json.loads(args.settings))
    base = {"trees": TREES, "ga": GENETIC}.get(searcher, own)
    search = Search([space], seed=seed, batch=args.batch, settings=base, history=history)
    flight: list[Any] = []
    order: list[float] = []
    spent, asked = 0.0, 0
    while len(order) < budget:
        began = time.perf_counter()
        batch = search.ask(min(budget - asked, search.batch)) if asked < budget else []
        spent += time.perf_counter() - began
        asked += len(batch)
        ended = [space.measurement(c.config, repeats=False) for c in batch]
        order.extend(m.time if m.ok else np.inf for m in ended)
        flight.append(ended)
        if not batch and not any(flight):
            break
        began = time.perf_counter()
        while len(flight) > late:
            search.tell(flight.pop(0))
        spent += time.perf_counter() - began
    return order, spent


Logs = dict[tuple[str, int], list[Measurement]]


def logs(paths: Sequence[str], args: argparse.Namespace, pool: Any) -> Logs:
    """What warm runs are given: cold runs of ``LOG_TRIALS`` trials on every space, ``LOGS`` of them by turns."""
    jobs = [(path, 10_000 + i, args) for path in paths for i in range(LOGS)]
    return dict(zip([(p, s - 10_000) for p, s, _ in jobs], pool(log, jobs)))


def log(job: tuple[str, int, argparse.Namespace]) -> list[Measurement]:
    """One cold run."""
    path, seed, args = job
    space = space_of(path)
    search = Search([space], seed=seed, batch=args.batch)
    while len(search.observations) < min(LOG_TRIALS, len(space)):
        batch = search.ask(min(LOG_TRIALS - len(search.observations), search.batch))
        if not batch:
            break
        search.tell([space.measurement(c.config, repeats=False) for c in batch])
    return search.observations


def history(searcher: str, path: str, seed: int, paths: Sequence[str], logged: Logs) -> list[Any]:
    """What the run of ``searcher`` on ``path`` is given."""
    if searcher == "warm":
        groups = [(space_of(k), logged[k, seed % LOGS]) for k in kin(path, paths)]
        return [HistoryGroup.of(space, told, f"{space.name} on {space.recorded.device}") for space, told in groups]
    others = unrelated(path, paths) if searcher == "unrelated" else kin(path, paths) if searcher == "misled" else []
    if not others:
        return []
    turn, place = divmod(seed, len(others))
    other = others[place]
    told = History.of(logged[other, turn % LOGS], other, space_of(path).name)
    return [mirrored(told, space_of(other))] if searcher == "misled" else [told]


def unrelated(path: str, paths: Sequence[str]) -> list[str]:
    """The spaces of another kernel, or of other knobs, that have a knob of the same name."""
    own = space_of(path)
    names = [k.name for k in own.knobs]
    knobs = {p: [k.name for k in space_of(p).knobs] for p in paths}
    return [p for p in paths if (space_of(p).name, knobs[p]) != (own.name, names) and set(knobs[p]) & set(names)]


def mirrored(history: History, space: RecordedSpace) -> History:
    """The same times of other configs: of each knob the first value for the last, the second for the last but one. It
    is as smooth as the truth, and wrong wherever that is not alike at both ends."""
    opposite = {k.name: dict(zip(k.values, k.values[::-1])) for k in space.knobs}
    configs = (Config({name: opposite[name][value] for name, value in c.items()}) for c in history.configs)
    return replace(history, configs=tuple(configs), group=f"{history.group}, mirrored")


def kin(path: str, paths: Sequence[str]) -> list[str]:
    """The other devices' spaces of the same kernel and knobs."""
    own = space_of(path)
    names = [k.name for k in own.knobs]
    return [
        p
        for p in paths
        if p != path
        and space_of(p).name == own.name
        and [k.name for k in space_of(p).knobs] == names
        and space_of(p).recorded.device != own.recorded.device
    ]
