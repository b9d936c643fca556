"""The judgement of one chip: rows of predictors, kinds of products, intervals, marks."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.performance_model.baselines import BASELINES, order
from bench.performance_model.compiled import Predicted
from bench.performance_model.metrics import FIRST, Scores, interval, spread
from bench.performance_model.variants import kind
from bench.transfer.autoheuristic import Shape

TIMINGS = "PyTorch AutoHeuristic's Triton matmul"
CHIPS = {80: "NVIDIA A100-SXM4-80GB", 90: "NVIDIA H100 80GB HBM3"}
COVERAGE = 0.9
MARKS = {"top1": 0.95, "top3": 0.985, "top5": 0.994, "low3": 0.94, "rank_correlation": 0.92}
LEAST_OF_A_KIND = 0.90


def sizes(shapes: Sequence[Shape]) -> list[tuple[int, int, int]]:
    """Shapes that are drawn together: products of the same sizes."""
    return [(s.workload.m, s.workload.n, s.workload.k) for s in shapes]


def rows(shapes: Sequence[Shape], predicted: Sequence[Predicted]) -> list[dict[str, Any]]:
    """The static model among predictors that were told nothing of any timing."""
    times = [s.times() for s in shapes]
    found = [Scores.of(None, times).row("random")]
    for name, by in BASELINES.items():
        found.append(Scores.of([order(s, by) for s in shapes], times).row(name))
    static = Scores.of([p.seconds for p in predicted], times)
    row = static.row("static model")
    for j, k in enumerate(FIRST):
        row[f"interval{k}"] = [float(np.exp(v)) for v in interval(np.log(static.top[:, j]), sizes(shapes))]
    row["rank_interval"] = interval(static.correlation, sizes(shapes))
    return [*found, row]


def kinds(shapes: Sequence[Shape], predicted: Sequence[Predicted]) -> list[dict[str, Any]]:
    """The static model by layout and dtype, and by the size of the product."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, s in enumerate(shapes):
        w = s.workload
        groups[f"{w.dtype} {w.layout}"].append(i)
        groups["below 2 GFLOP" if w.flops < 2e9 else "below 50 GFLOP" if w.flops < 5e10 else "more"].append(i)
    static = Scores.of([p.seconds for p in predicted], [s.times() for s in shapes])
    return [static.take(which).row(name) for name, which in sorted(groups.items())]


def widths(development: tuple[Sequence[Shape], Sequence[Predicted]]) -> tuple[float, float]:
    """The narrowest factors of a prediction between which nine of ten measured times of ``development`` lie."""
    ratio = np.sort(np.log(spread([p.seconds for p in development[1]], [s.times() for s in development[0]])))
    count = max(1, int(np.ceil(COVERAGE * len(ratio))))
    first = int(np.argmin(ratio[count - 1 :] - ratio[: len(ratio) - count + 1]))
    return float(np.exp(ratio[first])), float(np.exp(ratio[first + count - 1]))


def coverage(shapes: Sequence[Shape], predicted: Sequence[Predicted], low: float, high: float) -> float:
    """The share of measured times within ``low`` and ``high`` of the predicted ones."""
    ratio = spread([p.seconds for p in predicted], [s.times() for s in shapes])
    return float(((ratio >= low) & (ratio <= high)).mean())


def marks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked of the static model beside what it reached."""
    row = found["rows"][-1]
    asked = [
        {"name": f"static model, {k}", "value": row[k], "mark": f">={m}", "met": row[k] >= m} for k, m in MARKS.items()
    ]
    worst = min((r for r in found["kinds"] if " " in r["name"] and "FLOP" not in r["name"]), key=lambda r: r["top1"])
    asked.append(
        {
            "name": f"worst layout and dtype at top 1: {worst['name']}",
            "value": worst["top1"],
            "mark": f">={LEAST_OF_A_KIND}",
            "met": worst["top1"] >= LEAST_OF_A_KIND,
        }
    )
    width = found["interval"]["high"] / found["interval"]["low"]
    asked.append({"name": "width of the 90 % interval", "value": width, "mark": "<=2.2", "met": width <= 2.2})
    covered = found["interval"]["coverage"]
    asked.append({"name": "times within it", "value": covered, "mark": ".85-.95", "met": 0.85 <= covered <= 0.95})
    return asked


def published(
    cc: int, shapes: Sequence[Shape], predicted: Sequence[Predicted], low: float, high: float, split: str
) -> list[dict[str, Any]]:
    """Rows of the table that the product ships: one for each kind of arithmetic on a chip."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, s in enumerate(shapes):
        groups["fma" if kind(s.workload) == "f32" else "mma" if cc == 80 else "wgmma"].append(i)
    out = []
    for instruction, which in sorted(groups.items()):
        some, of = [shapes[i] for i in which], [predicted[i] for i in which]
        row = Scores.of([p.seconds for p in of], [s.times() for s in some]).row(instruction)
        out.append(
            {
                "cc": cc,
                "op": "matmul",
                "instruction": instruction,
                "copies": "cp.async",
                "dtypes": sorted({s.workload.dtype for s in some}),
                "chip": CHIPS[cc],
                "timings": TIMINGS,
                "shapes": len(some),
                "split": split,
                **{k: round(row[k], 4) for k in ("top1", "top3", "top5", "rank_correlation")},
                "low": round(low, 3),
                "high": round(high, 3),
                "coverage": round(coverage(some, of, low, high), 4),
                "date": datetime.date.today().isoformat(),
            }
        )
    return out


__all__ = ["coverage", "kinds", "marks", "published", "rows", "widths"]
