"""Other people's searchers over recorded spaces, for bench.search."""

from __future__ import annotations

import argparse
import contextlib
import random
import time
from typing import Any

import numpy as np

from gpu_tune.errors import InvalidInput
from gpu_tune.store.interchange import RecordedSpace


def kernel_tuner(space: RecordedSpace, name: str, seed: int, budget: int) -> tuple[list[float], float]:
    """The same with a Kernel Tuner strategy: its own code and defaults over the recorded results."""
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
