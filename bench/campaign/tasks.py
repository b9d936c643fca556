"""The pieces of a campaign and what each does: checks, random spaces, tunings, comparisons with the libraries."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.campaign import workloads
from bench.campaign.schedule import Task, Unfinished
from bench.campaign.setup import Setup
from gpu_tune.emulator import unavailable_reason
from gpu_tune.errors import GpuTuneError
from gpu_tune.measure import emulated
from gpu_tune.measure.baselines import NAMES, names_for
from gpu_tune.measure.finals import Check
from gpu_tune.measure.protocol import Measurer
from gpu_tune.measure.select import make_measurer
from gpu_tune.store.records import Record
from gpu_tune.store.store import lookup
from gpu_tune.store.winner import Winner
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.trial import MEASURED, Candidate
from gpu_tune.tuner.tune import tune
from gpu_tune.workload import Workload, to_dict

ROOT = Path(__file__).parents[2]
CONFIGS, CHUNK = 2000, 100
"""Random configs of a template and workload in all, and in one task."""
PROGRAM = 200.0
"""Seconds that a program among the checks may take."""
HANGS = 6
"""A template is sampled no more when so many of its trials hung, and a quarter of them did."""
GPU_TESTS = ("test_1_driver.py", "test_2_templates.py", "test_4_tuned_kernel.py", "test_3_measure.py")


def tasks(setup: Setup) -> Iterator[Task]:
    """Every task, each phase in the order of priority; names are stable."""
    yield from _checks(setup)
    yield from _spaces(setup)
    for name in setup.templates:
        for i, w in enumerate(workloads.small(setup, name, 3)):
            work = functools.partial(sample, setup, name, w, setup.count(40), 1 + i)
            yield Task("templates", f"{name} {w.key} {i}", work, 30.0)
    box = setup.box.get("seconds", 0.0)
    for w in workloads.tuned(setup):
        yield Task("tuning", w.key, functools.partial(tuning, setup, w), 10.0 + 2 * box)
        yield Task("again", w.key, functools.partial(again, setup, w), 60.0)


def _checks(setup: Setup) -> Iterator[Task]:
    python = [sys.executable, "-u"]
    conformance = [*python, "-m", "bench.conformance"]
    if setup.kind == "gpu" and not setup.toy:
        pytest = [*python, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
        programs = {f"tests/gpu/{n}": [*pytest, str(ROOT / "tests" / "gpu" / n)] for n in GPU_TESTS}
        dump = str(setup.logs / f"hardware-cc{setup.device.cc}.npz")
        check = {"bench.conformance": [*conformance, "check", "--archive", dump]}
        first = dict(list(programs.items())[:1])  # what the driver does wrong explains all else
        for name, command in {**first, **check, **programs}.items():
            yield Task("checks", name, functools.partial(program, setup, name, command), PROGRAM / 2)
    elif setup.kind == "predicted" and setup.scale >= 1:
        command = [*conformance, "emulate", str(setup.out / "emulator.npz"), "--cc", str(setup.device.cc)]
        name = "bench.conformance"
        yield Task("checks", name, functools.partial(program, setup, name, command), PROGRAM)
    if setup.kind == "gpu":
        parts = (("floor", 60.0), ("versus", 90.0), ("tunings", 120.0))
        for part, needs in parts if setup.scale >= 0.01 else parts[:1]:
            yield Task("checks", f"noise {part}", functools.partial(noise, setup, part), needs)
    if not setup.toy:
        for name in setup.templates:
            for i, w in enumerate(workloads.small(setup, name)):
                yield Task("checks", f"{name} {w.key} {i}", functools.partial(conform, setup, name, w), 30.0)


def _spaces(setup: Setup) -> Iterator[Task]:
    total = setup.count(CONFIGS)
    for first in range(0, total, CHUNK):  # breadth before depth: every shape has some before any has all
        for i, w in enumerate(workloads.spaces(setup)):
            for name, template in setup.templates.items():
                if name != "matmul_simt" and template.op == "matmul" and template.supported(w, setup.device) is True:
                    size = min(CHUNK, total - first)
                    work = functools.partial(sample, setup, name, w, size, 100 + i, first, total)
                    yield Task("spaces", f"{name} {w.key} {i} {first}", work, 40.0)


def program(setup: Setup, name: str, command: Sequence[str], limit: float = PROGRAM) -> dict[str, Any]:
    """Run a program in its own process group, at most ``limit`` seconds; its exit status and last lines. All that it
    says goes to a log. Unfinished when the slice's end cuts it short."""
    start = time.monotonic()
    cut = setup.end - start < limit
    limit = max(1.0, setup.end - start) if cut else limit
    setup.logs.mkdir(parents=True, exist_ok=True)
    with (setup.logs / f"{name.replace('/', '-')}.log").open("w+", errors="replace") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT)
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = f"killed after {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        told.seek(0)
        lines = told.read().splitlines()
    if cut and isinstance(code, str):
        raise Unfinished(f"{code}, at the end of the slice")
    return {"exit": code, "seconds": round(time.monotonic() - start, 1), "tail": [line[:200] for line in lines[-40:]]}


def noise(setup: Setup, part: str) -> dict[str, Any]:
    """The marks of one part of bench.noise."""
    from bench.noise import __main__ as marks  # with the kernels of the tests, which nothing else needs

    options: dict[str, Any] = {"trials": 2, "seconds": 0.3} if setup.scale < 1 else {"trials": 20, "seconds": 30.0}
    with tempfile.TemporaryDirectory(prefix="gpu_tune-noise-") as folder:
        return {"marks": marks.run(Path(folder), [part], **options, only_toy=setup.toy)}


