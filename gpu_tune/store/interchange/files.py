"""What both formats share: strangers' JSON read within bounds and mended where it is torn, knobs out of recorded
configs, checked numbers, times and texts, and writing by one rename."""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
import math
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import paths
from ...errors import CorruptData, InvalidInput
from ...space.knob import Config, Knob
from ..recorded_space import Recorded, RecordedTrial

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 28
"""Most bytes of JSON (after decompression) that are read."""
MAX_KNOBS, MAX_VALUES = 200, 60_000
MAX_VALUE = 1e30
"""Models see values as float32."""
FAILED_TIME = 1e20
"""A time from here on means that the config failed (an old habit of Kernel Tuner strategies)."""
TIME = "time"
HIGHER_IS_BETTER = {
    TIME: False,
    "energy": False,
    "fitness": True,
    "cost": False,
    "loss": False,
    "GFLOP/s": True,
    "TFLOP/s": True,
    "GB/s": True,
    "TB/s": True,
    "GFLOPS/W": True,
    "TFLOPS/W": True,
    "GFLOP/J": True,
    "TFLOP/J": True,
}
"""Kernel Tuner's defaults (kernel_tuner/util.py of 1.5, ``objective_default_map``)."""
ERROR_STATUS = {
    "CompilationFailedConfig": "compile_error",
    "RuntimeFailedConfig": "run_error",
    "InvalidConfig": "invalid",
}
"""Kernel Tuner's names of errors, which T4 files hold, too."""
ERROR_NAME = {
    "invalid": "InvalidConfig",
    "compile_error": "CompilationFailedConfig",
    "compile_timeout": "CompilationFailedConfig",
}


def need(valid: object, text: str) -> None:
    """Raise CorruptData with ``text`` unless ``valid``."""
    if not valid:
        raise CorruptData(text)


