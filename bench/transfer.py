"""How well a ranker trained on some workloads or chips orders the configs of another that it never saw.

    python bench/transfer.py RECORDS_FOLDER_OR_RECORDED_SPACE ... [--json out.json]

Takes folders of this project's records (their groups are template x workload x chip) and recorded spaces, Kernel
Tuner or T4 (groups are kernel x problem size x device; one file each). Groups of one template or kernel are a family.
For every family: *shapes* leaves a fold of its workloads out on each chip and trains on that chip's others; *chips*
leaves a chip out and trains on the others. Printed is best time / best time among the model's first 1, 3 and 5, as
geometric mean over the left-out groups with the 5 % quantile in brackets, beside the same for a random order and, for
the ranker, its pairwise accuracy. Modelled records are left aside where there are measured ones, and are called
modelled in the table: their times come from a formula, and how well a formula is learned says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_tune.errors import GpuTuneError, InvalidInput
from gpu_tune.interchange import RecordedSpace, load
from gpu_tune.model.evaluation import pairwise_accuracy, top_k
from gpu_tune.model.ranker import POOLED, Ranker
from gpu_tune.trial import MEASURED, MODELLED

FIRST = (1, 3, 5)
FOLDS = 5


@dataclass(frozen=True)
class Group:
    """Trials of one family on one shape and chip: features (n, f), times (n,) seconds with nan for failures."""

    family: str
    shape: str
    chip: str
    x: np.ndarray
    times: np.ndarray
    names: tuple[str, ...]


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
    from gpu_tune.model.transfer import Past, device_of
    from gpu_tune.records import Records
    from gpu_tune.space.space import TemplateSpace
    from gpu_tune.templates.base import registry

    book = Records(Path(folder))
    source = next((s for s in (MEASURED, MODELLED) if any(True for _ in book.read(s))), None)
    by: dict[tuple[str, Any, str], list[Any]] = {}
    for record in book.read(source) if source else ():
        by.setdefault((record.measurement.candidate.template, record.workload, record.chip), []).append(
            record.measurement
        )
    groups = []
    for (name, workload, chip), measurements in by.items():
        device = device_of(chip)
        if name in registry() and device is not None:
            space = TemplateSpace(registry()[name], workload, device)
            past = Past.of(space, measurements, workload.key)
            groups.append(
                Group(
                    f"{source} {name}" if source == MODELLED else name,
                    workload.key,
                    chip,
                    past.features,
                    past.times,
                    past.names,
                )
            )
    return groups


def leave_out(groups: Sequence[Group], by: Callable[[Group], str], folds: int, seed: int) -> dict[str, Any] | None:
    """Every group scored by a ranker that saw none of its fold; folds are of ``by``'s values."""
    values = sorted({by(g) for g in groups})
    if len(values) < 2:
        return None
    shuffled = np.random.default_rng(seed).permutation(len(values))
    fold = {values[i]: int(j % min(folds, len(values))) for j, i in enumerate(shuffled)}
    found: dict[int, list[float]] = {k: [] for k in FIRST}
    chance: dict[int, list[float]] = {k: [] for k in FIRST}
    accuracy: list[float] = []
    rng = np.random.default_rng(seed)
    for f in sorted(set(fold.values())):
        train = [thin(g, rng) for g in groups if fold[by(g)] != f]
        model = Ranker.fit(
            np.concatenate([g.x for g in train]),
            np.concatenate([g.times for g in train]),
            [len(g.times) for g in train],
            seed=seed,
            shape=POOLED,
            names=groups[0].names,
        )
        for g in groups:
            if fold[by(g)] == f and model is not None:
                score = model.score(g.x)
                accuracy.append(pairwise_accuracy(score[:2000], g.times[:2000]))
                for k in FIRST:
                    found[k].append(top_k(score, g.times, k))
                    chance[k].extend(top_k(rng.random(len(g.times)), g.times, k) for _ in range(5))
    if not accuracy:
        return None
    return {
        "groups": len(accuracy),
        "left_out": len(values),
        "pairwise_accuracy": float(np.mean(accuracy)),
        "top": {str(k): summary(found[k]) for k in FIRST},
        "random": {str(k): summary(chance[k]) for k in FIRST},
    }


def thin(g: Group, rng: np.random.Generator, best: int = 200, others: int = 200) -> Group:
    """The best trials of a group and a draw of the others: what a tuning log holds."""
    if len(g.times) <= best + others:
        return g
    order = np.argsort(np.where(np.isfinite(g.times), g.times, np.inf), kind="stable")
    keep = np.sort(np.concatenate([order[:best], rng.permutation(order[best:])[:others]]))
    return Group(g.family, g.shape, g.chip, g.x[keep], g.times[keep], g.names)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Geometric mean and 5 % quantile (a miss counts as a tenth)."""
    v = np.maximum(values, 0.1)
    return {"mean": float(np.exp(np.log(v).mean())), "low": float(np.quantile(v, 0.05))}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("inputs", nargs="+")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json")
    args = p.parse_args(argv)
    try:
        groups: list[Group] = []
        for name in args.inputs:
            groups += record_groups(name) if Path(name).is_dir() else [recorded_group(name)]
        families: dict[tuple[str, tuple[str, ...]], list[Group]] = {}
        for g in groups:
            if np.isfinite(g.times).sum() >= 2:
                families.setdefault((g.family, g.names), []).append(g)
        if not families:
            raise InvalidInput(
                "transfer inputs",
                args.inputs,
                "hold no two timed trials of anything",
                "give records or recorded spaces",
            )
        result: list[dict[str, Any]] = []
        for (family, _), members in families.items():
            for chip in sorted({g.chip for g in members}):
                on_chip = [g for g in members if g.chip == chip]
                result.append(
                    {
                        "family": family,
                        "left out": "shapes",
                        "chip": chip,
                        "result": leave_out(on_chip, lambda g: g.shape, FOLDS, args.seed),
                    }
                )
            chips = len({g.chip for g in members})
            result.append(
                {
                    "family": family,
                    "left out": "chips",
                    "chip": "each",
                    "result": leave_out(members, lambda g: g.chip, chips, args.seed),
                }
            )
        done = [r for r in result if r["result"]]
        heads = "".join(f"{f'top {k}':>16}" for k in FIRST)
        print(f"{'family':32} {'left out':8} {'chip':28} {'groups':>6}{heads}{'pairs':>7}{'random 5':>16}")
        for r in done:
            o = r["result"]
            cells = "".join(f"{o['top'][str(k)]['mean']:>8.3f} ({o['top'][str(k)]['low']:.3f})" for k in FIRST)
            chance = o["random"][str(FIRST[-1])]
            start = f"{r['family'][:32]:32} {r['left out']:8} {r['chip'][:28]:28} {o['groups']:>6}"
            print(f"{start}{cells}{o['pairwise_accuracy']:>7.3f}{chance['mean']:>8.3f} ({chance['low']:.3f})")
        if not done:
            print("nothing to leave out: every family has one shape and one chip")
        if args.json:
            Path(args.json).write_text(json.dumps(done, indent=1) + "\n")
    except GpuTuneError as error:
        print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
