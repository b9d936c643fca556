"""How well a ranker trained on some workloads or chips orders the configs of another that it never saw.

    python -m bench.transfer RECORDS_FOLDER_OR_RECORDED_SPACE_OR_LOG ... [--part held] [--json out.json]

Takes folders of this project's records (their groups are template x workload x chip), recorded spaces, Kernel Tuner or
T4 (groups are kernel x problem size x device; one file each), and PyTorch's AutoHeuristic logs of mm (``.txt``, see
``autoheuristic.py`` here; groups are product x chip). Groups of one template or kernel are a family. For every family:
*shapes* leaves a fold of its shapes out on each chip and trains on that chip's others (a product of a log is left out
with every dtype and layout of its m, n and k); *chips* leaves a chip out and trains on the others; *both* leaves a fold
of the shapes out on every chip, and is asked about them on a chip that it never saw. Printed is best time / best time
among the model's first 1, 3 and 5, as geometric mean over the left-out groups with the 5 % quantile in brackets (in the
JSON with a 95 % interval, shapes redrawn), beside the same for a random order and, for the ranker, its pairwise
accuracy. For logs also: how the best config compares with the vendor library that they timed, and what top 1 a choice
by the other repeats of the same measurements reaches, which no model can be expected to pass.

``--part development`` looks only at 70 % of the shapes, drawn by a hash of their sizes: settings are chosen there.
``--part held`` asks only about the other 30 %, and trains on everything that is not left out.

Predicted records are left aside where there are measured ones, and are called predicted in the table: their times come
from a formula, and how well a formula is learned says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

import gpu_tune
from bench.transfer import autoheuristic
from gpu_tune.errors import GpuTuneError, InvalidInput
from gpu_tune.model.ranker import POOLED, Ranker, Shape, pairwise_accuracy, top_k
from gpu_tune.model.transfer import HistoryGroup, device_of
from gpu_tune.store.interchange import RecordedSpace, load
from gpu_tune.trial import MEASURED, PREDICTED

FIRST = (1, 3, 5)
FOLDS = 5
MISS = 0.1
"""What a choice counts where everything chosen failed."""
HELD = 3
"""Tenths of the shapes on which no setting was chosen."""
LARGE = Shape(trees=300, leaves=31, min_rows=5, power=4.0, objective="lambdarank")
LARGE_ROWS = 10_000
"""For more trials than one search gathers from its history: what is fitted once, beforehand, may take seconds."""
LEAVE = ("shapes", "chips", "both")
PARTS = ("all", "development", "held")


@dataclass(frozen=True)
class Group:
    """Trials of one family on one shape and chip: features (n, f), times (n,) seconds with nan for failures. Groups of
    one ``shape`` are left out together.
    """

    family: str
    shape: str
    chip: str
    x: np.ndarray
    times: np.ndarray
    names: tuple[str, ...]

    @property
    def held(self) -> bool:
        """Whether the shape is one of those kept aside; the same ones everywhere."""
        return int(hashlib.md5(f"test{self.shape}".encode(), usedforsecurity=False).hexdigest(), 16) % 10 < HELD


def recorded_group(path: str) -> Group:
    """A recorded space: knob features, and against each dimension of the problem the log ratio and the padded share."""
    recorded = load(path)
    space = RecordedSpace(recorded)
    rows = space.rows(t.config for t in recorded.trials)
    x, names = space.describe(rows)
    parts: list[Any] = [x]
    titles = list(names)
    for i, size in enumerate(recorded.problem_size):
        parts.append(np.full((len(rows), 1), np.log2(max(size, 1)), dtype=np.float32))
        titles.append(f"log2 size {i}")
        for column, knob in enumerate(recorded.knobs):
            if len(knob.values) > 1 and all(isinstance(v, (int, float)) and v > 0 for v in knob.values):
                value = np.array(knob.values, dtype=np.float64)[rows[:, column]]
                ratio = size / value
                parts += [np.log2(ratio)[:, None], (np.ceil(ratio) / ratio)[:, None]]
                titles += [f"log2 size {i}/{knob.name}", f"padding of size {i} to {knob.name}"]
    family = f"{recorded.kernel} ({', '.join(k.name for k in recorded.knobs)})"
    shape = "x".join(map(str, recorded.problem_size)) or "one"
    values = np.concatenate(parts, axis=1).astype(np.float32)
    return Group(
        family,
        shape,
        recorded.device,
        values,
        np.where(np.isfinite(space.times()), space.times(), np.nan),
        tuple(titles),
    )


def record_groups(folder: str) -> list[Group]:
    """This project's records, with the features that the search uses."""
    from gpu_tune.store.records import Records
    from gpu_tune.templates.bound import BoundTemplate
    from gpu_tune.templates.registry import registry

    book = Records(Path(folder))
    source = next((s for s in (MEASURED, PREDICTED) if any(True for _ in book.read(s))), None)
    by: dict[tuple[str, Any, str], list[Any]] = {}
    for record in book.read(source) if source else ():
        by.setdefault((record.measurement.candidate.template, record.workload, record.chip), []).append(
            record.measurement
        )
    groups = []
    for (name, workload, chip), measurements in by.items():
        device = device_of(chip)
        if name in registry() and device is not None:
            space = BoundTemplate(registry()[name], workload, device).space()
            past = HistoryGroup.of(space, measurements, workload.key)
            groups.append(
                Group(
                    f"{source} {name}" if source == PREDICTED else name,
                    workload.key,
                    chip,
                    past.features,
                    past.times,
                    past.names,
                )
            )
    return groups


