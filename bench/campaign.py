"""Everything worth measuring in an hour on a GPU host, in slices that can be stopped, moved and resumed.

    python bench/campaign.py plan                                    # what would run, in order, and the wheels needed
    python bench/campaign.py run --out results --seconds 540 --archive results/slice-1.tar.gz
    python bench/campaign.py run --out results --seconds 540 --archive results/slice-2.tar.gz
    python bench/campaign.py run --out fresh --resume results/slice-2.tar.gz --seconds 540 --archive slice-3.tar.gz
    python bench/campaign.py table --out results                     # the tables once more

Five phases, each with a share of ``--total`` seconds:

1. conformance: small workloads on the GPU and on the emulator; do the two agree on what is right?
2. templates:   every template at random configs, each result compared with the reference.
3. spaces:      unbiased samples of the tensor-core templates' spaces, failures kept (training and judging data).
4. tuning:      a prioritised list of workloads, each with a time box, baselines timed interleaved.
5. again:       winners and baselines re-timed, to see whether verdicts repeat.

State, records and winners lie in ``--out``; a task that was interrupted runs again, and trials on record are not
repeated. Each slice leaves one archive of at most ``--megabytes`` that a later slice can resume from on another
machine. Without a GPU the device is modelled (``--kind modelled``): a rehearsal, whose times mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import io
import json
import os
import platform
import statistics
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PHASES = {"conformance": 0.05, "templates": 0.10, "spaces": 0.35, "tuning": 0.42, "again": 0.08}
"""Share of the campaign's time; what a phase leaves goes to those after it."""
WHEELS = (
    "gpu_tune",
    "numpy",
    "ml_dtypes",
    "jinja2",
    "lightgbm",
    "rich",
    "click",
    "cupy-cuda13x[ctk] (or cupy-cuda12x[ctk])",
    "nvidia-cudnn-frontend (for cuDNN)",
)
SHAPES = (
    (4096, 4096, 4096),
    (8192, 8192, 1024),
    (1024, 1024, 1024),
    (128, 8192, 4096),
    (2048, 1536, 1000),
    (16, 4096, 4096),
)
CONFIGS, CHUNK = 2000, 50
BOX = 60.0
"""Seconds that tuning one workload may take."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One resumable piece: ``run()`` returns a JSON-ready result for the tables."""

    phase: str
    name: str
    run: Callable[[], Any]


