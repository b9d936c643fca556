"""Kernels for sizes that nobody listed: are they right, and do they lose time, without a GPU?

    python -m bench.any_size                            # both parts; about half an hour on two idle cores
    python -m bench.any_size --part right --family matmul_mma
    python -m bench.any_size --part time --between 50 --json bench/results/any_size.json

Three workloads, one a family, which have every operation of the epilogue among them, are tuned for up to ``--most`` by
predicted time. ``right``: the set's own kernels are executed by the emulator at the ends of all ranges, one beside
them, at all multiples of their tiles and one beside those, and at ``--random`` further sizes; a size outside must be
one error. ``time``: at ``--between`` sizes that were not tuned, the predicted time of the set's kernel over that of a
kernel tuned for that very size with as many trials; wanted is a median of at most 1.05.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import gpu_tune as gt
from gpu_tune import reference
from gpu_tune.cuda.device import by_name
from gpu_tune.emulator import run_plan
from gpu_tune.kernel.kernel_set import KernelSet
from gpu_tune.measure.compiling import build
from gpu_tune.measure.predicted import PredictedMeasurer
from gpu_tune.store.winner_set import WinnerSet
from gpu_tune.templates.base import Template
from gpu_tune.templates.registry import bind, registry
from gpu_tune.trial import Candidate
from gpu_tune.tuner.size_choice import MOST_SIZES, SizedKernel

DEVICE = "nvidia-h200"
WORKLOADS: Mapping[str, Mapping[str, Any]] = {
    "matmul_wgmma": dict(dtype="bfloat16", layout="nt", epilogue="scale+bias+gelu"),
    "matmul_mma": dict(dtype="float16", layout="nn", epilogue="row_bias+residual+relu", alpha="any", beta="any"),
    "matmul_simt": dict(dtype="float32", layout="nt", epilogue="gelu_tanh+bias+silu+clamp(-1,2)"),
}
WANTED = 1.05


class Case:
    """One family's workload, tuned in a folder of its own."""

    def __init__(self, family: str, options: argparse.Namespace, folder: Path, columns: int, depth: int) -> None:
        self.family, self.options, self.folder = family, options, folder
        self.templates: dict[str, Template] = {family: registry()[family]}
        fields = {**WORKLOADS[family], **({"layout": options.layout} if options.layout else {})}
        self.workload = gt.Matmul(gt.any_of(1, options.most), columns, depth, **fields)
        self.where: dict[str, Any] = dict(store=folder / "kernels", records=folder / "records", device=DEVICE)
        count = len(options.sizes) if options.sizes else MOST_SIZES
        begun = time.monotonic()
        found = self.tune(self.workload, options.trials * count, sizes=options.sizes)
        self.seconds = time.monotonic() - begun
        assert isinstance(found, KernelSet)
        self.kernels = found

    def tune(self, workload: gt.Matmul, trials: int, **more: Any) -> Any:
        options = self.options
        return gt.tune(workload, trials=trials, seed=options.seed, templates=self.templates, progress=False,
                       **self.where, **more)  # fmt: skip

    def right(self) -> dict[str, Any]:
        """How many sizes were executed, and what was wrong at which."""
        winners, wrong = self.kernels.winners, dict[int, str]()
        sizes = sizes_to_run(winners, self.options.random, self.options.seed)
        for size in sizes:
            if said := self.executed(size):
                wrong[size] = said
        outside = 0
        for size in (0, self.options.most + 1):
            try:
                self.kernels.at(size)
            except gt.InvalidInput as error:
                outside += f"{size} is not in 1..{self.options.most}" in str(error)
        return {"sizes": len(sizes), "wrong": wrong, "errors outside": f"{outside} of 2"}

    def executed(self, size: int) -> str:
        """Empty where the kernel for ``size`` is right, and does nothing that it must not, else what is wrong."""
        kernel, workload = self.kernels.at(size), self.workload.at(size)
        arrays = reference.example_inputs(workload, self.options.seed)
        scalars = {name: value for name, value in (("alpha", 0.75), ("beta", 0.5)) if name in workload.scalars()}
        given = {**arrays, "out": reference.allocate(workload.arrays()["out"], np.nan)}
        chip = by_name(DEVICE)
        report = run_plan(kernel.source, kernel.plan, given, scalars=scalars, arch=chip.arch, device=chip, seed=size)
        if report.findings:
            return str(report)[:300]
        numerics = self.templates[self.family].numerics(kernel.config, workload)
        compared = reference.compare(report.arrays["out"], workload, arrays, scalars, numerics=numerics)
        return "" if compared.ok else str(compared)

    def times(self) -> dict[str, Any]:
        """The ratios of predicted times, by size, and their median."""
        draw, winners = random.Random(self.options.seed), self.kernels.winners
        known = {getattr(k.workload, winners.size.name) for k in winners.kernels} | set(winners.sizes)
        between = [s for s in range(1, self.options.most + 1) if s not in known]
        # as many of each order of magnitude: drawn evenly by the logarithm
        chosen = sorted({between[int(len(between) ** draw.random()) - 1] for _ in range(4 * self.options.between)})
        chosen = sorted(draw.sample(chosen, min(self.options.between, len(chosen))))
        bound = bind(self.workload, by_name(DEVICE), self.templates, self.options.most)
        ratios = {}
        with PredictedMeasurer(bound, store=self.folder / "compiled") as measurer:
            sized = {}
            for number, winner in enumerate(winners.kernels):
                tuned = getattr(winner.workload, winners.size.name)
                (there,) = bind(self.workload, by_name(DEVICE), self.templates, tuned)
                made = build(there, Candidate(winner.template, winner.config), measurer.pool)
                sized[number] = SizedKernel(made, winner.policy)
            for size in chosen:
                ours = sized[winners.range_of(size).kernel].predicted(size)
                exact = self.tune(self.workload.at(size), self.options.trials)
                ratios[size] = ours / exact.seconds
                print(f"  {self.family} m={size}: {ratios[size]:.3f}", flush=True)
        values = sorted(ratios.values())
        return {
            "source": winners.source,
            "ratios": ratios,
            "median": statistics.median(values),
            "worst": values[-1],
            "above 1.05": sum(value > WANTED for value in values),
            "trials": winners.trials,
            "seconds to tune": round(self.seconds),
        }


