"""How well the performance model orders kernel variants that it never saw run, on public timings of real GPUs.

    python -m bench.performance_model LOGS... --cubins FOLDER [--compile PYTHON] [--held] [--json out.json]

LOGS are PyTorch's AutoHeuristic logs of mm on an A100 and an H100 (``bench.transfer`` says where they come from). Their
variants are compiled without a GPU, by a Triton matmul of our own (``triton_matmul.py``) and the logs' compiler:

    python -m venv triton-venv && triton-venv/bin/pip install triton==3.0.0 setuptools
    python -m bench.performance_model LOGS... --cubins FOLDER --compile triton-venv/bin/python --jobs 2

That takes an hour or two once; the folder keeps the cubins. Sizes are split by a hash: all choices were made on the
70 % that is judged by default; ``--held`` judges the other 30 %, after everything was chosen; only the width of the
interval then comes from development shapes (``--development`` of them a chip). Every table compares with the optimum
of each shape: best time / best time among the first k picks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.performance_model import ablation, cost, judged, tables
from bench.performance_model.compiled import Cubins, Predicted, compile_missing, predictions
from bench.performance_model.learned import Learned
from bench.performance_model.metrics import Scores, paired
from bench.performance_model.variants import is_held, is_listed
from bench.transfer import autoheuristic
from bench.transfer.autoheuristic import Shape
from gpu_tune.errors import GpuTuneError, InvalidInput

LANES: dict[str, tuple[str, ...]] = {"all": ("16", "f32", "tf32"), "fma": ("f32",), "none": ()}
"""Kinds of arithmetic by name. Tensor cores' operands come by ldmatrix or from shared memory itself, without conflicts
by the compiler's layout; what FFMAs read by plain loads may have any."""
FEW = 5
"""Shapes of the chip itself that the smallest learned row is trained on."""
DRAWS = 10
"""Of those few shapes: their row is the mean over so many."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.performance_model", description=__doc__.split("\n")[0])
    parser.add_argument("logs", nargs="+", metavar="LOG")
    parser.add_argument("--cubins", required=True, metavar="FOLDER", help="where compiled variants are kept")
    parser.add_argument("--compile", metavar="PYTHON", help="compile what lacks with this environment's Triton 3.0.0")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--held", action="store_true", help="judge the held shapes: once, after all choices")
    parser.add_argument("--limit", type=int, default=0, help="at most so many shapes a chip, drawn at random")
    parser.add_argument("--development", type=int, default=200, metavar="N", help="of these shapes a chip with --held")
    parser.add_argument("--lanes", choices=LANES, default="fma", help="whose lanes' addresses are recorded")
    parser.add_argument("--learn", type=int, default=0, metavar="N", help="rows of rankers trained on N shapes a chip")
    parser.add_argument("--ablation", type=int, default=0, metavar="N", help="leave terms out, on N shapes a chip")
    parser.add_argument("--cost", type=int, default=0, metavar="N", help="what predicting N variants costs")
    parser.add_argument("--against", metavar="JSON", help="picks of another predictor, by chip and workload key")
    parser.add_argument("--picks", metavar="JSON", help="write this predictor's orders")
    parser.add_argument("--json", metavar="JSON", help="write everything that is printed")
    parser.add_argument("--publish", metavar="JSON", help="write the table that the product ships")
    parser.add_argument("--openings", type=int, default=1, metavar="N", help="how often the held shapes were judged")
    parser.add_argument(
        "--changed", nargs="*", default=[], metavar="KIND", help="such as 90-wgmma: the model of it changed in between"
    )
    args = parser.parse_args(argv)
    try:
        _run(args)
    except GpuTuneError as error:
        print(f"error: {error}")
        return 2
    return 0


def _run(args: argparse.Namespace) -> None:
    listed = [s for s in autoheuristic.read(args.logs) if is_listed(s)]
    if args.compile:
        print(f"{compile_missing(listed, args.cubins, args.compile, args.jobs)} variants to compile", flush=True)
    cubins = Cubins.open(args.cubins)
    covered = [s for s in listed if cubins.covers(s)]
    if not covered:
        raise InvalidInput("folder of cubins", args.cubins, "covers no shape of the logs", "fill it with --compile")
    limits = {False: args.development if args.held else args.limit, True: args.limit}
    known = {held: _limited([s for s in covered if is_held(s.workload) == held], limits[held]) for held in limits}
    needed = [*known[False], *(known[True] if args.held else [])]
    every = dict(zip(map(id, needed), predictions(needed, cubins, args.jobs, LANES[args.lanes])))
    against = json.loads(Path(args.against).read_text()) if args.against else {}
    result: dict[str, Any] = {"split": "held" if args.held else "development", "chips": {}, "command": sys.argv}
    published: list[dict[str, Any]] = []
    picks: dict[str, list[list[int]]] = {}
    for cc in sorted({s.device.cc for s in needed}):
        asked = [s for s in known[args.held] if s.device.cc == cc]
        development = [s for s in known[False] if s.device.cc == cc]
        if not asked or not development:
            continue
        listed_here = sum(s.device.cc == cc and is_held(s.workload) == args.held for s in listed)
        found = _judge(asked, development, every, known[False], against, args.learn)
        found["listed"] = listed_here
        result["chips"][judged.CHIPS[cc]] = found
        _print(judged.CHIPS[cc], found, len(asked), listed_here)
        names = sorted(set(map(judged.arithmetic, asked)))
        by = {name: judged.widths(*_of(name, development, every)) for name in names}
        seen = judged.Openings(args.openings, frozenset(args.changed))
        published += judged.published(cc, asked, [every[id(s)] for s in asked], by, result["split"], seen)
        for s in asked:
            ranked = np.argsort(every[id(s)].seconds, kind="stable")
            configs = list(s.runs)
            picks[_key(s)] = [list(configs[i]) for i in ranked]
    if args.ablation:
        some = _limited(known[args.held], args.ablation)
        for cc, rows in ablation.rows(some, cubins, args.jobs, LANES[args.lanes]).items():
            result["chips"][judged.CHIPS[cc]]["ablation"] = rows
            print(f"\n{tables.rows(judged.CHIPS[cc], rows)}", flush=True)
    if args.cost:
        spent = result["cost"] = cost.measure(needed, cubins, args.cost, args.lanes != "none")
        print(f"decoding and playing {spent['variants']} variants, share of the compile's CPU time:")
        for name, of in (("machine code alone", spent), ("lanes' addresses too", spent.get("with lanes"))):
            if of:
                print(f"  {name:22}median {of['median']:.1%}, 95 % {of['95 %']:.1%}")
        print(f"  the player in C++ is {spent['C++ over Python']:.0f} times as fast as in Python", flush=True)
    for path, data in ((args.json, result), (args.picks, picks), (args.publish, {"rows": published})):
        if path:
            Path(path).write_text(json.dumps(data, indent=1) + "\n")


def _judge(
    asked: Sequence[Shape],
    development: Sequence[Shape],
    every: dict[int, Predicted],
    known: Sequence[Shape],
    against: dict[str, list[list[int]]],
    learn: int,
) -> dict[str, Any]:
    predicted = [every[id(s)] for s in asked]
    names = sorted(set(map(judged.arithmetic, asked)))
    intervals = {n: judged.told(*_of(n, asked, every), judged.widths(*_of(n, development, every))) for n in names}
    found: dict[str, Any] = {
        "rows": judged.rows(asked, predicted),
        "kinds": judged.kinds(asked, predicted),
        "intervals": intervals,
        "interval": judged.overall([row for rows in intervals.values() for row in rows]),
    }
    theirs = [s for s in asked if _key(s) in against]
    if theirs:
        times = [s.times() for s in theirs]
        other = Scores.of([_order(s, against[_key(s)]) for s in theirs], times)
        ours = Scores.of([every[id(s)].seconds for s in theirs], times)
        found["against"] = {**paired(ours, other, judged.sizes(theirs)), "shapes": len(theirs)}
        found["against rows"] = [ours.row("static model"), other.row("the other's picks")]
    if learn:
        found["learned"] = _learned(asked, known, every, learn)
    found["marks"] = judged.marks(found)
    return found


def _learned(
    asked: Sequence[Shape], known: Sequence[Shape], every: dict[int, Predicted], count: int
) -> list[dict[str, Any]]:
    """Rows of rankers. Sizes that are asked about are never trained on; on the development shapes a third is asked."""
    rng = np.random.default_rng(5)
    if id(asked[0]) in {id(s) for s in known}:
        asked = [asked[i] for i in rng.permutation(len(asked))[: max(1, len(asked) // 3)]]
    sizes = set(judged.sizes(asked))
    train = [s for s in known if judged.sizes([s])[0] not in sizes]
    mine = _limited([s for s in train if s.device.cc == asked[0].device.cc], count)
    others = _limited([s for s in train if s.device.cc != asked[0].device.cc], count)
    model = Learned([*asked, *mine, *others], [every[id(s)] for s in (*asked, *mine, *others)])
    times = [s.times() for s in asked]
    rows = [Scores.of([every[id(s)].seconds for s in asked], times).row("static model")]
    few = [[mine[i] for i in rng.permutation(len(mine))[:FEW]] for _ in range(DRAWS if mine else 0)]
    for name, draws in ((f"{FEW} own", few), ("other chip", [others]), (f"{len(mine)} own", [mine])):
        drawn = [model.rows(some, asked) for some in draws if some]
        for way in drawn[0] if drawn else ():
            scores = [score for found in drawn for score in found[way]]
            rows.append({**Scores.of(scores, times * len(drawn)).row(f"{name}: {way}"), "shapes": len(asked)})
    return rows


def _of(arithmetic: str, shapes: Sequence[Shape], every: dict[int, Predicted]) -> tuple[list[Shape], list[Predicted]]:
    """The shapes whose variants multiply so, and what is predicted of them."""
    some = [s for s in shapes if judged.arithmetic(s) == arithmetic]
    return some, [every[id(s)] for s in some]


def _limited(shapes: Sequence[Shape], limit: int) -> list[Shape]:
    out: list[Shape] = []
    for cc in sorted({s.device.cc for s in shapes}):
        some = [s for s in shapes if s.device.cc == cc]
        drawn = np.random.default_rng(7).permutation(len(some))[: limit or len(some)]
        out += [some[i] for i in sorted(drawn.tolist())] if limit else some
    return out


def _key(s: Shape) -> str:
    return f"{s.device.name} {s.workload.key}"


def _order(s: Shape, picks: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    place = {tuple(config): i for i, config in enumerate(picks)}
    return np.array([place.get(config, len(place)) for config in s.runs], dtype=float)


def _print(chip: str, found: dict[str, Any], shapes: int, listed: int) -> None:
    print(f"\n{chip}: {shapes} of {listed} listed shapes are covered")
    print(tables.rows("predictor", found["rows"]))
    print(tables.rows("static model, by kind", found["kinds"]))
    if "learned" in found:
        print(tables.rows("learned from timed shapes", found["learned"]))
    if "against" in found:
        print(tables.rows("against", found["against rows"]))
        print(tables.paired("ours - theirs", {k: v for k, v in found["against"].items() if k != "shapes"}))
    print(tables.intervals(found["intervals"]))
    print(tables.marks(found["marks"]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
