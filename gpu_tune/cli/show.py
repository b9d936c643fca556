"""``gpu-tune show space|search|kernel``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .. import paths, text
from ..errors import CompilerMissing, InvalidInput, NotTuned, require
from ..kernel.emit import describe, figure
from ..store.records import Records
from ..store.select import select_device
from ..store.store import Store, lookup, lookup_set
from ..store.winner import Winner
from ..store.winner_set import WinnerSet
from ..templates.bound import BoundTemplate
from ..templates.registry import bind
from ..trial import PREDICTED, Candidate, Measurement
from ..workload import Workload, tune_command
from . import options

MARKS = (1, 10, 25, 50, 100, 200, 500, 1000, 2000)
"""Numbers of trials after which the best so far is shown."""
FEATURES, FAILURES, BEST = 6, 8, 6
"""Rows shown of each table of a search."""


@click.group(help="Show a space, a search, or a stored kernel.")
def command() -> None:
    """Subcommands name what is shown; each has matmul and conv2d below it."""


def _for_each_op(name: str, help_: str, action: Callable[..., None], *extra: Callable[..., Any]) -> None:
    group = click.Group(name, help=help_)
    for op in ("matmul", "conv2d"):

        def function(workloads: list[Workload], **settings: Any) -> None:
            for workload in workloads:
                action(workload, **settings)

        function.__name__ = op
        wrapped: Any = function
        for option in (options.json_option, options.device_option, options.templates_option, *extra):
            wrapped = option(wrapped)
        group.add_command(click.command(op)(options.workload_options(op)(wrapped)))
    command.add_command(group)


def _space(workload: Workload, *, device: str | None, as_json: bool) -> None:
    chosen, _ = select_device(device)
    spaces = [_space_facts(b.template, b.space()) for b in bind(workload, chosen)]
    if as_json:
        options.echo_json({"workload": workload.key, "device": chosen.chip, "spaces": spaces})
        return
    options.console().print(f"[bold]{workload.key}[/bold] on {chosen.chip}")
    for s in spaces:
        computes = f" (as {s['computes']})" if s["computes"] != workload.key else ""
        options.console().print(f"\n[bold]{s['template']}[/bold]: {s['summary']}{computes}")
        default = s["default"] or {}
        knobs = [
            (k["name"], " ".join(map(str, k["values"])), str(default.get(k["name"], "-")), k["meaning"])
            for k in s["knobs"]
        ]
        options.print_table(("knob", "values", "default", "meaning"), knobs, lines=False)
        rules = [
            (c["name"], f"{'' if c['exact'] else '~'}{_count(c['removes'])} ({c['removes'] / s['raw']:.1%})", c["rule"])
            for c in s["constraints"]
        ]
        options.print_table(("constraint", "removes", "rule"), rules, lines=False)
        about = "" if s["exact"] else "about "
        options.console().print(f"{_count(s['raw'])} points, {about}{_count(s['valid'])} valid configs")


def _space_facts(template: Any, space: Any) -> dict[str, Any]:
    count, removed, default = space.count(), space.removed(), space.default()
    return {
        "template": template.name,
        "summary": template.summary,
        "computes": space.workload.key,
        "knobs": [{"name": k.name, "values": list(k.values), "meaning": k.meaning} for k in space.knobs],
        "raw": count.raw,
        "valid": count.valid,
        "exact": count.exact,
        "default": dict(default) if default else None,
        "constraints": [
            {"name": c.name, "rule": c.message, "removes": removed[c.name].points, "exact": removed[c.name].exact}
            for c in space.constraints
        ],
    }


def _count(n: int) -> str:
    return f"{n:,}" if n < 10**7 else f"{n:.3g}"


def _search(workload: Workload, *, device: str | None, as_json: bool, seed: int, report_file: str | None) -> None:
    if report_file is not None:
        options.check_report(report_file)
    facts = _search_facts(workload, device, seed)
    if report_file is not None:
        from ..report.html import search_page

        text.write(report_file, search_page(facts))
    if as_json:
        options.echo_json(facts)
    else:
        _print_search(facts)
        if report_file is not None:
            click.echo(f"report: {Path(report_file).absolute()}")


def _search_facts(workload: Workload, device: str | None, seed: int) -> dict[str, Any]:
    from ..report.search_facts import explain
    from ..search.search import Tuner

    chosen, source = select_device(device)
    records = Records().read(source)
    bound = bind(workload, chosen)
    tuner = Tuner(spaces=[b.space() for b in bound], seed=seed, history=records)
    now = {(b.hash, b.computed) for b in bound}
    mine = [r for r in records if r.chip == chosen.chip and (r.template_hash, r.workload) in now]
    tuner.tell({r.measurement.candidate: r.measurement for r in mine}.values())
    batch = tuner.ask()
    return {
        "workload": workload.key,
        "device": chosen.chip,
        "source": source,
        "records": len(records),
        "best": _best(tuner.best),
        **explain(tuner),
        "next": [{"template": c.template, "config": dict(c.config)} for c in batch],
    }


def _best(best: Measurement | None) -> dict[str, Any] | None:
    if best is None:
        return None
    told = figure(best.time, best.source, best.environment)
    c = best.candidate
    return {"key": c.key, "template": c.template, "config": dict(c.config), "seconds": best.time, "figure": told}


def _print_search(facts: dict[str, Any]) -> None:
    from ..report.search_facts import ended

    mark = " (predicted, not measured)" if facts["source"] == PREDICTED else ""
    click.echo(f"{facts['workload']} on {facts['device']}{mark}")
    click.echo(f"trials: {ended(facts)}; learning from {facts['records']} records")
    if facts["best"]:
        best = facts["best"]
        config = options.config_text(best["template"], best["config"])
        options.print_lines("", [("best", f"{best['figure']}  {best['template']}"), ("", config)])
    trials = len(facts["curve"])
    curve = [(n, t) for n, t in enumerate(facts["curve"], 1) if t is not None and (n in MARKS or n == trials)]
    if curve:
        least = curve[-1][1]
        shares = ", ".join(f"{least / t:.0%} after {n}" for n, t in curve)
        click.echo(f"best so far, of the best's speed: {shares}")
    if facts["failures"]:
        rows = [
            (str(f["count"]), f["status"].replace("_", " "), f["reason"].split("\n")[0][:200])
            for f in facts["failures"][:FAILURES]
        ]
        options.print_table(("trials", "status", "why"), rows, title="what failed", lines=False)
        if len(facts["failures"]) > FAILURES:
            click.echo(f"and {len(facts['failures']) - FAILURES} more kinds of failure")
    for name, space in facts["spaces"].items():
        _print_model(name, space)
    options.print_lines(
        "next:", [(c["template"], options.config_text(c["template"], c["config"])) for c in facts["next"]]
    )


def _print_model(name: str, space: dict[str, Any]) -> None:
    """What the model of one space learned, and how rightly it predicts."""
    from ..report.search_facts import judgement

    if "gain" not in space:
        options.console().print(f"{name}: {space['trials']} trials, no model yet")
        return
    columns = ("what the model goes by", "share of gain", "mean |SHAP|")
    rows = [
        (f, f"{gain:.0%}", f"{space['shap'].get(f, 0.0):.3g}") for f, gain in list(space["gain"].items())[:FEATURES]
    ]
    options.print_table(columns, rows, title=f"{name}: {space['trials']} trials", right=columns[1:], lines=False)
    ranks = sorted(zip(space["measured"], space["predicted"]))
    pairs = ", ".join(f"{m + 1} as {p + 1}" for m, p in ranks[:BEST])
    options.console().print(f"rank measured as predicted before it was seen (of {len(ranks)}): {pairs}")
    options.console().print(judgement(name, space))


def _kernel(
    workload: Workload,
    *,
    device: str | None,
    as_json: bool,
    store: Store,
    plan_only: bool,
    explained: bool,
    report_file: str | None,
) -> None:
    chosen, source = select_device(device)
    found = lookup(workload, chosen.chip, source, store=store)
    stored = lookup_set(workload, chosen.chip, source, store=store) if found is None else None
    if stored is not None:
        winners, name = stored[0], workload.openable
        if not explained and report_file is None:
            _set(workload, *stored, plan_only=plan_only, as_json=as_json)
            return
        rule, remedy = (
            "is a set of kernels, of which one is explained",
            f"name a size, as in --{name} {winners.size.bounds[1]}",
        )
        require(workload.open is None, "--explain", workload.key, rule, remedy)
        size = getattr(workload, name)
        tuned = getattr(winners.kernels[winners.range_of(size).kernel].workload, name)
        own = [replace(b, tuned=tuned) for b in bind(winners.workload, chosen, size=size)]
        _explain(winners.at(size), own, as_json, report_file)
        return
    if found is None:
        raise NotTuned(f"{workload.key} is not tuned for {chosen.chip}; run: {tune_command(workload, device)}")
    winner, holder = found
    if explained or report_file is not None:
        _explain(winner, bind(winner.workload, chosen), as_json, report_file)
    elif as_json:
        options.echo_json({**winner.to_json(), "path": str(holder.path(workload, chosen.chip, source))})
    elif plan_only:
        click.echo("\n".join(describe(winner.plan)))
    else:
        click.echo(winner.code, nl=False)


def _set(workload: Workload, winners: WinnerSet, holder: Store, *, plan_only: bool, as_json: bool) -> None:
    """The ranges of a set, or for one size of it the kernel that serves that."""
    facts = options.set_facts(winners, holder.path(winners.workload, winners.chip, winners.source))
    if as_json:
        options.echo_json(facts)
    elif workload.open is None:
        winner = winners.at(getattr(workload, workload.openable))
        click.echo("\n".join(describe(winner.plan)) if plan_only else winner.code.rstrip("\n"))
    elif plan_only:
        for part, kernel in ((part, winners.kernels[part.kernel]) for part in winners.ranges):
            click.echo("\n".join([f"{winners.size.name} = {part.least}..{part.most}", *describe(kernel.plan)]))
    else:
        options.print_set(facts)


def _explain(winner: Winner, among: Sequence[BoundTemplate], as_json: bool, report_file: str | None) -> None:
    from ..report import explain

    bound = {b.name: b for b in among}.get(winner.template)
    if bound is None:
        rule = f"is of the template {winner.template}, which is not here"
        raise InvalidInput("kernel", winner.workload.key, rule, "tune it again")
    if report_file is not None:
        options.check_report(report_file)
    with contextlib.suppress(CompilerMissing):
        options.announce_emulator()
    found = explain.explain(bound, Candidate(winner.template, winner.config), store=paths.root())
    if report_file is not None:
        from ..report.html import kernel_page

        text.write(report_file, kernel_page(found))
    if as_json:
        options.echo_json(found.to_json())
        return
    options.print_lines(f"{winner.workload.key} on {bound.device.chip}, {winner.template}", explain.text(found))
    if report_file is not None:
        click.echo(f"report: {Path(report_file).absolute()}")


_for_each_op("space", "Knobs, constraints and how many points each removes, for every template.", _space)
_for_each_op(
    "search",
    "What was tried, what failed and why, what the models learned, and what comes next.",
    _search,
    options.seed_option,
    click.option("--report", "report_file", metavar="FILE", help="Also write an HTML page (needs gpu_tune[report])."),
)
_for_each_op(
    "kernel",
    "The stored kernel: its source, or its launch plan. Of an open size (--m 1..8192) the ranges and their kernels.",
    _kernel,
    options.store_option,
    click.option("--plan", "plan_only", is_flag=True, help="The launch plan instead of the source."),
    click.option(
        "--explain",
        "explained",
        is_flag=True,
        help="What limits it and what its neighbours change, played from machine code (predicted).",
    ),
    click.option("--report", "report_file", metavar="FILE", help="The explanation as an HTML page."),
)
