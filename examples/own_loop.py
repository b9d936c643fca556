"""The open ask/tell loop: the search of gpu_tune, and any measuring loop.

    python examples/own_loop.py [SPACE.json.gz]

Here the "measurements" come from a recorded space (a Kernel Tuner cache file, T4 results or one of tests/data), so that
nothing is compiled or run. With a workload in place of the space, ``gt.Tuner(workload)`` asks for candidates of this
project's templates.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gpu_tune as gt
from gpu_tune.store import interchange

DEFAULT = Path(__file__).parents[1] / "tests" / "data" / "synthetic-a.json.gz"


def main() -> None:
    """Ask for batches, tell how each candidate ended, until 60 were tried."""
    space = interchange.RecordedSpace(interchange.load(sys.argv[1] if len(sys.argv) > 1 else str(DEFAULT)))
    tuner = gt.Tuner(spaces=[space], seed=0)
    tried = 0
    while tried < 60 and (batch := tuner.ask(10)):
        tuner.tell([space.measurement(candidate.config) for candidate in batch])
        tried += len(batch)
        best = f"{tuner.best.time * 1e6:.4g} us with {tuner.best.candidate.key}" if tuner.best else "none yet"
        print(f"{tried} of {len(space)} configs tried; best: {best}")
    print(f"the fastest of all takes {space.optimum * 1e6:.4g} us")


if __name__ == "__main__":
    main()
