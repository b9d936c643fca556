"""Knobs (tunable values), the constraints between them, and configs. Plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, KeysView, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import require

Value = int | float | str | bool
MAX_VALUES = 1 << 16
"""Index rows are 16 bits wide."""
MAX_NUMBER = 10**300
"""Models see numbers as floats."""


def plain(value: Any) -> Any:
    """A NumPy scalar as the Python value that it holds; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class Knob:
    """One tunable value: its ``values`` (numbers, words or booleans) in their natural order and a one-line ``meaning``.

    ``ordinal``: neighbouring values behave alike (tile sizes); otherwise the values are labels (a swizzle mode).
    InvalidInput for a name that is no identifier, for a set, and for values that are none, more than 65,536 or equal to
    each other, as 1 and True are.
    """

    name: str
    values: tuple[Value, ...]
    meaning: str = ""
    ordinal: bool = True

    def __post_init__(self) -> None:
        named = isinstance(self.name, str) and self.name.isidentifier()
        require(named, "knob name", self.name, "is not an identifier", "use letters, digits and underscores")
        subject, given = f"values of knob {self.name}", self.values
        listed = not isinstance(given, str | bytes | Mapping) and hasattr(given, "__iter__")
        require(listed, subject, given, "are no list", "give a tuple of numbers, words or booleans")
        ordered = not isinstance(given, Set) or isinstance(given, KeysView)  # a set's order may change from run to run
        require(ordered, subject, ..., "are a set, which has no order", "give a tuple in their natural order")
        values = tuple(map(plain, given))
        object.__setattr__(self, "values", values)
        require(values, subject, (), "are none", "give one or more")
        rule = f"are {len(values):,} of at most {MAX_VALUES:,}"
        require(len(values) <= MAX_VALUES, subject, ..., rule, "take coarser steps, or two knobs")
        for value in values:
            good = isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value))
            require(good, subject, value, "is no finite number, word or boolean", "name such values by words")
            huge = isinstance(value, int) and abs(value) > MAX_NUMBER
            require(not huge, subject, ..., f"hold a number of more than {MAX_NUMBER:.0e}", "name such values by words")
        alike: dict[Value, list[Value]] = {}
        for value in values:
            alike.setdefault(value, []).append(value)
        twice = next((same for same in alike.values() if len(same) > 1), None)
        told = "" if twice is None else " and ".join(map(repr, twice))
        require(twice is None, subject, values, f"hold one value twice: {told}", "give each value once")


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
        self._values = {name: plain(value) for name, value in dict(values or {}, **more).items()}
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
