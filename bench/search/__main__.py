"""Replays recorded tuning spaces with several searchers and prints how close each comes to the optimum, and when.

    python -m bench.search SPACE.json.gz ... --searchers random,cold,warm,kt:genetic_algorithm --seeds 20 --json
    out.json

Searchers: ``random``; ``plain`` (the reference that others are compared with, see ``bench.search.plain``); ``ga`` (this
search with its models off); ``trees`` (its LightGBM and children alone in fixed batches of 16); ``cold``; ``warm``
(given logs of 200 trials on every other device whose space of the same kernel is among the arguments; where there is
none it is ``cold``, so that means over the spaces that have one are told beside); ``unrelated`` (given a log of a
space of another kernel or other knobs that shares a knob's name, each such space by turns) and ``misled`` (given a log
of another device in which each knob's values stand in reverse order), to see what misleading history costs;
``cold-late`` (``cold``, but a batch is chosen before the previous one's results are known, with smaller first batches,
as ``--pipelined`` does for all); ``kt:NAME``, a Kernel Tuner strategy with default options where that package is
installed (a fresh Searchspace each run); ``optuna:tpe`` and ``optuna:cmaes``, likewise; ``at:FOLDER``, ``cold`` of
another checkout of this project. Counted are distinct configs, failures included, for all of them; a run that ends
early keeps its last value. ``--needles`` tells beside each development space how the same runs do where one of its
configs is a needle (``bench.search.needles``): they are the runs on that space until the needle is asked for. Ratios
are optimum time / best time found; intervals are 95 % bootstrap over seeds, and the last searcher named is compared
with each other one. ``--runs FILE`` keeps every run: a judgement that was broken off goes on where it was, and
``--table`` prints what is there (of the seeds that all searchers have finished on all spaces).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.search.needles import DEVELOPMENT, distinct, hidden, met
from bench.search.paired import compare, told
from bench.search.runs import SEARCHERS, TAUGHT, history, kin, logs, ratios, run, space_of
from bench.search.saved import Saved, append, code, read, require_same_code
from bench.search.tables import plot, show, summary
from gpu_tune.errors import GpuTuneError, InvalidInput, require

MARKS = (25, 50, 100, 200, 400)
OTHERS = ("kt:", "optuna:", "at:")


def needles(path: str) -> dict[str, tuple[float, float]]:
    """The needle spaces of a development space, by name: the needle's time in that space, and as a needle."""
    base, space = Path(path).name.split(".")[0], space_of(path)
    made = {f"{base}-needle{seed}": hidden(space.recorded, seed) for seed in DEVELOPMENT.get(base, ())}
    for name, (before, _) in made.items():
        told = "is the time of several configs: a run does not tell whether it met the needle"
        require(distinct(space.times(), before), name, before, told, "replay the needle's own file")
    return made


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(
        prog="python -m bench.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("spaces", nargs="+")
    p.add_argument("--searchers", default="random,trees,cold")
    p.add_argument("--seeds", type=int, default=20)
    p.add_argument("--first-seed", type=int, default=0)
    p.add_argument("--trials", type=int, default=200)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--processes", type=int, default=1)
    p.add_argument("--needles", action="store_true", help="add the needle spaces made of the development spaces")
    p.add_argument("--pipelined", action="store_true")
    p.add_argument("--settings", default="{}", help="JSON of search settings for cold and warm")
    p.add_argument("--minutes", type=float, default=1e9, help="stop after these; seeds that all have finished count")
    p.add_argument("--runs", help="file that every run is added to as it ends; those in it are not made again")
    p.add_argument("--table", action="store_true", help="make no runs: tell of those in --runs")
    p.add_argument("--json")
    p.add_argument("--curves", help="npz of the ratios after each trial, (seeds, trials) for each searcher and space")
    p.add_argument("--plot")
    return p


def collect(args: argparse.Namespace, searchers: Sequence[str], names: Mapping[str, str]) -> Iterator[Saved]:
    """The runs asked for: those of ``--runs``, then new ones, each added to that file as it ends."""
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    store = Path(args.runs) if args.runs else None
    wanted = {(n, s, k, args.trials, args.batch) for n in names.values() for s in searchers for k in seeds}
    kept = [run for run in (read(store) if store else ()) if run.key in wanted]
    if store:
        require_same_code(store, kept)
    yield from kept
    done = {run.key for run in kept}
    missing = [
        (path, s, seed)
        for seed in seeds
        for path in args.spaces
        for s in searchers
        if (names[path], s, seed, args.trials, args.batch) not in done
    ]
    if args.table or not missing:
        return
    codes = {s: code(s, args.settings + (" pipelined" if args.pipelined else "")) for s in searchers}
    if store:
        told = (Saved("", s, 0, 0, 0, codes[s], (), 0.0) for s in {s for _, s, _ in missing})
        require_same_code(store, [*kept, *told])
    context = multiprocessing.get_context("fork")
    pool = context.Pool(args.processes) if args.processes > 1 else None
    mapper = (lambda f, jobs: pool.imap_unordered(f, jobs) if f is run else pool.map(f, jobs)) if pool else map
    past = logs(args.spaces, args, mapper) if set(TAUGHT) & {s for _, s, _ in missing} else {}
    jobs = [(path, s, seed, args, history(s, path, seed, args.spaces, past)) for path, s, seed in missing]
    for path, searcher, seed, order, seconds in mapper(run, jobs):
        made = Saved(
            names[path], searcher, seed, args.trials, args.batch, codes[searcher], tuple(map(float, order)), seconds
        )
        if store:
            append(store, made)
        yield made


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = parser().parse_args(argv)
    try:
        names = {path: Path(path).name.split(".")[0] for path in args.spaces}
        for path in args.spaces:
            space_of(path)
        require(bool(args.runs) or not args.table, "--table", ..., "tells of kept runs", "name their file by --runs")
        hiding = {names[path]: needles(path) for path in args.spaces} if args.needles else {}
        shown = [*names.values(), *(name for own in hiding.values() for name in own)]
        began = time.perf_counter()
        searchers = args.searchers.split(",")
        unknown = [s for s in searchers if s not in SEARCHERS and not s.startswith(OTHERS)]
        if unknown:
            known = ", ".join([*SEARCHERS, *(f"{other}..." for other in OTHERS)])
            raise InvalidInput("searcher", unknown[0], "is unknown", f"use one of {known}")
        marks = [m for m in MARKS if m <= args.trials] or [args.trials]
        curves: dict[str, dict[str, Any]] = {s: {name: {} for name in shown} for s in searchers}
        spent: dict[str, list[float]] = {s: [] for s in searchers}
        paths = {name: path for path, name in names.items()}
        for ended in collect(args, searchers, names):
            space = space_of(paths[ended.space])
            budget = min(args.trials, len(space))
            curves[ended.searcher][ended.space][ended.seed] = ratios(ended.order, space.optimum, budget)
            for name, (before, after) in hiding.get(ended.space, {}).items():
                curves[ended.searcher][name][ended.seed] = ratios(met(ended.order, before, after), after, budget)
            spent[ended.searcher].append(ended.seconds)
            if time.perf_counter() - began > 60 * args.minutes:
                break
        whole = set.intersection(*(set(c) for by in curves.values() for c in by.values()))
        if not whole:
            raise InvalidInput("--minutes", args.minutes, "is too short for one seed", "give more")
        curves = {s: {n: {k: c[k] for k in whole} for n, c in by.items()} for s, by in curves.items()}
        done = {s: {n: np.array([c[k] for k in sorted(c)]) for n, c in by.items()} for s, by in curves.items()}
        table = summary(done, marks)
        result = {
            "marks": marks,
            "trials": args.trials,
            "seeds": sorted(whole),
            "batch": args.batch,
            "pipelined": args.pipelined,
            "settings": json.loads(args.settings),
            "spaces": sorted(shown),
            "differences": table.pop("differences"),
            "searchers": table,
        }
        for s in searchers:
            table[s]["seconds"] = float(np.mean(spent[s]))
        related = [names[path] for path in args.spaces if "warm" in searchers and kin(path, args.spaces)]
        if 0 < len(related) < len(names):
            part = summary({s: {n: by[n] for n in related} for s, by in done.items()}, marks)
            keys = ("ratio", "low", "high", "trials_to")
            result["with_other_devices"] = {
                "spaces": sorted(related),
                "searchers": {s: {k: part[s][k] for k in keys} for s in searchers},
            }
        result["means"] = compare(done, marks)
        print(show(result, marks) + "\n" + told(result["means"], marks))
        if args.json:
            Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
        if args.curves:
            named: dict[str, Any] = {f"{s}|{n}": c for s, by in done.items() for n, c in by.items()}
            np.savez_compressed(args.curves, **named)
        if args.plot:
            plot(done, args.plot)
    except GpuTuneError as error:
        print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
