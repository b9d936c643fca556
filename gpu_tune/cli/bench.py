"""``gpu-tune bench SUITE``: ours against the vendor libraries, shape by shape."""

from __future__ import annotations

import itertools
import math
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from .. import text
from ..errors import GpuTuneError, InvalidInput, require
from ..kernel.emit import duration
from ..measure.select import make_measurer, open_measurer
from ..plan.size import upper
from ..report import suites
from ..report import summary as report
from ..report.summary import Row
from ..store.select import select_device
from ..store.store import Store, lookup, lookup_set
from ..store.winner import Winner
from ..templates.registry import bind
from ..trial import MEASURED, PREDICTED, Candidate
from ..tuner.live import Live
from . import options


@click.command(help="Compare with the vendor libraries over a suite of shapes (a name, or a .json file).")
@click.argument("suite", required=False)
@click.option(
    "--against",
    default="",
    metavar="NAMES",
    help="Baselines, by comma: cublas, cublaslt, cudnn, torch, triton.  [default: all that are installed]",
)
@click.option("--select", "pattern", default="", metavar="REGEX", help="Only shapes whose label or key matches.")
@click.option("--dtype", help="Another dtype than the suite's.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 1e9, min_open=True, max_open=True),
    default=120.0,
    show_default=True,
    help="Tuning time a shape, recorded time included.",
)
@click.option("--no-tune", is_flag=True, help="Only shapes that are tuned already.")
@click.option("--list", "list_only", is_flag=True, help="List the suites.")
@click.option("--report", "report_file", metavar="FILE", help="Also write an HTML page (needs gpu_tune[report]).")
@options.seed_option
@options.device_option
@options.store_option
@options.templates_option
@options.json_option
def command(
    suite: str | None,
    against: str,
    pattern: str,
    dtype: str | None,
    seconds: float,
    no_tune: bool,
    list_only: bool,
    report_file: str | None,
    seed: int,
    device: str | None,
    store: Store,
    as_json: bool,
) -> None:
    """On a GPU: tunes what is not tuned, then times ours and every baseline interleaved on the same inputs."""
    from ..measure.baselines import NAMES, names_for

    if list_only or suite is None:
        _list(as_json)
        return
    loaded = suites.load(suite, **({"dtype": dtype} if dtype else {}))
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise InvalidInput("--select", pattern, f"is not a regular expression ({error})") from error
    entries = [e for e in loaded.entries if wanted.search(e.label) or wanted.search(e.workload.key)]
    require(entries, "--select", pattern, f"matches none of the {len(loaded.entries)} shapes of {loaded.name}")
    if report_file is not None:
        options.check_report(report_file)
    names = list(dict.fromkeys(n.strip() for n in against.split(",") if n.strip()))
    for name in names:
        require(name in NAMES, "--against", name, "is no baseline", f"use some of {', '.join(NAMES)}")
    chosen, source = select_device(device)
    if source != MEASURED:
        _plan(loaded, entries, chosen, store, as_json)
        return
    absent: dict[str, str] = {}
    budget = None if no_tune else seconds
    rows = []
    for e in entries:
        asked = names or names_for(e.workload)
        measure = _measure if e.workload.open is None else _measure_sizes
        made = measure(e, chosen, asked, budget, seed, store, as_json, absent)
        rows += [made] if isinstance(made, Row) else made
    for name, reason in absent.items():
        click.echo(f"{name}: {reason}", err=True)
    _report(rows, loaded, chosen, report_file, as_json)


def _list(as_json: bool) -> None:
    found = [suites.load(n) for n in suites.names()]
    if as_json:
        options.echo_json(
            [{"name": s.name, "title": s.title, "shapes": len(s.entries), "source": s.source} for s in found]
        )
    else:
        rows = [(s.name, str(len(s.entries)), s.title) for s in found]
        options.print_table(("suite", "shapes", "what"), rows, lines=False)


def _plan(suite: Any, entries: list[Any], device: Any, store: Any, as_json: bool) -> None:
    """Without a GPU: what would run, and why nothing is compared."""
    rows: list[dict[str, Any]] = []
    for e in entries:
        stored = lookup if e.workload.open is None else lookup_set
        largest = e.workload if e.workload.open is None else e.workload.at(upper(e.workload.open))
        try:
            templates, problem = [b.name for b in bind(e.workload, device)], ""
        except GpuTuneError as error:
            templates, problem = [], str(error)
        rows.append(
            {
                "label": e.label,
                "workload": e.workload.key,
                "flops": largest.flops,
                "bytes": largest.bytes,
                "templates": templates,
                "problem": problem,
                "tuned": [s for s in (MEASURED, PREDICTED) if stored(e.workload, device.chip, s, store=store)],
                "roofline_seconds": report.roofline(largest, device),
            }
        )
    reason = (
        "no GPU on this machine, so there is nothing to compare with (predictions are never set against a library). "
        "On a GPU this would run:"
    )
    if as_json:
        facts = {"suite": suite.name, "device": device.chip, "compared": False, "reason": reason, "would_run": rows}
        options.echo_json(facts)
        return
    click.echo(f"{suite.title}: {reason}")
    options.print_table(
        ("shape", "workload", "GFLOP", "roofline", "templates", "tuned"),
        (
            (
                row["label"],
                row["workload"],
                f"{row['flops'] / 1e9:.4g}",
                duration(row["roofline_seconds"]),
                " ".join(row["templates"]) or "none",
                " ".join(row["tuned"]) or "-",
            )
            for row in rows
        ),
        title=f"{len(rows)} shapes; roofline of {device.product}",
        right=("GFLOP", "roofline"),
        apart=("shape", "workload"),
    )


