"""``gpu-tune verify``: templates and emitted kernels, proved on the emulator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..errors import InvalidInput
from . import options


@click.command(help="Check random variants of a TARGET template, or an emitted kernel.cu, on the emulator.")
@click.argument("target")
@click.option(
    "--variants",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Variants; for a kernel.cu, rounds of inputs.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 1e9, min_open=True, max_open=True),
    help="Draw no more variants after this long.",
)
@click.option("--workers", type=click.IntRange(0), help="Processes  [default: all CPUs].")
@click.option("--case", help="The one variant that a failure's command names.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="What is drawn is a function of it.")
@options.templates_option
@options.json_option
def command(
    target: str, variants: int, seconds: float | None, workers: int | None, case: str | None, seed: int, as_json: bool
) -> None:
    """Exit code 1 when something failed."""
    from ..verify import sweep

    is_file = target.endswith(".cu") or "/" in target
    if is_file and not Path(target).exists():
        raise InvalidInput("TARGET", target, "does not exist", "name a template, or the path of an emitted kernel.cu")
    options.announce_emulator()
    if case is not None:
        report = sweep.check_case(target, case)
    elif is_file:
        report = sweep.verify_kernel(target, seeds=min(variants, 16), seed=seed)
    else:
        report = sweep.sweep(
            target, variants=variants, seed=seed, seconds=seconds, workers=workers, progress=_progress(as_json)
        )
    if as_json:
        names = ("target", "ok", "variants", "runs", "assembled", "spilling", "seconds", "covered")
        failures = [
            {"label": f.label, "count": f.count, "message": f.message, "command": f.command}
            for f in report.classes.values()
        ]
        options.echo_json({**{name: getattr(report, name) for name in names}, "failures": failures})
    else:
        click.echo(report.text())
    if not report.ok:
        raise SystemExit(1)


def _progress(quiet: bool) -> Any:
    if quiet or not sys.stderr.isatty():
        return None

    def show(report: Any) -> None:
        failed = sum(f.count for f in report.classes.values())
        click.echo(f"\r{report.variants} variants, {failed} failed, {report.seconds:.0f} s ", err=True, nl=False)

    return show