def conform(setup: Setup, name: str, w: Workload) -> dict[str, Any]:
    """The default and random configs of a template on device and emulator: how each ends, and where they differ."""
    if unavailable_reason():
        return {"failed": unavailable_reason()}
    template = setup.templates[name]
    space = BoundTemplate(template, w, setup.device).space()
    configs = [c for c in (space.default(), *space.sample(setup.count(6), np.random.default_rng(setup.seed))) if c]
    ends_as: Counter[str] = Counter()
    differ = []
    with make_measurer(w, **setup.common) as m:
        for end in [f.result() for f in [m.submit(Candidate(name, c)) for c in configs]]:
            check = _emulated(m, end.candidate, setup.seed)
            place, right = "gpu" if setup.kind == "gpu" else "model", "ok" if check.ok else "not ok"
            timed = "ok" if end.status == "duplicate" else end.status
            ends_as[f"{place} {timed}, emulator {right}"] += 1
            if (timed == "ok") != check.ok:
                facts = {"config": dict(end.candidate.config), "gpu": end.reason or end.status}
                differ.append({**facts, "emulator": check.detail})
    return {"counts": dict(ends_as), "differ": differ[:5]}


def _emulated(measurer: Measurer, candidate: Candidate, seed: int) -> Check:
    """What the emulator says; not ok where the candidate cannot even be built."""
    try:
        return emulated.check(measurer.build(candidate), seed)
    except GpuTuneError as error:
        return Check("result", "emulator", False, f"could not be built: {error}"[:500])


def sample(setup: Setup, name: str, w: Workload, n: int, seed: int, first: int = 0, of: int = 0) -> dict[str, Any]:
    """``n`` random configs from place ``first`` of a sample of ``of``; every trial goes on record."""
    template = setup.templates[name]
    space = BoundTemplate(template, w, setup.device).space()
    configs = space.sample(max(of, n), np.random.default_rng([setup.seed, seed]))[first : first + n]
    book = setup.records
    book.prepare()
    ends_as: Counter[str] = Counter()
    best = None
    try:
        with make_measurer(w, **setup.common) as m:
            known = [r for r in book.read(m.source, chip=setup.device.chip) if r.template_hash == template.hash()]
            hung = sum(r.measurement.status == "run_timeout" for r in known)
            if hung >= HANGS and 4 * hung >= len(known):
                return {"failed": f"given up: {hung} of {len(known)} trials of {name} hung"}
            # what a tuning chose to try is no random sample
            done = {r.measurement.candidate for r in known if r.run == "campaign" and r.workload == w}
            todo = [Candidate(name, c) for c in configs if Candidate(name, c) not in done]
            for future in [m.submit(c) for c in todo]:
                if time.monotonic() > setup.end:
                    raise Unfinished(f"{sum(ends_as.values())} of {len(todo)} configs")  # what is in flight is given up
                end = future.result()
                ends_as[end.status] += 1
                best = min(best or end.time, end.time) if end.ok else best
                book.append(Record(w, setup.device.chip, template.hash(), end, time.time(), "campaign"))
    finally:
        book.close()
    return {"counts": dict(ends_as), "best_seconds": best}


def tuning(setup: Setup, w: Workload) -> dict[str, Any]:
    """Tune one workload; the winner and, on a GPU, how it compares."""
    tuned: Any = tune(w, store=setup.store, records=setup.records, **setup.box, **setup.common)
    winner = tuned.winner
    found = {
        "workload": to_dict(w),
        "template": winner.template,
        "config": dict(winner.config),
        "source": winner.source,
        "seconds": winner.seconds,
        "trials": winner.trials,
        "default_speedup": (winner.verdict.get("default") or {}).get("speedup"),
        "text": winner.verdict.get("text", ""),
    }
    return {**found, "versus": _versus(winner) if setup.kind == "gpu" else None}


def _versus(winner: Winner) -> dict[str, Any]:
    """What :func:`again` tells, from the verdict that the tuning ended with: the libraries that every tuning times."""
    verdict = winner.verdict
    libraries = [c for c in verdict["finalists"] if c["name"].partition("-")[0] in NAMES]
    versus = {k: verdict[k] for k in ("text", "noise_floor", "vendor", "ratio", "low", "high") if k in verdict}
    return {
        **versus,
        "decided": verdict.get("ours") in ("faster", "slower"),
        "ours": winner.seconds,
        "baselines": {c["name"]: c["seconds"] for c in libraries if c["status"] == "ok"},
        "labels": {c["name"]: c["label"] for c in libraries if c["status"] == "ok"},
        "absent": {c["name"]: c["reason"] or c["status"] for c in libraries if c["status"] != "ok"},
        "clocks": winner.environment.get("clocks"),
    }


def again(setup: Setup, w: Workload) -> dict[str, Any]:
    """The stored winner against every baseline that is installed, interleaved; with predicted times nothing."""
    if setup.kind != "gpu":
        return {"versus": None}
    found = lookup(w, setup.device.chip, MEASURED, store=setup.store)
    assert found is not None
    with make_measurer(w, baselines=names_for(w), **setup.common) as m:
        c = m.finals([Candidate(found[0].template, found[0].config)])
    times = {x.name if x.candidate is None else "ours": statistics.median(x.samples) for x in c.finalists if x.ok}
    versus: dict[str, Any] = {"text": str(c), "noise_floor": c.noise_floor, "vendor": c.vendor}
    if c.verdict is not None:
        v = c.verdict
        versus.update(ratio=v.ratio, low=v.low, high=v.high, decided=v.decided)
    libraries = [x for x in c.finalists if x.candidate is None]
    versus.update(
        ours=times.pop("ours", None),
        baselines=times,
        labels={x.name: x.label for x in libraries if x.ok},
        absent={x.name: x.reason or x.status for x in libraries if not x.ok},
        clocks=c.environment.get("clocks"),
    )
    return {"versus": versus}
