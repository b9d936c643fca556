"""Replays recorded tuning spaces with several searchers and prints how close each comes to the optimum, and when.

    python bench/search.py SPACE.json.gz ... --searchers random,cold,warm,kt:genetic_algorithm --seeds 20 --json
    out.json

Searchers: ``random``; ``ga`` (this search with its models off); ``trees`` (LightGBM and children alone in fixed
batches of 16, the simple form that others are compared with); ``cold``; ``warm`` (given logs of 200 trials on every
other device whose space of the same kernel is among the arguments; where there is none it is ``cold``, so that means
over the spaces that have one are told beside); ``cold-late`` (``cold``, but a batch is chosen
before the previous one's results are known, with smaller first batches, as ``--pipelined`` does for all);
``kt:NAME``, a Kernel Tuner strategy with default options where that package is installed (a fresh Searchspace each
run). Counted are distinct configs, failures included; a run that ends early keeps its last value. Ratios are optimum
time / best time found; intervals are 95 % bootstrap over seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpu_tune.errors import GpuTuneError, InvalidInput
from gpu_tune.interchange import RecordedSpace, load
from gpu_tune.model.transfer import Past
from gpu_tune.search import Search
from gpu_tune.search_arm import PIPELINED, Settings
from gpu_tune.search_stop import LEAST, PATIENCE, stopped

SEARCHERS = ("random", "ga", "trees", "cold", "cold-late", "warm")
MARKS = (25, 50, 100, 200, 400)
LOGS, LOG_TRIALS = 4, 200
TREES = Settings(spread=1, trees=0.6, smooth=0.0, children=0.3, early=16, niche=0.0)
GENETIC = Settings(spread=1, trees=0.0, smooth=0.0, children=0.9, early=16, niche=0.0)

_spaces: dict[str, RecordedSpace] = {}
_logs: dict[tuple[str, int], list[int]] = {}


def space_of(path: str) -> RecordedSpace:
    """The recorded space in ``path``, read once per process."""
    if path not in _spaces:
        _spaces[path] = RecordedSpace(load(path))
    return _spaces[path]


def run(job: tuple[str, str, int, argparse.Namespace, Sequence[Past]]) -> tuple[str, str, int, list[float], float]:
    """One replay: (path, searcher, seed, best ratio after each trial, seconds spent searching)."""
    path, searcher, seed, args, history = job
    space = space_of(path)
    budget = min(args.trials, len(space))
    order: list[float]
    if searcher == "random":
        picks = np.random.default_rng(seed).permutation(len(space))[:budget]
        order, spent = list(space.times()[picks]), 0.0
    elif searcher.startswith("kt:"):
        order, spent = kernel_tuner(space, searcher[3:], seed, budget)
    else:
        order, spent = ours(space, searcher, seed, budget, args, history)
    best = np.minimum.accumulate([*order, *[np.inf] * (budget - len(order))])
    return path, searcher, seed, list(space.optimum / best), spent


def ours(
    space: RecordedSpace, searcher: str, seed: int, budget: int, args: argparse.Namespace, history: Sequence[Past]
) -> tuple[list[float], float]:
    """Times in the order tried (inf: failed) and the seconds of ask and tell."""
    late = int(args.pipelined or searcher == "cold-late")
    own = replace(PIPELINED if late else Settings(), **json.loads(args.settings))
    base = {"trees": TREES, "ga": GENETIC}.get(searcher, own)
    search = Search([space], seed=seed, batch=args.batch, settings=base, history=history if searcher == "warm" else ())
    flight: list[Any] = []
    order: list[float] = []
    spent, asked = 0.0, 0
    while len(order) < budget:
        began = time.perf_counter()
        batch = search.ask(budget - asked) if asked < budget else []
        spent += time.perf_counter() - began
        asked += len(batch)
        ended = [space.measurement(c.config, repeats=False) for c in batch]
        order.extend(m.time if m.ok else np.inf for m in ended)
        flight.append(ended)
        if not batch and not any(flight):
            break
        began = time.perf_counter()
        while len(flight) > late:
            search.tell(flight.pop(0))
        spent += time.perf_counter() - began
    return order, spent


def kernel_tuner(space: RecordedSpace, name: str, seed: int, budget: int) -> tuple[list[float], float]:
    """The same with a Kernel Tuner strategy: its own code and defaults over the recorded results."""
    try:
        from kernel_tuner.interface import Options, strategy_map
        from kernel_tuner.searchspace import Searchspace
        from kernel_tuner.util import RuntimeFailedConfig, StopCriterionReached, TuningBudget
    except ImportError as error:
        raise InvalidInput(
            "searcher", f"kt:{name}", "needs kernel_tuner, which is not installed", "pip install kernel_tuner"
        ) from error
    if name not in strategy_map:
        raise InvalidInput(
            "searcher", f"kt:{name}", "is not a Kernel Tuner strategy", f"use one of {', '.join(strategy_map)}"
        )
    keys = [k.name for k in space.knobs]
    results = {}
    for t in space.recorded.trials:
        entry: dict[str, Any] = dict(t.config)
        entry.update(
            {"time": t.time * 1e3}
            if t.time is not None
            else {"time": RuntimeFailedConfig(), "__error__": RuntimeFailedConfig()}
        )
        results[",".join(str(t.config[k]) for k in keys)] = entry
    truth = {key: np.inf if t.time is None else t.time for key, t in zip(results, space.recorded.trials)}
    params = {k.name: list(k.values) for k in space.knobs}
    order: list[float] = []
    budget_object = TuningBudget(None, budget)

    class Runner:
        simulation_mode = True

        def __init__(self) -> None:
            self.seen: set[str] = set()

        def add_strategy_time(self, seconds: float) -> None:
            pass

        def get_device_info(self) -> Any:
            return argparse.Namespace(max_threads=10**9)

        def run(self, configs: Any, options: Any) -> list[Any]:
            found: list[Any] = []
            for config in configs:
                if budget_object.is_done():
                    found.append(None)
                    continue
                key = ",".join(str(v) for v in config)
                result = dict(results[key])
                if key not in self.seen:
                    self.seen.add(key)
                    budget_object.add_evaluations(1)
                    order.append(truth[key])
                found.append(result)
            return found

    random.seed(seed)
    np.random.seed(seed)
    began = time.perf_counter()
    fresh = Searchspace(None, None, None, from_cache={"tune_params": params, "cache": results})
    options = Options(
        {
            "objective": ["time"],
            "objective_higher_is_better": [False],
            "strategy_options": Options(max_fevals=budget),
            "max_fevals": budget,
            "budget": budget_object,
            "metrics": None,
            "tune_params": params,
            "verbose": False,
            "simulation_mode": True,
            "restrictions": None,
            "cache": results,
            "quiet": True,
            "strategy": name,
        }
    )
    with contextlib.suppress(StopCriterionReached):
        strategy_map[name].tune(fresh, Runner(), options)
    return order[:budget], time.perf_counter() - began


def logs(paths: Sequence[str], args: argparse.Namespace, pool: Any) -> dict[tuple[str, int], Past]:
    """What warm runs are given: cold runs of ``LOG_TRIALS`` trials on every space, ``LOGS`` of them by turns."""
    jobs = [(path, 10_000 + i, args) for path in paths for i in range(LOGS)]
    return dict(zip([(p, s - 10_000) for p, s, _ in jobs], pool(log, jobs)))


def log(job: tuple[str, int, argparse.Namespace]) -> Past:
    """One cold run as history."""
    path, seed, args = job
    space = space_of(path)
    search = Search([space], seed=seed, batch=args.batch)
    while len(search.told) < min(LOG_TRIALS, len(space)):
        batch = search.ask(LOG_TRIALS - len(search.told))
        if not batch:
            break
        search.tell([space.measurement(c.config, repeats=False) for c in batch])
    return Past.of(space, search.told, f"{space.name} on {space.recorded.device}")


def kin(path: str, paths: Sequence[str]) -> list[str]:
    """The other devices' spaces of the same kernel and knobs."""
    own = space_of(path)
    names = [k.name for k in own.knobs]
    return [
        p
        for p in paths
        if p != path
        and space_of(p).name == own.name
        and [k.name for k in space_of(p).knobs] == names
        and space_of(p).recorded.device != own.recorded.device
    ]


