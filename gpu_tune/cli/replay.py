"""``gpu-tune replay FILE``: search a recorded space again and say how near its optimum the search came."""

from __future__ import annotations

import statistics
from typing import Any

import click
import numpy as np

from ..errors import CorruptData, require
from ..kernel.emit import duration
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
    require(seed >= 0, "--seed", seed, "is negative", "give 0 or more")
    from ..store.interchange import RecordedSpace

    recorded = _load(file, template, key, chip)
    space = RecordedSpace(recorded)
    if not any(t.time is not None for t in recorded.trials):
        raise CorruptData(f"{file}: no recorded trial has a time; there is nothing to search for")
    marks = sorted({n for n in (25, 50, 100, 200, 500, 1000) if n < trials} | {min(trials, len(space))})
    searched, lucky = ([run(space, trials, seed + i) for i in range(runs)] for run in (_search, _random))
    rows = [{"trials": n, "search": _median_at(searched, n), "random": _median_at(lucky, n)} for n in marks]
    failed = sum(t.time is None for t in recorded.trials)
    timed = recorded.objective == "time"
    best = duration(space.optimum) if timed else f"{recorded.cost_of(space.optimum):.6g} {recorded.objective}"
    if as_json:
        options.echo_json(
            {
                "kernel": recorded.kernel,
                "device": recorded.device,
                "configs": len(space),
                "optimum_seconds": space.optimum if timed else None,
                **({} if timed else {"objective": recorded.objective, "optimum": recorded.cost_of(space.optimum)}),
                "failed": failed,
                "runs": runs,
                "seed": seed,
                "rows": rows,
            }
        )
        return
    click.echo(
        f"{recorded.kernel} on {recorded.device}: {len(space)} recorded configs ({failed} failed), optimum {best}"
    )
    columns = ("trials", "search", "random")
    measured = "speed" if timed else recorded.objective
    title = f"best found, as a share of the optimum's {measured} (median of {runs} runs)"
    shown = [(str(row["trials"]), f"{row['search']:.1%}", f"{row['random']:.1%}") for row in rows]
    options.print_table(columns, shown, title=title, right=columns)


def _load(file: str, template: str | None, key: str | None, chip: str | None) -> Any:
    from ..store import interchange, records

    if not file.endswith(".jsonl"):
        return interchange.load(file)
    return records.as_recorded(
        [
            r
            for r in records.read_text(options.read_text("FILE", file, "name a file"), file)
            if template in (None, r.measurement.candidate.template)
            and key in (None, r.workload.key)
            and chip in (None, r.chip)
        ]
    )


def _search(space: Any, trials: int, seed: int) -> list[float]:
    """Best share of the optimum's speed after each trial of a search."""
    from ..search.search import Tuner

    tuner = Tuner(spaces=[space], seed=seed)
    curve: list[float] = []
    while len(curve) < trials and (batch := tuner.ask(min(trials - len(curve), tuner.batch))):
        ended = [space.measurement(c.config, repeats=False) for c in batch]
        tuner.tell(ended)
        for m in ended:
            share = space.optimum / m.time if m.ok else 0.0
            curve.append(max(share, curve[-1] if curve else 0.0))
    return curve


def _random(space: Any, trials: int, seed: int) -> list[float]:
    """Best share of the optimum's speed after each trial in random order."""
    times = np.random.default_rng(seed).permutation(space.times())[:trials]
    shares = np.maximum.accumulate(np.where(np.isfinite(times), space.optimum / times, 0.0))
    return [float(share) for share in shares]


def _median_at(curves: list[list[float]], trials: int) -> float:
    return statistics.median(curve[min(trials, len(curve)) - 1] for curve in curves)
