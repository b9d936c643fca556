"""Interchange: Kernel Tuner cache files and T4 results, read and written, ``.json`` or ``.json.gz``.

Formats: kernel_tuner/schema (cache 1.0.0, T4 1.0.0) and the autotuning community's hub. Times in files are milliseconds
unless a T4 file's metadata says otherwise; in memory they are seconds. Files come from strangers: size, nesting, keys,
numbers and duplicates are checked, and anything amiss is one CorruptData naming the file and the entry.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import CorruptData, InvalidInput
from .space.knob import Config, Knob
from .space.recorded import Recorded, RecordedSpace, RecordedTrial

__all__ = ["Recorded", "RecordedSpace", "RecordedTrial", "load", "save_kernel_tuner", "save_t4"]

MAX_BYTES = 1 << 28
"""Most bytes of JSON (after decompression) that are read."""
MAX_KNOBS, MAX_VALUES = 200, 60_000
FAILED_TIME = 1e20
_KT_STATUS = {
    "CompilationFailedConfig": "compile_error",
    "RuntimeFailedConfig": "run_error",
    "InvalidConfig": "invalid",
}
_T4_STATUS = {
    "correct": "ok",
    "compile": "compile_error",
    "runtime": "run_error",
    "timeout": "run_timeout",
    "correctness": "wrong",
    "constraints": "invalid",
}
_TO_KT = {
    "invalid": "InvalidConfig",
    "compile_error": "CompilationFailedConfig",
    "compile_timeout": "CompilationFailedConfig",
}
_TO_T4 = {
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
_KT_COSTS = {
    "compile_time": "compile",
    "verification_time": "verify",
    "benchmark_time": "time",
    "strategy_time": "search",
    "framework_time": "framework",
}
_T4_COSTS = {
    "compilation": "compile",
    "compilation_time": "compile",
    "validation": "verify",
    "benchmark": "time",
    "search_algorithm": "search",
    "framework": "framework",
}


def load(path: str | os.PathLike[str]) -> Recorded:
    """Read a Kernel Tuner cache file (also one left open by its writer) or a T4 results file.

    InvalidInput when it cannot be read, CorruptData when its content is not one of the two.
    """
    name = os.fspath(path)
    data = _parse(_read(name), name)
    if isinstance(data, dict) and isinstance(data.get("cache"), dict):
        return _from_kernel_tuner(data, name)
    if isinstance(data, dict) and isinstance(data.get("results"), list):
        return _from_t4(data, name)
    raise CorruptData(
        f"{name}: is neither a Kernel Tuner cache file (an object with 'cache') nor T4 results (with 'results')"
    )


def save_kernel_tuner(recorded: Recorded, path: str | os.PathLike[str]) -> None:
    """Write a closed Kernel Tuner cache file that its simulation mode reads."""
    keys = [k.name for k in recorded.knobs]
    cache = {}
    for t in recorded.trials:
        entry: dict[str, Any] = {k: t.config[k] for k in keys}
        if t.time is None:
            entry["time"] = _TO_KT.get(t.status, "RuntimeFailedConfig")
            entry["times"] = []
        else:
            entry["time"], entry["times"] = _ms(t.time), [_ms(s) for s in t.samples or (t.time,)]
        entry.update({theirs: _ms(t.seconds.get(ours, 0.0)) for theirs, ours in _KT_COSTS.items()})
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
    _write(path, json.dumps(body, allow_nan=False, separators=(", ", ": ")))


def save_t4(recorded: Recorded, path: str | os.PathLike[str]) -> None:
    """Write T4 results, schema 1.0.0, in milliseconds; device and kernel go into ``metadata``."""
    results = []
    for t in recorded.trials:
        times: dict[str, Any] = {
            theirs: _ms(t.seconds.get(ours, 0.0)) for theirs, ours in _T4_COSTS.items() if theirs != "compilation_time"
        }
        times["runtimes"] = [] if t.time is None else [_ms(s) for s in t.samples or (t.time,)]
        value: Any = _TO_KT.get(t.status, "RuntimeFailedConfig") if t.time is None else _ms(t.time)
        result: dict[str, Any] = {
            "configuration": dict(t.config),
            "times": times,
            "invalidity": _TO_T4.get(t.status, "runtime"),
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
    _write(path, json.dumps({"schema_version": "1.0.0", "metadata": metadata, "results": results}, allow_nan=False))


def _from_kernel_tuner(data: dict[str, Any], name: str) -> Recorded:
    keys = data.get("tune_params_keys")
    if (
        not isinstance(keys, list)
        or not keys
        or not all(isinstance(k, str) for k in keys)
        or len(set(keys)) != len(keys)
    ):
        raise CorruptData(f"{name}: tune_params_keys is not a list of distinct names")
    params = data.get("tune_params")
    if params is not None and (not isinstance(params, dict) or set(params) != set(keys)):
        raise CorruptData(f"{name}: tune_params does not name the same parameters as tune_params_keys")
    objective = data.get("objective") or "time"
    entries = data["cache"]
    configs = []
    for key, entry in entries.items():
        if not isinstance(entry, dict) or any(k not in entry for k in keys):
            raise CorruptData(
                f"{name}: cache entry {key[:80]!r} is not an object with every parameter of tune_params_keys"
            )
        values = [entry[k] for k in keys]
        if ",".join(str(v) for v in values) != key:
            raise CorruptData(
                f"{name}: cache entry {key[:80]!r} holds the values {str(values)[:120]}; key and values must agree"
            )
        configs.append(dict(zip(keys, values)))
    knobs = _knobs(keys, configs, params, name)
    trials = [
        _kt_trial(config, entry, objective, f"{name}: cache entry {key[:80]!r}")
        for config, (key, entry) in zip(_canonical(configs, knobs, name), entries.items())
    ]
    return Recorded(
        _text(data, "kernel_name", name),
        _text(data, "device_name", name),
        knobs,
        tuple(trials),
        _problem_size(data.get("problem_size"), name),
        str(objective),
    )


def _kt_trial(config: Config, entry: Mapping[str, Any], objective: str, where: str) -> RecordedTrial:
    error = entry.get("__error__")
    value = error if isinstance(error, str) else entry.get(objective, entry.get("time"))
    costs = {
        ours: _number(entry[theirs], where, theirs) * 1e-3
        for theirs, ours in _KT_COSTS.items()
        if entry.get(theirs) is not None
    }
    known = {*config, "time", "times", "timestamp", "__error__", objective, *_KT_COSTS}
    extra = {k: v for k, v in entry.items() if k not in known and isinstance(v, (str, int, float)) and _finite(v)}
    stamp = str(entry.get("timestamp", ""))
    if isinstance(value, str):
        return RecordedTrial(config, _KT_STATUS.get(value, "run_error"), None, (), value, costs, stamp, extra)
    if value is None:
        raise CorruptData(f"{where}: has neither {objective!r} nor an error")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not 0 <= value < FAILED_TIME:
        if value < 0:
            raise CorruptData(f"{where}: {objective} is {value}; a time is positive")
        return RecordedTrial(config, "run_error", None, (), f"{objective} {value}", costs, stamp, extra)
    return RecordedTrial(
        config,
        "ok",
        _time(value, where, objective) * 1e-3,
        _samples(entry.get("times"), 1e-3, where),
        "",
        costs,
        stamp,
        extra,
    )


def _from_t4(data: dict[str, Any], name: str) -> Recorded:
    metadata = data.get("metadata") if isinstance(data.get("metadata"), dict) else {}
    assert metadata is not None
    unit_name = str(metadata.get("timeunit", "milliseconds")).lower()
    if unit_name not in _UNITS:
        raise CorruptData(f"{name}: metadata.timeunit {unit_name[:40]!r} is unknown; use one of {', '.join(_UNITS)}")
    unit = _UNITS[unit_name]
    results = data["results"]
    configs = []
    for i, r in enumerate(results):
        if not isinstance(r, dict) or not isinstance(r.get("configuration"), dict) or not r["configuration"]:
            raise CorruptData(f"{name}: result {i} has no configuration")
        configs.append(r["configuration"])
    keys = list(configs[0]) if configs else []
    for i, c in enumerate(configs):
        if set(c) != set(keys):
            raise CorruptData(
                f"{name}: result {i} has other parameters than result 0: {sorted(set(c) ^ set(keys))[:8]}"
            )
    knobs = _knobs(keys, configs, None, name)
    trials = [
        _t4_trial(config, r, unit, f"{name}: result {i}")
        for i, (config, r) in enumerate(zip(_canonical(configs, knobs, name), results))
    ]
    objectives = results[0].get("objectives") if results else None
    objective = str(objectives[0]) if isinstance(objectives, list) and objectives else "time"
    return Recorded(
        str(metadata.get("kernel_name") or Path(name).name.split(".")[0]),
        str(metadata.get("device") or ""),
        knobs,
        tuple(trials),
        _problem_size(metadata.get("problem_size"), name),
        objective,
    )


def _t4_trial(config: Config, r: Mapping[str, Any], unit: float, where: str) -> RecordedTrial:
    invalidity = r.get("invalidity")
    if invalidity not in _T4_STATUS:
        raise CorruptData(f"{where}: invalidity {str(invalidity)[:40]!r} is not one of {', '.join(_T4_STATUS)}")
    status = _T4_STATUS[invalidity]
    times = r.get("times") if isinstance(r.get("times"), dict) else {}
    assert times is not None
    costs = {
        ours: _number(times[theirs], where, theirs) * unit
        for theirs, ours in _T4_COSTS.items()
        if times.get(theirs) is not None
    }
    objectives = r.get("objectives")
    objective = str(objectives[0]) if isinstance(objectives, list) and objectives else "time"
    listed = r.get("measurements")
    measured = (
        {str(m["name"]): m for m in listed if isinstance(m, dict) and "name" in m} if isinstance(listed, list) else {}
    )
    extra = {
        k: m.get("value")
        for k, m in measured.items()
        if k != objective and isinstance(m.get("value"), (int, float, str))
    }
    stamp = str(r.get("timestamp", ""))
    main = measured.get(objective, {})
    value = main.get("value")
    if status != "ok":
        return RecordedTrial(
            config, status, None, (), value if isinstance(value, str) else str(invalidity), costs, stamp, extra
        )
    if isinstance(value, str):
        return RecordedTrial(config, _KT_STATUS.get(value, "run_error"), None, (), value, costs, stamp, extra)
    samples = _samples(times.get("runtimes"), unit, where)
    if value is None:
        if not samples:
            raise CorruptData(f"{where}: is correct but has neither the measurement {objective!r} nor runtimes")
        time = sum(samples) / len(samples)
    elif isinstance(value, (int, float)) and value >= FAILED_TIME:
        return RecordedTrial(config, "run_error", None, (), f"{objective} {value}", costs, stamp, extra)
    else:
        time = _time(value, where, objective) * _UNITS.get(str(main.get("unit", "")).lower(), unit)
    return RecordedTrial(config, status, time, samples, "", costs, stamp, extra)


def _knobs(
    keys: Sequence[str], configs: Sequence[Mapping[str, Any]], params: Mapping[str, Any] | None, name: str
) -> tuple[Knob, ...]:
    if not configs:
        raise CorruptData(f"{name}: records no config at all")
    if len(keys) > MAX_KNOBS:
        raise CorruptData(f"{name}: has {len(keys)} parameters; at most {MAX_KNOBS} are read")
    knobs = []
    for key in keys:
        if not key.isidentifier():
            raise CorruptData(f"{name}: parameter name {key[:40]!r} is not an identifier")
        values: dict[Any, Any] = {}
        listed = params[key] if params is not None else []
        if not isinstance(listed, list):
            raise CorruptData(f"{name}: tune_params[{key!r}] is not a list")
        for v in (*listed, *(c[key] for c in configs)):
            if not isinstance(v, (str, int, float)) or not _finite(v) or (isinstance(v, str) and len(v) > 1000):
                raise CorruptData(
                    f"{name}: parameter {key} has the value {str(v)[:80]!r}; a value is a number, a word or a boolean"
                )
            values.setdefault(v, v)  # 1, 1.0 and True are one value, spelt as first seen
        if len(values) > MAX_VALUES:
            raise CorruptData(f"{name}: parameter {key} has {len(values)} values; at most {MAX_VALUES} are read")
        numeric = all(isinstance(v, (int, float)) for v in values)
        knobs.append(Knob(key, tuple(sorted(values) if numeric else values), "recorded parameter", ordinal=numeric))
    return tuple(knobs)


def _canonical(configs: Sequence[Mapping[str, Any]], knobs: Sequence[Knob], name: str) -> Iterator[Config]:
    spelt = {k.name: {v: v for v in k.values} for k in knobs}
    seen = set()
    for c in configs:
        config = Config({k.name: spelt[k.name][c[k.name]] for k in knobs})
        if config.key in seen:
            raise CorruptData(f"{name}: config {config.key} is recorded twice; keep one entry for each")
        seen.add(config.key)
        yield config


def _read(name: str) -> str:
    try:
        with open(name, "rb") as raw:
            head = raw.read(2)
            raw.seek(0)
            if head == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=raw) as stream:
                    body = stream.read(MAX_BYTES + 1)
            else:
                body = raw.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptData(f"{name}: the gzip stream is damaged ({error}); fetch the file again") from error
    except OSError as error:
        raise InvalidInput(
            "recorded space", name, f"cannot be read ({error.strerror or error})", "give a .json or .json.gz file"
        ) from error
    if len(body) > MAX_BYTES:
        raise CorruptData(f"{name}: holds more than {MAX_BYTES} bytes of JSON; split it")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptData(f"{name}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _parse(text: str, name: str) -> Any:
    first: Exception | None = None
    for attempt in _attempts(text):
        try:
            return json.loads(attempt, object_pairs_hook=_distinct)
        except RecursionError as error:
            raise CorruptData(f"{name}: is nested too deeply to be a recorded space") from error
        except _Duplicate as error:
            raise CorruptData(f"{name}: the key {error.key[:80]!r} stands twice in one object; keep one") from error
        except ValueError as error:
            first = first or error
    raise CorruptData(f"{name}: is not JSON ({first})")


def _attempts(text: str) -> Iterator[str]:
    """The text itself, then what a Kernel Tuner cache left open (or torn in its last entry) would be when closed."""
    yield text
    if '"cache"' in text:
        open_end = text.rstrip().rstrip(",")
        yield open_end + "}}"
        yield open_end + "}"
        yield open_end.rstrip("{ \n") + "{}}"
        torn = open_end[: open_end.rfind("},") + 1]
        if torn:
            yield torn + "}}"


class _Duplicate(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        raise _Duplicate(next(k for k, _ in pairs if k in seen or seen.add(k)))  # type: ignore[func-returns-value]
    return found


def _write(path: str | os.PathLike[str], text: str) -> None:
    target = Path(path)
    body = text.encode()
    if target.suffix == ".gz":
        body = gzip.compress(body, mtime=0)
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, delete=False) as out:
            out.write(body)
        os.chmod(out.name, 0o644)
        os.replace(out.name, target)
    except OSError as error:
        raise InvalidInput(
            "output file", str(target), f"cannot be written ({error.strerror or error})", "choose another place"
        ) from error


def _text(data: Mapping[str, Any], key: str, name: str) -> str:
    value = data.get(key, "")
    if not isinstance(value, str) or len(value) > 1000:
        raise CorruptData(f"{name}: {key} is not a short text")
    return value


def _problem_size(value: Any, name: str) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [] if value is None or isinstance(value, str) else [value]
    if len(values) > 16 or not all(isinstance(v, (int, float)) and _finite(v) for v in values):
        raise CorruptData(f"{name}: problem_size {str(value)[:80]!r} is not a number or a short list of numbers")
    return tuple(int(v) for v in values)


def _samples(value: Any, unit: float, where: str) -> tuple[float, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise CorruptData(f"{where}: its repeats are not a list")
    return tuple(_time(v, where, "a repeat") * unit for v in value)


def _time(value: Any, where: str, what: str) -> float:
    number = _number(value, where, what)
    if number <= 0:
        raise CorruptData(f"{where}: {what} is {number}; a time is positive")
    return number


def _number(value: Any, where: str, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
        raise CorruptData(f"{where}: {what} is {str(value)[:80]!r}, not a finite number")
    return float(value)


def _finite(value: Any) -> bool:
    try:
        return not isinstance(value, (int, float)) or math.isfinite(value)
    except OverflowError:
        return False


def _ms(seconds: float) -> float:
    """The milliseconds that read back as exactly ``seconds``, where a double has them."""
    near = seconds * 1e3
    for value in (near, math.nextafter(near, 0.0), math.nextafter(near, math.inf)):
        if value * 1e-3 == seconds:
            return value
    return near
