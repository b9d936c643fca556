"""What the search itself costs: CPU seconds of ``ask`` for a batch of 16, one core, while ``--trials`` are told.

    python -m bench.search.time [SPACE.json.gz ...] [--templates matmul_mma,matmul_wgmma] [--json out.json]

Spaces: the recorded ones named; a made-up one of 12 knobs under constraints, about 10^8 valid configs; and each named
template's for a 4096 x 4096 x 4096 bfloat16 product on an H200. Times told are a formula's: only ``ask`` is measured.
CPU seconds, not wall seconds, so that a busy machine changes little. ``first`` has everything a new space needs.
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

from gpu_tune.cuda.device import by_name
from gpu_tune.errors import GpuTuneError
from gpu_tune.search.search import Search
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


def seconds(space: Any, trials: int, seed: int = 0) -> list[float]:
    """CPU seconds of each ask; the first includes making the search."""
    began = time.process_time()
    search = Search([space], seed=seed)
    peak = np.random.default_rng(seed).random(
        space.coordinates(space.grid.sample(1, np.random.default_rng(0))).shape[1]
    )
    taken: list[float] = []
    while len(search.observations) < trials:
        batch = search.ask()
        taken.append(time.process_time() - began)
        if not batch:
            break
        x = space.coordinates(space.rows([c.config for c in batch]))
        cost = 1e-3 * (1 + ((x - peak) ** 2).sum(axis=1))
        search.tell([Measurement(c, "ok", PREDICTED, samples=(float(t),)) for c, t in zip(batch, cost)])
        began = time.process_time()
    return taken


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m bench.search.time", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("spaces", nargs="*")
    p.add_argument("--templates", default="matmul_mma,matmul_wgmma")
    p.add_argument("--trials", type=int, default=200)
    p.add_argument("--json")
    args = p.parse_args(argv)
    try:
        named: list[tuple[str, Any]] = [(Path(s).name.split(".")[0], RecordedSpace(load(s))) for s in args.spaces]
        named.append(("made-up, constrained", made_up()))
        workload, device = Matmul(4096, 4096, 4096, dtype="bfloat16", layout="nt"), by_name("nvidia-h200")
        named += [(t, BoundTemplate(registry()[t], workload, device).space()) for t in args.templates.split(",") if t]
        print(f"{'space':32} {'valid configs':>14} {'first':>8} {'median':>8} {'worst later':>12}   CPU seconds an ask")
        rows = []
        for name, space in named:
            taken = seconds(space, args.trials)
            count = space.count()
            row = {"space": name, "valid": count.valid, "exact": count.exact, "first": taken[0]}
            row.update(median=float(np.median(taken[1:])), worst=max(taken[1:]), asks=len(taken))
            rows.append(row)
            print(f"{name:32} {count.valid:>14,} {taken[0]:>8.3f} {row['median']:>8.3f} {row['worst']:>12.3f}")
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    except (GpuTuneError, KeyError) as error:
        print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