class Campaign:
    """Tasks, their state in ``out`` and what they need. ``scale`` shrinks counts and boxes for a rehearsal."""

    def __init__(self, out: Path, kind: str, device: str | None, scale: float, seed: int) -> None:
        from gpu_tune import measure
        from gpu_tune.device import DEFAULT, by_name

        self.out, self.scale, self.seed = out, scale, seed
        found = measure.detect_device() if kind != "modelled" else None
        if kind == "gpu" and found is None:
            raise SystemExit("no CUDA GPU was found; rehearse with --kind modelled")
        self.kind = "gpu" if found is not None else "modelled"
        self.device = found or by_name(device or DEFAULT)
        self.state: dict[str, Any] = {
            "done": {},
            "spent": dict.fromkeys(PHASES, 0.0),
            "kind": self.kind,
            "chip": self.device.chip,
            "slices": 0,
        }
        if self.state_file.exists():
            known = json.loads(self.state_file.read_text())
            if (known["kind"], known["chip"]) != (self.kind, self.device.chip):
                raise SystemExit(
                    f"{out} belongs to {known['kind']} {known['chip']}, here is {self.kind} {self.device.chip}; "
                    "use another --out"
                )
            self.state = known

    @property
    def state_file(self) -> Path:
        """Where the state is kept."""
        return self.out / "state.json"

    def save(self) -> None:
        """Write the state, whole or not at all."""
        self.out.mkdir(parents=True, exist_ok=True)
        fresh = self.state_file.with_suffix(".new")
        fresh.write_text(json.dumps(self.state, indent=1))
        os.replace(fresh, self.state_file)

    def tasks(self) -> Iterator[Task]:
        """Every task, in the order of priority; names are stable."""
        from gpu_tune.templates.base import registry

        for name in registry():
            for i, w in enumerate(self._small(name)):
                yield Task("conformance", f"{name} {w.key} {i}", functools.partial(self._conform, name, w))
        for name in registry():
            for i, w in enumerate(self._small(name, 3)):
                work = functools.partial(self._random, name, w, self._count(40), 1 + i)
                yield Task("templates", f"{name} {w.key} {i}", work)
        yield from self._spaces()
        workloads = list(self._workloads())
        for phase, method in (("tuning", self._tune), ("again", self._again)):
            for w in workloads:
                yield Task(phase, w.key, functools.partial(method, w))

    def run(self, seconds: float, total: float) -> None:
        """Run tasks until ``seconds`` are over; phases over their share of ``total`` wait for the others."""
        end = time.monotonic() + seconds
        self.state["slices"] += 1
        waiting = [t for t in self.tasks() if self._key(t) not in self.state["done"]]
        for patience in (True, False):
            for task in [t for t in waiting if self._key(t) not in self.state["done"]]:
                if time.monotonic() >= end:
                    return self.save()
                if patience and self.state["spent"][task.phase] >= PHASES[task.phase] * total:
                    continue
                if task.phase == "again" and f"tuning: {task.name}" not in self.state["done"]:
                    continue
                self._one(task)
        self.save()

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
        print(f"{task.phase:12s} {task.name}  {took:.1f} s  {json.dumps(result)[:160]}", flush=True)

    def _key(self, task: Task) -> str:
        return f"{task.phase}: {task.name}"

    def _count(self, n: int) -> int:
        return max(2, round(n * self.scale))

    def _small(self, name: str, limit: int = 1) -> list[Any]:
        """Small workloads that template ``name`` supports: tails, several tiles."""
        from gpu_tune.templates.base import registry
        from gpu_tune.workload import Conv2d, Matmul

        candidates: list[Any] = []
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
        template = registry()[name]
        return [w for w in candidates if template.supported(w, self.device) is True][:limit]

    def _measurer(self, workload: Any, **options: Any) -> Any:
        from gpu_tune.measure import open_measurer

        return open_measurer(
            workload, kind=self.kind, device=None if self.kind == "gpu" else self.device, seed=self.seed, **options
        )

    def _conform(self, name: str, w: Any) -> dict[str, Any]:
        from gpu_tune.measure import emulated
        from gpu_tune.space.space import TemplateSpace
        from gpu_tune.templates.base import registry
        from gpu_tune.trial import Candidate

        if emulated.unavailable():
            return {"failed": emulated.unavailable()}
        space = TemplateSpace(registry()[name], w, self.device)
        configs = [c for c in (space.default(), *space.sample(self._count(6), np.random.default_rng(self.seed))) if c]
        counts: Counter[str] = Counter()
        differ = []
        with self._measurer(w) as m:
            ends = [f.result() for f in [m.submit(Candidate(name, c)) for c in configs]]
            for end in ends:
                check = emulated.check(end.candidate, registry()[name], w, self.device, self.seed)
                place, right = "gpu" if self.kind == "gpu" else "model", "ok" if check.ok else "not ok"
                verdict = f"{place} {end.status}, emulator {right}"
                counts[verdict] += 1
                if end.ok != check.ok:
                    differ.append(
                        {
                            "config": dict(end.candidate.config),
                            "gpu": end.reason or end.status,
                            "emulator": check.detail,
                        }
                    )
        return {"counts": dict(counts), "differ": differ[:5]}

    def _random(self, name: str, w: Any, n: int, seed: int, first: int = 0, of: int = 0) -> dict[str, Any]:
        """``n`` random configs from place ``first`` of a sample of ``of``; every trial goes on record."""
        from gpu_tune.records import Record, Records
        from gpu_tune.space.space import TemplateSpace
        from gpu_tune.templates.base import registry
        from gpu_tune.trial import Candidate

        template = registry()[name]
        space = TemplateSpace(template, w, self.device)
        configs = space.sample(max(of, n), np.random.default_rng([self.seed, seed]))[first : first + n]
        book = Records(self.out / "store" / "records")
        book.prepare()
        counts: Counter[str] = Counter()
        best = None
        try:
            with self._measurer(w) as m:
                done = {r.measurement.candidate for r in book.read(m.source, chip=self.device.chip, key=w.key)}
                todo = [Candidate(name, c) for c in configs if Candidate(name, c) not in done]
                for end in [f.result() for f in [m.submit(c) for c in todo]]:
                    counts[end.status] += 1
                    best = min(best, end.time) if best is not None and end.ok else end.time if end.ok else best
                    book.append(Record(w, self.device.chip, template.hash(), end, time.time(), "campaign"))
        finally:
            book.close()
        return {"counts": dict(counts), "best_seconds": best}

    def _spaces(self) -> Iterator[Task]:
        from gpu_tune.templates.base import registry
        from gpu_tune.workload import Matmul

        chunks = range(0, self._count(CONFIGS), CHUNK)
        shapes = SHAPES if self.scale >= 1 else tuple((min(m, 512), min(n, 512), min(k, 512)) for m, n, k in SHAPES[:2])
        for first in chunks:  # breadth before depth: every shape has some before any has all
            for name, template in registry().items():
                if name == "matmul_simt" or template.op != "matmul":
                    continue
                for i, (m, n, k) in enumerate(shapes):
                    w = Matmul(m, n, k, dtype="bfloat16", layout="nt")
                    if template.supported(w, self.device) is True:
                        size, total = min(CHUNK, self._count(CONFIGS) - first), self._count(CONFIGS)
                        work = functools.partial(self._random, name, w, size, 100 + i, first, total)
                        yield Task("spaces", f"{name} {w.key} {i} {first}", work)

    def _workloads(self) -> Iterator[Any]:
        """What is tuned, the most telling first: the headline suite, a fixed stride through it, then the rest."""
        from gpu_tune import suites

        entries = [e.workload for e in suites.load("headline").entries]
        stride = 7  # coprime to most lengths: sizes and decades mix
        order = [entries[i] for s in range(stride) for i in range(s, len(entries), stride)]
        conv = [e.workload for e in suites.load("resnet18-n16").entries]
        mixed = [w for pair in zip(order, conv) for w in pair] + order[len(conv) :]
        limit = len(mixed) if self.scale >= 1 else 2
        seen: set[str] = set()
        for w in mixed[:limit]:
            if w.key not in seen:
                seen.add(w.key)
                yield w

    def _tune(self, w: Any) -> dict[str, Any]:
        from gpu_tune.records import Records
        from gpu_tune.store import Store
        from gpu_tune.tuner import tune

        store = Store(self.out / "store" / "kernels")
        box: dict[str, Any] = {"seconds": BOX} if self.scale >= 1 else {"trials": 16}
        kernel = tune(
            w,
            kind=self.kind,
            device=None if self.kind == "gpu" else self.device,
            seed=self.seed,
            store=store,
            records=Records(self.out / "store" / "records"),
            **box,
        )
        winner = kernel.winner
        return {
            "template": winner.template,
            "seconds": winner.seconds,
            "verdict": dict(winner.verdict),
            "flops": w.flops,
            "bytes": w.bytes,
            "path": str(kernel.path),
        }

    def _again(self, w: Any) -> dict[str, Any]:
        from gpu_tune.store import Store, lookup
        from gpu_tune.trial import MEASURED, MODELLED, Candidate

        source = MEASURED if self.kind == "gpu" else MODELLED
        found = lookup(w, self.device.chip, source, store=Store(self.out / "store" / "kernels"))
        if found is None:
            return {"failed": "has no winner"}
        with self._measurer(w) as m:
            c = m.confirm([Candidate(found[0].template, found[0].config)])
        return {
            "text": str(c),
            "ratio": c.verdict.ratio if c.verdict else None,
            "vendor": c.vendor,
            "noise_floor": c.noise_floor,
            "seconds": {
                x.name if x.candidate is None else "ours": statistics.median(x.samples) for x in c.contenders if x.ok
            },
        }


