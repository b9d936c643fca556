"""Everything worth measuring on a GPU host, in slices that can be stopped, moved and resumed; each useful by itself.

    python bench/campaign.py plan                                    # what would run, in order, and the wheels needed
    python bench/campaign.py run --out results --seconds 540 --archive results/slice-1
    python bench/campaign.py run --out results --seconds 540 --archive results/slice-2
    python bench/campaign.py run --out fresh --resume results/slice-2-*.tar.gz --seconds 540 --archive slice-3
    python bench/campaign.py table --out results                     # the tables once more
    python bench/campaign.py results --out results                   # bench/RESULTS.md, from what was measured

Phases, each with a share of the time; whichever is furthest behind its share goes next, so that every slice holds
something of each, in the order of value within each:

- checks:    does the emulator agree with the GPU (conformance.py), tests/gpu, the marks of the measuring (noise.py),
             small workloads of every template on both
- tuning:    a prioritised list of workloads, each with a time box, and the winner against every installed baseline
- spaces:    unbiased random configs of the tensor-core matmul templates, failures kept: which knobs pay, and data
- templates: every template at random configs, each result compared with the reference
- again:     winners against the baselines once more, to see whether verdicts repeat

State, records and winners lie in ``--out``; a task that was interrupted runs again, and trials on record are not
repeated. Each slice leaves at most ``--files`` archives of at most ``--megabytes`` that a later slice can resume from
on another machine. Without a GPU the device is modelled (``--kind modelled``): a rehearsal, whose times mean nothing;
``--toy`` rehearses on a small kernel that the virtual GPU of the tests knows.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import campaign_archive  # noqa: E402
import campaign_tables  # noqa: E402

PHASES = {"checks": 0.10, "tuning": 0.42, "spaces": 0.33, "templates": 0.07, "again": 0.08}
"""Share of the time that each phase is given as long as it has something left to do."""
WHEELS = (
    "gpu_tune (built here: python -m build --wheel)",
    "numpy", "ml_dtypes", "jinja2", "markupsafe", "lightgbm", "scipy", "narwhals", "rich", "click", "pebble",
    "pygments", "markdown-it-py", "mdurl", "pytest", "hypothesis", "pluggy", "iniconfig", "packaging",
    "sortedcontainers",
    "nvidia-cuda-nvrtc (of the driver's CUDA major)", "nvidia-cublas", "cupy-cuda13x or -cuda12x", "cuda-pathfinder",
    "nvidia-cudnn-frontend and nvidia-cudnn-cu13 or -cu12 (for cuDNN)", "torch and triton (for their baselines)",
)  # fmt: skip
"""For a host without an index: pip download --only-binary :all: --python-version 3.12 (cp312, or what the host has)."""
SHAPES = (
    (4096, 4096, 4096),
    (8192, 8192, 1024),
    (1024, 1024, 1024),
    (128, 8192, 4096),
    (2048, 1536, 1000),
    (16, 4096, 4096),
)
FIRST = tuple(
    f"matmul-{shape}-bfloat16-nt"
    for shape in ("4096x6144x4096", "16x57344x8192", "8192x12288x16384", "512x512x512", "1x4608x3584", "128x28672x4096")
)
"""Headline workloads that tell most: a prefill, a decode, a large, a small, a matrix-vector and a skinny one."""
CONFIGS, CHUNK = 2000, 100
BOX = 40.0
"""Seconds that tuning one workload may take."""
PROGRAM = 200.0
"""Seconds that a program among the checks may take."""
GPU_TESTS = ("test_1_driver.py", "test_2_templates.py", "test_3_measure.py", "test_4_tuned_kernel.py")


@dataclasses.dataclass(frozen=True)
class Task:
    """One resumable piece: ``run()`` returns a JSON-ready result. ``needs``: it is not begun with less time left."""

    phase: str
    name: str
    run: Callable[[], Any]
    needs: float = 10.0


class Campaign:
    """Tasks, their state in ``out`` and what they need. ``scale`` shrinks counts and boxes for a rehearsal."""

    def __init__(
        self, out: Path, kind: str, device: str | None, scale: float, seed: int, *, toy: bool = False, jobs: int = 0
    ) -> None:
        from gpu_tune import measure
        from gpu_tune.device import DEFAULT, by_name

        self.out, self.scale, self.seed, self.jobs = out, scale, seed, jobs or None
        found = measure.detect_device() if kind != "modelled" else None
        if kind == "gpu" and found is None:
            raise SystemExit("no CUDA GPU was found; rehearse with --kind modelled")
        self.kind = "gpu" if found is not None else "modelled"
        self.device = found or by_name(device or DEFAULT)
        self.rehearsal = self.kind == "modelled" or toy or bool(os.environ.get("GPU_TUNE_LIBCUDA"))
        self.templates = self._toy() if toy else None
        self.state: dict[str, Any] = {
            "done": {},
            "spent": dict.fromkeys(PHASES, 0.0),
            "kind": self.kind,
            "chip": self.device.chip,
            "rehearsal": self.rehearsal,
            "slices": 0,
        }
        if self.state_file.exists():
            known = json.loads(self.state_file.read_text())
            here = (self.kind, self.device.chip, self.rehearsal)
            if (known["kind"], known["chip"], known["rehearsal"]) != here:
                raise SystemExit(
                    f"{out} belongs to {known['kind']} {known['chip']}, here is {self.kind} {self.device.chip}; "
                    "use another --out"
                )
            self.state = known

    @property
    def state_file(self) -> Path:
        """Where the state is kept."""
        return self.out / "state.json"

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Results by phase and task name."""
        done = self.state["done"].items()
        return {p: {k.split(": ", 1)[1]: v["result"] for k, v in done if k.startswith(p + ": ")} for p in PHASES}

    def save(self) -> None:
        """Write the state, whole or not at all."""
        self.out.mkdir(parents=True, exist_ok=True)
        fresh = self.state_file.with_suffix(".new")
        fresh.write_text(json.dumps(self.state, indent=1))
        os.replace(fresh, self.state_file)

    def tasks(self) -> Iterator[Task]:
        """Every task, each phase in the order of priority; names are stable."""
        yield from self._checks()
        yield from self._spaces()
        for name in self.registry:
            for i, w in enumerate(self._small(name, 3)):
                work = functools.partial(self._random, name, w, self._count(40), 1 + i)
                yield Task("templates", f"{name} {w.key} {i}", work, 30.0)
        box = self._box().get("seconds", 0.0)
        for w in self._workloads():
            yield Task("tuning", w.key, functools.partial(self._tune, w), 10.0 + 3 * box)
            yield Task("again", w.key, functools.partial(self._again, w), 60.0)

    def run(self, seconds: float) -> None:
        """Run tasks until ``seconds`` are over. A task that would not fit any more is left to the next slice."""
        end = time.monotonic() + seconds
        self.state["slices"] += 1
        waiting: dict[str, list[Task]] = {p: [] for p in PHASES}
        for task in self.tasks():
            if self._key(task) not in self.state["done"]:
                waiting[task.phase].append(task)
        while (task := self._next(waiting, end - time.monotonic())) is not None:
            waiting[task.phase].remove(task)
            self._one(task)
        self.save()

    def _next(self, waiting: Mapping[str, list[Task]], left: float) -> Task | None:
        """The first task that fits of the phase that is furthest behind its share."""
        spent = self.state["spent"]
        for phase in sorted(PHASES, key=lambda p: spent[p] / PHASES[p]):
            for task in waiting[phase]:
                ready = phase != "again" or "failed" not in self.results["tuning"].get(task.name, {"failed": ""})
                if ready and task.needs * min(1.0, self.scale) < left:
                    return task
        return None

    def _one(self, task: Task) -> None:
        start = time.monotonic()
        try:
            result = task.run()
        except KeyboardInterrupt:
            raise
        except Exception as error:  # one task's failure is a result; the hour goes on
            result = {"failed": f"{type(error).__name__}: {error}"}
        took = time.monotonic() - start
        self.state["spent"][task.phase] += took
        self.state["done"][self._key(task)] = {"seconds": round(took, 2), "result": result}
        self.save()
        print(f"{task.phase:9s} {task.name}  {took:.1f} s  {json.dumps(result)[:160]}", flush=True)

    def _key(self, task: Task) -> str:
        return f"{task.phase}: {task.name}"

    def _count(self, n: int) -> int:
        return max(2, round(n * self.scale))

    def _box(self) -> dict[str, Any]:
        return {"seconds": BOX} if self.scale >= 1 else {"trials": 12}

    @functools.cached_property
    def registry(self) -> Mapping[str, Any]:
        """The templates by name, those that matter most first: matmul, then tensor cores of Hopper."""
        from gpu_tune.templates.base import registry

        known = registry() if self.templates is None else self.templates
        return {n: known[n] for n in sorted(known, key=lambda n: (not n.startswith("matmul"), "wgmma" not in n, n))}

    def _toy(self) -> dict[str, Any]:
        sys.path.insert(0, str(HERE.parent / "tests" / "measure"))
        import toy

        from gpu_tune.space.knob import Knob

        folder = self.out / "toy"
        folder.mkdir(parents=True, exist_ok=True)
        made = toy.make(folder)
        knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in made.knobs)
        return {"toy": dataclasses.replace(made, knobs=knobs)}

    def _checks(self) -> Iterator[Task]:
        if self.kind == "gpu" and self.templates is None:
            python = [sys.executable, "-u"]
            command = [*python, str(HERE / "conformance.py"), "check"]
            yield Task("checks", "conformance.py", functools.partial(_program, command, PROGRAM), PROGRAM)
            for name in GPU_TESTS:
                path = HERE.parent / "tests" / "gpu" / name
                command = [*python, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", str(path)]
                yield Task("checks", f"tests/gpu/{name}", functools.partial(_program, command, PROGRAM), PROGRAM)
        elif self.kind == "modelled" and self.scale >= 1:
            self.out.mkdir(parents=True, exist_ok=True)
            with_chip = [sys.executable, str(HERE / "conformance.py"), "emulate", str(self.out / "emulator.npz")]
            command = [*with_chip, "--cc", str(self.device.cc)]
            yield Task("checks", "conformance.py", functools.partial(_program, command, PROGRAM), PROGRAM)
        if self.kind == "gpu":
            parts = (("floor", 60.0), ("versus", 90.0), ("tunings", 120.0))
            for part, needs in parts if self.scale >= 0.01 else parts[:1]:
                yield Task("checks", f"noise {part}", functools.partial(self._noise, part), needs)
        if self.templates is None:
            for name in self.registry:
                for i, w in enumerate(self._small(name)):
                    yield Task("checks", f"{name} {w.key} {i}", functools.partial(self._conform, name, w), 30.0)

    def _noise(self, part: str) -> dict[str, Any]:
        import noise

        small = self.scale < 1
        with tempfile.TemporaryDirectory(prefix="gpu_tune-noise-") as folder:
            options: dict[str, Any] = {"trials": 2 if small else 20, "seconds": 0.3 if small else 30.0}
            marks = noise.run(Path(folder), [part], **options, only_toy=self.templates is not None)
        return {"marks": marks}

    def _small(self, name: str, limit: int = 1) -> list[Any]:
        """Small workloads that template ``name`` supports: tails, several tiles."""
        from gpu_tune.workload import Conv2d, Matmul

        candidates: list[Any] = [Matmul(40, 33, 24, dtype="float32")] if self.templates is not None else []
        for dtype in ("bfloat16", "float16", "float32", "int8", "float8_e4m3"):
            math: dict[str, Any] = {"math": ("tf32",)} if dtype == "float32" else {}
            for m, n, k in ((272, 400, 208), (130, 264, 96)):
                candidates.append(Matmul(m, n, k, dtype=dtype, layout="nt", **math))
            candidates += [
                Matmul(130, 120, 72, dtype=dtype, layout="nn", epilogue="bias+relu" if dtype != "int8" else "")
            ]
            for winograd in ((), ("winograd",)):
                with contextlib.suppress(Exception):  # not every permission means something for every dtype
                    candidates += [Conv2d(2, 64, 14, 14, 64, 3, 3, padding=1, dtype=dtype, math=winograd)]
            groups = 64 if dtype in ("float16", "float32") else 1
            candidates += [Conv2d(2, 64, 14, 14, 64, 3, 3, padding=1, dtype=dtype, groups=groups)]
        template = self.registry[name]
        return [w for w in candidates if template.supported(w, self.device) is True][:limit]

    def _measurer(self, workload: Any, **options: Any) -> Any:
        from gpu_tune.measure import open_measurer

        device = None if self.kind == "gpu" else self.device
        known: dict[str, Any] = dict(kind=self.kind, seed=self.seed, jobs=self.jobs, templates=self.templates)
        return open_measurer(workload, device=device, **known, **options)

    def _conform(self, name: str, w: Any) -> dict[str, Any]:
        from gpu_tune.measure import emulated
        from gpu_tune.space.space import TemplateSpace
        from gpu_tune.trial import Candidate

        if emulated.unavailable():
            return {"failed": emulated.unavailable()}
        template = self.registry[name]
        space = TemplateSpace(template, w, self.device)
        configs = [c for c in (space.default(), *space.sample(self._count(6), np.random.default_rng(self.seed))) if c]
        ends_as: Counter[str] = Counter()
        differ = []
        with self._measurer(w) as m:
            for end in [f.result() for f in [m.submit(Candidate(name, c)) for c in configs]]:
                check = emulated.check(end.candidate, template, w, self.device, self.seed)
                place, right = "gpu" if self.kind == "gpu" else "model", "ok" if check.ok else "not ok"
                timed = "ok" if end.status == "duplicate" else end.status
                ends_as[f"{place} {timed}, emulator {right}"] += 1
                if (timed == "ok") != check.ok:
                    facts = {"config": dict(end.candidate.config), "gpu": end.reason or end.status}
                    differ.append({**facts, "emulator": check.detail})
        return {"counts": dict(ends_as), "differ": differ[:5]}

    def _random(self, name: str, w: Any, n: int, seed: int, first: int = 0, of: int = 0) -> dict[str, Any]:
        """``n`` random configs from place ``first`` of a sample of ``of``; every trial goes on record."""
        from gpu_tune.records import Record, Records
        from gpu_tune.space.space import TemplateSpace
        from gpu_tune.trial import Candidate

        template = self.registry[name]
        space = TemplateSpace(template, w, self.device)
        configs = space.sample(max(of, n), np.random.default_rng([self.seed, seed]))[first : first + n]
        book = Records(self.out / "store" / "records")
        book.prepare()
        ends_as: Counter[str] = Counter()
        best = None
        try:
            with self._measurer(w) as m:
                known = book.read(m.source, chip=self.device.chip, key=w.key)
                mine = [r for r in known if r.run == "campaign" and r.template_hash == template.hash()]
                done = {r.measurement.candidate for r in mine}  # what a tuning chose to try is no random sample
                todo = [Candidate(name, c) for c in configs if Candidate(name, c) not in done]
                for end in [f.result() for f in [m.submit(c) for c in todo]]:
                    ends_as[end.status] += 1
                    best = min(best or end.time, end.time) if end.ok else best
                    book.append(Record(w, self.device.chip, template.hash(), end, time.time(), "campaign"))
        finally:
            book.close()
        return {"counts": dict(ends_as), "best_seconds": best}

    def _spaces(self) -> Iterator[Task]:
        from gpu_tune.workload import Matmul

        shapes: tuple[tuple[int, int, int], ...] = SHAPES
        dtype = {"dtype": "bfloat16", "layout": "nt"}
        if self.scale < 1:
            shapes = tuple((min(m, 512), min(n, 512), min(k, 512)) for m, n, k in SHAPES[:2])
        if self.templates is not None:
            shapes, dtype = ((24, 20, 16), (16, 16, 32)), {"dtype": "float32", "layout": "nn"}
        total = self._count(CONFIGS)
        for first in range(0, total, CHUNK):  # breadth before depth: every shape has some before any has all
            for i, (m, n, k) in enumerate(shapes):
                for name, template in self.registry.items():
                    w = Matmul(m, n, k, **dtype)  # type: ignore[arg-type]
                    if name != "matmul_simt" and template.op == "matmul" and template.supported(w, self.device) is True:
                        size = min(CHUNK, total - first)
                        work = functools.partial(self._random, name, w, size, 100 + i, first, total)
                        yield Task("spaces", f"{name} {w.key} {i} {first}", work, 40.0)

    def _workloads(self) -> Iterator[Any]:
        """What is tuned, the most telling first: six of the headline, then a fixed stride through it and conv."""
        from gpu_tune import suites
        from gpu_tune.workload import Matmul

        if self.templates is not None:
            yield from (Matmul(24, 20, 16, dtype="float32"), Matmul(16, 16, 32, dtype="float32"))
            return
        entries = {e.workload.key: e.workload for e in suites.load("headline").entries}
        stride, keys = 7, list(entries)  # coprime to most lengths: sizes and decades mix
        order = [entries[k] for k in FIRST] + [
            entries[keys[i]] for s in range(stride) for i in range(s, len(keys), stride)
        ]
        conv = [e.workload for e in suites.load("resnet18-n16").entries]
        mixed = order[:3] + [w for pair in zip(conv, order[3:]) for w in pair] + order[3 + len(conv) :]
        seen: set[str] = set()
        for w in mixed if self.scale >= 1 else [entries["matmul-512x512x512-bfloat16-nt"], conv[1]]:
            if w.key not in seen:
                seen.add(w.key)
                yield w

    def _tune(self, w: Any) -> dict[str, Any]:
        from gpu_tune.records import Records
        from gpu_tune.store import Store
        from gpu_tune.tuner import tune
        from gpu_tune.workload import to_dict

        kernel = tune(
            w,
            kind=self.kind,
            device=None if self.kind == "gpu" else self.device,
            seed=self.seed,
            jobs=self.jobs,
            templates=self.templates,
            store=Store(self.out / "store" / "kernels"),
            records=Records(self.out / "store" / "records"),
            **self._box(),
        )
        winner = kernel.winner
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
        return {**found, "versus": self._versus(w) if self.kind == "gpu" else None}

    def _again(self, w: Any) -> dict[str, Any]:
        if self.kind != "gpu":
            return {"versus": None}
        return {"versus": self._versus(w)}

    def _versus(self, w: Any) -> dict[str, Any]:
        """The stored winner against every baseline that is installed, interleaved."""
        from gpu_tune.measure.baselines import names_for
        from gpu_tune.store import Store, lookup
        from gpu_tune.trial import MEASURED, Candidate

        found = lookup(w, self.device.chip, MEASURED, store=Store(self.out / "store" / "kernels"))
        assert found is not None
        with self._measurer(w, baselines=names_for(w)) as m:
            c = m.confirm([Candidate(found[0].template, found[0].config)])
        times = {x.name if x.candidate is None else "ours": statistics.median(x.samples) for x in c.contenders if x.ok}
        against: dict[str, Any] = {"text": str(c), "noise_floor": c.noise_floor, "vendor": c.vendor}
        if c.verdict is not None:
            v = c.verdict
            against.update(ratio=v.ratio, low=v.low, high=v.high, decided=v.decided)
        libraries = [x for x in c.contenders if x.candidate is None]
        return {
            **against,
            "ours": times.pop("ours", None),
            "baselines": times,
            "labels": {x.name: x.label for x in libraries if x.ok},
            "absent": {x.name: x.reason or x.status for x in libraries if not x.ok},
            "clocks": c.environment.get("clocks"),
        }


def _program(command: Sequence[str], limit: float) -> dict[str, Any]:
    """Run a program in its own process group, at most ``limit`` seconds; its exit status and last lines."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = f"killed after {limit:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        told.seek(0)
        lines = told.read().splitlines()
    return {"exit": code, "seconds": round(time.monotonic() - start, 1), "tail": [line[:200] for line in lines[-40:]]}


def environment(campaign: Campaign) -> dict[str, Any]:
    """The machine, the software, and what is missing."""
    from gpu_tune import driver, nvrtc
    from gpu_tune.measure import emulated, nvml

    versions = {}
    names = "gpu_tune numpy lightgbm cupy-cuda12x cupy-cuda13x nvidia-cublas nvidia-cudnn-frontend torch triton"
    for name in names.split():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    facts: dict[str, Any] = {
        "chip": campaign.device.chip,
        "kind": campaign.kind,
        "rehearsal": campaign.rehearsal,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "nvrtc": ".".join(map(str, nvrtc.version())),
        "driver": nvml.driver_version(),
        "emulator": emulated.unavailable() or "ok",
    }
    if campaign.kind == "gpu":
        facts["cuda"] = ".".join(map(str, driver.version()))
        facts["clocks"] = nvml.read(driver.bus_id())
    return facts


def tables(campaign: Campaign) -> str:
    """What was found so far, as Markdown."""
    from gpu_tune.records import Records
    from gpu_tune.trial import MEASURED, MODELLED

    results, told = campaign.results, campaign_tables
    warn = "" if not campaign.rehearsal else " (a rehearsal: no time here was measured on a GPU)"
    spent = ", ".join(f"{p} {s:.0f} s ({len(results[p])} tasks)" for p, s in campaign.state["spent"].items())
    book = Records(campaign.out / "store" / "records").read(MEASURED if campaign.kind == "gpu" else MODELLED)
    random = [r for r in book if r.run == "campaign" and r.chip == campaign.device.chip]
    wanted = {n.split(" ")[1] for n in results["spaces"]}
    parts = {
        "Workloads": told.workloads(results, campaign.device),
        "Checks": told.checks(results),
        "Which knobs paid": told.knobs(r for r in random if r.workload.key in wanted),
        "Random configs of every template": told.counts(results, "templates"),
        "Random spaces": told.counts(results, "spaces"),
    }
    lines = [f"# Campaign on {campaign.device.chip}{warn}", "", f"{campaign.state['slices']} slices: {spent}"]
    for title, body in parts.items():
        lines += ["", f"## {title}", "", *(body or ["nothing yet"])]
    return "\n".join(lines) + "\n"


def results_page(campaign: Campaign) -> str:
    """RESULTS.md, from measurements on a real GPU alone; SystemExit when there are none."""
    tuned = [r for r in campaign.results["tuning"].values() if "failed" not in r]
    if campaign.rehearsal or not tuned:
        why = "a rehearsal measures nothing" if campaign.rehearsal else "no workload was tuned yet"
        raise SystemExit(f"{campaign.out}: {why}; there are no results to write down")
    path = campaign.out / "environment.json"
    facts = json.loads(path.read_text()) if path.exists() else environment(campaign)
    body = tables(campaign).split("\n", 1)[1]
    box = "\n".join(f"- {k}: {json.dumps(v) if isinstance(v, dict) else v}" for k, v in facts.items())
    head = (
        f"# Results on {campaign.device.product}\n\nMeasured with bench/campaign.py; written by it from its results.\n"
    )
    return f"{head}\n{box}\n{body}"


def archive(campaign: Campaign, target: Path, megabytes: float, files: int) -> list[str]:
    """Write the slice's archives; names of what had to stay out for their size."""
    out = campaign.out
    (out / "environment.json").write_text(json.dumps(environment(campaign), indent=1))
    (out / "tables.md").write_text(tables(campaign))
    first = [out / "state.json", out / "environment.json", out / "tables.md"]
    if not campaign.rehearsal and campaign.results["tuning"]:
        with contextlib.suppress(SystemExit):
            (out / "RESULTS.md").write_text(results_page(campaign))
            first.append(out / "RESULTS.md")
    records, kernels = ([p for p in (out / "store" / n).rglob("*") if p.is_file()] for n in ("records", "kernels"))
    more = sorted(kernels, key=lambda p: p.stat().st_size) + sorted(records, key=lambda p: p.stat().st_size)
    return campaign_archive.pack(out, first, more, target, megabytes, files)


restore = campaign_archive.restore


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["plan", "run", "table", "results"])
    parser.add_argument("--out", type=Path, default=Path("campaign"))
    parser.add_argument("--seconds", type=float, default=540.0, help="length of this slice")
    parser.add_argument("--archive", type=Path, help="NAME: writes NAME-1.tar.gz, NAME-2.tar.gz ...")
    parser.add_argument("--megabytes", type=float, default=16.0, help="of one archive at most")
    parser.add_argument("--files", type=int, default=8, help="archives of a slice at most")
    parser.add_argument(
        "--resume", type=Path, nargs="+", help="archives of an earlier slice, unpacked into --out first"
    )
    parser.add_argument("--kind", choices=["auto", "gpu", "modelled"], default="auto")
    parser.add_argument("--device", help="the modelled chip")
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: a short rehearsal")
    parser.add_argument("--toy", action="store_true", help="rehearse with a small kernel")
    parser.add_argument("--jobs", type=int, default=0, help="compile workers (default: all CPUs)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=HERE / "RESULTS.md", help="where results are written")
    given = parser.parse_args(arguments)
    if given.resume:
        restore(given.resume, given.out)
    options: dict[str, Any] = {"toy": given.toy, "jobs": given.jobs}
    campaign = Campaign(given.out, given.kind, given.device, given.scale, given.seed, **options)
    if given.verb == "plan":
        counts = Counter(t.phase for t in campaign.tasks())
        print(f"on {campaign.kind} {campaign.device.chip}")
        print("\n".join(f"{p}: {counts[p]} tasks, {share:.0%} of the time" for p, share in PHASES.items()))
        for phase in PHASES:
            names = [t.name for t in campaign.tasks() if t.phase == phase]
            print(f"\n{phase}, in this order:\n  " + "\n  ".join(names[:12]) + ("\n  ..." if len(names) > 12 else ""))
        print("\nwheels: " + "; ".join(WHEELS))
        return 0
    if given.verb == "results":
        given.to.write_text(results_page(campaign))
        print(f"{given.to} written")
        return 0
    if given.verb == "run":
        with contextlib.suppress(KeyboardInterrupt):
            campaign.run(given.seconds)
        campaign.save()
        if given.archive:
            missing = archive(campaign, given.archive, given.megabytes, given.files)
            made = sorted(given.archive.parent.glob(f"{given.archive.name.removesuffix('.tar.gz')}-*.tar.gz"))
            sizes = ", ".join(f"{p.name} {p.stat().st_size / 1e6:.1f} MB" for p in made)
            print(sizes + (f"; without {len(missing)} files: {', '.join(missing[:5])}" if missing else ""))
    print(tables(campaign))
    return 0


if __name__ == "__main__":
    sys.exit(main())
