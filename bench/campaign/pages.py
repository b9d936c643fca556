"""What a campaign leaves behind: the tables, RESULTS.md, the facts of the machine, the archives of a slice."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.campaign import archive as archives
from bench.campaign import tables as results_tables
from bench.campaign.schedule import Schedule
from bench.campaign.setup import Setup
from bench.predicted import __main__ as predicted
from gpu_tune.cuda import driver, nvml, nvrtc
from gpu_tune.emulator import unavailable_reason
from gpu_tune.store.records import Record
from gpu_tune.trial import MEASURED, PREDICTED

PACKAGES = (
    "gpu_tune", "numpy", "lightgbm", "cupy-cuda12x", "cupy-cuda13x", "nvidia-cublas", "nvidia-cudnn-frontend",
    "torch", "triton",
)  # fmt: skip
"""Whose versions are noted."""
EVERY = 40.0
"""Seconds from one writing of the archives to the next."""


def environment(setup: Setup) -> dict[str, Any]:
    """The machine, the software, and what is missing."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    facts: dict[str, Any] = {
        "chip": setup.device.chip,
        "kind": setup.kind,
        "rehearsal": setup.rehearsal,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "nvrtc": nvrtc.identity(),
        "driver": nvml.display_version(),
        "emulator": unavailable_reason() or "ok",
    }
    if setup.kind == "gpu":
        facts["cuda"] = ".".join(map(str, driver.version()))
        facts["clocks"] = nvml.sensors(driver.bus_id())
    return facts


def tables(schedule: Schedule) -> str:
    """What was found so far, as Markdown."""
    results, setup, told = schedule.results, schedule.setup, results_tables
    warn = "" if not setup.rehearsal else " (a rehearsal: no time here was measured on a GPU)"
    spent = ", ".join(f"{p} {s:.0f} s ({len(results[p])} tasks)" for p, s in schedule.state["spent"].items())
    book = setup.records.read(MEASURED if setup.kind == "gpu" else PREDICTED)
    random = [r for r in book if r.run == "campaign" and r.chip == setup.device.chip]
    wanted = {n.split(" ")[1] for n in results["spaces"]}
    parts = {
        "Workloads": told.workloads(results, setup.device),
        "Checks": told.checks(results),
        "Which knobs paid": told.knobs(r for r in random if r.workload.key in wanted),
        "Random configs of every template": told.counts(results, "templates"),
        "Random spaces": told.counts(results, "spaces"),
        "Predicted against measured": _agreements(book) if setup.kind == "gpu" else [],
    }
    lines = [f"# Campaign on {setup.device.chip}{warn}", "", f"{schedule.state['slices']} slices: {spent}"]
    for title, body in parts.items():
        lines += ["", f"## {title}", "", *(body or ["nothing yet"])]
    return "\n".join(lines) + "\n"


def _agreements(book: list[Record]) -> list[str]:
    found = predicted.agreements(book)
    return ["```", *predicted.table(found).splitlines(), "```"] if found else []


def results_page(schedule: Schedule) -> str:
    """RESULTS.md, from measurements on a real GPU alone; SystemExit when there are none."""
    setup = schedule.setup
    tuned = [r for r in schedule.results["tuning"].values() if "failed" not in r]
    if setup.rehearsal or not tuned:
        why = "a rehearsal measures nothing" if setup.rehearsal else "no workload was tuned yet"
        raise SystemExit(f"{setup.out}: {why}; there are no results to write down")
    path = setup.out / "environment.json"
    facts = json.loads(path.read_text()) if path.exists() else environment(setup)
    body = tables(schedule).split("\n", 1)[1]
    box = "\n".join(f"- {k}: {json.dumps(v) if isinstance(v, dict) else v}" for k, v in facts.items())
    head = f"# Results on {setup.device.product}\n\nMeasured with bench.campaign; written by it from its results.\n"
    return f"{head}\n{box}\n{body}"


def archive(schedule: Schedule, target: Path, megabytes: float, files: int, pages: bool = True) -> list[str]:
    """Write the slice's archives; names of what had to stay out for their size. ``pages``: tables made anew."""
    out = schedule.setup.out
    if pages or not (out / "environment.json").exists():
        (out / "environment.json").write_text(json.dumps(environment(schedule.setup), indent=1))
    if pages:
        (out / "tables.md").write_text(tables(schedule))
    if pages and not schedule.setup.rehearsal and schedule.results["tuning"]:
        with contextlib.suppress(SystemExit):
            (out / "RESULTS.md").write_text(results_page(schedule))
    names = ("state.json", "environment.json", "tables.md", "RESULTS.md")
    first = [out / n for n in names if (out / n).exists()]
    logs, kernels, records = (
        sorted((p for p in (out / n).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        for n in ("logs", "store/kernels", "store/records")
    )
    return archives.pack(out, first, [*logs, *kernels, *records], target, megabytes, files)


class Keeper:
    """Writes the slice's archives every so often, in a thread: whenever the machine goes, little is lost."""

    def __init__(self, schedule: Schedule, target: Path, megabytes: float, files: int, every: float = EVERY) -> None:
        self._given = (schedule, target, megabytes, files)
        self._every, self._over = every, threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def _keep(self) -> None:
        while not self._over.wait(self._every):
            try:
                archive(*self._given, pages=False)
            except Exception as error:  # a file that went meanwhile, a full disk: the next time, or the end
                print(f"archive: {type(error).__name__}: {error}", flush=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
