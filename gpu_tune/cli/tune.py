"""``gpu-tune tune matmul|conv2d``: tune one workload or a range of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import click

from ..errors import GpuTuneError, InvalidInput
from ..kernel.emit import duration, figure, limits
from ..kernel.kernel import TunedKernel
from ..trial import PREDICTED
from ..tuner.budget import Progress
from ..tuner.live import Live, statuses
from ..workload import Workload
from . import options


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
            click.option(
                "--sizes",
                metavar="N,N",
                callback=lambda context, option, text: options.whole_numbers("--sizes", text),
                help="Sizes to tune where one is left open (--m 1..8192)  [default: up to 8 in geometric steps].",
            ),
            click.option("--executor", metavar="dask://HOST:PORT", help="Measure on a cluster."),
            options.store_option,
            options.templates_option,
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


def _tune(workloads: list[Workload], *, as_json: bool, **settings: Any) -> None:
    from ..store.select import select_device
    from ..templates.registry import bind
    from ..tuner.sizes import sizes_asked
    from ..tuner.tune import tune

    for workload in workloads:
        if settings["sizes"] is not None:
            sizes_asked(workload.open, settings["sizes"], "--sizes")
        if workload.open is not None and settings["target"] is not None:
            rule = f"is of one size, and --{workload.openable} is open"
            raise InvalidInput("--target", settings["target"], rule, "leave it out")
    if not settings["executor"]:  # the workers of a cluster say what device it is
        device, source = select_device(settings["device"])
        for workload in workloads:  # refuse all before the first is tuned
            bind(workload, device)
        if source == PREDICTED and not as_json:
            click.echo(
                f"No GPU: times are predicted for {device.name}. Kernels are really compiled and executed.",
                err=True,
            )
    results, sets, failures = [], list[dict[str, Any]](), []
    for number, workload in enumerate(workloads, 1):
        title = workload.key if len(workloads) == 1 else f"[{number}/{len(workloads)}] {workload.key}"
        try:
            with Live(title, quiet=as_json) as live:
                kernel = tune(workload, on_trial=live.update, **settings)
        except GpuTuneError as error:
            if len(workloads) == 1:
                raise
            failures.append(str(error))
            click.echo(f"Error: {error}", err=True)
            continue
        complete = kernel.winner.complete if isinstance(kernel, TunedKernel) else kernel.winners.complete
        if isinstance(kernel, TunedKernel):
            results.append(summary(kernel, live.progress))
            if not as_json:
                show(results[-1])
        else:
            sets.append(options.set_facts(kernel.winners, kernel.path))
            if not as_json:
                options.print_set(sets[-1])
        if not complete and number < len(workloads):
            failures.append("interrupted")
            click.echo(f"interrupted: {len(workloads) - number} workloads were not tuned", err=True)
            break
    if as_json:
        options.echo_json([*results, *sets])
    elif len(results) > 1:
        overview(results)
    if failures:
        raise SystemExit(130 if failures[-1] == "interrupted" else 1)


def summary(kernel: Any, progress: Progress | None) -> dict[str, Any]:
    """What a tuning gave, as plain data."""
    w, workload = kernel.winner, kernel.workload
    default = w.verdict.get("default", {})
    told = w.seconds > 0 and (w.source != PREDICTED or bool(w.environment.get("judged")))
    return {
        "workload": workload.key,
        "chip": w.chip,
        "device": w.device,
        "source": w.source,
        "template": w.template,
        "config": dict(w.config),
        "seconds": w.seconds if told else None,
        "tflops": workload.flops / w.seconds / 1e12 if told else None,
        "judged": w.environment.get("judged", "") if w.source == PREDICTED else None,
        "figure": figure(w.seconds, w.source, w.environment),
        "limited_by": limits(w.prediction),
        "default_seconds": default.get("seconds") if told else None,
        "default": default.get("name"),
        "speedup": default.get("speedup"),
        "trials": w.trials,
        "spent": w.spent,
        "building": progress.building if progress else 0.0,
        "ended": w.budget.get("ended", ""),
        "complete": w.complete,
        "statuses": dict(progress.statuses) if progress else {},
        "resumed": progress.resumed if progress else w.trials,
        "from_store": progress is None,
        "path": str(kernel.path / "kernel.cu") if kernel.path else None,
        "unchecked": "" if w.verdict.get("checks") else str(w.environment.get("emulator", "nothing was executed")),
        "verdict": {k: v for k, v in w.verdict.items() if k != "finalists"},
        "seed": w.seed,
    }


ENDED = {
    "trials": "all trials used",
    "seconds": "time used",
    "exhausted": "space exhausted",
    "interrupted": "interrupted",
    "plateau": "no more progress",
    "target": "target reached",
    "device lost": "the device was lost",
}
EXECUTED = {"emulator": "executed by the emulator on the CPU", "gpu": "executed on the GPU"}


def show(result: dict[str, Any]) -> None:
    options.print_lines(f"{result['workload']} on {result['chip']}", _lines(result))
    path = result["path"] or "not kept (see the message above)"
    options.console().print(f"[bright_black]kernel[/bright_black]  {path}", soft_wrap=True)


def _lines(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is said of one result: a name and a text of rich's markup."""
    verdict, default = result["verdict"], result["default_seconds"]
    name = (result["default"] or "").split(" ")[0]
    if default and result["source"] != PREDICTED:
        rate = result["tflops"] * result["seconds"] / default
        yield "default config", f"{duration(default)}  {rate:.3g} TFLOP/s  {name}"
    elif name:
        yield "default config", f"{duration(default)} predicted  {name}" if default else name
    rate = f"  {result['tflops']:.3g} TFLOP/s" if result["source"] != PREDICTED else ""
    yield "best found", f"[bold]{result['figure']}[/bold]{rate}  {result['template']}"
    yield "", options.config_text(result["template"], result["config"])
    if result["speedup"]:
        yield "speed-up", f"[bold]{result['speedup']:.2f}x[/bold] over the default ({verdict['default']['text']})"
    if result["limited_by"]:
        yield "limited by", result["limited_by"]
    if result["judged"]:
        yield "the model", result["judged"]
    yield "vendor", verdict["text"]
    if result["from_store"]:
        yield "trials", f"{result['trials']}, kept from earlier: the store answered, nothing was compiled"
    else:
        why, ended = ENDED.get(result["ended"], ""), statuses(Counter(result["statuses"]))
        built = f", and {result['building']:.0f} s for the emulator, once" if result["building"] else ""
        yield "trials", f"{result['trials']} in {result['spent']:.1f} s{built} ({why}): {ended}"
    checks = verdict.get("checks", [])
    if not checks:
        from rich.markup import escape

        yield "checked", f"[bold]not executed[/bold]: {escape(result['unchecked'])}"
        return
    run = ", ".join(dict.fromkeys(EXECUTED.get(c["by"], c["by"]) for c in checks))
    others = ", ".join(dict.fromkeys(c["workload"] for c in checks if c["workload"] not in ("", result["workload"])))
    on = f" (on {others})" if others else ""
    yield "checked", f"{run}: {sum(c['ok'] for c in checks)} of {len(checks)} checks right{on}"


def overview(results: list[dict[str, Any]]) -> None:
    predicted = any(r["source"] == PREDICTED for r in results)
    columns = ("workload", "template", "default", "best found", "speed-up", "TFLOP/s")
    rows = (
        (
            r["workload"],
            r["template"],
            duration(r["default_seconds"]) if r["default_seconds"] else "-",
            duration(r["seconds"]) if r["seconds"] else "not judged",
            f"{r['speedup']:.2f}x" if r["speedup"] else "-",
            f"{r['tflops']:.3g}" if r["tflops"] else "-",
        )
        for r in results
    )
    title = "predicted, not measured" if predicted else ""
    options.print_table(columns, rows, title=title, right=columns[2:], apart=("workload",))