def environment(campaign: Campaign) -> dict[str, Any]:
    """The machine, the software, and what is missing."""
    from gpu_tune import driver, nvrtc
    from gpu_tune.measure import emulated, nvml

    versions = {}
    for name in (
        "gpu_tune",
        "numpy",
        "lightgbm",
        "cupy-cuda12x",
        "cupy-cuda13x",
        "nvidia-cudnn-frontend",
        "torch",
        "triton",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    facts: dict[str, Any] = {
        "chip": campaign.device.chip,
        "kind": campaign.kind,
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
    done = campaign.state["done"]
    results = {p: {k.split(": ", 1)[1]: v["result"] for k, v in done.items() if k.startswith(p + ":")} for p in PHASES}
    real = campaign.kind == "gpu"
    lines = [
        f"# Campaign on {campaign.device.chip}"
        + ("" if real else " (modelled: a rehearsal, no time here was measured)"),
        "",
    ]
    spent = ", ".join(f"{p} {s:.0f} s ({len(results[p])} tasks)" for p, s in campaign.state["spent"].items())
    lines += [f"{campaign.state['slices']} slices: {spent}", "", "## Workloads", ""]
    lines += ["| workload | template | time us | TFLOP/s | verdict | again |", "|---|---|---|---|---|---|"]
    ratios = []
    for key, r in results["tuning"].items():
        if "failed" in r:
            lines.append(f"| {key} | - | - | - | {r['failed'][:80]} | |")
            continue
        again = results["again"].get(key, {})
        ratio = r["verdict"].get("ratio")
        ratios += [ratio] if ratio else []
        lines.append(
            f"| {key} | {r['template']} | {r['seconds'] * 1e6:.2f} | {r['flops'] / r['seconds'] / 1e12:.1f} | "
            f"{r['verdict'].get('text', '')} | {again.get('text', again.get('failed', ''))} |"
        )
    if ratios:
        wins = sum(x >= 1 for x in ratios)
        mean = f"geometric mean of time(best baseline) / time(ours): {statistics.geometric_mean(ratios):.3f}"
        lines += ["", f"{mean} over {len(ratios)} workloads; {wins} at or above 1.0"]
    for phase in ("conformance", "templates", "spaces"):
        total: Counter[str] = Counter()
        for r in results[phase].values():
            total.update(r.get("counts", {"failed": 1}))
        lines += ["", f"## {phase}", "", *(f"- {n} {what}" for what, n in total.most_common())]
        lines += [
            f"- differs: {k}: {json.dumps(d)[:300]}" for k, r in results[phase].items() for d in r.get("differ", [])
        ]
    return "\n".join(lines) + "\n"


def archive(campaign: Campaign, path: Path, megabytes: float) -> list[str]:
    """Write the slice's archive; names of what had to stay out for its size (largest first)."""
    out, limit = campaign.out, megabytes * 1e6
    (out / "environment.json").write_text(json.dumps(environment(campaign), indent=1))
    (out / "tables.md").write_text(tables(campaign))
    folders = [out / "store" / "records", out / "store" / "kernels"]
    files = [out / "state.json", out / "environment.json", out / "tables.md"]
    extra = sorted((p for f in folders for p in f.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    left = [str(p.relative_to(out)) for p in extra]
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for p in (*files, *extra):
                tar.add(p, arcname=str(p.relative_to(out)))
        if buffer.tell() <= limit or not extra:
            break
        extra = extra[: max(0, len(extra) - max(1, len(extra) // 10))]
    path.write_bytes(buffer.getvalue())
    kept = {str(p.relative_to(out)) for p in extra}
    return [name for name in left if name not in kept]


def restore(path: Path, out: Path) -> None:
    """Unpack an earlier slice's archive into ``out``; nothing in it is trusted but plain files below ``out``."""
    with tarfile.open(path, "r:gz") as tar:
        for member in tar.getmembers():
            target = (out / member.name).resolve()
            if not member.isfile() or not target.is_relative_to(out.resolve()):
                raise SystemExit(f"{path}: {member.name} is no plain file below the folder; not unpacked")
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            source = tar.extractfile(member)
            assert source is not None
            target.write_bytes(source.read())
            target.chmod(0o600)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["plan", "run", "table"])
    parser.add_argument("--out", type=Path, default=Path("campaign"))
    parser.add_argument("--seconds", type=float, default=540.0, help="length of this slice")
    parser.add_argument("--total", type=float, default=3600.0, help="length of the whole campaign, which phases share")
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--megabytes", type=float, default=64.0)
    parser.add_argument("--resume", type=Path, help="archive of an earlier slice, unpacked into --out first")
    parser.add_argument("--kind", choices=["auto", "gpu", "modelled"], default="auto")
    parser.add_argument("--device", help="the modelled chip")
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: a short rehearsal")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.resume:
        restore(given.resume, given.out)
    campaign = Campaign(given.out, given.kind, given.device, given.scale, given.seed)
    if given.verb == "plan":
        counts = Counter(t.phase for t in campaign.tasks())
        print(f"on {campaign.kind} {campaign.device.chip}")
        print("\n".join(f"{p}: {counts[p]} tasks, {share:.0%} of the time" for p, share in PHASES.items()))
        print("wheels: " + ", ".join(WHEELS))
        return 0
    if given.verb == "run":
        with contextlib.suppress(KeyboardInterrupt):
            campaign.run(given.seconds, given.total)
        campaign.save()
        if given.archive:
            missing = archive(campaign, given.archive, given.megabytes)
            size = given.archive.stat().st_size / 1e6
            print(f"{given.archive}: {size:.1f} MB" + (f", without {len(missing)} files" if missing else ""))
    print(tables(campaign))
    return 0


if __name__ == "__main__":
    sys.exit(main())
