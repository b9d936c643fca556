"""How fast a tuning goes and what it spends its time on: one cold tuning, taken apart.

    python -m bench.throughput matmul 4096 4096 4096 --dtype bfloat16 --layout nt --seconds 60
    python -m bench.throughput matmul 1024 1024 1024 --dtype float32 --trials 200 --jobs 2 --json throughput.json

Prints candidates per second; what the loop did with its time, which adds up to the whole (searching, rendering and
handing over, waiting for measurements, the rest); beside it, what went on meanwhile: compiling (share of all workers),
verifying and timing, and the device idle; how many binaries were timed, and that none was timed twice; and how long it
took until the best so far was within 5 % of the final one. Records and compiled kernels go to a temporary folder, so
that nothing is known beforehand. Without a GPU times of kernels are predicted, and that is said: they are estimates
then, there is no idle share, and the seconds of search and compiling are real.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu_tune.measure.select import make_measurer
from gpu_tune.search.search import Tuner
from gpu_tune.store.records import Records
from gpu_tune.trial import MEASURED
from gpu_tune.tuner.budget import Budget, Progress
from gpu_tune.tuner.loop import Loop
from gpu_tune.workload import Matmul


class Clock:
    """Adds up the seconds spent in the functions that it wraps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed under ``name``."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        return timed


def run(
    workload: Matmul,
    budget: Budget,
    *,
    kind: str = "auto",
    device: str | None = None,
    jobs: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """One cold tuning of ``workload``; the figures as a dict."""
    clock = Clock()
    curve: list[tuple[float, float]] = []
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu_tune-throughput-"))
        options: dict[str, Any] = dict(kind=kind, device=device, jobs=jobs, store=Path(folder), seed=seed)
        measurer: Any = stack.enter_context(make_measurer(workload, **options))
        tuner: Any = Tuner(workload, device=measurer.device, seed=seed, pipelined=True)
        tuner.ask, tuner.tell = clock.wrap("search", tuner.ask), clock.wrap("search", tuner.tell)
        progress = Progress(workload, measurer.device, measurer.source, budget)

        def note(now: Progress) -> None:
            if now.best is not None and (not curve or now.best.time < curve[-1][1]):
                curve.append((time.perf_counter() - start, now.best.time))

        loop: Any = Loop(tuner, measurer, Records(Path(folder) / "records"), progress, note)
        loop._collect = clock.wrap("wait", loop._collect)
        measurer.submit = clock.wrap("submit", measurer.submit)
        loop.run()
        searched, spent = time.perf_counter() - start, dict(clock.seconds)
        confirmed = clock.wrap("finals", loop.finals)()
        wall = time.perf_counter() - start
        workers = measurer.pool.size
    busy: Counter[str] = Counter()
    for m in tuner.observations:
        busy.update(m.seconds)
    hashes = [m.cubin_hash for m in tuner.observations if m.ok and m.cubin_hash]
    parts = {name: spent.get(name, 0.0) / searched for name in ("search", "submit", "wait")}
    device_busy = busy["verify"] + busy["time"]
    final = curve[-1][1] if curve else 0.0
    return {
        "workload": workload.key,
        "chip": progress.device.chip,
        "source": progress.source,
        "jobs": workers,
        "trials": progress.trials,
        "statuses": dict(progress.statuses),
        "ended": loop.ended,
        "wall_seconds": wall,
        "search_phase_seconds": searched,
        "candidates_per_second": progress.trials / searched,
        "seconds": {"search": spent.get("search", 0.0), "finals": clock.seconds["finals"], **busy},
        "loop": {**parts, "rest": 1 - sum(parts.values())},
        "timed": len(hashes),
        "timed_twice": len(hashes) - len(set(hashes)),
        "share_of_compile": busy["compile"] / searched / workers,
        "share_of_measure": device_busy / searched,
        "device_idle_share": 1 - device_busy / searched if progress.source == MEASURED else None,
        "seconds_to_95_percent": next((t for t, best in curve if best <= final / 0.95), None),
        "winner": str(confirmed.winner.key) if confirmed.winner else None,
        "noise_floor": confirmed.noise_floor,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.throughput", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("op", choices=["matmul"])
    for name in ("m", "n", "k"):
        parser.add_argument(name, type=int)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--layout", default="nt")
    parser.add_argument("--epilogue", default="")
    parser.add_argument("--device")
    parser.add_argument("--kind", default="auto", choices=["auto", "gpu", "predicted"])
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    workload = Matmul(given.m, given.n, given.k, dtype=given.dtype, layout=given.layout, epilogue=given.epilogue)
    found = run(
        workload,
        Budget(given.trials, given.seconds),
        kind=given.kind,
        device=given.device,
        jobs=given.jobs,
        seed=given.seed,
    )
    predicted = " (times are predicted)" if found["source"] != MEASURED else ""
    print(f"{found['workload']} on {found['chip']}{predicted}, {found['jobs']} compile workers")
    rate = f"{found['candidates_per_second']:.2f} a second"
    counts = ", ".join(f"{n} {s}" for s, n in found["statuses"].items())
    print(f"{found['trials']} trials in {found['search_phase_seconds']:.1f} s: {rate}; {counts}")
    words = {"search": "searching", "submit": "rendering and handing over", "wait": "waiting for measurements"}
    words["rest"] = "opening and the rest"
    print("the loop: " + ", ".join(f"{words.get(k, k)} {share:.1%}" for k, share in found["loop"].items()))
    names = (("compile", "compiling (of all workers)"), ("measure", "verifying and timing"))
    print("meanwhile: " + ", ".join(f"{name} {found[f'share_of_{key}']:.1%}" for key, name in names))
    print(f"{found['timed']} binaries timed, {found['timed_twice']} of them twice")
    if found["device_idle_share"] is not None:
        print(f"device idle {found['device_idle_share']:.1%} of the search phase")
    to_95 = found["seconds_to_95_percent"]
    print(f"within 5 % of the final best after {to_95:.1f} s" if to_95 is not None else "nothing was timed")
    print(f"finals {found['seconds']['finals']:.1f} s; winner {found['winner']}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
