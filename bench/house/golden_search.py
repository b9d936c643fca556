"""Golden searches: which configs a search asks for, batch by batch, when it is told always the same."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

from bench.house import product
from bench.house.golden_parts import Finding, Options, say

RECORDED = ("synthetic-a.json.gz", "synthetic-b.json.gz", "synthetic-c.json.gz")
REAL: dict[str, dict[str, Any]] = {
    "matmul-h200": {
        "workload": {"op": "matmul", "m": 1024, "n": 1024, "k": 1024, "dtype": "float16", "layout": "nt"},
        "device": "nvidia-h200",
    },
    "conv2d-a100": {
        "workload": {
            "op": "conv2d", "n": 8, "c": 64, "h": 56, "w": 56, "k": 64, "r": 3, "s": 3, "padding": 1,
            "dtype": "float16", "layout": "nhwc",
        },
        "device": "nvidia-a100",
    },
}  # fmt: skip
Entries = dict[str, Any]


def runs() -> Entries:
    """Every search to make, by key."""
    found: Entries = {}
    for file in RECORDED:
        for seed in range(10):
            found[f"{file.split('.')[0]}/{seed}"] = {"space": {"file": file}, "seed": seed, "batches": 16}
    for name, space in REAL.items():
        for seed in range(3):
            found[f"{name}/{seed}"] = {"space": space, "seed": seed, "batches": 6}
        found[f"{name}/pipelined"] = {"space": space, "seed": 7, "batches": 6, "pipelined": True}
    return found


def fake_time(key: str) -> float | None:
    """Seconds that depend on the key alone; one in twelve fails."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
    return None if number % 12 == 0 else 1e-4 * (1 + number / 2**48)


def run(entry: dict[str, Any]) -> dict[str, list[str]]:
    """What is asked in each batch, what the last descent would ask, and the best."""
    pipelined = bool(entry.get("pipelined"))
    search = product.Searching(entry["space"], entry["seed"], pipelined)
    found, late = {}, list[str]()
    for number in range(entry["batches"]):
        batch = found[f"batch {number}"] = search.ask()
        told = late if pipelined else batch
        search.tell({key: fake_time(key) for key in told})
        late = batch
    found["final"], found["best"] = search.final(), [search.best()]
    return found


def make() -> Entries:
    """All runs with what they asked."""
    entries, start = runs(), time.time()
    for number, (key, entry) in enumerate(entries.items(), 1):
        entry["golden"] = run(entry)
        say(f"search: {number}/{len(entries)} {key} after {time.time() - start:.0f} s")
    return entries


def check(entries: Entries, options: Options) -> Iterator[Finding]:
    """Compare every run."""
    for key, entry in entries.items():
        try:
            found = run(entry)
        except Exception as error:
            yield Finding(key, "run", f"cannot be made: {type(error).__name__}: {error}")
            continue
        for kind, old in entry["golden"].items():
            new = found[kind]
            yield Finding(key, kind, "" if old == new else _first(old, new))
            if old != new:
                break  # what follows depends on it


def _first(old: list[str], new: list[str]) -> str:
    place = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
    a, b = (keys[place] if place < len(keys) else "nothing" for keys in (old, new))
    return f"candidate {place} of {len(old)} (now {len(new)}): {a} -> {b}"