def read(name: str) -> str:
    """The text of a ``.json`` or ``.json.gz`` file; InvalidInput or CorruptData when there is none in it."""
    try:
        with open(name, "rb") as raw:
            stream = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            body = stream.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptData(f"{name}: the gzip stream is damaged ({error}); fetch the file again") from error
    except OSError as error:
        raise InvalidInput(
            "recorded space", name, f"cannot be read ({error.strerror or error})", "give a .json or .json.gz file"
        ) from error
    need(len(body) <= MAX_BYTES, f"{name}: holds more than {MAX_BYTES} bytes of JSON; split it")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptData(f"{name}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def parse(text: str, name: str) -> Any:
    """The JSON value in ``text``, where need be with a Kernel Tuner cache's open end closed; CorruptData otherwise."""
    first: Exception | None = None
    for attempt in _attempts(text):
        try:
            return json.loads(attempt, object_pairs_hook=_distinct)
        except RecursionError as error:
            raise CorruptData(f"{name}: is nested too deeply to be a recorded space") from error
        except CorruptData as error:
            raise CorruptData(f"{name}: {error}") from error
        except ValueError as error:
            first = first or error
    raise CorruptData(f"{name}: is not JSON ({first})")


_NEXT_ENTRY = r"""\s*,?\s*(?="[^"]*"\s*:\s*\{)"""
_CLOSED_BEFORE = re.compile(r"\}\s*\}\s*\}" + _NEXT_ENTRY)
"""An entry's end and the file's end, then a further entry: written by a process that had the file open."""
_CUT_BEFORE = re.compile(r"(?<![}{\s])\s*,\s*(?=\"[^\"]*\"\s*:\s*\{\s*\")")
"""A value, then a further entry in the same object: Kernel Tuner cuts three characters when it opens a closed file, one
of which is the last entry's brace where the file ends in ``}}}``."""


def _attempts(text: str) -> Iterator[str]:
    """The text itself, then what a Kernel Tuner cache left open (or torn in its last entry) would be when closed."""
    yield text
    if '"cache"' in text:
        head, mark, entries = text.partition('"cache"')
        mended = head + mark + _CUT_BEFORE.sub("},\n", _CLOSED_BEFORE.sub("},\n", entries))
        for whole in dict.fromkeys((mended, text)):
            open_end = whole.rstrip().rstrip(",")
            yield from (whole, open_end + "}}", open_end + "}", open_end + "}}}")
            yield open_end.rstrip("{ \n") + "{}}"
        for open_end in (text.rstrip(), mended.rstrip()):
            if torn := open_end[: open_end.rstrip(",").rfind("},") + 1]:
                yield torn + "}}"


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        key = next(k for k, times in Counter(k for k, _ in pairs).items() if times > 1)
        raise CorruptData(f"the key {key[:80]!r} stands twice in one object; keep one")
    return found


def write(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` (compressed where the name ends in ``.gz``) by one rename; InvalidInput when it cannot be."""
    target, body = Path(path), text.encode()
    try:
        with paths.replacing(target) as new:
            new.write_bytes(gzip.compress(body, mtime=0) if target.suffix == ".gz" else body)
            new.chmod(0o644)
    except OSError as error:
        raise InvalidInput(
            "output file", str(target), f"cannot be written ({error.strerror or error})", "choose another place"
        ) from error


def knobs(
    keys: Sequence[str], configs: Sequence[Mapping[str, Any]], params: Mapping[str, Any] | None, name: str
) -> tuple[Knob, ...]:
    """The knobs that ``configs`` (and ``params``, the values a file lists) use; CorruptData beyond the limits."""
    need(configs, f"{name}: records no config at all")
    need(len(keys) <= MAX_KNOBS, f"{name}: has {len(keys)} parameters; at most {MAX_KNOBS} are read")
    knobs = []
    for key in keys:
        need(key.isidentifier(), f"{name}: parameter name {key[:40]!r} is not an identifier")
        values: dict[Any, Any] = {}
        listed = params[key] if params is not None else []
        need(isinstance(listed, list), f"{name}: tune_params[{key!r}] is not a list")
        for v in (*listed, *(c[key] for c in configs)):
            need(
                len(v) <= 1000 if isinstance(v, str) else isinstance(v, (int, float)) and abs(v) <= MAX_VALUE,
                f"{name}: parameter {key} has the value {str(v)[:80]!r}; a value is a word, a boolean or a number "
                f"up to {MAX_VALUE:g}",
            )
            values.setdefault(v, v)  # 1, 1.0 and True are one value, spelt as first seen
        many = len(values)
        need(many <= MAX_VALUES, f"{name}: parameter {key} has {many} values; at most {MAX_VALUES} are read")
        numeric = all(isinstance(v, (int, float)) for v in values)
        knobs.append(Knob(key, tuple(sorted(values) if numeric else values), "recorded parameter", ordinal=numeric))
    return tuple(knobs)


def canonical(
    configs: Sequence[Mapping[str, Any]], knobs: Sequence[Knob], name: str, repeated: bool = False
) -> Iterator[Config]:
    """Each config with its values spelt as its knobs spell them; CorruptData for a config that stands twice, unless
    they may be ``repeated``."""
    spelt = {k.name: {v: v for v in k.values} for k in knobs}
    seen = set()
    for c in configs:
        config = Config({k.name: spelt[k.name][c[k.name]] for k in knobs})
        need(
            repeated or config.key not in seen,
            f"{name}: config {config.key} is recorded twice; keep one entry for each",
        )
        seen.add(config.key)
        yield config


def text(data: Mapping[str, Any], key: str, name: str) -> str:
    """``data[key]`` (or ""), a short text."""
    value = data.get(key, "")
    need(isinstance(value, str) and len(value) <= 1000, f"{name}: {key} is not a short text")
    return str(value)


def problem_size(value: Any, name: str) -> tuple[int, ...]:
    """What is a number in a recorded problem size: a number, or a short list of numbers and of names of parameters."""
    values = value if isinstance(value, list) else [] if value is None or isinstance(value, str) else [value]
    need(
        len(values) <= 16 and all(isinstance(v, (int, float, str)) and finite(v) for v in values),
        f"{name}: problem_size {str(value)[:80]!r} is not a number or a short list of numbers and names",
    )
    return tuple(int(v) for v in values if not isinstance(v, str))


def outcome(t: RecordedTrial, recorded: Recorded) -> tuple[float | str, list[float]]:
    """A trial's objective (a time in milliseconds), or the name of its error; and its repeats in milliseconds."""
    if t.time is None:
        return ERROR_NAME.get(t.status, "RuntimeFailedConfig"), []
    if recorded.objective != TIME:
        return recorded.cost_of(t.time), [milliseconds(s) for s in t.samples]
    return milliseconds(t.time), [milliseconds(s) for s in t.samples or (t.time,)]


def direction(objective: str, stated: Any, name: str) -> bool:
    """Whether more of ``objective`` is better: what the file states, else Kernel Tuner's default for that name."""
    stated = stated[0] if isinstance(stated, list) and len(stated) == 1 else stated
    if isinstance(stated, bool):
        return stated
    need(
        objective in HIGHER_IS_BETTER,
        f"{name}: was tuned for {objective[:40]!r}, of which the file does not say whether more or less is better, and "
        f"holds no time; add "
        "'objective_higher_is_better': true or false",
    )
    return HIGHER_IS_BETTER[objective]


def one_objective(stated: Any, name: str) -> str:
    """The objective a file names: a text, or a list of one (Kernel Tuner 1.4 on); time, if it is one of several."""
    names = stated if isinstance(stated, list) and stated else [TIME if stated is None or stated == "" else stated]
    good = all(isinstance(n, str) and 0 < len(n) <= 1000 for n in names)
    need(good, f"{name}: objective {str(stated)[:80]!r} is not a name or a list of names")
    several = len(names) > 1 and TIME not in names
    need(not several, f"{name}: was tuned for {len(names)} objectives without time; read are files of one objective")
    return TIME if TIME in names else str(names[0])


def agreeing(time: float, samples: tuple[float, ...]) -> bool:
    """Whether ``time`` can be the mean, median or best of ``samples``: it lies among them."""
    return not samples or 0.99 * min(samples) <= time <= 1.01 * max(samples)


def trusted(trials: Sequence[RecordedTrial], name: str) -> tuple[RecordedTrial, ...]:
    """The trials, without the repeats of those whose time cannot come from them; a warning says how many."""
    other = {t.config.key for t in trials if t.time is not None and not agreeing(t.time, t.samples)}
    if other:
        log.warning(
            "%s: of %d of %d configs the repeats contradict the time (another unit, or another run); their times are "
            "kept, their repeats are not",
            name,
            len(other),
            len(trials),
        )
    return tuple(dataclasses.replace(t, samples=()) if t.config.key in other else t for t in trials)


def costs(entry: Mapping[str, Any], names: Mapping[str, str], unit: float, where: str) -> dict[str, float]:
    """What the stages cost, in seconds, by our names: ``names`` maps the file's to them."""
    found = [(theirs, ours) for theirs, ours in names.items() if entry.get(theirs) is not None]
    return {ours: number(entry[theirs], where, theirs) * unit for theirs, ours in found}


def samples(value: Any, unit: float, where: str) -> tuple[float, ...]:
    """Repeats in seconds, ``unit`` being the file's unit in seconds."""
    need(isinstance(value, list | None), f"{where}: its repeats are not a list")
    return tuple(time(v, where, "a repeat") * unit for v in value or ())


def failure(value: Any, objective: str) -> tuple[str, str] | None:
    """Status and reason where the recorded ``value`` says that the config failed: a word, or no number that counts."""
    if isinstance(value, str):
        return ERROR_STATUS.get(value, "run_error"), value
    number = isinstance(value, float | int) and not isinstance(value, bool)
    return ("run_error", f"{objective} {value}") if number and not abs(value) < FAILED_TIME else None


def time(value: Any, where: str, what: str) -> float:
    """A positive, finite number."""
    found = number(value, where, what)
    need(found > 0, f"{where}: {what} is {found}; a time is positive")
    return found


def number(value: Any, where: str, what: str) -> float:
    """A finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and finite(value)
    need(good, f"{where}: {what} is {str(value)[:80]!r}, not a finite number")
    return float(value)


def finite(value: Any) -> bool:
    """Whether ``value`` is no number, or a finite one."""
    return not isinstance(value, (int, float)) or abs(value) <= sys.float_info.max


def milliseconds(seconds: float) -> float:
    """The milliseconds that read back as exactly ``seconds``, where a double has them."""
    near = seconds * 1e3
    for value in (near, math.nextafter(near, 0.0), math.nextafter(near, math.inf)):
        if value * 1e-3 == seconds:
            return value
    return near
