"""What a split tail (``grid`` of ``matmul_mma``) is expected to gain over a suite: predicted times, with and without.

    python -m bench.split_tail [SUITE] [--device nvidia-a100] [--trials 40] [--json out.json]

Of each shape of which a seed has a tail, the family's default and seeds are compiled for the chip and played, with the
tail's and without. Where the tail's are ahead by 2 %, each side is searched with as many trials as the other (its
default and seeds among them): the family as it is, and the family with a constraint that forbids the tail. Nothing
runs: all times are predicted. Shapes that promise most come first; a file that is there is continued.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import Device, by_name
from gpu_tune.errors import GpuTuneError
from gpu_tune.measure.predicted import PredictedMeasurer
from gpu_tune.measure.select import make_measurer
from gpu_tune.report import suites
from gpu_tune.search.search import Tuner
from gpu_tune.space.knob import Config, Constraint
from gpu_tune.templates.base import Template
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import bind, registry
from gpu_tune.trial import Candidate, Measurement
from gpu_tune.workload import Workload

FAMILY, TAIL = "matmul_mma", "split_tail"
WHOLE = Constraint("grid_whole", ("grid",), lambda c, w, d: c["grid"] != TAIL, "no tail is split")
PROMISING = 1.02
WORTH = 1.03
SHOWN = ("block_m", "block_n", "block_k", "stages", "grid", "split_k", "min_blocks")


@dataclass(frozen=True)
class Row:
    """One shape; times in predicted seconds. ``whole``, ``tail``: the fastest of the
    search where ``trials`` is not 0, else of default and seeds; ``..._config``: its knobs of that name. ``seeds_gain``:
    of default and seeds alone."""

    workload: str
    device: str
    trials: int
    whole: float
    tail: float
    gain: float
    seeds_gain: float
    whole_config: dict[str, Any]
    tail_config: dict[str, Any]


def families() -> tuple[Template, Template]:
    """The family without and with the tail."""
    family = registry()[FAMILY]
    return replace(family, constraints=(*family.constraints, WHOLE)), family


def searched(workload: Workload, device: Device, family: Template, trials: int) -> list[Measurement]:
    """The default and the seeds, then the product's search until there are ``trials``."""
    with make_measurer(workload, device=device, kind="predicted", templates={FAMILY: family}, jobs=1) as m:
        assert isinstance(m, PredictedMeasurer)
        (bound,) = m.bound.values()
        space, known = bound.space(), starts(bound)
        found = [f.result() for f in [m.submit(Candidate(FAMILY, c)) for c in known]]
        tuner = Tuner(spaces=[space], seed=0)
        tuner.tell(found)
        while len(found) < trials and (batch := tuner.ask(min(8, trials - len(found)))):
            batch = [c for c in batch if c.config not in known]
            new = [f.result() for f in [m.submit(c) for c in batch]]
            tuner.tell(new)
            found += new
        return [f for f in found if f.ok]


def starts(bound: BoundTemplate) -> dict[Config, None]:
    """Default and seeds, in order."""
    space = bound.space()
    return dict.fromkeys(c for c in (space.default(), *space.seeds()) if c is not None)


def promise(workload: Workload, device: Device) -> float:
    """By how much the tail's seeds are ahead by the family's own rough estimate; 0 where no seed has a tail."""
    (bound,) = bind(workload, device, {FAMILY: registry()[FAMILY]})
    cost = {c: bound.template.features(c, workload, device)["log2 clocks"] for c in starts(bound)}
    tails = [v for c, v in cost.items() if c["grid"] == TAIL]
    whole = [v for c, v in cost.items() if c["grid"] != TAIL]
    return 2.0 ** (min(whole, default=0.0) - min(tails)) if tails else 0.0


def compare(workload: Workload, device: Device, trials: int) -> Row:
    sides, used = [searched(workload, device, family, 0) for family in families()], 0
    seeds = [min(m.time for m in side) for side in sides]
    if trials and seeds[0] > PROMISING * seeds[1]:
        sides, used = [searched(workload, device, family, trials) for family in families()], trials
    whole, tail = (min(side, key=lambda m: m.time) for side in sides)
    gain, seeds_gain = (a / b - 1 for a, b in ((whole.time, tail.time), seeds))
    configs = [{name: m.candidate.config[name] for name in SHOWN} for m in (whole, tail)]
    return Row(workload.key, device.name, used, whole.time, tail.time, gain, seeds_gain, *configs)


def lines(rows: Sequence[Row]) -> Iterator[str]:
    for r in rows:
        yield (f"{r.workload:44}{r.whole * 1e6:10.2f}{r.tail * 1e6:10.2f}{r.gain:8.1%}{r.seeds_gain:8.1%}{r.trials:5}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.split_tail", description=__doc__.split("\n")[0])
    parser.add_argument("suite", nargs="?", default=suites.HEADLINE)
    parser.add_argument("--device", default="nvidia-a100")
    parser.add_argument("--trials", type=int, default=40, help="of each side, where the seeds promise something")
    parser.add_argument("--json", type=Path, help="write, or continue, this file")
    given = parser.parse_args(argv)
    rows: list[Row] = []
    try:
        entries, device = suites.load(given.suite).entries, by_name(given.device)
        if given.json and given.json.exists():
            rows = [Row(**row) for row in json.loads(given.json.read_text())["rows"]]
        print(
            f"{device.name}, every time predicted: us whole, with a tail, gain, of seeds, trials",
            flush=True,
        )
        done, order = {r.workload for r in rows}, {e.workload: promise(e.workload, device) for e in entries}
        for workload in sorted(order, key=lambda w: -order[w]):
            if order[workload] and workload.key not in done:
                rows.append(compare(workload, device, given.trials))
                print("\n".join(lines(rows[-1:])), flush=True)
                if given.json:
                    given.json.write_text(json.dumps(report(given.suite, len(order), rows), indent=1) + "\n")
    except GpuTuneError as error:
        print(f"error: {error}")
        return 2
    print(f"{sum(r.gain >= WORTH - 1 for r in rows)} of {len(order)} shapes gain {WORTH - 1:.0%} or more (predicted)")
    return 0


def report(suite: str, shapes: int, rows: Sequence[Row]) -> dict[str, Any]:
    """What the file holds, the largest gains first; ``shapes``: of the suite, asked or not."""
    ordered = sorted(rows, key=lambda r: -r.gain)
    return {
        "suite": suite,
        "source": "predicted",
        "nvrtc": ".".join(map(str, nvrtc.version())),
        "what": " ".join(str(__doc__).split("\n\n")[2].split()),
        "asked": f"{len(rows)} of {shapes} shapes, those that promise most",
        f"shapes of {shapes} with a gain of {WORTH - 1:.0%}": sum(r.gain >= WORTH - 1 for r in rows),
        "geometric mean of time with over without": math.exp(-sum(math.log1p(r.gain) for r in rows) / len(rows)),
        "rows": [asdict(r) for r in ordered],
    }


if __name__ == "__main__":
    raise SystemExit(main())