def _measure(
    entry: Any,
    device: Any,
    against: Sequence[str],
    seconds: float | None,
    seed: int,
    store: Any,
    quiet: bool,
    absent: dict[str, str],
) -> Row:
    """One row, tuned for ``seconds`` before unless that is None. Why a baseline was not timed goes to ``absent``, the
    first reason of each."""
    from ..tuner.tune import tune

    label, workload = entry.label, entry.workload
    try:
        if seconds is not None:
            with Live(label, quiet=quiet) as live:
                tune(workload, seconds=seconds, seed=seed, store=store, on_trial=live.update)
        found = lookup(workload, device.chip, MEASURED, store=store)
        if found is None:
            return Row(label, workload, None, note="not tuned")
        ours = Candidate(found[0].template, found[0].config)
        with make_measurer(workload, kind="gpu", seed=seed, baselines=against) as measurer:
            finals = measurer.finals([ours])
    except GpuTuneError as error:
        click.echo(f"{label}: {error}", err=True)
        return Row(label, workload, None, note=type(error).__name__)
    return _row(label, workload, finals, ours, found[0], absent)


def _measure_sizes(
    entry: Any,
    device: Any,
    against: Sequence[str],
    seconds: float | None,
    seed: int,
    store: Any,
    quiet: bool,
    absent: dict[str, str],
) -> list[Row]:
    """A row for each tuned size of a workload that leaves one open, and one between every two; as :func:`_measure`."""
    from ..tuner.tune import tune

    label, workload, rows = entry.label, entry.workload, list[Row]()
    try:
        if seconds is not None:
            with Live(label, quiet=quiet) as live:
                tune(workload, seconds=seconds, seed=seed, store=store, on_trial=live.update)
        found = lookup_set(workload, device.chip, MEASURED, store=store)
    except GpuTuneError as error:
        click.echo(f"{label}: {error}", err=True)
        return [Row(label, workload.at(upper(workload.open)), None, note=type(error).__name__)]
    if found is None:
        return [Row(label, workload.at(upper(workload.open)), None, note="not tuned")]
    winners, name = found[0], found[0].size.name
    for size in sizes_between(winners.sizes):
        kernel = winners.kernels[winners.range_of(size).kernel]
        tuned, there = int(getattr(kernel.workload, name)), workload.at(size)
        title = f"{label} {name}={size}" + ("" if size in winners.sizes else " (between)")
        try:
            bound = [replace(b, tuned=tuned) for b in bind(workload, device, size=size) if b.name == kernel.template]
            ours = Candidate(kernel.template, kernel.config)
            with open_measurer(bound, MEASURED, seed=seed, baselines=against) as measurer:
                finals = measurer.finals([ours])
        except GpuTuneError as error:
            click.echo(f"{title}: {error}", err=True)
            rows.append(Row(title, there, None, note=type(error).__name__))
            continue
        rows.append(_row(title, there, finals, ours, winners.at(size), absent))
    return rows


def sizes_between(sizes: Sequence[int]) -> list[int]:
    """The sizes, and between every two of them their geometric mean."""
    ordered = sorted(sizes)
    means = (round(math.sqrt(a * b)) for a, b in itertools.pairwise(ordered))
    return sorted({*ordered, *means})


def _row(label: str, workload: Any, finals: Any, ours: Candidate, winner: Winner, absent: dict[str, str]) -> Row:
    """What finals of our kernel and the baselines say of one shape."""
    from ..report.host import host_seconds

    baselines = [c for c in finals.finalists if c.candidate is None]
    for c in baselines:
        if not c.ok:
            absent.setdefault(c.name, f"{c.reason or c.status} ({label})")
    mine, versus = finals.finalist(ours), finals.verdict
    host = host_seconds(winner) if mine.ok else None
    return Row(
        label,
        workload,
        statistics.median(mine.samples) if mine.ok else None,
        {c.name: statistics.median(c.samples) for c in baselines if c.ok},
        versus.low if versus else None,
        versus.high if versus else None,
        bool(versus and versus.decided),
        ours.template,
        note="" if mine.ok else mine.status,
        predicted=winner.prediction.get("seconds"),
        host=host.call if host else None,
        host_vendor=host.vendor if host else None,
    )


def _report(rows: list[Row], suite: Any, device: Any, report_file: str | None, as_json: bool) -> None:
    summary = report.summarise(rows)
    facts = {
        "device": device.product,
        "chip": device.chip,
        "suite": suite.name,
        "source": suite.source,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    if report_file is not None:
        from ..report.html import benchmark_page

        text.write(report_file, benchmark_page(rows, device, suite.title, facts))
    if as_json:
        whole = summary.to_json() if summary else None
        options.echo_json({**facts, "compared": True, "rows": [r.to_json() for r in rows], "summary": whole})
        return
    options.console().print(report.table(rows, device, suite.title))
    click.echo(report.text(summary) if summary else "No baseline was timed: nothing is compared.")
