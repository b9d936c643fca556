"""The judgement of one chip: rows of predictors, kinds of products, intervals, marks."""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.performance_model.baselines import BASELINES, order
from bench.performance_model.compiled import Predicted
from bench.performance_model.metrics import FIRST, Scores, interval
from bench.performance_model.variants import kind
from bench.transfer.autoheuristic import Shape

TIMINGS = "PyTorch AutoHeuristic's Triton matmul"
CHIPS = {80: "NVIDIA A100-SXM4-80GB", 90: "NVIDIA H100 80GB HBM3"}
COVERAGE = 0.9
ENOUGH = 200
"""Timings of one limiter from which its interval is set."""
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


Widths = dict[str, tuple[float, float]]
"""Factors of a predicted time between which measured ones lie, by what limits it; "" for all others."""


def widths(shapes: Sequence[Shape], predicted: Sequence[Predicted]) -> Widths:
    """The narrowest factors between which nine of ten measured times lie, stretched to the prediction where it lies
    outside: of all, and of each limiter that has enough."""
    ratios, limiters = _ratios(shapes, predicted)
    enough = sorted(name for name, count in Counter(limiters.tolist()).items() if count >= ENOUGH)
    return {"": _narrowest(ratios), **{name: _narrowest(ratios[limiters == name]) for name in enough}}


def _narrowest(ratios: NDArray[np.float64]) -> tuple[float, float]:
    ratio = np.sort(np.log(ratios))
    count = max(1, int(np.ceil(COVERAGE * len(ratio))))
    first = int(np.argmin(ratio[count - 1 :] - ratio[: len(ratio) - count + 1]))
    return min(1.0, float(np.exp(ratio[first]))), max(1.0, float(np.exp(ratio[first + count - 1])))


def _ratios(shapes: Sequence[Shape], predicted: Sequence[Predicted]) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Measured over predicted of every config that was timed and predicted, and what limits it."""
    found = [
        (t / p, name)
        for s, of in zip(shapes, predicted)
        for t, p, name in zip(s.times(), of.seconds, of.limiters)
        if np.isfinite(t) and np.isfinite(p)
    ]
    return np.array([r for r, _ in found]), np.array([name for _, name in found], str)


def told(shapes: Sequence[Shape], predicted: Sequence[Predicted], by: Widths) -> list[dict[str, Any]]:
    """Each interval of ``by``: how many timings of ``shapes`` it is told for, and the share that lies within."""
    ratios, limiters = _ratios(shapes, predicted)
    given = np.where(np.isin(limiters, list(by)), limiters, "")
    rows = []
    for name, (low, high) in by.items():
        of = ratios[given == name]
        within = float(((of >= low) & (of <= high)).mean()) if len(of) else None
        rows.append({"limiter": name, "low": low, "high": high, "times": len(of), "coverage": within})
    return rows


def overall(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the timings that all intervals are told for: their median width (high over low), and the share within."""
    each = np.repeat([r["high"] / r["low"] for r in rows], [r["times"] for r in rows])
    within = sum(r["times"] * r["coverage"] for r in rows if r["times"])
    return {"width": float(np.median(each)), "coverage": within / len(each)}


def arithmetic(s: Shape) -> str:
    """What multiplies in the variants of a shape."""
    return "fma" if kind(s.workload) == "f32" else "mma" if s.device.cc == 80 else "wgmma"


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
    width, covered = found["interval"]["width"], found["interval"]["coverage"]
    asked.append({"name": "median width of the 90 % intervals", "value": width, "mark": "<=2.2", "met": width <= 2.2})
    asked.append({"name": "times within them", "value": covered, "mark": ".85-.95", "met": 0.85 <= covered <= 0.95})
    return asked


@dataclass(frozen=True)
class Openings:
    """How often the held shapes were judged, and the kinds (``90-wgmma``) whose predictions changed since the first
    time."""

    count: int = 1
    changed: frozenset[str] = frozenset()


def published(
    cc: int,
    shapes: Sequence[Shape],
    predicted: Sequence[Predicted],
    by: dict[str, Widths],
    split: str,
    seen: Openings = Openings(),
) -> list[dict[str, Any]]:
    """Rows of the table that the product ships: one for each kind of arithmetic on a chip."""
    out = []
    for instruction in sorted(by):
        which = [i for i, s in enumerate(shapes) if arithmetic(s) == instruction]
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
                "intervals": [
                    {k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()}
                    for r in told(some, of, by[instruction])
                    if r["times"]
                ],
                "date": datetime.date.today().isoformat(),
                "openings": seen.count,
                "blind": f"{cc}-{instruction}" not in seen.changed,
            }
        )
    return out


__all__ = ["arithmetic", "kinds", "marks", "overall", "published", "rows", "told", "widths"]
