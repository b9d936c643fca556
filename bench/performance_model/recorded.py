"""How well the model orders the configs of recorded spaces whose kernels are not ours.

    python -m bench.performance_model.recorded SPACES... --limit 250 --json recorded.json

``SPACES``: Kernel Tuner cache files or T4 results of the kernels ``convolution_kernel``, ``cn_pnpoly`` and
``dedispersion_kernel``, as the autotuning community's hub has them. Of each, ``--limit`` configs are drawn (the same
for every space of the same configs), a kernel that we wrote to the same parameters is compiled for the chip, without a
GPU, and ``gpu_tune.predict`` orders them. **The code differs from what was timed**, and so did the compiler: this says
how far an order carries over, and is no judgement of times. Configs that failed there are not drawn.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.performance_model.metrics import Array, chance, rank_correlation, top
from bench.performance_model.recorded_problems import PROBLEMS, Problem, knobs
from gpu_tune.cuda import cubin as cubins
from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import GIB, KNOWN, Device
from gpu_tune.errors import CompileError, InvalidInput
from gpu_tune.model.performance.costs import CAUSES
from gpu_tune.model.performance.foreign import predict
from gpu_tune.space.knob import Config
from gpu_tune.store.interchange import load
from gpu_tune.store.recorded_space import Recorded

FIRST = (1, 3, 5, 16)
_MORE = {
    d.product: d
    for d in (
        # data sheets: SMs, memory, L2, boost clock, bandwidth
        Device("nvidia-rtx-a4000", "NVIDIA RTX A4000", (8, 6), 48, 16 * GIB, 4 << 20, 1560, 448e9, {}),
        Device("nvidia-rtx-a6000", "NVIDIA RTX A6000", (8, 6), 84, 48 * GIB, 6 << 20, 1800, 768e9, {}),
        Device("nvidia-rtx-3060-laptop", "NVIDIA GeForce RTX 3060 Laptop GPU", (8, 6), 30, 6 * GIB, 3 << 20, 1425,
               336e9, {}),
    )
}  # fmt: skip
"""Chips of recorded spaces that the product's table does not have."""


@dataclass(frozen=True)
class Space:
    """A sample of one recorded space: ``times`` in seconds, and the best of the whole space."""

    name: str
    problem: Problem
    device: Device
    configs: tuple[Config, ...]
    times: Array
    best: float


def device_of(product: str) -> Device:
    """The chip that a space names; InvalidInput where its figures are not known."""
    known = {**{d.product: d for d in KNOWN.values()}, **_MORE}
    if product not in known:
        raise InvalidInput("recorded space's device", product, f"is none of {', '.join(known)}", "leave it out")
    return known[product]


def sample(recorded: Recorded, name: str, limit: int, seed: int) -> Space:
    """``limit`` trials that were timed, drawn from all in the order of their configs, so that spaces of one kernel on
    several chips give the same ones, less what failed."""
    if recorded.kernel not in PROBLEMS:
        raise InvalidInput(f"{name}: kernel", recorded.kernel, f"is none of {', '.join(PROBLEMS)}", "leave it out")
    size = [n for n in recorded.problem_size if n > 1]
    trials = sorted(recorded.trials, key=lambda t: t.config.key)
    order = np.random.default_rng(seed).permutation(len(trials))
    timed = [(trials[i], time) for i in order if (time := trials[i].time) is not None]
    drawn, times = [t for t, _ in timed[:limit]], np.array([time for _, time in timed[:limit]])
    best = recorded.best.time or math.nan
    configs = tuple(t.config for t in drawn)
    return Space(name, PROBLEMS[recorded.kernel](*size), device_of(recorded.device), configs, times, best)


@dataclass(frozen=True)
class Guess:
    """Of one config: seconds with and without the lanes' addresses (infinite: does not compile or fit), the share of
    the SM's threads that are resident, and that of the cycles without an instruction at hand (the cause ``fetch``)."""

    seconds: float = math.inf
    blind: float = math.inf
    occupancy: float = 0.0
    fetch: float = 0.0


def guess(problem: Problem, config: Config, cubin: bytes, device: Device) -> Guess:
    """What the model says of a config."""
    k = knobs(config)
    grid, block = problem.grid(k), problem.block(k)
    trips = trips_of(problem, cubins.programs(cubin)[problem.kernel], k)
    ask: dict[str, Any] = {"trips": trips, "dram_bytes": problem.dram_bytes, "device": device}
    found = predict(cubin, grid, block, arguments=problem.arguments(k), **ask)
    blind = predict(cubin, grid, block, **ask).seconds
    cycles = sum(found.causes.get(cause, 0.0) for cause in CAUSES)
    fetch = found.causes.get("fetch", 0.0) / cycles if cycles else 0.0
    return Guess(found.seconds, blind, found.resident * math.prod(block) / device.threads_per_sm, fetch)


