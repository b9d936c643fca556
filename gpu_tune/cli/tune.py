"""``gpu-tune tune matmul|conv2d``: tune one workload or a range of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..errors import GpuTuneError
from ..kernel.emit import duration
from ..trial import PREDICTED
from ..tuner.budget import Progress
from ..workload import Workload
from . import options
from .live import Live, statuses


@click.group(help="Find the fastest checked kernel for a workload, and keep it.")
def command() -> None:
    """Subcommands are the operations."""


def _common(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.option("--trials", type=int, help="Trials at most, recorded ones included."),
            click.option("--seconds", type=float, help="Seconds at most, recorded runs included."),
            click.option(
                "--effort",
                type=click.Choice(["quick", "full"]),
                default="full",
                show_default=True,
                help="The budget when neither is given: 100 trials or 30 s, 2000 trials or 120 s.",
            ),
            click.option(
                "--target",
                metavar="RATIO|TIME",
                help="Stop when this is reached: 1.03 (beats the vendor library by 3 %) or a time (350us).",
            ),
            options.seed_option,
            options.device_option,
            click.option("--jobs", type=click.IntRange(1), help="Compilers at work at a time  [default: all CPUs]."),
            click.option("--force", is_flag=True, help="Start afresh, whatever is recorded."),
            click.option("--executor", metavar="dask://HOST:PORT", help="Measure on a cluster."),
            options.store_option,
            options.json_option,
        )
    ):
        function = option(function)
    return function


@command.command()
@options.workload_options("matmul")
@_common
def matmul(workloads: list[Workload], **settings: Any) -> None:
    """Matrix products. Numbers may be ranges (512:4096:512, both ends in) or lists (1,16,128)."""
    _tune(workloads, **settings)


@command.command()
@options.workload_options("conv2d")
@_common
def conv2d(workloads: list[Workload], **settings: Any) -> None:
    """Two-dimensional convolutions. Numbers may be ranges (64:512:64, both ends in) or lists (1,16)."""
    _tune(workloads, **settings)


def _tune(workloads: list[Workload], *, as_json: bool, store_folder: str | None, **settings: Any) -> None:
    from ..measure.select import select_device
    from ..templates.registry import variants
    from ..tuner.tune import tune

    place, source = select_device(settings["device"])
    cluster = bool(settings["executor"])  # its workers say what device it is
    for workload in workloads if not cluster else ():  # refuse all before the first is tuned
        variants(workload, place)
    if source == PREDICTED and not cluster and not as_json:
        said = f"No GPU: times are estimates, predicted for {place.name}. Kernels are really compiled and executed."
        click.echo(said, err=True)
    results, failures = [], []
    for number, workload in enumerate(workloads, 1):
        title = workload.key if len(workloads) == 1 else f"[{number}/{len(workloads)}] {workload.key}"
        seen: list[Progress] = []
        try:
            with Live(title, quiet=as_json) as live:

                def on_trial(progress: Progress, live: Live = live, seen: list[Progress] = seen) -> None:
                    seen[:] = [progress]
                    live.update(progress)

                kernel = tune(workload, on_trial=on_trial, store=options.open_store(store_folder), **settings)
        except GpuTuneError as error:
            if len(workloads) == 1:
                raise
            failures.append(str(error))
            click.echo(f"Error: {error}", err=True)
            continue
        results.append(summary(kernel, seen[0] if seen else None))
        if not as_json:
            show(results[-1])
        if not kernel.winner.complete and number < len(workloads):
            failures.append("interrupted")
            click.echo(f"interrupted: {len(workloads) - number} workloads were not tuned", err=True)
            break
    if as_json:
        options.echo_json(results)
    elif len(results) > 1:
        overview(results)
    if failures:
        raise SystemExit(130 if failures[-1] == "interrupted" else 1)


def summary(kernel: Any, progress: Progress | None) -> dict[str, Any]:
    """What a tuning gave, as plain data."""
    w, workload = kernel.winner, kernel.workload
    default = w.verdict.get("default", {})
    return {
        "workload": workload.key,
        "chip": w.chip,
        "device": w.device,
        "source": w.source,
        "template": w.template,
        "config": dict(w.config),
        "seconds": w.seconds,
        "tflops": workload.flops / w.seconds / 1e12 if w.seconds else 0.0,
        "default_seconds": default.get("seconds"),
        "default": default.get("name"),
        "speedup": default.get("speedup"),
        "trials": w.trials,
        "spent": w.spent,
        "ended": w.budget.get("ended", ""),
        "complete": w.complete,
        "statuses": dict(progress.statuses) if progress else {},
        "resumed": progress.resumed if progress else w.trials,
        "from_store": progress is None,
        "path": str(kernel.path / "kernel.cu") if kernel.path else None,
        "unchecked": "" if w.verdict.get("checks") else str(w.environment.get("emulator", "nothing was executed")),
        "verdict": {k: v for k, v in w.verdict.items() if k != "contenders"},
        "seed": w.seed,
    }


def show(result: dict[str, Any]) -> None:
    """One result, for people."""
    from collections import Counter

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    predicted = result["source"] == PREDICTED
    table = Table(
        title=f"{result['workload']} on {result['chip']}",
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column(overflow="fold")
    flops = result["tflops"] * result["seconds"]
    mark = " (estimate, not a measurement)" if predicted else ""
    if result["default_seconds"]:
        table.add_row(
            "default config",
            f"{duration(result['default_seconds'])}  {flops / result['default_seconds']:.3g} TFLOP/s  "
            f"{(result['default'] or '').split(' ')[0]}",
        )
    config = " ".join(f"{k}={v}" for k, v in result["config"].items())
    table.add_row(
        "best found",
        f"[bold]{duration(result['seconds'])}[/bold]  {result['tflops']:.3g} TFLOP/s  {result['template']}{mark}",
    )
    table.add_row("", config)
    if result["speedup"]:
        text = result["verdict"]["default"]["text"]
        table.add_row("speed-up", f"[bold]{result['speedup']:.2f}x[/bold] over the default ({text})")
    table.add_row("vendor", result["verdict"]["text"])
    ended = {
        "trials": "all trials used",
        "seconds": "time used",
        "exhausted": "space exhausted",
        "interrupted": "interrupted",
        "plateau": "no more progress",
        "target": "target reached",
        "device lost": "the device was lost",
    }.get(result["ended"], "")
    if result["from_store"]:
        table.add_row("trials", f"{result['trials']}, kept from earlier: the store answered, nothing was compiled")
    else:
        table.add_row(
            "trials",
            f"{result['trials']} in {result['spent']:.1f} s ({ended}): {statuses(Counter(result['statuses']))}",
        )
    checks = result["verdict"].get("checks", [])
    if checks:
        by = {"emulator": "executed by the emulator on the CPU", "gpu": "executed on the GPU"}
        run = ", ".join(dict.fromkeys(by.get(c["by"], c["by"]) for c in checks))
        where = ", ".join(
            dict.fromkeys(c["workload"] for c in checks if c["workload"] and c["workload"] != result["workload"])
        )
        table.add_row(
            "checked",
            f"{run}: {sum(c['ok'] for c in checks)} of {len(checks)} checks right"
            + (f" (on {where})" if where else ""),
        )
    else:
        table.add_row("checked", f"[bold]not executed[/bold]: {escape(result['unchecked'])}")
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"[bright_black]kernel[/bright_black]  {result['path'] or 'not kept (see the message above)'}", soft_wrap=True
    )


def overview(results: list[dict[str, Any]]) -> None:
    """A table over many workloads."""
    from rich.console import Console
    from rich.table import Table

    estimate = any(r["source"] == PREDICTED for r in results)
    table = Table(title="times are predicted: estimates, not measurements" if estimate else None)
    for name in ("workload", "template", "default", "best found", "speed-up", "TFLOP/s"):
        table.add_column(name, justify="left" if name in ("workload", "template") else "right", overflow="fold")
    for r in results:
        table.add_row(
            r["workload"],
            r["template"],
            duration(r["default_seconds"]) if r["default_seconds"] else "-",
            duration(r["seconds"]),
            f"{r['speedup']:.2f}x" if r["speedup"] else "-",
            f"{r['tflops']:.3g}",
        )
    Console().print(table)
