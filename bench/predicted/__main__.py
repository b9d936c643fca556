"""Predicted against measured: how rightly the performance model orders what a GPU has timed.

    python -m bench.predicted                        # the user's records
    python -m bench.predicted RECORDS --json out.json

Every measured trial carries what the model said of its machine code before it was timed. For each workload, chip and
template: the rank correlation of both times, the best of the model's first 1, 3 and 5 picks as a share of the optimum
measured, and what measured times are of predicted ones. Nothing is compiled or played here.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from gpu_tune.errors import CorruptData, GpuTuneError
from gpu_tune.store.records import Record, Records
from gpu_tune.trial import MEASURED

LEAST = 8
"""Timed configs below which a workload says nothing about an order."""


@dataclass(frozen=True)
class Agreement:
    """How the model did on one workload: ``top``: best measured time over the best among its first 1, 3 and 5 picks;
    ``scale``: 5, 50 and 95 % quantile of measured over predicted time."""

    workload: str
    chip: str
    template: str
    trials: int
    rank_correlation: float
    top: tuple[float, float, float]
    scale: tuple[float, float, float]


def agreements(records: Iterable[Record], least: int = LEAST) -> list[Agreement]:
    """Of every workload, chip and template with at least ``least`` timed and predicted configs."""
    groups: dict[tuple[str, str, str], dict[str, tuple[float, float]]] = defaultdict(dict)
    for r in records:
        m = r.measurement
        predicted = m.prediction.get("seconds", math.nan)
        if m.ok and predicted > 0:
            groups[r.workload.key, r.chip, m.candidate.template][m.candidate.key] = predicted, m.time
    return [_agreement(key, list(times.values())) for key, times in sorted(groups.items()) if len(times) >= least]


def _agreement(key: tuple[str, str, str], times: Sequence[tuple[float, float]]) -> Agreement:
    predicted, measured = np.array(times).T
    picks = measured[np.argsort(predicted, kind="stable")]
    top = tuple(float(measured.min() / picks[:n].min()) for n in (1, 3, 5))
    scale = np.quantile(measured / predicted, (0.05, 0.5, 0.95)).tolist()
    ranks = stats.spearmanr(predicted, measured).statistic if np.ptp(predicted) and np.ptp(measured) else 0.0
    return Agreement(*key, len(times), float(ranks), (top[0], top[1], top[2]), (scale[0], scale[1], scale[2]))


def table(found: Sequence[Agreement]) -> str:
    """One line a workload, then the geometric means."""
    lines = []
    for a in found:
        lines.append(f"{a.workload} on {a.chip}")
        tops = " / ".join(f"{t:.3f}" for t in a.top)
        low, middle, high = a.scale
        lines.append(
            f"  {a.template:<20}{a.trials:>5} trials  rank {a.rank_correlation:5.2f}  first 1/3/5 {tops}"
            f"  scale {middle:.2f}"
        )
        lines.append(f"  {'':<20}measured / predicted: 5 % at {low:.2f}, 95 % at {high:.2f}")
    tops = " / ".join(f"{stats.gmean([a.top[i] for a in found]):.3f}" for i in range(3))
    rank = float(np.mean([a.rank_correlation for a in found]))
    lines.append(f"{len(found)} groups: first 1/3/5 {tops} of the optimum, rank correlation {rank:.2f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="?", type=Path, help="folder of records (default: the user's)")
    parser.add_argument("--least", type=int, default=LEAST, help=f"timed configs of a group at least ({LEAST})")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args(arguments)
    if given.records is not None and not given.records.is_dir():
        parser.error(f"{given.records} is no folder; name the records/ folder of a store")
    try:
        found = agreements((Records(given.records) if given.records else Records()).read(MEASURED), given.least)
    except (CorruptData, GpuTuneError) as error:
        parser.error(str(error))
    if not found:
        print(f"no workload has {given.least} measured trials with a prediction: tune on a GPU first")
        return 1
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps([asdict(a) for a in found], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