def log_groups(shapes: Sequence[autoheuristic.Shape]) -> list[Group]:
    """AutoHeuristic's logs: one group a product and chip, left out by its sizes."""
    features, names = autoheuristic.describe(shapes)
    return [
        Group("Triton mm", f"{s.workload.m}x{s.workload.n}x{s.workload.k}", s.device.chip, x, s.times(), names)
        for s, x in zip(shapes, features)
    ]


@dataclass(frozen=True)
class Scored:
    """A group that was left out: best time over best among the first of FIRST, by the model and by chance."""

    shape: str
    chip: str
    top: tuple[float, ...]
    random: tuple[float, ...]
    accuracy: float


def folds(groups: Sequence[Group], by: Callable[[Group], str], count: int, seed: int) -> dict[str, int]:
    """The fold of each of ``by``'s values."""
    values = sorted({by(g) for g in groups})
    shuffled = np.random.default_rng(seed).permutation(len(values))
    return {values[i]: int(j % min(count, len(values))) for j, i in enumerate(shuffled)}


def pooled(rows: int) -> Shape:
    """The ranker's shape for ``rows`` trials of many runs."""
    return POOLED if rows < LARGE_ROWS else LARGE


def score(train: Sequence[Group], asked: Sequence[Group], seed: int) -> list[Scored]:
    """``asked`` groups, ordered by a ranker fitted on ``train``; none when nothing can be learned."""
    rng = np.random.default_rng(seed)
    train = [thin(g, rng) for g in train]
    if not train or not asked:
        return []
    model = Ranker.fit(
        np.concatenate([g.x for g in train]),
        np.concatenate([g.times for g in train]),
        [len(g.times) for g in train],
        seed=seed,
        shape=pooled(sum(len(g.times) for g in train)),
        names=train[0].names,
    )
    if model is None:
        return []
    found = []
    scores = model.score(np.concatenate([g.x for g in asked]))
    for g, own in zip(asked, np.split(scores, np.cumsum([len(g.times) for g in asked])[:-1])):
        chance = [rng.random(len(g.times)) for _ in range(5)]
        found.append(
            Scored(
                g.shape,
                g.chip,
                tuple(top_k(own, g.times, k) for k in FIRST),
                tuple(
                    float(np.exp(np.mean(np.log(np.maximum([top_k(c, g.times, k) for c in chance], MISS)))))
                    for k in FIRST
                ),
                pairwise_accuracy(own[:2000], g.times[:2000]),
            )
        )
    return found


