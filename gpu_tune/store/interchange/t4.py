"""T4 results (kernel_tuner/schema, T4 1.0.0).

Times are in the unit that the metadata state, else in that of the measured time (KTT's converter writes no metadata),
else in milliseconds. KTT writes one result a run: results of one config are its repeats.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...space.knob import Config
from ..recorded_space import Recorded, RecordedTrial
from . import files
from .files import need

_STATUS = {
    "correct": "ok",
    "compile": "compile_error",
    "runtime": "run_error",
    "timeout": "run_timeout",
    "correctness": "wrong",
    "constraints": "invalid",
}
_INVALIDITY = {
    "ok": "correct",
    "duplicate": "correct",
    "invalid": "constraints",
    "compile_error": "compile",
    "compile_timeout": "timeout",
    "run_timeout": "timeout",
    "wrong": "correctness",
}
_UNITS = {
    "seconds": 1.0,
    "sec": 1.0,
    "s": 1.0,
    "milliseconds": 1e-3,
    "miliseconds": 1e-3,
    "ms": 1e-3,
    "microseconds": 1e-6,
    "us": 1e-6,
    "\u00b5s": 1e-6,  # micro sign
    "\u03bcs": 1e-6,  # Greek mu
    "nanoseconds": 1e-9,
    "ns": 1e-9,
}
_DURATIONS = ("time", "totalduration", "duration", "runtime")
"""Names of measurements that are times, in lower case: Kernel Tuner's, KTT's, and what they could be called."""
_COSTS = {
    "compilation": "compile",
    "compilation_time": "compile",
    "validation": "verify",
    "benchmark": "time",
    "search_algorithm": "search",
    "framework": "framework",
}


def save(recorded: Recorded, path: str | os.PathLike[str]) -> None:
    """Write T4 results, schema 1.0.0, in milliseconds; device and kernel go into ``metadata``."""
    results = []
    unit = "ms" if recorded.objective == files.TIME else ""
    for t in recorded.trials:
        times: dict[str, Any] = {
            theirs: files.milliseconds(t.seconds.get(ours, 0.0))
            for theirs, ours in _COSTS.items()
            if theirs != "compilation_time"
        }
        value, times["runtimes"] = files.outcome(t, recorded)
        result: dict[str, Any] = {
            "configuration": dict(t.config),
            "times": times,
            "invalidity": _INVALIDITY.get(t.status, "runtime"),
            "correctness": 0 if t.time is None else 1,
            "objectives": [recorded.objective],
            "measurements": [
                {"name": recorded.objective, "value": value, "unit": unit if t.time is not None else ""},
                *({"name": k, "value": v, "unit": ""} for k, v in t.extra.items()),
            ],
        }
        if t.timestamp:
            result["timestamp"] = t.timestamp
        results.append(result)
    metadata: dict[str, Any] = {
        "timeunit": "milliseconds",
        "device": recorded.device,
        "kernel_name": recorded.kernel,
        "problem_size": list(recorded.problem_size),
        "autotuner": "gpu_tune",
    }
    if recorded.objective != files.TIME:
        metadata["objective_higher_is_better"] = recorded.higher_is_better
    files.write(
        path, json.dumps({"schema_version": "1.0.0", "metadata": metadata, "results": results}, allow_nan=False)
    )


def parse(data: dict[str, Any], name: str) -> Recorded:
    """The recorded space in a results file's object; CorruptData naming ``name`` and the result."""
    metadata: Any = data.get("metadata") if isinstance(data.get("metadata"), dict) else {}
    results = data["results"]
    configs: list[Any] = []
    for i, r in enumerate(results):
        config = r.get("configuration") if isinstance(r, dict) else None
        need(config and isinstance(config, dict), f"{name}: result {i} has no configuration")
        configs.append(config)
    keys = list(configs[0]) if configs else []
    for i, c in enumerate(configs):
        other = sorted(set(c) ^ set(keys))
        need(not other, f"{name}: result {i} has other parameters than result 0: {other[:8]}")
    knobs = files.knobs(keys, configs, None, name)
    where = [f"{name}: result {i}" for i in range(len(results))]
    measured = [_measured(r) for r in results]
    known = _times_of(results, measured)
    unit = _unit(metadata, known, name)
    if all(time is not None or _status(r, w) != "ok" for time, r, w in zip(known, results, where)):
        objective, higher_is_better = files.TIME, False
    else:
        objective = files.one_objective(results[0].get("objectives"), name)
        higher_is_better = files.direction(objective, metadata.get("objective_higher_is_better"), name)
        known = [m.get(objective) for m in measured]
    like = Recorded("", "", (), (), (), objective, higher_is_better)
    trials: dict[str, list[RecordedTrial]] = {}
    for config, result, found, value, place in zip(
        files.canonical(configs, knobs, name, repeated=True), results, measured, known, where
    ):
        trials.setdefault(config.key, []).append(_trial(config, result, found, value, unit, like, place))
    return Recorded(
        str(metadata.get("kernel_name") or Path(name).name.split(".")[0]),
        str(metadata.get("device") or ""),
        knobs,
        files.trusted([_pooled(runs) for runs in trials.values()], name),
        files.problem_size(metadata.get("problem_size"), name),
        objective,
        higher_is_better,
    )