def summary(curves: dict[str, dict[str, np.ndarray]], marks: Sequence[int], draws: int = 1000) -> dict[str, Any]:
    """Per searcher: mean over spaces of the median ratio at each mark, trials to 95 % and 99 %, with intervals."""
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {}
    samples: dict[str, np.ndarray] = {}
    seeds = next(iter(next(iter(curves.values())).values())).shape[0]
    picks = rng.integers(0, seeds, (draws, seeds))
    for searcher, by_space in curves.items():
        at = np.stack([c[:, [min(m, c.shape[1]) - 1 for m in marks]] for c in by_space.values()])
        boot = np.stack([np.median(a[picks], axis=1) for a in at]).mean(axis=0)
        samples[searcher] = boot
        need = {g: np.stack([first(c, g) for c in by_space.values()]) for g in (0.95, 0.99)}
        out[searcher] = {
            "ratio": np.median(at, axis=1).mean(axis=0).tolist(),
            "low": np.quantile(boot, 0.025, axis=0).tolist(),
            "high": np.quantile(boot, 0.975, axis=0).tolist(),
            "lower_quartile": np.quantile(at, 0.25, axis=1).mean(axis=0).tolist(),
            "trials_to": {f"{g:.2f}": float(np.median(n, axis=1).mean()) for g, n in need.items()},
            "not_reached": {
                f"{g:.2f}": float(np.mean([np.mean(c[:, -1] < g) for c in by_space.values()])) for g in need
            },
            "spaces": {
                s: {
                    "ratio": np.median(a, axis=0).tolist(),
                    "lower_quartile": np.quantile(a, 0.25, axis=0).tolist(),
                    "trials_to_0.99": float(np.median(first(c, 0.99))),
                }
                for (s, c), a in zip(by_space.items(), at)
            },
        }
        out[searcher]["plateau"] = {str(risk): plateau(by_space, risk) for risk, _ in PATIENCE}
    names = list(curves)
    out["differences"] = {
        f"{b} - {a}": {
            "mean": (np.array(out[b]["ratio"]) - out[a]["ratio"]).tolist(),
            "low": np.quantile(samples[b] - samples[a], 0.025, axis=0).tolist(),
            "high": np.quantile(samples[b] - samples[a], 0.975, axis=0).tolist(),
        }
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }
    return out


