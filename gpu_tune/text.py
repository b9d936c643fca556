"""Text and what it says: files that users name, frozen dataclasses as JSON, and files of JSON lines."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import CorruptData, GpuTuneError

log = logging.getLogger(__name__)
T = TypeVar("T")
Readers = Mapping[Any, Callable[[Any], Any]]
MOST = 1 << 29
"""Bytes of a text file that are read."""
KINDS = ("type", "op")
"""Class constants that name the kind of a dataclass: they come first in its JSON and tell the members of a union apart.
"""


class OtherFormat(CorruptData):
    """Data of another format than this version's: a miss, but not damaged."""


def read(path: Path | str, most: int = MOST) -> str:
    """The text in ``path``, bytes that are no UTF-8 replaced; OSError, or CorruptData beyond ``most`` bytes."""
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise CorruptData(f"{path}: holds more than {most} bytes; split it")
    return data.decode(errors="replace")


def write(path: Path | str, text: str) -> None:
    """Write ``text`` into ``path``; OSError when that fails."""
    Path(path).write_bytes(text.encode())


def read_lines(text: str, name: str, parse: Callable[[str], T | None]) -> Iterator[T]:
    """What ``parse`` makes of each line of a file that writers append to (None: nothing that is wanted).

    A line that it refuses with CorruptData is skipped with a warning that names ``name``: the last one silently, since
    a killed writer leaves it torn, and lines of another format with one warning in all.
    """
    lines, said = text.split("\n"), set[str]()
    for number, line in enumerate(lines, 1):
        try:
            found = parse(line) if line else None
        except CorruptData as error:
            if number == len(lines):
                log.info("%s: the last line is torn (a writer was killed): dropped", name)
            elif str(error) not in said:
                log.warning("%s line %d is not a record (%s): skipped", name, number, str(error)[:200])
            if isinstance(error, OtherFormat):
                said.add(str(error))
            continue
        if found is not None:
            yield found


def other_format(found: int, known: int) -> str:
    """What is said of files of another format."""
    return f"format {found}, and this version reads format {known}: left as it is; tune again"


def check_format(data: Any, known: int) -> None:
    """Pass where the object ``data`` has the format ``known``; OtherFormat where it has another, else ValueError."""
    found = data.get("format") if isinstance(data, dict) else None
    if type(found) is int and found > 0 and found != known:
        raise OtherFormat(other_format(found, known))
    if found != known:
        raise ValueError(f"format {found!r} is not {known}")


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn what reading strange data may raise into CorruptData that names ``what``."""
    try:
        yield
    except OtherFormat:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, GpuTuneError) as error:
        raise CorruptData(f"{what}: {type(error).__name__} {error}") from error


def to_json(value: Any) -> Any:
    """Plain data as JSON-ready lists and dicts, a dataclass as an object of its fields.

    A NumPy scalar becomes a number, and what JSON does not know its text.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {**_kind(type(value)), **{f.name: to_json(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {str(name): to_json(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return value.item() if hasattr(value, "item") else str(value)


def from_json(hint: Any, data: Any, readers: Readers = types.MappingProxyType({}), name: str = "value") -> Any:
    """What ``to_json`` made of a value of type ``hint``: a dataclass or a type that its fields may have.

    Types are exact: only an integer passes for a float, and a list for a tuple; floats are finite. ``readers`` read
    types of their own. TypeError or ValueError names the field.
    """
    if hint is Any or (type(data) is hint and hint is not float):
        return data
    if hint is float and type(data) in (int, float) and abs(data) <= sys.float_info.max:
        return float(data)
    if hint in readers:
        return readers[hint](data)
    origin, members = _parts(hint)
    if origin in (typing.Union, types.UnionType):
        found = (m for m in members if type(data) is m or (_kind(m) and _of_kind(data, m)))
        return from_json(next(found, members[0]), data, readers, name)
    if isinstance(hint, type) and is_dataclass(hint) and _of_kind(data, hint):
        hints, body = _hints(hint), {k: v for k, v in data.items() if k not in _kind(hint)}
        if unknown := sorted(set(body) - set(hints)):
            raise ValueError(f"{name} has the unknown field {unknown[0]!r:.80}")
        return hint(**{k: from_json(hints[k], v, readers, f"{name}.{k}") for k, v in body.items()})
    if origin is tuple and isinstance(data, list | tuple):
        each = members[:1] * len(data) if members[-1] is Ellipsis else members
        if len(each) == len(data):
            return tuple(from_json(h, v, readers, f"{name}[{i}]") for i, (h, v) in enumerate(zip(each, data)))
    if origin is Mapping and isinstance(data, Mapping):
        return {k: from_json(members[1], v, readers, f"{name}.{k}") for k, v in data.items()}
    raise TypeError(f"{name} is {data!r:.80}, not {getattr(hint, '__name__', hint)}")


@functools.cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


@functools.cache
def _kind(cls: Any) -> dict[str, str]:
    return {k: getattr(cls, k) for k in KINDS if isinstance(getattr(cls, k, None), str)}


def _of_kind(data: Any, cls: Any) -> bool:
    return isinstance(data, dict) and _kind(cls).items() <= data.items()
