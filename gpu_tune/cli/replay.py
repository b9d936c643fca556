"""``gpu-tune replay FILE``: search a recorded space again and say how near its optimum the search came."""

from __future__ import annotations

import statistics
from typing import Any

import click

from .. import text as textfiles
from ..errors import CorruptData, InvalidInput
from . import options


@click.command(
    help="Search a recorded space again, without a GPU: FILE is a Kernel Tuner cache, T4 results or records (.jsonl)."
)
@click.argument("file")
@click.option("--trials", type=click.IntRange(1), default=200, show_default=True, help="Trials of a run.")
@click.option(
    "--seeds",
    "--runs",
    "runs",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Runs, with seeds from --seed on.",
)
@click.option("--template", help="Of a .jsonl file: this template only.")
@click.option("--workload", "key", help="Of a .jsonl file: the workload with this key only.")
@click.option("--chip", help="Of a .jsonl file: this chip only.")
@options.seed_option
@options.json_option
def command(
    file: str, trials: int, runs: int, seed: int, template: str | None, key: str | None, chip: str | None, as_json: bool
) -> None:
    """Beside the search, random order over the same space: what luck alone would find."""
    if seed < 0:
        raise InvalidInput("--seed", seed, "is negative", "give 0 or more")
    recorded = _load(file, template, key, chip)
    from ..store.interchange import RecordedSpace

    space = RecordedSpace(recorded)
    if not any(t.time is not None for t in recorded.trials):
        raise CorruptData(f"{file}: no recorded trial has a time; there is nothing to search for")
    marks = sorted({n for n in (25, 50, 100, 200, 500, 1000) if n < trials} | {min(trials, len(space))})
    searched = [_search(space, trials, seed + i) for i in range(runs)]
    lucky = [_random(space, trials, seed + i) for i in range(runs)]
    rows = [
        {
            "trials": n,
            "search": statistics.median(_at(c, n) for c in searched),
            "random": statistics.median(_at(c, n) for c in lucky),
        }
        for n in marks
    ]
    facts: dict[str, Any] = {
        "kernel": recorded.kernel,
        "device": recorded.device,
        "configs": len(space),
        "optimum_seconds": space.optimum,
        "failed": sum(t.time is None for t in recorded.trials),
        "runs": runs,
        "seed": seed,
        "rows": rows,
    }
    if as_json:
        options.echo_json(facts)
        return
    from rich.console import Console
    from rich.table import Table

    from ..kernel.emit import duration

    click.echo(
        f"{recorded.kernel} on {recorded.device}: {len(space)} recorded configs ({facts['failed']} failed), "
        f"optimum {duration(space.optimum)}"
    )
    table = Table(title=f"best found, as a share of the optimum's speed (median of {runs} runs)", title_justify="left")
    for name in ("trials", "search", "random"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(str(row["trials"]), f"{row['search']:.1%}", f"{row['random']:.1%}")
    Console().print(table)


def _load(file: str, template: str | None, key: str | None, chip: str | None) -> Any:
    from ..store import interchange
    from ..store import records as r

    if not file.endswith(".jsonl"):
        return interchange.load(file)
    try:
        text = textfiles.read(file)
    except OSError as error:
        raise InvalidInput("FILE", file, f"cannot be read ({error.strerror})", "name a file") from error
    found = [
        x
        for x in r.read_text(text, file)
        if template in (None, x.measurement.candidate.template)
        and key in (None, x.workload.key)
        and chip in (None, x.chip)
    ]
    return r.as_recorded(found)


def _search(space: Any, trials: int, seed: int) -> list[float]:
    """Best share of the optimum's speed after each trial."""
    from ..search.tuner import Tuner

    tuner = Tuner(spaces=[space], seed=seed)
    curve: list[float] = []
    while len(curve) < trials:
        batch = tuner.ask(trials - len(curve))
        if not batch:
            break
        ended = [space.measurement(c.config, repeats=False) for c in batch]
        tuner.tell(ended)
        for m in ended:
            share = space.optimum / m.time if m.ok else 0.0
            curve.append(max(share, curve[-1] if curve else 0.0))
    return curve


def _random(space: Any, trials: int, seed: int) -> list[float]:
    import numpy as np

    times = space.times()
    order = np.random.default_rng(seed).permutation(len(times))[:trials]
    shares = np.where(np.isfinite(times[order]), space.optimum / times[order], 0.0)
    return [float(s) for s in np.maximum.accumulate(shares)]


def _at(curve: list[float], n: int) -> float:
    return curve[min(n, len(curve)) - 1]
