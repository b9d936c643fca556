"""A benchmark, or a search, as one HTML file that stands alone, with plots by matplotlib (extra ``report``)."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..cuda.device import PEAK_KIND, Device
from ..errors import InvalidInput
from ..trial import PREDICTED
from .explain import Explanation
from .explain import text as told
from .search_facts import ended, judgement
from .summary import COLUMNS, Row, cells, peak_flops, summarise, text

COLOURS = ("#3366cc", "#cc5533", "#22aa77", "#8844aa", "#bb9900", "#557788")
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem .8rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
    "pre{white-space:pre-wrap}li,td{overflow-wrap:anywhere}"
)
FEATURES = 12
"""How many features of a model are drawn."""


def benchmark_page(rows: Sequence[Row], device: Device, title: str, facts: Mapping[str, Any]) -> str:
    """Speed-up bars, roofline and the table of a benchmark. InvalidInput without matplotlib."""
    summary, names = summarise(rows), sorted({n for r in rows for n in r.baselines})
    columns = ["shape", "ours", *names, *(c for c in COLUMNS if c != "GB/s")]
    told = escape(text(summary)) if summary else "No baseline was timed: nothing is compared."
    body = _table(columns, ([cells(r, device).get(c, "-") for c in columns] for r in rows))
    return _document(
        title, [f"{k}: {v}" for k, v in facts.items()], f"<pre>{told}</pre>", benchmark_plots(rows, device), body
    )


def search_page(facts: Mapping[str, Any]) -> str:
    """What was tried, what the models learned and how rightly they predict, from what ``gpu-tune show search --json``
    prints. InvalidInput without matplotlib."""
    lines = [f"{facts['trials']} trials: {ended(facts)}", f"{facts['records']} records are learned from"]
    if facts["source"] == PREDICTED:
        lines.append("times are predicted from machine code, not measured; figures show them relative to the best")
    if facts["best"]:
        best = facts["best"]
        config = " ".join(f"{name}={value}" for name, value in best["config"].items())
        lines.append(f"best: {best['figure']} with {best['template']}: {config}")
    lines += [judgement(name, s) for name, s in facts["spaces"].items() if "rank_correlation" in s]
    failures = [(f["status"], str(f["count"]), f["reason"][:300]) for f in facts["failures"]]
    failed = "<h2>What failed</h2>" + _table(("status", "trials", "why"), failures) if failures else ""
    return _document(f"Search for {facts['workload']} on {facts['device']}", lines, "", search_plots(facts), failed)


def kernel_page(found: Explanation) -> str:
    """What limits one kernel: where its cycles go, its place under the roofline, and its best neighbours.
    InvalidInput without matplotlib."""
    lines = [f"{name}: {line}" if name else line for name, line in told(found)]
    title = f"{found.workload.key} on {found.device.product}{_mark(True)}"
    figures = {"Where the cycles go": _stalls(found), "Roofline": _roofline_of(found)}
    config = _table(("knob", "value"), ((k, str(v)) for k, v in found.candidate.config.items()))
    return _document(title, lines, "", figures, f"<h2>{escape(found.candidate.template)}</h2>{config}")


def _stalls(found: Explanation) -> bytes:
    figure = _figure(10, 3.4)
    charts = (
        (found.causes, "share of the main kernel's cycles by cause (tail: the others count it too)"),
        (found.pipes, "share of the hot loop that each pipe works"),
    )
    drawn = [({n: s for n, s in shown.items() if s >= 0.001}, title) for shown, title in charts]
    drawn = [(named, title) for named, title in drawn if named]  # code without a loop has no shares of pipes
    for axes, (named, title) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn):
        axes.barh(list(named), list(named.values()), color="#36c")
        axes.invert_yaxis()
        axes.set_title(title, fontsize=9)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
        axes.tick_params(labelsize=8)
    return _png(figure)


def _roofline_of(found: Explanation) -> bytes:
    """The kernel's predicted rate relative to the roof: no scale of seconds is needed to read it."""
    figure = _figure(8, 4)
    axes, w, device = figure.subplots(), found.workload, found.device
    intensity, peak = w.flops / w.bytes, peak_flops(device, PEAK_KIND[w.dtype])
    ridge = peak / device.bandwidth
    first, last = min(intensity, ridge) / 8, max(intensity, ridge) * 8
    xs = [first * (last / first) ** (i / 100) for i in range(101)]
    axes.plot(xs, [min(1.0, x / ridge) for x in xs], color="#222", linewidth=1.2, label=f"{PEAK_KIND[w.dtype]} roof")
    rate = w.flops / found.prediction.seconds / peak
    axes.scatter([intensity], [rate], s=40, color="#36c", zorder=3, label="this kernel, as predicted")
    for near in found.neighbours:
        axes.scatter([intensity], [rate / near.ratio], s=22, marker="x", color="#c53", zorder=3)
    label = "FLOP per byte of operands and result"
    axes.set(xlabel=label, ylabel="share of the peak rate", xscale="log", yscale="log")
    for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis(lambda y, _: f"{y:.0%}")
    axes.legend(fontsize=8)
    return _png(figure)


