"""Writes the synthetic recorded spaces of this folder: python tests/data/make_synthetic.py

No hardware was measured. A tiled kernel's time comes from a formula with the features of real landscapes: waves with
a last wave that is partly full, an occupancy cliff, a narrow basin off the main slope, failures, and noise of 1 %.
The three chips differ in constants, so that what is learned on one helps on the others without being the answer.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np

from gpu_tune.space.knob import Config, Knob
from gpu_tune.store.interchange import Recorded, RecordedTrial, save_kernel_tuner

HERE = Path(__file__).parent
KNOBS = (
    Knob("block_m", (16, 32, 64, 128, 256), "rows of a tile"),
    Knob("block_n", (16, 32, 64, 128, 256), "columns of a tile"),
    Knob("thread_m", (1, 2, 4, 8), "rows of a thread"),
    Knob("thread_n", (1, 2, 4, 8), "columns of a thread"),
    Knob("stages", (1, 2, 3, 4), "tiles in flight"),
    Knob("vector", (1, 2, 4), "elements of a load"),
    Knob("cached", (0, 1), "read-only path"),
)
CHIPS = {"synthetic-a": (80, 100, 0.25, 1.0), "synthetic-b": (132, 200, 0.15, 1.3), "synthetic-c": (40, 64, 0.4, 0.8)}
SIZE, DEPTH = 2048, 512


def seconds(c: Config, chip: tuple[float, ...], rng: np.random.Generator) -> float | None:
    """Time of one config; None when it fails."""
    sms, shared, overhead, memory = chip
    bm, bn, tm, tn, stages, vector = (
        float(c[k]) for k in ("block_m", "block_n", "thread_m", "thread_n", "stages", "vector")
    )
    threads = bm * bn / (tm * tn)
    tile_kib = (bm + bn) * 16 * 4 * stages / 1024
    if tile_kib > shared or (tm * tn > 32 and vector == 4):
        return None
    resident = max(1.0, min(8.0, shared // tile_kib, 1536 // threads, 65536 // (threads * (24 + tm * tn + tm + tn))))
    blocks = math.ceil(SIZE / bm) * math.ceil(SIZE / bn)
    waves = math.ceil(blocks / (sms * resident))
    reuse = tm * tn / (tm + tn)
    hidden = min(1.0, resident * threads / 512 * (0.5 + 0.25 * stages))
    compute = bm * bn * DEPTH * (1 + 1.2 / reuse) / (0.4 + 0.6 * hidden) * resident
    traffic = (bm + bn) * DEPTH * (3.0 if c["cached"] else 4.0) / vector**0.5 * memory * resident * 2
    needle = 0.8 if (bm, bn, stages, c["cached"]) == (32, 256, 3, 1) and tm < tn else 1.0
    time = 1e-9 * waves * (max(compute, traffic) + overhead * min(compute, traffic)) * needle * rng.lognormal(0, 0.01)
    return 0.05 * (time / 0.05) ** 1.6  # steeper, so that chance finds little


def main() -> None:
    """Write one file a chip."""
    for name, chip in CHIPS.items():
        rng = np.random.default_rng(7)
        trials = []
        for values in itertools.product(*(k.values for k in KNOBS)):
            c = Config(dict(zip((k.name for k in KNOBS), values)))
            threads = c["block_m"] * c["block_n"] // (c["thread_m"] * c["thread_n"])  # type: ignore[operator]
            if not 32 <= threads <= 1024:
                continue
            t = seconds(c, chip, rng)
            trials.append(
                RecordedTrial(c, "run_error", None, (), "RuntimeFailedConfig", {"compile": 0.4})
                if t is None
                else RecordedTrial(c, "ok", float(f"{t:.4g}"), (), "", {"compile": 0.4, "time": 0.1})
            )
        save_kernel_tuner(
            Recorded("synthetic_tile", name, KNOBS, tuple(trials), (SIZE, SIZE)), HERE / f"{name}.json.gz"
        )
        print(name, len(trials), sum(t.time is None for t in trials))


if __name__ == "__main__":
    main()
