"""What a benchmark says: ratios per shape, geometric means per FLOP decade, losses; as text or JSON.

Only kernels of ours count. A ratio is time(best baseline) / time(ours), above 1 where ours is faster; a geometric mean
of ratios is given for every decade of FLOPs, because one mean would hide that small and large shapes differ.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..cuda.device import Device
from ..kernel.emit import duration
from ..workload import Workload

PEAK = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "fp16",
    "int8": "int8",
    "float8_e4m3": "fp8",
    "float8_e5m2": "fp8",
}


@dataclass(frozen=True)
class Row:
    """One shape: seconds of ours (None: none was found) and of each baseline; ``low`` .. ``high`` around the ratio."""

    label: str
    workload: Workload
    ours: float | None
    baselines: Mapping[str, float] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    decided: bool = False
    template: str = ""
    source: str = "measured"
    note: str = ""

    @property
    def best(self) -> tuple[str, float] | None:
        """The fastest baseline and its seconds."""
        return min(self.baselines.items(), key=lambda item: item[1]) if self.baselines else None

    @property
    def ratio(self) -> float | None:
        """time(best baseline) / time(ours), above 1 where ours is faster."""
        return self.best[1] / self.ours if self.best and self.ours else None

    def roofline(self, device: Device) -> float:
        """Seconds that the device's peak rates allow at least: arithmetic or memory, whichever takes longer."""
        return roofline(self.workload, device)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "label": self.label,
            "workload": self.workload.key,
            "flops": self.workload.flops,
            "bytes": self.workload.bytes,
            "ours": self.ours,
            "baselines": dict(self.baselines),
            "ratio": self.ratio,
            "low": self.low,
            "high": self.high,
            "decided": self.decided,
            "template": self.template,
            "source": self.source,
            "note": self.note,
        }


def roofline(workload: Workload, device: Device) -> float:
    """Seconds at the peak rate of the dtype (tf32 where permitted) or at the peak bandwidth, whichever is longer."""
    kind = PEAK[workload.dtype]
    peak = device.peak_flops("tf32" if kind == "fp32" and "tf32" in workload.math else kind) or device.peak_flops(
        "fp16"
    )
    peak = peak or device.peak_flops("fp32")
    return max(workload.flops / peak, workload.bytes / device.bandwidth)


@dataclass(frozen=True)
class Summary:
    """Over the shapes with a ratio: geometric means, share of ratios >= 1, 5 % quantile, decided losses."""

    shapes: int
    geomean: float
    decades: Mapping[int, tuple[int, float]]
    share: float
    quantile: float
    losses: tuple[str, ...]
    worst: tuple[str, float]


def summarise(rows: Sequence[Row]) -> Summary | None:
    """The summary, or None when no row has both ours and a baseline."""
    told = [(r, r.ratio) for r in rows if r.ratio is not None]
    if not told:
        return None
    ratios = [x for _, x in told if x]
    decades: dict[int, list[float]] = {}
    for row, ratio in told:
        decades.setdefault(int(math.log10(row.workload.flops)), []).append(ratio or 0.0)
    worst = min(told, key=lambda item: item[1] or 0.0)
    return Summary(
        len(told),
        geomean(ratios),
        {d: (len(v), geomean(v)) for d, v in sorted(decades.items())},
        sum(x >= 1.0 for x in ratios) / len(ratios),
        quantile(ratios, 0.05),
        tuple(r.label for r, x in told if x and x < 1.0 and r.decided),
        (worst[0].label, worst[1] or 0.0),
    )


def geomean(values: Sequence[float]) -> float:
    """Geometric mean of positive numbers."""
    return math.exp(statistics.fmean(map(math.log, values)))


def quantile(values: Sequence[float], q: float) -> float:
    """The ``q`` quantile, linear between order statistics."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def table(rows: Sequence[Row], device: Device, title: str = "") -> Any:
    """A rich table, one row a shape."""
    from rich.table import Table

    names = sorted({n for r in rows for n in r.baselines})
    made = Table(title=title or None, title_justify="left")
    for name in ("shape", "ours", *names, "ratio", "TFLOP/s", "GB/s", "roofline"):
        made.add_column(name, justify="left" if name == "shape" else "right", overflow="fold")
    for r in rows:
        interval = f" [{r.low:.2f}, {r.high:.2f}]" if r.low is not None and r.high is not None else ""
        ratio = "-" if r.ratio is None else f"{r.ratio:.3f}{interval}"
        colour = "" if r.ratio is None or not r.decided else "green" if r.ratio > 1 else "red"
        made.add_row(
            r.label,
            duration(r.ours) if r.ours else r.note or "-",
            *(duration(r.baselines[n]) if n in r.baselines else "-" for n in names),
            f"[{colour}]{ratio.replace('[', chr(92) + '[')}[/{colour}]" if colour else ratio.replace("[", "\\["),
            f"{r.workload.flops / r.ours / 1e12:.4g}" if r.ours else "-",
            f"{r.workload.bytes / r.ours / 1e9:.4g}" if r.ours else "-",
            f"{roofline(r.workload, device) / r.ours:.0%}" if r.ours else "-",
        )
    return made


def text(summary: Summary) -> str:
    """The summary in words."""
    lines = [
        f"{summary.shapes} shapes: geometric mean {summary.geomean:.3f}, at or above 1.0 on {summary.share:.0%}, "
        f"5 % quantile {summary.quantile:.3f}, worst {summary.worst[1]:.3f} ({summary.worst[0]})"
    ]
    lines += [
        f"  1e{d}..1e{d + 1} FLOP: {mean:.3f} over {n} shape{'s' if n > 1 else ''}"
        for d, (n, mean) in summary.decades.items()
    ]
    if summary.losses:
        lines.append(f"decidedly slower on {len(summary.losses)}: {', '.join(summary.losses)}")
    return "\n".join(lines)