def plateau(by_space: dict[str, np.ndarray], risk: float) -> dict[str, float]:
    """When the stopping rule ends the runs (mean over spaces of the median; the budget where it does not), and the
    share of runs whose best at that moment is more than 1 % behind their best at the end."""
    at, lost = [], []
    for curves in by_space.values():
        ends = []
        for curve in curves:
            times = np.divide(1.0, curve, out=np.full(len(curve), np.inf), where=curve > 0)
            end = next((n for n in range(LEAST, len(times)) if stopped(times[:n], risk)), len(times))
            ends.append(end)
            lost.append(curve[end - 1] < 0.99 * curve[-1])
        at.append(np.median(ends))
    return {"trials": float(np.mean(at)), "lost": float(np.mean(lost))}


def first(curves: np.ndarray, goal: float) -> np.ndarray:
    """Trials until each run reaches ``goal``; the budget where it does not."""
    hit = curves >= goal
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, curves.shape[1])


def show(result: dict[str, Any], marks: Sequence[int]) -> str:
    """The table for people."""
    lines = [
        "optimum / best found, mean over spaces of the median over seeds [95 % interval]",
        f"{'searcher':28}" + "".join(f"{m:>22}" for m in marks) + f"{'to 95 %':>9}{'to 99 %':>9}{'s/run':>8}",
    ]
    for name, r in result["searchers"].items():
        cells = "".join(f"{x:>8.3f} [{a:.3f}-{b:.3f}]" for x, a, b in zip(r["ratio"], r["low"], r["high"]))
        lines.append(
            f"{name:28}{cells}{r['trials_to']['0.95']:>9.0f}{r['trials_to']['0.99']:>9.0f}{r['seconds']:>8.2f}"
        )
    part = result.get("with_other_devices")
    if part:
        lines.append(f"the same over the {len(part['spaces'])} spaces with records of other devices")
    for name, r in part["searchers"].items() if part else ():
        cells = "".join(f"{x:>8.3f} [{a:.3f}-{b:.3f}]" for x, a, b in zip(r["ratio"], r["low"], r["high"]))
        lines.append(f"{name:28}{cells}{r['trials_to']['0.95']:>9.0f}{r['trials_to']['0.99']:>9.0f}")
    for name, r in result["searchers"].items():
        stops = "  ".join(f"risk {k}: {v['trials']:.0f} trials, {v['lost']:.1%} lost" for k, v in r["plateau"].items())
        lines.append(f"{name:28} plateau rule: {stops}")
    for pair, d in result["differences"].items():
        cells = "".join(f"{x:>+8.3f} [{a:+.3f},{b:+.3f}]" for x, a, b in zip(d["mean"], d["low"], d["high"]))
        lines.append(f"{pair:28}{cells}")
    for name, r in result["searchers"].items():
        lines.extend(
            f"  {name:12} {space:44}" + "".join(f"{x:>7.3f}" for x in s["ratio"]) + f"{s['trials_to_0.99']:>7.0f}"
            for space, s in r["spaces"].items()
        )
    return "\n".join(lines)


