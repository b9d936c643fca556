"""Benchmark suites: named lists of workloads, kept as JSON tables with their source.

A suite file is an object with ``name``, ``title``, ``source``, ``op`` (matmul or conv2d), ``defaults`` (workload
fields that every row shares), ``columns`` (field names, ``label`` among them if rows are named) and ``rows``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import text
from .. import workload as wl
from ..errors import CorruptData, InvalidInput
from ..workload import Workload

HEADLINE = "headline"
"""The frozen suite that headline figures are quoted on."""


@dataclass(frozen=True)
class Entry:
    """One row: its ``label`` and the workload."""

    label: str
    workload: Workload


@dataclass(frozen=True)
class Suite:
    """A named list of workloads and where their shapes come from."""

    name: str
    title: str
    source: str
    entries: tuple[Entry, ...]


def folder() -> Path:
    """Where the shipped suites lie: inside an installed package, else in the repository's bench/suites."""
    here = Path(__file__).parent
    installed = here.parent / "bench_suites"
    return installed if installed.is_dir() else here.parents[1] / "bench" / "suites"


def names() -> list[str]:
    return sorted(p.stem for p in folder().glob("*.json"))


def load(name: str, **overrides: Any) -> Suite:
    """The suite ``name`` (a shipped one or a path to a .json file); ``overrides`` replace workload fields in every row.

    InvalidInput when there is no such suite or a row is no valid workload; CorruptData when the file is no suite.
    """
    path = Path(name) if name.endswith(".json") else folder() / f"{name}.json"
    if not path.is_file():
        close = difflib.get_close_matches(name, names(), 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InvalidInput("suite", name, f"does not exist{hint}", f"use a .json file or one of {', '.join(names())}")
    try:
        data = json.loads(text.read(path))
        columns, defaults = data["columns"], data["defaults"]
        if not isinstance(defaults, Mapping) or any(len(row) != len(columns) for row in data["rows"]):
            raise TypeError("a row has another length than columns")
        rows = [dict(zip(columns, row)) for row in data["rows"]]
        title, source, op = str(data["title"]), str(data["source"]), data["op"]
        own_name = str(data["name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        remedy = "see the head of gpu_tune/report/suites.py for the format"
        raise CorruptData(f"suite file {path}: {error!r}; {remedy}") from error
    entries = []
    for i, row in enumerate(rows):
        label = str(row.pop("label", ""))
        try:
            workload = wl.from_dict({"op": op, **defaults, **row, **overrides})
        except InvalidInput as error:
            raise InvalidInput(f"suite {path.name} row {i + 1}: {error}") from error
        entries.append(Entry(label or " ".join(f"{k}={v}" for k, v in row.items() if v not in (0, "")), workload))
    return Suite(own_name, title, source, tuple(entries))
