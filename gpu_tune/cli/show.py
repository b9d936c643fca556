"""``gpu-tune show space|search|kernel``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..errors import NotTuned
from ..kernel.emit import describe
from ..workload import Workload
from . import options, show_search


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
        for option in (options.json_option, options.device_option, *extra):
            wrapped = option(wrapped)
        group.add_command(click.command(op)(options.workload_options(op)(wrapped)))
    command.add_command(group)


def _space(workload: Workload, *, device: str | None, as_json: bool) -> None:
    from ..measure.select import select_device
    from ..space.space import TemplateSpace
    from ..templates.registry import variants

    place, _ = select_device(device)
    found: list[dict[str, Any]] = []
    for variant in variants(workload, place):
        space = TemplateSpace(variant.template, variant.workload, place)
        count, removed = space.count(), space.removed()
        default = space.default()
        found.append(
            {
                "template": variant.template.name,
                "summary": variant.template.summary,
                "computes": variant.workload.key,
                "knobs": [{"name": k.name, "values": list(k.values), "meaning": k.meaning} for k in space.knobs],
                "raw": count.raw,
                "valid": count.valid,
                "exact": count.exact,
                "default": dict(default) if default else None,
                "constraints": [
                    {
                        "name": c.name,
                        "rule": c.message,
                        "removes": removed[c.name].points,
                        "exact": removed[c.name].exact,
                    }
                    for c in space.constraints
                ],
            }
        )
    if as_json:
        options.echo_json({"workload": workload.key, "device": place.chip, "spaces": found})
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{workload.key}[/bold] on {place.chip}")
    for s in found:
        console.print(
            f"\n[bold]{s['template']}[/bold]: {s['summary']}"
            + (f" (as {s['computes']})" if s["computes"] != workload.key else "")
        )
        knobs = Table(
            "knob", "values", "default", "meaning", box=None, padding=(0, 2, 0, 0), header_style="bright_black"
        )
        for k in s["knobs"]:
            chosen = s["default"][k["name"]] if s["default"] else "-"
            knobs.add_row(k["name"], " ".join(map(str, k["values"])), str(chosen), k["meaning"])
        console.print(knobs)
        rules = Table("constraint", "removes", "rule", box=None, padding=(0, 2, 0, 0), header_style="bright_black")
        for c in s["constraints"]:
            rules.add_row(
                c["name"],
                f"{'' if c['exact'] else '~'}{_count(c['removes'])} ({c['removes'] / s['raw']:.1%})",
                c["rule"],
            )
        console.print(rules)
        console.print(f"{_count(s['raw'])} points, {'' if s['exact'] else 'about '}{_count(s['valid'])} valid configs")


def _kernel(
    workload: Workload, *, device: str | None, as_json: bool, store_folder: str | None, plan_only: bool
) -> None:
    from ..measure.select import select_device
    from ..store.store import lookup
    from ..workload.command import command as tune_command

    place, source = select_device(device)
    found = lookup(workload, place.chip, source, store=options.open_store(store_folder))
    if found is None:
        raise NotTuned(f"{workload.key} is not tuned for {place.chip}; run: {tune_command(workload, device)}")
    winner, store = found
    if as_json:
        options.echo_json({**winner.to_json(), "path": str(store.path(workload, place.chip, source))})
    elif plan_only:
        click.echo("\n".join(describe(winner.plan)))
    else:
        click.echo(winner.code, nl=False)


def _count(n: int) -> str:
    return f"{n:,}" if n < 10**7 else f"{n:.3g}"


_for_each_op("space", "Knobs, constraints and how many points each removes, for every template.", _space)
_for_each_op(
    "search",
    "What was tried, what failed and why, what the models learned, and what comes next.",
    show_search.show,
    options.seed_option,
    click.option("--report", "report_file", metavar="FILE", help="Also write an HTML page (needs gpu_tune[report])."),
)
_for_each_op(
    "kernel",
    "The stored kernel: its source, or its launch plan.",
    _kernel,
    options.store_option,
    click.option("--plan", "plan_only", is_flag=True, help="The launch plan instead of the source."),
)