def leave_out(groups: Sequence[Group], what: str, seed: int, held: bool) -> list[Scored]:
    """Every group (or those kept aside) scored by a ranker that saw none of its fold: of the shapes, of the chips, or
    neither its shape nor its chip."""
    shape = folds(groups, lambda g: g.shape, FOLDS, seed)
    chips = sorted({g.chip for g in groups})
    found: list[Scored] = []
    if what == "chips":
        parts = [([g for g in groups if g.chip != c], [g for g in groups if g.chip == c]) for c in chips]
    else:
        parts = []
        for f in sorted(set(shape.values())):
            train = [g for g in groups if shape[g.shape] != f]
            asked = [g for g in groups if shape[g.shape] == f]
            if what == "shapes":
                parts.append((train, asked))
            else:
                parts += [([g for g in train if g.chip != c], [g for g in asked if g.chip == c]) for c in chips]
    for train, asked in parts:
        found += score(train, [g for g in asked if g.held or not held], seed)
    return found


def report(scored: Sequence[Scored], seed: int) -> dict[str, Any]:
    """What is said of groups that were left out."""
    return {
        "groups": len(scored),
        "left_out": len({s.shape for s in scored}),
        "pairwise_accuracy": float(np.mean([s.accuracy for s in scored])),
        "top": {str(k): summary([s.top[i] for s in scored], scored, seed) for i, k in enumerate(FIRST)},
        "random": {str(k): summary([s.random[i] for s in scored], scored, seed) for i, k in enumerate(FIRST)},
    }


def thin(g: Group, rng: np.random.Generator, best: int = 200, others: int = 200) -> Group:
    """The best trials of a group and a draw of the others: what a tuning log holds."""
    if len(g.times) <= best + others:
        return g
    order = np.argsort(np.where(np.isfinite(g.times), g.times, np.inf), kind="stable")
    keep = np.sort(np.concatenate([order[:best], rng.permutation(order[best:])[:others]]))
    return Group(g.family, g.shape, g.chip, g.x[keep], g.times[keep], g.names)


def summary(values: Sequence[float], scored: Sequence[Scored], seed: int) -> dict[str, Any]:
    """Geometric mean and 5 % quantile (a miss counts as MISS), and the mean's 95 % interval: shapes redrawn, each
    with all its groups."""
    v = np.log(np.maximum(values, MISS))
    _, shape = np.unique([s.shape for s in scored], return_inverse=True)
    total, size = np.bincount(shape, v), np.bincount(shape)
    draws = np.random.default_rng(seed).integers(0, len(size), (1000, len(size)))
    means = np.exp(total[draws].sum(axis=1) / size[draws].sum(axis=1))
    return {
        "mean": float(np.exp(v.mean())),
        "low": float(np.exp(np.quantile(v, 0.05))),
        "interval": [float(q) for q in np.quantile(means, [0.025, 0.975])],
    }


def rows_of(family: str, groups: Sequence[Group], leave: Sequence[str], seed: int, held: bool) -> list[dict[str, Any]]:
    """The table's rows of one family, those that say anything."""
    chips = sorted({g.chip for g in groups})
    asked: list[tuple[str, str, list[Scored]]] = []
    for chip in chips if "shapes" in leave else ():
        on_chip = [g for g in groups if g.chip == chip]
        if len({g.shape for g in on_chip}) > 1:
            asked.append(("shapes", chip, leave_out(on_chip, "shapes", seed, held)))
    some_shapes = len({g.shape for g in groups}) > 1
    for what in leave:
        if len(chips) > 1 and (what == "chips" or (what == "both" and some_shapes)):
            found = leave_out(groups, what, seed, held)
            asked.append((what, "each", found))
            asked += [(what, c, some) for c in chips if len(some := [s for s in found if s.chip == c]) > 1]
    return [
        {"family": family, "left out": what, "chip": chip, "result": report(found, seed)}
        for what, chip, found in asked
        if found
    ]


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """The table."""
    heads = "".join(f"{f'top {k}':>16}" for k in FIRST)
    print(f"{'family':32} {'left out':8} {'chip':28} {'groups':>6}{heads}{'pairs':>7}{'random 5':>16}")
    for r in rows:
        o = r["result"]
        cells = "".join(f"{o['top'][str(k)]['mean']:>8.3f} ({o['top'][str(k)]['low']:.3f})" for k in FIRST)
        chance = o["random"][str(FIRST[-1])]
        start = f"{r['family'][:32]:32} {r['left out']:8} {r['chip'][:28]:28} {o['groups']:>6}"
        print(f"{start}{cells}{o['pairwise_accuracy']:>7.3f}{chance['mean']:>8.3f} ({chance['low']:.3f})")
    if not rows:
        print("nothing to leave out: every family has one shape and one chip")


