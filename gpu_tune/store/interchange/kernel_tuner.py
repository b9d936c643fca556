"""Kernel Tuner cache files (kernel_tuner/schema, cache 1.0.0). Times in them are milliseconds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

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
    """Write a closed Kernel Tuner cache file that its simulation mode reads."""
    keys = [k.name for k in recorded.knobs]
    cache = {}
    for t in recorded.trials:
        entry: dict[str, Any] = {k: t.config[k] for k in keys}
        entry["time"], entry["times"] = files.outcome(t)
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
        "cache": cache,
    }
    files.write(path, json.dumps(body, allow_nan=False, separators=(", ", ": ")))


def parse(data: dict[str, Any], name: str) -> Recorded:
    """The recorded space in a cache file's object; CorruptData naming ``name`` and the entry."""
    keys: Any = data.get("tune_params_keys")
    named = isinstance(keys, list) and keys and all(isinstance(k, str) for k in keys) and len(set(keys)) == len(keys)
    need(named, f"{name}: tune_params_keys is not a list of distinct names")
    params = data.get("tune_params")
    same = params is None or (isinstance(params, dict) and set(params) == set(keys))
    need(same, f"{name}: tune_params does not name the same parameters as tune_params_keys")
    objective = files.text(data, "objective", name) or "time"
    entries = data["cache"]
    configs = []
    for key, entry in entries.items():
        whole = isinstance(entry, dict) and all(k in entry for k in keys)
        need(whole, f"{name}: cache entry {key[:80]!r} is not an object with every parameter of tune_params_keys")
        recorded = [entry[k] for k in keys]
        need(
            ",".join(str(v) for v in recorded) == key,
            f"{name}: cache entry {key[:80]!r} holds the values {str(recorded)[:120]}; key and values must agree",
        )
        configs.append(dict(zip(keys, recorded)))
    knobs = files.knobs(keys, configs, params, name)
    trials = [
        _trial(config, entry, objective, f"{name}: cache entry {key[:80]!r}")
        for config, (key, entry) in zip(files.canonical(configs, knobs, name), entries.items())
    ]
    return Recorded(
        files.text(data, "kernel_name", name),
        files.text(data, "device_name", name),
        knobs,
        tuple(trials),
        files.problem_size(data.get("problem_size"), name),
        objective,
    )


def _trial(config: Config, entry: Mapping[str, Any], objective: str, where: str) -> RecordedTrial:
    error = entry.get("__error__")
    value = error if isinstance(error, str) else entry.get(objective, entry.get("time"))
    costs = files.costs(entry, _COSTS, 1e-3, where)
    known = {*config, "time", "times", "timestamp", "__error__", objective, *_COSTS}
    extra = {k: v for k, v in entry.items() if k not in known and isinstance(v, (str, int, float)) and files.finite(v)}
    stamp = str(entry.get("timestamp", ""))
    need(value is not None, f"{where}: has neither {objective!r} nor an error")
    failed = files.failure(value, objective)
    if failed:
        return RecordedTrial(config, failed[0], None, (), failed[1], costs, stamp, extra)
    time, samples = files.time(value, where, objective) * 1e-3, files.samples(entry.get("times"), 1e-3, where)
    return RecordedTrial(config, "ok", time, samples, "", costs, stamp, extra)