def trips_of(problem: Problem, program: cubins.Program, k: dict[str, int]) -> float:
    """How often the code's hot loop runs: the compiler may have unrolled the source's."""
    if program.hot_loop is None:
        return 1.0
    first, last = program.hot_loop
    marked = (program.is_(problem.marker) & ~program.constant & ~program.never)[first : last + 1].sum()
    if not marked:
        raise InvalidInput(f"{problem.file}: hot loop", k, f"has no {problem.marker}", "count another instruction")
    return problem.steps * problem.per_step(k) / float(marked)


class Compiler:
    """Cubins by text and architecture; None where the compiler refuses."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], bytes | None] = {}

    def __call__(self, source: str, arch: str) -> bytes | None:
        key = source, arch
        if key not in self._kept:
            try:
                self._kept[key] = nvrtc.to_cubin(source, arch, options=("-lineinfo",)).data
            except CompileError:
                self._kept[key] = None
        return self._kept[key]


def judge(space: Space, compiler: Compiler) -> dict[str, Any]:
    """The rows of a space's table: what each predictor's first picks reach of the sample's best."""
    guesses = []
    for config in space.configs:
        cubin = compiler(space.problem.source(config), space.device.arch)
        guesses.append(guess(space.problem, config, cubin, space.device) if cubin else Guess())
    threads = np.array([-float(math.prod(space.problem.block(knobs(c)))) for c in space.configs])
    blocks = np.array([float(math.prod(space.problem.grid(knobs(c)))) for c in space.configs])
    predictors = {
        "the model": np.array([g.seconds for g in guesses]),
        "without lanes' addresses": np.array([g.blind for g in guesses]),
        "highest occupancy": np.array([-g.occupancy for g in guesses]),
        "largest tile": blocks,
        "most threads a block": threads,
    }
    times = space.times
    rows = {"random": {"rank": 0.0, **{f"top{k}": chance(times, k) for k in FIRST}}}
    for name, order in predictors.items():
        rows[name] = {"rank": rank_correlation(order, times), **{f"top{k}": top(order, times, k) for k in FIRST}}
    fits = np.isfinite(predictors["the model"])
    ratio = predictors["the model"][fits] / times[fits]
    return {
        "device": space.device.product,
        "kernel": space.problem.kernel,
        "configs": len(times),
        "not predicted": int((~fits).sum()),
        "sample over space": float(space.best / times.min()),
        "median over best": float(np.median(times) / times.min()),
        "with fetch": sum(g.fetch > 0 for g in guesses),
        "most fetch": max(g.fetch for g in guesses),
        "predicted over measured": [float(q) for q in np.quantile(ratio, [0.05, 0.5, 0.95])] if len(ratio) else [],
        "rows": rows,
    }


def show(name: str, found: dict[str, Any]) -> None:
    """Print one space's table."""
    print(f"\n{name}: {found['kernel']} on {found['device']}")
    print(
        f"  {found['configs']} configs ({found['not predicted']} predicted not to fit), the best of them "
        f"{found['sample over space']:.3f} of the\n  space's; the median config takes "
        f"{found['median over best']:.2f} times the best"
    )
    if found["with fetch"]:
        share = f"up to {found['most fetch']:.0%} of their cycles"
        print(f"  {found['with fetch']} configs wait for instructions, {share}")
    if found["predicted over measured"]:
        low, middle, high = found["predicted over measured"]
        print(f"  predicted over measured time: {middle:.2f} in the median, {low:.2f} to {high:.2f} in 90 %")
    print(f"  {'best of the first':27}" + "".join(f"{k:>8}" for k in FIRST) + f"{'rank correlation':>19}")
    for row, of in found["rows"].items():
        print(f"  {row:27}" + "".join(f"{of[f'top{k}']:8.3f}" for k in FIRST) + f"{of['rank']:19.2f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spaces", nargs="+", type=Path, help="recorded spaces, .json or .json.gz")
    parser.add_argument("--limit", type=int, default=250, help="configs a space")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    asked = parser.parse_args(arguments)
    print("The code differs from what was timed: our own, written to the same parameters.")
    compiler = Compiler()
    spaces: dict[str, Any] = {}
    for path in asked.spaces:
        name = path.name.removesuffix(".gz").removesuffix(".json")
        spaces[name] = judge(sample(load(path), name, asked.limit, asked.seed), compiler)
        show(name, spaces[name])
        if asked.json:
            head = {"limit": asked.limit, "seed": asked.seed, "nvrtc": ".".join(map(str, nvrtc.version()))}
            asked.json.write_text(json.dumps({**head, "spaces": spaces}, indent=1) + "\n")


if __name__ == "__main__":
    main()