def log_facts(shapes: Sequence[autoheuristic.Shape]) -> list[dict[str, Any]]:
    """Of each chip's logs: shapes, configs, the vendor library, what repeats allow."""
    facts = []
    for chip in sorted({s.device.chip for s in shapes}):
        own = [s for s in shapes if s.device.chip == chip]
        timed = sum(len(s.runs) for s in own)
        fact = {"chip": chip, "groups": len(own), "trials": timed, "vendor": autoheuristic.vendor(own)}
        facts.append({**fact, "by_other_repeats": autoheuristic.reachable(own)})
    return facts


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m bench.transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("inputs", nargs="+")
    p.add_argument("--leave", default=",".join(LEAVE), help="some of shapes,chips,both")
    p.add_argument("--part", choices=PARTS, default="all")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json")
    args = p.parse_args(argv)
    try:
        leave = [what for what in LEAVE if what in args.leave.split(",")]
        unknown = sorted(set(args.leave.split(",")) - set(LEAVE))
        if unknown:
            raise InvalidInput("--leave", unknown[0], "is nothing that can be left out", f"use some of {LEAVE}")
        groups: list[Group] = []
        logs = autoheuristic.read([name for name in args.inputs if name.endswith(".txt")])
        for name in args.inputs:
            if not name.endswith(".txt"):
                groups += record_groups(name) if Path(name).is_dir() else [recorded_group(name)]
        groups += log_groups(logs) if logs else []
        families: dict[tuple[str, tuple[str, ...]], list[Group]] = {}
        for g in groups:
            if np.isfinite(g.times).sum() >= 2 and not (args.part == "development" and g.held):
                families.setdefault((g.family, g.names), []).append(g)
        if not families:
            raise InvalidInput(
                "transfer inputs",
                args.inputs,
                "hold no two timed trials of anything",
                "give records, recorded spaces or logs",
            )
        rows = [
            row
            for (family, _), members in families.items()
            for row in rows_of(family, members, leave, args.seed, args.part == "held")
        ]
        print_rows(rows)
        facts = log_facts(logs)
        for f in facts:
            v, r = f["vendor"], f["by_other_repeats"]
            print(
                f"{f['chip']}: best config faster than the vendor library on {v['wins']:.0%} of {v['shapes']} "
                f"products, vendor time / best {v['ratio']:.3f}; chosen by other repeats {r['mean']:.4f} "
                f"({r['low']:.3f}) on {r['shapes']} products"
            )
        if args.json:
            versions = {"gpu_tune": gpu_tune.__version__, "lightgbm": lightgbm.__version__, "numpy": np.__version__}
            out = {
                "command": ["bench.transfer", *(argv if argv is not None else sys.argv[1:])],
                "versions": {**versions, "python": platform.python_version()},
                "part": args.part,
                "seed": args.seed,
                "rankers": {f"below {LARGE_ROWS} trials": asdict(POOLED), "from there": asdict(LARGE)},
                "rows": rows,
                "logs": facts,
            }
            Path(args.json).write_text(json.dumps(out, indent=1) + "\n")
    except GpuTuneError as error:
        print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