def _measured(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a result lists as measured, by name."""
    listed = result.get("measurements")
    if not isinstance(listed, list):
        return {}
    return {str(m["name"]): m for m in listed if isinstance(m, dict) and "name" in m}


def _times_of(
    results: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Mapping[str, Any]]]
) -> list[Mapping[str, Any] | None]:
    """What of each result is its time: the measurement of that name or in a unit of time, else the mean of its runs."""
    found: list[Mapping[str, Any] | None] = []
    for r, m in zip(results, measured):
        objectives = r.get("objectives")
        first = str(objectives[0]) if isinstance(objectives, list) and objectives else files.TIME
        main = m.get(first)
        named = next((m[k] for d in _DURATIONS for k in m if k.lower() == d and m[k].get("value") is not None), None)
        if main is not None and str(main.get("unit", "")).lower() in _UNITS:
            named = named or main
        times = r.get("times")
        runs = times.get("runtimes") if isinstance(times, dict) else None
        if named is None and isinstance(runs, list) and runs:
            named = {"runs": runs}
        found.append(named)
    return found


def _unit(metadata: Mapping[str, Any], known: Sequence[Mapping[str, Any] | None], name: str) -> float:
    """Seconds in the file's unit of time."""
    stated = next((v for k, v in metadata.items() if k.lower().replace("_", "") == "timeunit"), None)
    if stated is None:
        stated = next((m["unit"] for m in known if m is not None and m.get("unit")), "milliseconds")
    return _seconds(str(stated), f"{name}: metadata.timeunit")


def _seconds(unit: str, where: str) -> float:
    """Seconds in ``unit``; CorruptData for one that is not known."""
    need(unit.lower() in _UNITS, f"{where} {unit[:40]!r} is unknown; use one of {', '.join(_UNITS)}")
    return _UNITS[unit.lower()]


def _status(r: Mapping[str, Any], where: str) -> str:
    invalidity = r.get("invalidity")
    known = isinstance(invalidity, str) and invalidity in _STATUS
    need(known, f"{where}: invalidity {str(invalidity)[:40]!r} is not one of {', '.join(_STATUS)}")
    return _STATUS[str(invalidity)]


def _trial(
    config: Config,
    r: Mapping[str, Any],
    measured: Mapping[str, Mapping[str, Any]],
    main: Mapping[str, Any] | None,
    unit: float,
    like: Recorded,
    where: str,
) -> RecordedTrial:
    """One result. ``main``: the measurement that is the objective; ``like``: the objective and its direction."""
    status = _status(r, where)
    times: Any = r.get("times") if isinstance(r.get("times"), dict) else {}
    costs = files.costs(times, _COSTS, unit, where)
    extra = {
        k: m.get("value")
        for k, m in measured.items()
        if m is not main
        and k != files.TIME
        and isinstance(m.get("value"), (int, float, str))
        and files.finite(m["value"])
    }
    stamp = str(r.get("timestamp", ""))
    value = None if main is None else main.get("value")
    failed = files.failure(value, like.objective)
    if status != "ok":
        failed = status, value if isinstance(value, str) else str(r["invalidity"])
    if failed:
        return RecordedTrial(config, failed[0], None, (), failed[1], costs, stamp, extra)
    samples = files.samples(times.get("runtimes"), unit, where)
    if like.objective != files.TIME:
        need(value is not None, f"{where}: is correct but has neither the measurement {like.objective!r} nor runtimes")
        cost = like.cost_of(files.time(value, where, like.objective))
        return RecordedTrial(config, status, cost, (), "", costs, stamp, extra)
    if value is None or main is None:
        need(samples, f"{where}: is correct but has neither the measurement {files.TIME!r} nor runtimes")
        return RecordedTrial(config, status, sum(samples) / len(samples), samples, "", costs, stamp, extra)
    own = str(main.get("unit") or "")
    time = files.time(value, where, "time") * (_seconds(own, f"{where}: the time's unit") if own else unit)
    return RecordedTrial(config, status, time, samples, "", costs, stamp, extra)


def _pooled(runs: Sequence[RecordedTrial]) -> RecordedTrial:
    """One trial of a config's results: the median of their times, every repeat; failed where one of them failed."""
    first = next((t for t in runs if t.time is None), runs[0])
    if len(runs) == 1 or first.time is None:
        return first
    samples = tuple(s for t in runs for s in t.samples or (t.time,) if s is not None)
    costs = {k: max(t.seconds.get(k, 0.0) for t in runs) for k in dict.fromkeys(k for t in runs for k in t.seconds)}
    return replace(first, time=statistics.median(t.time for t in runs if t.time), samples=samples, seconds=costs)
