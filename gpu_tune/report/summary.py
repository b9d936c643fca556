"""What a benchmark says: ratios per shape, geometric means per FLOP decade, losses; as text or JSON.

Only kernels of ours count. A ratio is time(best baseline) / time(ours), above 1 where ours is faster; a geometric mean
of ratios is given for every decade of FLOPs, because one mean would hide that small and large shapes differ.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..cuda.device import PEAK_KIND, Device
from ..kernel.emit import duration
from ..workload import Workload
from .tables import Table

COLUMNS = ("ratio", "TFLOP/s", "GB/s", "roofline", "/ predicted", "host us")
"""What a table says of a shape beside its name and times; the last: the measured time over the predicted one."""


@dataclass(frozen=True)
class Row:
    """One shape: seconds of ours (None: none was found) and of each baseline; ``low`` .. ``high`` around the ratio;
    ``predicted``: the seconds that the performance model says of ours (None: nothing). ``host`` and ``host_vendor``:
    seconds of the host that a call of ours takes, and one of the vendor library through the same array library."""

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
    predicted: float | None = None
    host: float | None = None
    host_vendor: float | None = None

    @property
    def best(self) -> tuple[str, float] | None:
        """The fastest baseline and its seconds."""
        return min(self.baselines.items(), key=lambda item: item[1]) if self.baselines else None

    @property
    def ratio(self) -> float | None:
        """time(best baseline) / time(ours), above 1 where ours is faster."""
        return self.best[1] / self.ours if self.best and self.ours else None

    def to_json(self) -> dict[str, Any]:
        w = self.workload
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**plain, "workload": w.key, "flops": w.flops, "bytes": w.bytes, "ratio": self.ratio}


def roofline(workload: Workload, device: Device) -> float:
    """Seconds at the peak rate of the dtype (tf32 where permitted) or at the peak bandwidth, whichever is longer."""
    kind = PEAK_KIND[workload.dtype]
    peak = peak_flops(device, "tf32" if kind == "fp32" and "tf32" in workload.math else kind)
    return max(workload.flops / peak, workload.bytes / device.bandwidth)


def peak_flops(device: Device, kind: str) -> float:
    """FLOP/s of a kind of rate; where the device has none of it, of fp16, else of fp32."""
    return device.peak_flops(kind) or device.peak_flops("fp16") or device.peak_flops("fp32")


@dataclass(frozen=True)
class Summary:
    """Over the shapes with a ratio: geometric means (``decades``: of how many shapes, and the mean, by the power of ten
    of their FLOP), share of ratios >= 1, 5 % quantile, decided losses, and the worst shape with its ratio."""

    shapes: int
    geomean: float
    decades: Mapping[int, tuple[int, float]]
    share: float
    quantile: float
    losses: tuple[str, ...]
    worst: tuple[str, float]

    def to_json(self) -> dict[str, Any]:
        decades = {f"1e{d}": mean for d, (_, mean) in self.decades.items()}
        return {"shapes": self.shapes, "geomean": self.geomean, "share": self.share, "quantile_5": self.quantile,
                "losses": self.losses, "decades": decades}  # fmt: skip


def summarise(rows: Sequence[Row]) -> Summary | None:
    """The summary, or None when no row has both ours and a baseline."""
    ratios = [(r, r.ratio) for r in rows if r.ratio is not None]
    if not ratios:
        return None
    values = [x for _, x in ratios]
    decades: dict[int, list[float]] = {}
    for row, ratio in ratios:
        decades.setdefault(int(math.log10(row.workload.flops)), []).append(ratio)
    worst, least = min(ratios, key=lambda item: item[1])
    return Summary(
        len(values),
        statistics.geometric_mean(values),
        {d: (len(v), statistics.geometric_mean(v)) for d, v in sorted(decades.items())},
        sum(x >= 1.0 for x in values) / len(values),
        float(np.quantile(values, 0.05)),
        tuple(r.label for r, x in ratios if x < 1.0 and r.decided),
        (worst.label, least),
    )


def cells(row: Row, device: Device) -> dict[str, str]:
    """What a table says of a shape, by the name of the column: ``shape``, ``ours``, the baselines and ``COLUMNS``."""
    found = {"shape": row.label, "ours": row.note or "-", **{n: duration(t) for n, t in row.baselines.items()}}
    if row.ratio is not None:
        found["ratio"] = f"{row.ratio:.3f}"
    if row.ours:
        found["ours"] = duration(row.ours)
        found["TFLOP/s"] = f"{row.workload.flops / row.ours / 1e12:.4g}"
        found["GB/s"] = f"{row.workload.bytes / row.ours / 1e9:.4g}"
        found["roofline"] = f"{roofline(row.workload, device) / row.ours:.0%}"
        if row.predicted and row.source == "measured":
            found["/ predicted"] = f"{row.ours / row.predicted:.2f}"
    if row.host is not None:
        theirs = "-" if row.host_vendor is None else f"{row.host_vendor * 1e6:.3g}"
        found["host us"] = f"{row.host * 1e6:.3g} / {theirs}"
    return found


def table(rows: Sequence[Row], device: Device, title: str = "") -> Table:
    """A table for a rich console, one row a shape."""
    from rich.text import Text

    columns = ["shape", "ours", *sorted({n for r in rows for n in r.baselines}), *COLUMNS]
    lines = []
    for r in rows:
        found: dict[str, Any] = cells(r, device)
        if r.ratio is not None:
            interval = f" [{r.low:.2f}, {r.high:.2f}]" if r.low is not None and r.high is not None else ""
            colour = "" if not r.decided else "green" if r.ratio > 1 else "red"
            found["ratio"] = Text(found["ratio"] + interval, colour)
        lines.append([found.get(c, "-") for c in columns])
    return Table(columns, lines, title, right=columns[1:], apart=("shape",))


def text(summary: Summary) -> str:
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
