"""Kernel Tuner cache files of every version from 1.0 on. Times in them are milliseconds.

Tried with 1.0, 1.3, 1.4 and 1.5: since 1.4 the objective is a list. An entry holds its time whatever the objective
was, and then its time is what counts here.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...space.knob import Config
from ..recorded_space import Recorded, RecordedTrial
from . import files
from .files import need

_COSTS = {
    "compile_time": "compile",
    "verification_time": "verify",
    "benchmark_time": "time",
    "strategy_time": "search",
    "framework_time": "framework",
}


def save(recorded: Recorded, path: str | os.PathLike[str]) -> None:
    """Write a closed Kernel Tuner cache file that its simulation mode reads, and that it can go on with."""
    keys = [k.name for k in recorded.knobs]
    cache = {}
    for t in recorded.trials:
        entry: dict[str, Any] = {k: t.config[k] for k in keys}
        entry[recorded.objective], entry["times"] = files.outcome(t, recorded)
        entry.update({theirs: files.milliseconds(t.seconds.get(ours, 0.0)) for theirs, ours in _COSTS.items()})
        entry.update({k: v for k, v in t.extra.items() if k not in entry})
        if t.timestamp:
            entry["timestamp"] = t.timestamp
        cache[",".join(str(t.config[k]) for k in keys)] = entry
    body = {
        "schema_version": "1.0.0",
        "device_name": recorded.device,
        "kernel_name": recorded.kernel,
        "problem_size": list(recorded.problem_size),
        "tune_params_keys": keys,
        "tune_params": {k.name: list(k.values) for k in recorded.knobs},
        "objective": recorded.objective,
        **({} if recorded.objective == files.TIME else {"objective_higher_is_better": recorded.higher_is_better}),
        "cache": cache,
    }
    # Kernel Tuner goes on with a closed file by cutting its last three characters: the line end spares the last entry.
    files.write(path, json.dumps(body, allow_nan=False, separators=(", ", ": "))[:-1] + "\n}")


def parse(data: dict[str, Any], name: str) -> Recorded:
    """The recorded space in a cache file's object; CorruptData naming ``name`` and the entry."""
    keys: Any = data.get("tune_params_keys")
    named = isinstance(keys, list) and keys and all(isinstance(k, str) for k in keys) and len(set(keys)) == len(keys)
    need(named, f"{name}: tune_params_keys is not a list of distinct names")
    params = data.get("tune_params")
    same = params is None or (isinstance(params, dict) and set(params) == set(keys))
    need(same, f"{name}: tune_params does not name the same parameters as tune_params_keys")
    entries = data["cache"]
    configs = []
    for key, entry in entries.items():
        whole = isinstance(entry, dict) and all(k in entry for k in keys)
        need(whole, f"{name}: cache entry {key[:80]!r} is not an object with every parameter of tune_params_keys")
        recorded = [entry[k] for k in keys]
        need(
            _spells(key, recorded),
            f"{name}: cache entry {key[:80]!r} holds the values {str(recorded)[:120]}; key and values must agree",
        )
        configs.append(dict(zip(keys, recorded)))
    knobs = files.knobs(keys, configs, params, name)
    wanted = objective = files.one_objective(data.get("objective"), name)
    if objective != files.TIME and all(files.TIME in e or _error(e, objective) is not None for e in entries.values()):
        objective = files.TIME
    stated = None if objective == files.TIME else data.get("objective_higher_is_better")
    higher_is_better = files.direction(objective, stated, name)
    empty = Recorded("", "", (), (), (), objective, higher_is_better)
    trials = [
        _trial(config, entry, empty, wanted, f"{name}: cache entry {key[:80]!r}")
        for config, (key, entry) in zip(files.canonical(configs, knobs, name), entries.items())
    ]
    return Recorded(
        files.text(data, "kernel_name", name),
        files.text(data, "device_name", name),
        knobs,
        files.trusted(trials, name),
        files.problem_size(data.get("problem_size"), name),
        objective,
        higher_is_better,
    )


def _spells(key: str, values: list[Any]) -> bool:
    """Whether ``key`` is ``values`` joined by commas, each as Python or a NumPy float of less precision spells it."""
    if ",".join(map(str, values)) == key:
        return True
    floats = [v for v in values if isinstance(v, float)]
    if not floats or len(floats) > 8:
        return False
    with np.errstate(over="ignore"):
        spellings = [
            {str(v), str(np.float32(v)), str(np.float16(v))} if isinstance(v, float) else {str(v)} for v in values
        ]
    return any(",".join(spelt) == key for spelt in itertools.product(*spellings))


def _error(entry: Mapping[str, Any], objective: str) -> str | None:
    """The name of the error that the entry records, where it does: alone, or in the place of a number."""
    named = (entry.get(k) for k in ("__error__", objective, files.TIME))
    return next((v for v in named if isinstance(v, str)), None)


def _trial(config: Config, entry: Mapping[str, Any], like: Recorded, wanted: str, where: str) -> RecordedTrial:
    """``like``: the objective and its direction; ``wanted``: the objective that the run had."""
    error = _error(entry, wanted)
    value = entry.get(like.objective) if error is None else error
    costs = files.costs(entry, _COSTS, 1e-3, where)
    known = {*config, "time", "times", "timestamp", "__error__", like.objective, *_COSTS}
    extra = {k: v for k, v in entry.items() if k not in known and isinstance(v, (str, int, float)) and files.finite(v)}
    stamp = str(entry.get("timestamp", ""))
    need(value is not None, f"{where}: has neither {like.objective!r} nor an error")
    failed = files.failure(value, like.objective)
    if failed:
        return RecordedTrial(config, failed[0], None, (), failed[1], costs, stamp, extra)
    found, samples = files.time(value, where, like.objective), files.samples(entry.get("times"), 1e-3, where)
    if like.objective != files.TIME:
        return RecordedTrial(config, "ok", like.cost_of(found), (), "", costs, stamp, extra)
    return RecordedTrial(config, "ok", found * 1e-3, samples, "", costs, stamp, extra)
