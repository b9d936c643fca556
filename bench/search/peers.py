"""Other people's searchers over recorded spaces, for bench.search.

Each chooses one config at a time with its own code and defaults, which is to its advantage beside searchers that choose
a batch. Budgets count distinct configs. When Kernel Tuner tunes live it counts repeats too, though they come from its
cache (its simulation mode does not), so that a live run of the same budget tries fewer configs than here.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gpu_tune.errors import InvalidInput
from gpu_tune.store.interchange import RecordedSpace

_spaces: dict[tuple[str, str], Any] = {}


def kernel_tuner(space: RecordedSpace, name: str, seed: int, budget: int) -> tuple[list[float], float]:
    """A Kernel Tuner strategy, over the recorded results: times (seconds, inf for failures) of the distinct configs
    in the order tried, and the seconds that it took."""
    try:
        from kernel_tuner.interface import Options, strategy_map
        from kernel_tuner.searchspace import Searchspace
        from kernel_tuner.util import RuntimeFailedConfig, StopCriterionReached, TuningBudget
    except ImportError as error:
        raise InvalidInput(
            "searcher", f"kt:{name}", "needs kernel_tuner, which is not installed", "pip install kernel_tuner"
        ) from error
    if name not in strategy_map:
        raise InvalidInput(
            "searcher", f"kt:{name}", "is not a Kernel Tuner strategy", f"use one of {', '.join(strategy_map)}"
        )
    keys = [k.name for k in space.knobs]
    results = {}
    for t in space.recorded.trials:
        entry: dict[str, Any] = dict(t.config)
        entry.update(
            {"time": t.time * 1e3}
            if t.time is not None
            else {"time": RuntimeFailedConfig(), "__error__": RuntimeFailedConfig()}
        )
        results[",".join(str(t.config[k]) for k in keys)] = entry
    truth = {key: np.inf if t.time is None else t.time for key, t in zip(results, space.recorded.trials)}
    params = {k.name: list(k.values) for k in space.knobs}
    order: list[float] = []
    budget_object = TuningBudget(None, budget)

    class Runner:
        simulation_mode = True

        def __init__(self) -> None:
            self.seen: set[str] = set()

        def add_strategy_time(self, seconds: float) -> None:
            pass

        def get_device_info(self) -> Any:
            return argparse.Namespace(max_threads=10**9)

        def run(self, configs: Any, options: Any) -> list[Any]:
            found: list[Any] = []
            for config in configs:
                if budget_object.is_done():
                    found.append(None)
                    continue
                key = ",".join(str(v) for v in config)
                result = dict(results[key])
                if key not in self.seen:
                    self.seen.add(key)
                    budget_object.add_evaluations(1)
                    order.append(truth[key])
                found.append(result)
            return found

    random.seed(seed)
    np.random.seed(seed)
    began = time.perf_counter()
    fresh = Searchspace(None, None, None, from_cache={"tune_params": params, "cache": results})
    options = Options(
        {
            "objective": ["time"],
            "objective_higher_is_better": [False],
            "strategy_options": Options(max_fevals=budget),
            "max_fevals": budget,
            "budget": budget_object,
            "metrics": None,
            "tune_params": params,
            "verbose": False,
            "simulation_mode": True,
            "restrictions": None,
            "cache": results,
            "quiet": True,
            "strategy": name,
        }
    )
    with contextlib.suppress(StopCriterionReached):
        strategy_map[name].tune(fresh, Runner(), options)
    return order[:budget], time.perf_counter() - began


def imported(folder: str) -> tuple[Any, Any]:
    """The modules of the search and of recorded spaces of another checkout of this project, from 0fc5959 on: its
    package is imported under another name."""
    name = "gpu_tune_at_" + hashlib.sha256(folder.encode()).hexdigest()[:8]
    root = Path(folder) / "gpu_tune"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, root / "__init__.py", submodule_search_locations=[str(root)]
        )
        if spec is None or spec.loader is None or not (root / "__init__.py").is_file():
            raise InvalidInput("searcher", f"at:{folder}", "is no checkout of gpu_tune", "give its root folder")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    flat = (root / "search.py").is_file()
    search = importlib.import_module(name + (".search" if flat else ".search.search"))
    return search, importlib.import_module(name + (".interchange" if flat else ".store.interchange"))


def recorded_there(interchange: Any, path: str) -> Any:
    """The recorded space in ``path`` as another checkout reads it, read once per process."""
    key = interchange.__name__, path
    if key not in _spaces:
        _spaces[key] = interchange.RecordedSpace(interchange.load(path))
    return _spaces[key]


def checkout(path: str, folder: str, seed: int, budget: int, batch: int) -> tuple[list[float], float]:
    """The same with the cold search of another checkout of this project."""
    search, interchange = imported(folder)
    space = recorded_there(interchange, path)
    own = search.Search([space], seed=seed, batch=batch)
    order: list[float] = []
    began = time.perf_counter()
    while len(order) < budget:
        asked = own.ask(min(budget - len(order), batch))
        if not asked:
            break
        ended = [space.measurement(c.config, repeats=False) for c in asked]
        order.extend(m.time if m.ok else math.inf for m in ended)
        own.tell(ended)
    return order, time.perf_counter() - began


OPTUNA = ("tpe", "cmaes")
PATIENCE = 20
"""Suggestions asked of Optuna for each config of the budget: repeats and points outside of the space are free, but a
sampler that has converged suggests nothing else."""


def optuna(space: RecordedSpace, name: str, seed: int, budget: int) -> tuple[list[float], float]:
    """The same with an Optuna sampler that minimises the log of the time. Knobs are integers (numbers are their places
    in the knob's list), labels are categorical for TPE. A failure and a point outside of the space count as twice the
    slowest time seen; the latter takes nothing off the budget."""
    try:
        import optuna as package
    except ImportError as error:
        told = "needs optuna, and cmaes for CMA-ES, which are not installed"
        raise InvalidInput("searcher", f"optuna:{name}", told, "pip install optuna cmaes") from error
    if name not in OPTUNA:
        rule = "is not one of the samplers replayed"
        raise InvalidInput("searcher", f"optuna:{name}", rule, f"use one of {', '.join(OPTUNA)}")
    package.logging.set_verbosity(package.logging.ERROR)
    samplers = package.samplers
    sampler = samplers.TPESampler(seed=seed) if name == "tpe" else samplers.CmaEsSampler(seed=seed)
    study = package.create_study(sampler=sampler)
    truth = {tuple(t.config[k.name] for k in space.knobs): t.time for t in space.recorded.trials}
    knobs = [k for k in space.knobs if len(k.values) > 1]
    fixed = {k.name: k.values[0] for k in space.knobs if len(k.values) == 1}
    order: dict[tuple[Any, ...], float] = {}
    began, slowest = time.perf_counter(), 0.0
    for _ in range(PATIENCE * budget):
        if len(order) >= budget:
            break
        trial = study.ask()
        values = dict(fixed)
        for knob in knobs:
            if knob.ordinal or name == "cmaes":
                values[knob.name] = knob.values[trial.suggest_int(knob.name, 0, len(knob.values) - 1)]
            else:
                places = range(len(knob.values))
                values[knob.name] = knob.values[trial.suggest_categorical(knob.name, list(places))]
        key = tuple(values[k.name] for k in space.knobs)
        seconds = truth.get(key)
        if key in truth:
            order.setdefault(key, math.inf if seconds is None else seconds)
        slowest = max(slowest, seconds or 0.0)
        study.tell(trial, math.log(seconds or 2 * slowest or 1.0))
    return list(order.values()), time.perf_counter() - began
