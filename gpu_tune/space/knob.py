"""Knobs (a template's tunable values), the constraints between them, and configs. Plain data; imports no other room."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Value = int | str | bool


@dataclass(frozen=True)
class Knob:
    """One tunable value: its ``values`` in their natural order and a one-line ``meaning``.

    ``ordinal``: neighbouring values behave alike (tile sizes); otherwise the values are labels (a swizzle mode).
    """

    name: str
    values: tuple[Value, ...]
    meaning: str
    ordinal: bool = True

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or not self.values or len(set(map(repr, self.values))) != len(self.values):
            raise ValueError(f"knob {self.name!r}: needs an identifier and distinct values, has {self.values}")


@dataclass(frozen=True)
class Constraint:
    """What every valid config keeps to.

    ``knobs`` are the names that ``holds`` reads; ``holds(config, workload, device)`` sees only those (a mapping),
    so that a space can prune as soon as they are known. ``message`` states the constraint as a sentence.
    """

    name: str
    knobs: tuple[str, ...]
    holds: Callable[[Any, Any, Any], bool]
    message: str


class Config(Mapping[str, Value]):
    """An immutable, hashable assignment of values to knob names. ``key`` is its canonical text."""

    __slots__ = ("_values", "key")

    def __init__(self, values: Mapping[str, Value] | None = None, /, **more: Value) -> None:
        self._values = dict(values or {}, **more)
        self.key: str = json.dumps(self._values, sort_keys=True, separators=(",", ":"))

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Config) else NotImplemented

    def __repr__(self) -> str:
        return "Config(" + ", ".join(f"{k}={v!r}" for k, v in self._values.items()) + ")"

    def __reduce__(self) -> tuple[object, ...]:
        return Config, (self._values,)

    def replace(self, **changes: Value) -> Config:
        """A config equal to this one but for ``changes``."""
        return Config({**self._values, **changes})
