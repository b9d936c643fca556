"""T4 results (kernel_tuner/schema, T4 1.0.0). Times are milliseconds unless the metadata says otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
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
    "s": 1.0,
    "milliseconds": 1e-3,
    "miliseconds": 1e-3,
    "ms": 1e-3,
    "microseconds": 1e-6,
    "us": 1e-6,
    "nanoseconds": 1e-9,
    "ns": 1e-9,
}
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
    for t in recorded.trials:
        times: dict[str, Any] = {
            theirs: files.milliseconds(t.seconds.get(ours, 0.0))
            for theirs, ours in _COSTS.items()
            if theirs != "compilation_time"
        }
        value, times["runtimes"] = files.outcome(t)
        result: dict[str, Any] = {
            "configuration": dict(t.config),
            "times": times,
            "invalidity": _INVALIDITY.get(t.status, "runtime"),
            "correctness": 0 if t.time is None else 1,
            "objectives": [recorded.objective],
            "measurements": [
                {"name": recorded.objective, "value": value, "unit": "" if t.time is None else "ms"},
                *({"name": k, "value": v, "unit": ""} for k, v in t.extra.items()),
            ],
        }
        if t.timestamp:
            result["timestamp"] = t.timestamp
        results.append(result)
    metadata = {
        "timeunit": "milliseconds",
        "device": recorded.device,
        "kernel_name": recorded.kernel,
        "problem_size": list(recorded.problem_size),
        "autotuner": "gpu_tune",
    }
    files.write(
        path, json.dumps({"schema_version": "1.0.0", "metadata": metadata, "results": results}, allow_nan=False)
    )


def parse(data: dict[str, Any], name: str) -> Recorded:
    """The recorded space in a results file's object; CorruptData naming ``name`` and the result."""
    metadata: Any = data.get("metadata") if isinstance(data.get("metadata"), dict) else {}
    unit_name = str(metadata.get("timeunit", "milliseconds")).lower()
    known = ", ".join(_UNITS)
    need(unit_name in _UNITS, f"{name}: metadata.timeunit {unit_name[:40]!r} is unknown; use one of {known}")
    unit = _UNITS[unit_name]
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
    trials = [
        _trial(config, r, unit, f"{name}: result {i}")
        for i, (config, r) in enumerate(zip(files.canonical(configs, knobs, name), results))
    ]
    objectives = results[0].get("objectives") if results else None
    objective = str(objectives[0]) if isinstance(objectives, list) and objectives else "time"
    return Recorded(
        str(metadata.get("kernel_name") or Path(name).name.split(".")[0]),
        str(metadata.get("device") or ""),
        knobs,
        tuple(trials),
        files.problem_size(metadata.get("problem_size"), name),
        objective,
    )


def _trial(config: Config, r: Mapping[str, Any], unit: float, where: str) -> RecordedTrial:
    invalidity = r.get("invalidity")
    known = isinstance(invalidity, str) and invalidity in _STATUS
    need(known, f"{where}: invalidity {str(invalidity)[:40]!r} is not one of {', '.join(_STATUS)}")
    status = _STATUS[str(invalidity)]
    times: Any = r.get("times") if isinstance(r.get("times"), dict) else {}
    costs = files.costs(times, _COSTS, unit, where)
    objectives = r.get("objectives")
    objective = str(objectives[0]) if isinstance(objectives, list) and objectives else "time"
    listed = r.get("measurements")
    measured = (
        {str(m["name"]): m for m in listed if isinstance(m, dict) and "name" in m} if isinstance(listed, list) else {}
    )
    extra = {
        k: m.get("value")
        for k, m in measured.items()
        if k != objective and isinstance(m.get("value"), (int, float, str)) and files.finite(m["value"])
    }
    stamp = str(r.get("timestamp", ""))
    main = measured.get(objective, {})
    value = main.get("value")
    failed = files.failure(value, objective)
    if status != "ok":
        failed = status, value if isinstance(value, str) else str(invalidity)
    if failed:
        return RecordedTrial(config, failed[0], None, (), failed[1], costs, stamp, extra)
    samples = files.samples(times.get("runtimes"), unit, where)
    if value is None:
        need(samples, f"{where}: is correct but has neither the measurement {objective!r} nor runtimes")
        time = sum(samples) / len(samples)
    else:
        time = files.time(value, where, objective) * _UNITS.get(str(main.get("unit", "")).lower(), unit)
    return RecordedTrial(config, status, time, samples, "", costs, stamp, extra)
