"""A benchmark as one HTML file that stands alone, with its plots. Needs matplotlib (extra ``report``)."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..cuda.device import Device
from ..errors import InvalidInput
from ..kernel.emit import duration
from .summary import PEAK, Row, roofline, summarise, text


def page(rows: Sequence[Row], device: Device, title: str, facts: Mapping[str, Any]) -> str:
    """One HTML file that stands alone: speed-up bars, roofline, the table. Needs matplotlib (extra ``report``)."""
    summary = summarise(rows)
    figures = [image(name, png) for name, png in plots(rows, device).items()]
    names = sorted({n for r in rows for n in r.baselines})
    head = "".join(f"<th>{html.escape(n)}</th>" for n in ("shape", "ours", *names, "ratio", "TFLOP/s", "roofline"))
    body = "".join(
        "<tr><td>"
        + "</td><td>".join(
            html.escape(c)
            for c in (
                r.label,
                duration(r.ours) if r.ours else r.note or "-",
                *(duration(r.baselines[n]) if n in r.baselines else "-" for n in names),
                f"{r.ratio:.3f}" if r.ratio else "-",
                f"{r.workload.flops / r.ours / 1e12:.4g}" if r.ours else "-",
                f"{roofline(r.workload, device) / r.ours:.0%}" if r.ours else "-",
            )
        )
        + "</td></tr>"
        for r in rows
    )
    facts_ = "".join(f"<li>{html.escape(str(k))}: {html.escape(str(v))}</li>" for k, v in facts.items())
    told = html.escape(text(summary)) if summary else "No baseline was timed: nothing is compared."
    return document(
        title,
        f"<ul>{facts_}</ul><pre>{told}</pre>{''.join(figures)}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
    )


def image(name: str, png: bytes) -> str:
    """An HTML image that carries its own bytes."""
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def document(title: str, body: str) -> str:
    """A whole HTML page; ``title`` is text, ``body`` HTML."""
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
        "table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem .8rem;text-align:right;"
        "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
        "pre{white-space:pre-wrap}"
    )
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{style}</style></head><body><h1>{name}</h1>{body}</body></html>\n"
    )


def plots(rows: Sequence[Row], device: Device) -> dict[str, bytes]:
    """PNG images by title: speed-up per shape (with baselines) and the roofline. InvalidInput without matplotlib."""
    plt = pyplot()
    made: dict[str, bytes] = {}
    told = [r for r in rows if r.ratio is not None]
    if told:
        figure, axes = plt.subplots(figsize=(10, max(2.0, 0.28 * len(told) + 1)), layout="constrained")
        ratios = [r.ratio or 0.0 for r in told]
        errors = [
            [max(0.0, x - (r.low if r.low is not None else x)) for r, x in zip(told, ratios)],
            [max(0.0, (r.high if r.high is not None else x) - x) for r, x in zip(told, ratios)],
        ]
        axes.barh(
            range(len(told)),
            ratios,
            xerr=errors,
            color=[_colour(r) for r in told],
            ecolor="#555",
        )
        axes.axvline(1.0, color="#222", linewidth=1)
        axes.set_yticks(range(len(told)), [r.label for r in told], fontsize=8)
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.set_xlabel("time(best baseline) / time(ours): above 1 is faster")
        axes.set_title("Speed-up")
        made["Speed-up"] = png(figure)
        plt.close(figure)
    timed = [r for r in rows if r.ours]
    if timed:
        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        intensity = [r.workload.flops / r.workload.bytes for r in timed]
        axes.scatter(
            intensity,
            [r.workload.flops / (r.ours or 1.0) / 1e12 for r in timed],
            s=18,
            color="#36c",
            label="ours",
            zorder=3,
        )
        best = [(r.workload.flops / r.workload.bytes, r.workload.flops / r.best[1] / 1e12) for r in timed if r.best]
        if best:
            axes.scatter(
                [x for x, _ in best],
                [y for _, y in best],
                s=18,
                marker="x",
                color="#c53",
                label="best baseline",
                zorder=3,
            )
        xs = [
            10 ** (math.log10(min(intensity) / 2) + i / 100 * math.log10(4 * max(intensity) / min(intensity)))
            for i in range(101)
        ]
        for kind in sorted({PEAK[r.workload.dtype] for r in timed}):
            peak = device.peak_flops(kind) or device.peak_flops("fp16") or device.peak_flops("fp32")
            axes.plot(xs, [min(peak, x * device.bandwidth) / 1e12 for x in xs], linewidth=1.2, label=f"{kind} roofline")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("FLOP per byte of operands and result")
        axes.set_ylabel("TFLOP/s")
        kinds = {r.source for r in timed}
        axes.set_title(
            f"Roofline of {device.product}" + (" (estimates, not measurements)" if "predicted" in kinds else "")
        )
        axes.legend(fontsize=8)
        made["Roofline"] = png(figure)
        plt.close(figure)
    return made


def _colour(row: Row) -> str:
    return "#999999" if not row.decided else "#22aa77" if (row.ratio or 0.0) > 1 else "#cc5533"


def pyplot() -> Any:
    """matplotlib.pyplot, drawing to files. InvalidInput without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot
    except ImportError as error:
        raise InvalidInput("report", None, "needs matplotlib", "pip install 'gpu_tune[report]'") from error
    return matplotlib.pyplot


def png(figure: Any) -> bytes:
    """A figure as a PNG image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
