"""What the search itself costs: CPU seconds of ``ask`` for a batch of 16, one core, while ``--trials`` are told.

    python -m bench.search.time [SPACE.json.gz ...] [--templates matmul_mma,matmul_wgmma] [--seeds 5] [--at FOLDER]
        [--json out.json]

Spaces: the recorded ones named; a made-up one of 12 knobs under constraints, about 10^8 valid configs; 10^8 points
(eight knobs of ten values) that are all valid, and the same under one predicate over all knobs that keeps a thousandth
of them, or three, one of which is given as the default; and each named template's for a 4096 x 4096 x 4096 bfloat16
product on an H200. ``--at``: the same asks of another checkout beside, by turns, where it has these spaces. Recorded
spaces tell their own times, the others a formula's: only ``ask`` is measured. CPU seconds, not wall seconds, so that a
busy machine changes little. ``first`` has everything a new space needs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightgbm  # noqa: F401  (loading it is no part of asking)
import numpy as np

from bench.search.peers import imported, recorded_there
from gpu_tune.cuda.device import by_name
from gpu_tune.errors import GpuTuneError
from gpu_tune.search.search import Search
from gpu_tune.space.grid_space import GridSpace
from gpu_tune.space.knob import Constraint, Knob
from gpu_tune.space.space import Space
from gpu_tune.store.interchange import RecordedSpace, load
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import registry
from gpu_tune.trial import PREDICTED, Measurement
from gpu_tune.workload import Matmul


def made_up() -> Space:
    """12 knobs, four constraints that tie them together, about 10^8 valid configs."""
    powers = tuple(1 << i for i in range(8))
    knobs = [Knob(f"k{i}", powers if i < 8 else (0, 1, 2, 3), "") for i in range(12)]
    rules = [
        Constraint("threads", ("k0", "k1", "k2"), lambda c, w, d: 32 <= c["k0"] * c["k1"] * c["k2"] <= 1024, ""),
        Constraint("divides", ("k3", "k0"), lambda c, w, d: c["k3"] % c["k0"] == 0, ""),
        Constraint("shared", ("k3", "k4", "k5"), lambda c, w, d: c["k3"] * c["k4"] <= 4096 * c["k5"], ""),
        Constraint("registers", ("k5", "k6", "k7"), lambda c, w, d: c["k5"] * c["k6"] <= 16 * c["k7"], ""),
    ]
    return Space("made-up", knobs, rules)


POINTS = {f"k{i}": range(10) for i in range(8)}
NEEDLES = ((3, 1, 4, 1, 5, 9, 2, 6), (3, 1, 4, 1, 5, 9, 2, 7), (8, 0, 2, 2, 7, 4, 9, 1))


def thousandth(k0: int, k1: int, k2: int, k3: int, k4: int, k5: int, k6: int, k7: int) -> bool:
    """Keeps one point in a thousand, strewn without order."""
    return sum(k * 37**i for i, k in enumerate((k0, k1, k2, k3, k4, k5, k6, k7))) % 997 == 1


def three(k0: int, k1: int, k2: int, k3: int, k4: int, k5: int, k6: int, k7: int) -> bool:
    """Keeps three points; two of them are neighbours."""
    return (k0, k1, k2, k3, k4, k5, k6, k7) in NEEDLES


def one_predicate() -> list[tuple[str, Space]]:
    """The space of all points, and what one predicate leaves of it."""
    first = dict(zip(POINTS, NEEDLES[0]))
    return [
        ("10^8 points, all valid", GridSpace("all", POINTS)),
        ("one predicate, 1 of 1000", GridSpace("thousandth", POINTS, [thousandth])),
        ("one predicate, 3 of 10^8", GridSpace("three", POINTS, [three], default=first)),
    ]


def seconds(space: Any, trials: int, seed: int = 0, search_of: Any = Search) -> list[float]:
    """CPU seconds of each ask; the first includes making the search."""
    began = time.process_time()
    search = search_of([space], seed=seed)
    peak = np.random.default_rng(seed).random(
        space.coordinates(space.grid.sample(1, np.random.default_rng(0))).shape[1]
    )
    taken: list[float] = []
    told = 0
    while told < trials:
        batch = search.ask()
        taken.append(time.process_time() - began)
        if not batch:
            break
        if hasattr(space, "recorded"):
            ended = [space.measurement(c.config, repeats=False) for c in batch]
        else:
            x = space.coordinates(space.rows([c.config for c in batch]))
            cost = 1e-3 * (1 + ((x - peak) ** 2).sum(axis=1))
            ended = [Measurement(c, "ok", PREDICTED, samples=(float(t),)) for c, t in zip(batch, cost)]
        search.tell(ended)
        told += len(ended)
        began = time.process_time()
    return taken


def measure(named: list[tuple[str, Any]], trials: int, seeds: int, other: Any = None) -> list[dict[str, Any]]:
    """One row a space: CPU seconds of its first ask, and the median and worst of the later ones. ``other``: the search
    of another checkout and its spaces by name."""
    rows = []
    head = f"{'space':28}{'valid configs':>16}{'first':>9}{'median':>9}{'worst later':>13}{'asks':>6}"
    print(head + (f"{'median there':>14}" if other else "") + "   CPU seconds an ask")
    for name, space in named:
        runs, there = [seconds(space, trials)], list[list[float]]()
        if other and name in other[1]:
            there.append(seconds(other[1][name], trials, search_of=other[0]))
        for seed in range(1, seeds):
            runs.append(seconds(space, trials, seed))
            if there:
                there.append(seconds(other[1][name], trials, seed, other[0]))
        count, first = space.count(), runs[0][0]
        later = [s for taken in runs for s in taken[1:] or taken]
        row: dict[str, Any] = {"space": name, "valid": count.valid, "exact": count.exact, "first": first}
        row.update(median=float(np.median(later)), worst=max(later), asks=sum(map(len, runs)))
        line = f"{name:28}{count.valid:>16,}{first:>9.3f}{row['median']:>9.4f}{row['worst']:>13.3f}{row['asks']:>6}"
        if there:
            row["median_there"] = float(np.median([s for taken in there for s in taken[1:]]))
            line += f"{row['median_there']:>14.4f}"
        print(line, flush=True)
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m bench.search.time", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("spaces", nargs="*")
    p.add_argument("--templates", default="matmul_mma,matmul_wgmma")
    p.add_argument("--trials", type=int, default=200)
    p.add_argument("--seeds", type=int, default=1, help="runs on each space; medians are of the asks of all")
    p.add_argument("--at", help="root folder of another checkout of this project, from 0fc5959 on")
    p.add_argument("--json")
    args = p.parse_args(argv)
    try:
        named: list[tuple[str, Any]] = [(Path(s).name.split(".")[0], RecordedSpace(load(s))) for s in args.spaces]
        other = None
        if args.at:
            search, spaces = imported(args.at)
            other = search.Search, {name: recorded_there(spaces, s) for (name, _), s in zip(named, args.spaces)}
        named.append(("made-up, constrained", made_up()))
        named += one_predicate()
        workload, device = Matmul(4096, 4096, 4096, dtype="bfloat16", layout="nt"), by_name("nvidia-h200")
        named += [(t, BoundTemplate(registry()[t], workload, device).space()) for t in args.templates.split(",") if t]
        rows = measure(named, args.trials, args.seeds, other)
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    except (GpuTuneError, KeyError) as error:
        print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
