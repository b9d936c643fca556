"""Random variants of every family of a gradient on the emulator, and what they had: strides, groups, epilogues, ..."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpu_tune.templates.registry import registry
from gpu_tune.verify.sweep import FailureClass, SweepReport, sweep
from gpu_tune.workload import Conv2d

DIRECTIONS = ("dgrad", "wgrad")


@dataclass
class Swept:
    """The variants of one family. ``template``: its hash; ``had``: by property, how many variants had each value."""

    direction: str
    family: str
    template: str
    variants: int
    runs: int
    assembled: int
    spilling: int
    seconds: float
    failures: list[dict[str, Any]]
    covered: list[str]
    had: dict[str, dict[str, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        verdict = f"{len(self.failures)} kinds of failure" if self.failures else "all right"
        assembled = f"{self.assembled} assembled, {self.spilling} of them spill"
        return f"{self.family:24}{self.variants:5} variants, {self.runs:5} runs, {assembled}: {verdict}"


def families(direction: str) -> list[str]:
    """The registered families that compute this gradient themselves."""
    return [name for name, t in registry().items() if t.op == "conv2d" and direction in t.directions]


def properties(w: Conv2d) -> dict[str, str]:
    """What coverage counts of a workload, by name."""
    top, bottom, left, right = w.padding
    per_group = (w.c // w.groups, w.k // w.groups)
    groups = "1" if w.groups == 1 else "depthwise" if per_group == (1, 1) else "several"
    return {
        "layout": w.layout,
        "dtype": f"{w.dtype} to {w.out_dtype}",
        "math": "+".join(w.math) or "strict",
        "stride": "x".join(map(str, w.stride)),
        "dilation": "x".join(map(str, w.dilation)),
        "filter": f"{w.r}x{w.s}",
        "padding": "none" if not any(w.padding) else "even" if top == bottom and left == right else "uneven",
        "groups": groups,
        "epilogue": w.epilogue or "plain",
        "beta": w.beta,
        "alpha": w.alpha,
        "scales": w.scales,
        "deterministic": str(w.deterministic),
    }


def swept(direction: str, family: str, variants: int, seed: int, workers: int | None) -> tuple[Swept, SweepReport]:
    """Check ``variants`` random variants of ``family``."""
    report = sweep(family, variants=variants, seed=seed, workers=workers)
    had: dict[str, Counter[str]] = {}
    for workload in report.coverage.workloads:
        assert isinstance(workload, Conv2d)
        for name, value in properties(workload).items():
            had.setdefault(name, Counter())[value] += 1
    failures = [_failure(found) for found in report.classes.values()]
    counted = {name: dict(counter.most_common()) for name, counter in had.items()}
    facts = (report.variants, report.runs, report.assembled, report.spilling, round(report.seconds, 1))
    return Swept(direction, family, registry()[family].hash(), *facts, failures, report.covered, counted), report


def _failure(found: FailureClass) -> dict[str, Any]:
    return {"label": found.label, "count": found.count, "message": found.message, "command": found.command}


def shares(variants: int, names: Sequence[str]) -> list[int]:
    """``variants`` shared out evenly over the families."""
    return [variants * (i + 1) // len(names) - variants * i // len(names) for i in range(len(names))]


def coverage(rows: Sequence[Swept]) -> Iterator[str]:
    """A line for each property: every value with how many of the variants of ``rows`` had it."""
    total: dict[str, Counter[str]] = {}
    for row in rows:
        for name, values in row.had.items():
            total.setdefault(name, Counter()).update(values)
    for name, counter in total.items():
        told = ", ".join(f"{value} {count}" for value, count in counter.most_common(24))
        more = f" and {len(counter) - 24} more values" if len(counter) > 24 else ""
        yield f"    {name}: {told}{more}"
