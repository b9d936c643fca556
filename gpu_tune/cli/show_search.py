"""``gpu-tune show search``: what was tried, what failed and why, what the models learned, and what comes next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import text
from ..kernel.emit import duration
from ..trial import PREDICTED
from ..workload import Workload
from . import options

MARKS = (1, 10, 25, 50, 100, 200, 500, 1000, 2000)
FEATURES, FAILURES, BEST = 6, 8, 6
"""Rows shown of each table."""


def show(workload: Workload, *, device: str | None, as_json: bool, seed: int, report_file: str | None) -> None:
    """Explain the search for one workload; with ``report_file`` also as an HTML page with figures."""
    if report_file is not None:
        options.check_report(report_file)
    facts = gather(workload, device, seed)
    if report_file is not None:
        from ..report.search_html import page

        text.write(report_file, page(facts))
    if as_json:
        options.echo_json(facts)
    else:
        _print(facts)
        if report_file is not None:
            click.echo(f"report: {Path(report_file).absolute()}")


def gather(workload: Workload, device: str | None, seed: int) -> dict[str, Any]:
    """What is known of the search, as plain data, from the records."""
    from ..measure.select import select_device
    from ..report.search_facts import explain
    from ..search.tuner import Tuner
    from ..store.records import Records
    from ..templates.registry import bind

    place, source = select_device(device)
    records = Records().read(source)
    bound = bind(workload, place)
    tuner = Tuner(spaces=[b.space() for b in bound], seed=seed, history=records)
    now = {(b.hash, b.computed) for b in bound}
    mine = [r for r in records if r.chip == place.chip and (r.template_hash, r.workload) in now]
    tuner.tell({r.measurement.candidate: r.measurement for r in mine}.values())
    batch = tuner.ask()
    return {
        "workload": workload.key,
        "device": place.chip,
        "source": source,
        "records": len(records),
        "best": {"key": tuner.best.candidate.key, "seconds": tuner.best.time} if tuner.best else None,
        **explain(tuner.search),
        "next": [{"template": c.template, "config": dict(c.config)} for c in batch],
    }


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..report.search_html import judgement

    console = Console(highlight=False)
    plain: dict[str, Any] = {"box": None, "padding": (0, 2, 0, 0), "header_style": "bright_black"}
    mark = " (estimates)" if facts["source"] == PREDICTED else ""
    ended = ", ".join(f"{n} {s.replace('_', ' ')}" for s, n in facts["statuses"].items()) or "none yet"
    click.echo(f"{facts['workload']} on {facts['device']}{mark}")
    click.echo(f"trials: {ended}; learning from {facts['records']} records")
    if facts["best"]:
        click.echo(f"best: {duration(facts['best']['seconds'])}  {facts['best']['key']}")
    curve = [(n, t) for n, t in enumerate(facts["curve"], 1) if t is not None]
    marks = {n for n in MARKS if n < len(facts["curve"])} | {len(facts["curve"])}
    if curve:
        click.echo("best so far: " + ", ".join(f"{duration(t)} after {n}" for n, t in curve if n in marks))
    if facts["failures"]:
        table = Table("trials", "status", "why", title="what failed", title_justify="left", **plain)
        for f in facts["failures"][:FAILURES]:
            table.add_row(str(f["count"]), f["status"].replace("_", " "), f["reason"].split("\n")[0][:200])
        console.print(table)
        if len(facts["failures"]) > FAILURES:
            console.print(f"and {len(facts['failures']) - FAILURES} more kinds of failure")
    for name, space in facts["spaces"].items():
        if "gain" not in space:
            console.print(f"{name}: {space['trials']} trials, no model yet")
            continue
        table = Table(title=f"{name}: {space['trials']} trials", title_justify="left", **plain)
        for column in ("what the model goes by", "share of gain", "mean |SHAP|"):
            table.add_column(column, justify="left" if column[0] == "w" else "right")
        for feature, gain in list(space["gain"].items())[:FEATURES]:
            table.add_row(feature, f"{gain:.0%}", f"{space['shap'].get(feature, 0.0):.3g}")
        console.print(table)
        count = len(space["measured"])
        ranks = sorted(zip(space["measured"], space["predicted"]))[:BEST]
        pairs = ", ".join(f"{m + 1} as {p + 1}" for m, p in ranks)
        console.print(f"rank measured as predicted before it was seen (of {count}): {pairs}")
        console.print(judgement(name, space))
    click.echo("next:")
    for c in facts["next"]:
        click.echo(f"  {c['template']}  " + " ".join(f"{k}={v}" for k, v in c["config"].items()))
