"""Needle spaces: recorded spaces in which one hidden config is made the best, alone.

A needle is 5 to 10 % faster than every other config, and each config that differs from it in one knob is at least 15 to
20 % slower than it, so that nothing near it promises anything. Which config it is, and how much, comes from the seed.

    python -m bench.search.needles SPACE.json.gz --seeds 0,1,2 --out FOLDER     # to be replayed by bench.search
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpu_tune.errors import GpuTuneError, InvalidInput
from gpu_tune.store.interchange import Recorded, RecordedSpace, load, save_t4

LIFT, APART = (0.05, 0.10), (0.15, 0.20)
"""Least and most by which a needle is faster than the best other config, and than its fastest neighbour."""


def needle(recorded: Recorded, seed: int) -> Recorded:
    """``recorded`` with one of its configs as a needle; InvalidInput where no config's neighbours are slow enough."""
    space = RecordedSpace(recorded)
    times, rng = space.times(), np.random.default_rng(seed)
    rows = space.grid.all(len(times))
    assert rows is not None
    lift, apart = rng.uniform(*LIFT), rng.uniform(*APART)
    target = float(times.min()) / (1 + lift)
    for index in rng.permutation(np.flatnonzero(np.isfinite(times) & (times > times.min()))):
        beside = times[(rows != rows[index]).sum(axis=1) == 1]
        if np.isfinite(beside).any() and beside.min() >= target * (1 + apart):
            trials = list(recorded.trials)
            trials[index] = replace(trials[index], time=target, samples=())
            return replace(recorded, kernel=f"{recorded.kernel} needle {seed}", trials=tuple(trials))
    raise InvalidInput(
        "needle in", recorded.kernel, "no config has neighbours that are slow enough", "take another space"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m bench.search.needles", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("spaces", nargs="+")
    p.add_argument("--seeds", default="0,1,2")
    p.add_argument("--out", default=".")
    args = p.parse_args(argv)
    try:
        for path in args.spaces:
            for seed in map(int, args.seeds.split(",")):
                target = Path(args.out) / f"{Path(path).name.split('.')[0]}-needle{seed}.json.gz"
                save_t4(needle(load(path), seed), target)
                print(target)
    except GpuTuneError as error:
        print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