def _document(title: str, facts: Iterable[str], head: str, figures: Mapping[str, bytes], body: str) -> str:
    """A whole page; ``title`` and ``facts`` are text, ``head`` and ``body``, before and after the figures, HTML."""
    name, listed = escape(title), "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    images = "".join(
        f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for alt, png in figures.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style></head>'
        f"<body><h1>{name}</h1><ul>{listed}</ul>{head}{images}{body}</body></html>\n"
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return (
        f"<table><thead><tr>{''.join(f'<th>{escape(c)}</th>' for c in head)}</tr></thead><tbody>{body}</tbody></table>"
    )


def benchmark_plots(rows: Sequence[Row], device: Device) -> dict[str, bytes]:
    """PNG images by title: speed-up per shape (with baselines) and the roofline. InvalidInput without matplotlib."""
    compared, timed = [r for r in rows if r.ratio is not None], [r for r in rows if r.ours]
    made = {"Speed-up": _speed_ups(compared)} if compared else {}
    return {**made, "Roofline": _roofline(timed, device)} if timed else made


def _speed_ups(rows: Sequence[Row]) -> bytes:
    figure = _figure(10, max(2.0, 0.28 * len(rows) + 1))
    axes, ratios = figure.subplots(), [r.ratio or 0.0 for r in rows]
    below = [max(0.0, x - (x if r.low is None else r.low)) for r, x in zip(rows, ratios)]
    above = [max(0.0, (x if r.high is None else r.high) - x) for r, x in zip(rows, ratios)]
    colours = ["#999999" if not r.decided else "#22aa77" if x > 1 else "#cc5533" for r, x in zip(rows, ratios)]
    axes.barh(range(len(rows)), ratios, xerr=[below, above], color=colours, ecolor="#555")
    axes.axvline(1.0, color="#222", linewidth=1)
    axes.set_yticks(range(len(rows)), [r.label for r in rows], fontsize=8)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set(title="Speed-up", xlabel="time(best baseline) / time(ours): above 1 is faster")
    return _png(figure)


def _roofline(rows: Sequence[Row], device: Device) -> bytes:
    figure = _figure(8, 5)
    axes, intensity = figure.subplots(), [r.workload.flops / r.workload.bytes for r in rows]
    rates = [r.workload.flops / (r.ours or 1.0) / 1e12 for r in rows]
    axes.scatter(intensity, rates, s=18, color="#36c", label="ours", zorder=3)
    best = [(x, r.workload.flops / r.best[1] / 1e12) for x, r in zip(intensity, rows) if r.best]
    if best:
        axes.scatter(*zip(*best), s=18, marker="x", color="#c53", label="best baseline", zorder=3)
    first, decades = min(intensity) / 2, math.log10(4 * max(intensity) / min(intensity))
    xs = [first * 10 ** (i / 100 * decades) for i in range(101)]
    for kind in sorted({PEAK_KIND[r.workload.dtype] for r in rows}):
        peak = peak_flops(device, kind)
        axes.plot(xs, [min(peak, x * device.bandwidth) / 1e12 for x in xs], linewidth=1.2, label=f"{kind} roofline")
    title = f"Roofline of {device.product}{_mark(any(r.source == PREDICTED for r in rows))}"
    axes.set(title=title, xlabel="FLOP per byte of operands and result", ylabel="TFLOP/s", xscale="log", yscale="log")
    axes.legend(fontsize=8)
    return _png(figure)