def sizes_to_run(winners: WinnerSet, count: int, seed: int) -> list[int]:
    """Ends of ranges and multiples of tiles, one below and one above each, and ``count`` random sizes."""
    low, high = winners.size.bounds
    edges = {end for part in winners.ranges for end in (part.least, part.most)}
    for part in winners.ranges:
        config = winners.kernels[part.kernel].config
        tile = int(config["block_m"]) * int(config.get("cluster_m", 1))
        edges.update(range(-(-part.least // tile) * tile, part.most + 1, tile))
    near = {size + step for size in edges for step in (-1, 0, 1)}
    drawn = random.Random(seed).sample(range(low, high + 1), min(count, high - low + 1))
    return sorted(size for size in {*near, *drawn} if low <= size <= high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("right", "time"), action="append", help="both, unless named")
    parser.add_argument("--family", choices=tuple(WORKLOADS), action="append", help="all, unless named")
    parser.add_argument("--layout", choices=("nn", "nt", "tn", "tt"), help="of all workloads (default: each its own)")
    parser.add_argument("--most", type=int, default=4096, help="the largest m (default: 4096)")
    parser.add_argument("--sizes", type=int, nargs="+", help="sizes to search (default: as tune chooses them)")
    parser.add_argument("--trials", type=int, default=48, help="trials a searched size (default: 48)")
    parser.add_argument("--random", type=int, default=300, help="random sizes to execute (default: 300)")
    parser.add_argument("--between", type=int, default=50, help="sizes whose times are compared (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found to FILE")
    options = parser.parse_args()
    parts, failed, found = options.part or ["right", "time"], False, dict[str, Any]()
    warnings.simplefilter("ignore")
    for family in options.family or WORKLOADS:
        for part in parts:
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as name:
                shape = (96, 64) if part == "right" else (4096, 2048)
                case = Case(family, options, Path(name), *shape)
                told = case.right() if part == "right" else case.times()
            winners = case.kernels.winners
            ranges = [(r.least, r.most, winners.kernels[r.kernel].workload.key) for r in winners.ranges]
            found[f"{family} {part}"] = {**told, "ranges": ranges}
            if part == "right":
                bad = bool(told["wrong"]) or told["errors outside"] != "2 of 2"
                summary = f"{told['sizes']} sizes executed, {len(told['wrong'])} wrong; "
                summary += f"errors outside: {told['errors outside']}"
            else:
                bad = told["median"] > WANTED
                summary = f"median {told['median']:.3f} (wanted: {WANTED}), worst {told['worst']:.2f}"
            failed |= bad
            mark, took = "MISSED" if bad else "met", time.monotonic() - start
            print(f"{family} {part}: {mark}: {summary}; {took:.0f} s", flush=True)
            for size, said in list(told.get("wrong", {}).items())[:5]:
                print(f"  m={size}: {said}")
    if options.json:
        settings = {k: v for k, v in vars(options).items() if k != "json"}
        options.json.write_text(json.dumps({"settings": settings, "found": found}, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
