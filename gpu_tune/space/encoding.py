"""Knob features: configs as numbers for a model.

Ordinal numeric knobs become log2 of the value where all are positive (the value itself otherwise), labels their place
in the list. Pairwise sums and differences of the logs are log products and log ratios: a tree then splits on "threads"
or "aspect" at one cut, which pays most when few configs have been measured. Where an integer knob has values that are
not powers of two (48, 80, 96), its factors of two are a feature of their own: alignment and divisibility go by them,
not by size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .knob import Knob


class Encoder:
    """Maps index rows (n, knobs) to features (n, ``len(names)``) float32. ``knobs`` with one value carry nothing and
    are left out.
    """

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self._columns: list[tuple[int, NDArray[np.float32], bool]] = []
        self._twos: list[tuple[int, NDArray[np.float32]]] = []
        self.names: list[str] = []
        logs: dict[int, str] = {}
        for column, knob in enumerate(knobs):
            if len(knob.values) < 2:
                continue
            flags = [isinstance(v, bool) for v in knob.values]
            numeric = all(isinstance(v, (int, float)) for v in knob.values) and not any(flags)
            name, values = knob.name, np.arange(len(knob.values), dtype=np.float64)
            if numeric or all(flags):
                values = np.array(knob.values, dtype=np.float64)
            if numeric and knob.ordinal and values.min() > 0:
                logs[len(self.names)] = name
                name, values = f"log2 {name}", np.log2(values)
                whole = [v for v in knob.values if isinstance(v, int)]
                if len(whole) == len(knob.values) and any(v & (v - 1) for v in whole):
                    twos = np.array([(v & -v).bit_length() - 1 for v in whole], dtype=np.float32)
                    if twos.any():
                        self._twos.append((column, twos))
            self.names.append(name)
            self._columns.append((column, values.astype(np.float32), not knob.ordinal and len(knob.values) > 2))
        pairs = list(itertools.combinations(logs, 2))
        self._left, self._right = [a for a, _ in pairs], [b for _, b in pairs]
        self.names += [f"log2 {logs[a]}{sign}{logs[b]}" for sign in "*/" for a, b in pairs]
        self.names += [f"twos of {knobs[column].name}" for column, _ in self._twos]

    def coordinates(self, rows: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Rows as points of a unit cube (n, d): ordinal knobs by value (log2 where positive), labels one-hot."""
        parts = []
        for column, values, label in self._columns:
            if label:
                parts.append(np.eye(len(values), dtype=np.float32)[rows[:, column]] * np.float32(0.5**0.5))
            else:
                unit = (values - values.min()) / (values.max() - values.min())
                parts.append(unit[rows[:, column]][:, None])
        parts += [(twos / twos.max())[rows[:, column]][:, None] for column, twos in self._twos]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 1), dtype=np.float32)

    def __call__(self, rows: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Features of index rows."""
        base = np.empty((len(rows), len(self._columns)), dtype=np.float32)
        for i, (column, values, _) in enumerate(self._columns):
            base[:, i] = values[rows[:, column]]
        left, right = base[:, self._left], base[:, self._right]
        twos = [values[rows[:, column]][:, None] for column, values in self._twos]
        return np.concatenate([base, left + right, left - right, *twos], axis=1)