def search_plots(facts: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG images by title: every trial and the best so far; for each space with a model, what it goes by, and predicted
    against measured rank. InvalidInput without matplotlib."""
    made: dict[str, bytes] = {}
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(facts["spaces"])}
    if any(t is not None for t in facts["curve"]):
        made["Trials and the best so far"] = _trials(facts, colour)
    for name, space in facts["spaces"].items():
        if space.get("gain"):
            made[f"What the model of {name} goes by, and how rightly it predicts"] = _model(name, space, colour[name])
    return made


def _trials(facts: Mapping[str, Any], colour: Mapping[str, str]) -> bytes:
    figure = _figure(10, 4.8)
    axes, points = figure.subplots(), list(enumerate(facts["points"], 1))
    least = min(t for t in facts["curve"] if t is not None)
    unit, axis = (1 / least, "time / least predicted") if facts["source"] == PREDICTED else (1e6, "time (us)")
    for name in facts["spaces"]:
        mine = [(n, p["seconds"] * unit) for n, p in points if p["space"] == name and p["seconds"] is not None]
        if mine:
            axes.scatter(*zip(*mine), s=11, color=colour[name], alpha=0.6, linewidths=0, label=f"{name} ({len(mine)})")
    curve = [(n, t * unit) for n, t in enumerate(facts["curve"], 1) if t is not None]
    axes.step(*zip(*curve), where="post", color="#222", linewidth=1.4, label="best so far")
    axes.set(xlim=(0, len(points) + 1), xlabel="trial", ylabel=axis, yscale="log")
    failed = [n for n, p in points if p["seconds"] is None]
    if failed:  # on the upper edge, whatever the times are
        label, edge = f"no time ({len(failed)})", axes.get_xaxis_transform()
        axes.scatter(failed, [0.985] * len(failed), transform=edge, marker="|", s=45, color="#999", label=label)
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}" if str(f"{y:e}")[0] in "25" else "")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.set_title(f"{facts['workload']}{_mark(facts['source'] == PREDICTED)}", fontsize=10)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=6, frameon=False)
    return _png(figure)


def _model(name: str, space: Mapping[str, Any], colour: str) -> bytes:
    figure = _figure(13, 4.2)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.05))
    for axes, key, title in ((left, "gain", "share of split gain"), (middle, "shap", "mean |SHAP|")):
        shown = list(space[key].items())[:FEATURES]
        axes.barh([n for n, _ in shown], [v for _, v in shown], color=colour)
        axes.invert_yaxis()
        axes.tick_params(labelsize=7)
        axes.set_title(title, fontsize=9)
    last = len(space["measured"]) - 1
    right.plot([0, last], [0, last], color="#999", linewidth=1)
    right.scatter(space["measured"], space["predicted"], s=10, color=colour, alpha=0.7, linewidths=0)
    right.set_xlabel("measured rank (0: fastest)", fontsize=8)
    right.set_ylabel("predicted rank", fontsize=8)
    right.tick_params(labelsize=8)
    right.set_aspect("equal")
    right.set_title(
        f"predicted before it was seen\nrank correlation {space['rank_correlation']:.2f}, "
        f"{space['pairwise_accuracy']:.0%} of pairs",
        fontsize=9,
    )
    figure.suptitle(f"{name}: {space['trials']} trials", fontsize=10)
    return _png(figure)


def _mark(predicted: bool) -> str:
    return " (predicted, not measured)" if predicted else ""


def _figure(width: float, height: float) -> Any:
    """An empty figure, inches; InvalidInput without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidInput("report", ..., "needs matplotlib", "pip install 'gpu_tune[report]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