def plot(curves: dict[str, dict[str, np.ndarray]], path: str) -> None:
    """Median ratio, averaged over spaces, against trials."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name, by_space in curves.items():
        length = min(c.shape[1] for c in by_space.values())
        middle = np.mean([np.median(c[:, :length], axis=0) for c in by_space.values()], axis=0)
        axes.plot(np.arange(1, length + 1), middle, label=name)
    axes.set(xlabel="configs measured", ylabel="optimum time / best time found", ylim=(0.6, 1.005), xscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("spaces", nargs="+")
    p.add_argument("--searchers", default="random,trees,cold")
    p.add_argument("--seeds", type=int, default=20)
    p.add_argument("--first-seed", type=int, default=0)
    p.add_argument("--trials", type=int, default=200)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--processes", type=int, default=1)
    p.add_argument("--pipelined", action="store_true")
    p.add_argument("--settings", default="{}", help="JSON of search settings for cold and warm")
    p.add_argument("--minutes", type=float, default=1e9, help="stop after these; seeds that all have finished count")
    p.add_argument("--json")
    p.add_argument("--plot")
    args = p.parse_args(argv)
    try:
        names = {path: Path(path).name.split(".")[0] for path in args.spaces}
        for path in args.spaces:
            space_of(path)
        began = time.perf_counter()
        searchers = args.searchers.split(",")
        unknown = [s for s in searchers if s not in SEARCHERS and not s.startswith("kt:")]
        if unknown:
            raise InvalidInput("searcher", unknown[0], "is unknown", f"use {', '.join(SEARCHERS)} or kt:NAME")
        context = multiprocessing.get_context("fork")
        pool = context.Pool(args.processes) if args.processes > 1 else None
        mapper = (lambda f, jobs: pool.imap_unordered(f, jobs) if f is run else pool.map(f, jobs)) if pool else map
        past = logs(args.spaces, args, mapper) if "warm" in searchers else {}
        jobs = [
            (path, s, seed, args, [past[k, seed % LOGS] for k in kin(path, args.spaces)] if s == "warm" else [])
            for seed in range(args.first_seed, args.first_seed + args.seeds)
            for path in args.spaces
            for s in searchers
        ]
        marks = [m for m in MARKS if m <= args.trials]
        curves: dict[str, dict[str, Any]] = {s: {names[path]: {} for path in args.spaces} for s in searchers}
        spent: dict[str, list[float]] = {s: [] for s in searchers}
        for path, searcher, seed, curve, seconds in mapper(run, jobs):
            curves[searcher][names[path]][seed] = curve
            spent[searcher].append(seconds)
            if time.perf_counter() - began > 60 * args.minutes:
                break
        whole = set.intersection(*(set(c) for by in curves.values() for c in by.values()))
        if not whole:
            raise InvalidInput("--minutes", args.minutes, "is too short for one seed", "give more")
        curves = {s: {n: {k: c[k] for k in whole} for n, c in by.items()} for s, by in curves.items()}
        done = {s: {n: np.array([c[k] for k in sorted(c)]) for n, c in by.items()} for s, by in curves.items()}
        table = summary(done, marks)
        result = {
            "marks": marks,
            "trials": args.trials,
            "seeds": sorted(whole),
            "batch": args.batch,
            "pipelined": args.pipelined,
            "settings": json.loads(args.settings),
            "spaces": sorted(names.values()),
            "differences": table.pop("differences"),
            "searchers": table,
        }
        for s in searchers:
            table[s]["seconds"] = float(np.mean(spent[s]))
        related = [names[path] for path in args.spaces if "warm" in searchers and kin(path, args.spaces)]
        if 0 < len(related) < len(names):
            part = summary({s: {n: by[n] for n in related} for s, by in done.items()}, marks)
            keys = ("ratio", "low", "high", "trials_to")
            result["with_other_devices"] = {
                "spaces": sorted(related),
                "searchers": {s: {k: part[s][k] for k in keys} for s in searchers},
            }
        print(show(result, marks))
        if args.json:
            Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
        if args.plot:
            plot(done, args.plot)
    except GpuTuneError as error:
        print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
