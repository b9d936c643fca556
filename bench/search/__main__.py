"""Replays recorded tuning spaces with several searchers and prints how close each comes to the optimum, and when.

    python -m bench.search SPACE.json.gz ... --searchers random,cold,warm,kt:genetic_algorithm --seeds 20 --json
    out.json

Searchers: ``random``; ``plain`` (the reference that others are compared with, see ``bench.search.plain``); ``ga`` (this
search with its models off); ``trees`` (its LightGBM and children alone in fixed batches of 16); ``cold``; ``warm``
(given logs of 200 trials on every other device whose space of the same kernel is among the arguments; where there is
none it is ``cold``, so that means over the spaces that have one are told beside); ``unrelated`` (given a log of the
next space of another kernel or other knobs that shares a knob's name, to see what misleading history costs);
``cold-late`` (``cold``, but a batch is chosen before the previous one's results are known, with smaller first batches,
as ``--pipelined`` does for all); ``kt:NAME``, a Kernel Tuner strategy with default options where that package is
installed (a fresh Searchspace each run); ``optuna:tpe`` and ``optuna:cmaes``, likewise; ``at:FOLDER``, ``cold`` of
another checkout of this project. Counted are distinct configs, failures included, for all of them; a run that ends
early keeps its last value. ``--needles`` tells beside each development space how the same runs do where one of its
configs is a needle (``bench.search.needles``): they are the runs on that space until the needle is asked for. Ratios
are optimum time / best time found; intervals are 95 % bootstrap over seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.search.needles import DEVELOPMENT, distinct, hidden, met
from bench.search.runs import SEARCHERS, history, kin, logs, ratios, run, space_of
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
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
    p.add_argument("--json")
    p.add_argument("--curves", help="npz of the ratios after each trial, (seeds, trials) for each searcher and space")
    p.add_argument("--plot")
    args = p.parse_args(argv)
    try:
        names = {path: Path(path).name.split(".")[0] for path in args.spaces}
        for path in args.spaces:
            space_of(path)
        hiding = {path: needles(path) for path in args.spaces} if args.needles else {}
        shown = [*names.values(), *(name for own in hiding.values() for name in own)]
        began = time.perf_counter()
        searchers = args.searchers.split(",")
        unknown = [s for s in searchers if s not in SEARCHERS and not s.startswith(OTHERS)]
        if unknown:
            known = ", ".join([*SEARCHERS, *(f"{other}..." for other in OTHERS)])
            raise InvalidInput("searcher", unknown[0], "is unknown", f"use one of {known}")
        context = multiprocessing.get_context("fork")
        pool = context.Pool(args.processes) if args.processes > 1 else None
        mapper = (lambda f, jobs: pool.imap_unordered(f, jobs) if f is run else pool.map(f, jobs)) if pool else map
        past = logs(args.spaces, args, mapper) if {"warm", "unrelated"} & set(searchers) else {}
        jobs = [
            (path, s, seed, args, history(s, path, seed, args.spaces, past))
            for seed in range(args.first_seed, args.first_seed + args.seeds)
            for path in args.spaces
            for s in searchers
        ]
        marks = [m for m in MARKS if m <= args.trials]
        curves: dict[str, dict[str, Any]] = {s: {name: {} for name in shown} for s in searchers}
        spent: dict[str, list[float]] = {s: [] for s in searchers}
        for path, searcher, seed, order, seconds in mapper(run, jobs):
            space = space_of(path)
            budget = min(args.trials, len(space))
            curves[searcher][names[path]][seed] = ratios(order, space.optimum, budget)
            for name, (before, after) in hiding.get(path, {}).items():
                curves[searcher][name][seed] = ratios(met(order, before, after), after, budget)
            spent[searcher].append(seconds)
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
        print(show(result, marks))
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
