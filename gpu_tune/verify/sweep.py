"""Proving templates and emitted kernels on the emulator, without a GPU.

:func:`sweep` draws random variants of a template (workloads over every cell of dtype, layout and epilogue that it
supports, sizes of every tail, configs that pair knob values anew), runs each on the emulator with several
interleavings, and says what failed, how to see it again, and what was covered. :func:`verify_kernel` does the same for
one emitted ``kernel.cu``. What the emulator cannot certify is said in :mod:`gpu_tune.emulator`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as Expired  # the built-in one from Python 3.11 on
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import emulator, text
from ..cuda.device import by_name
from ..errors import CompilerMissing, CorruptData, GpuTuneError, InvalidInput
from ..plan import LaunchPlan
from ..reference.numerics import Numerics
from ..space.knob import Config
from ..store.store import LIMITS
from ..templates.base import Template
from ..templates.registry import registry
from ..workload import from_dict
from .branches import Branch
from .cases import DEVICES, Variant
from .check import Failure, Outcome, Problem, check_variant, refusal, run_checks
from .coverage import Coverage
from .draw import Drawing, Drawn

LEAST = 6
"""Variants that a sweep checks however little time it has."""
TIME_LIMIT = 300.0
"""Seconds after which one variant counts as hanging (only where variants run in processes of their own)."""


@dataclass
class FailureClass:
    """Failures that look alike: how many variants, the first one's words and the command that shows it again."""

    label: str
    count: int
    message: str
    command: str
    code: str = ""

    def __str__(self) -> str:
        kind = f"{self.label.split(':')[0]} at `{self.code}`" if self.code else self.label
        first = self.message.replace("\n", " | ")
        return f"{kind}: {self.count} variant{'s' if self.count > 1 else ''}; {first[:400]}\n    {self.command}"


@dataclass
class SweepReport:
    """What a sweep found. ``ok``: no variant failed. ``text``: the lines that the command line prints."""

    target: str
    variants: int = 0
    runs: int = 0
    assembled: int = 0
    spilling: int = 0
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    classes: dict[str, FailureClass] = field(default_factory=dict)
    covered: list[str] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def ok(self) -> bool:
        """Whether something was checked and nothing failed."""
        return self.variants > 0 and not self.classes

    def text(self) -> str:
        """One line per failing class with its command, then what was covered."""
        head = f"{self.target}: {self.variants} variants, {self.runs} runs in {self.seconds:.1f} s"
        if self.assembled:
            head += f"; {self.assembled} assembled for their chip, {self.spilling} of them spill registers"
        verdict = f"{len(self.classes)} kinds of failure" if self.classes else "all right"
        verdict = verdict if self.variants else "nothing was checked"
        lines = [f"{head}: {verdict}", *map(str, self.classes.values()), *(f"covered {line}" for line in self.covered)]
        return "\n".join(lines)

    def add(self, variant: Variant, outcome: Outcome, assembled: bool = False, branches: Iterable[Branch] = ()) -> None:
        """Count one variant's outcome; ``branches``: those of the template's source that it takes."""
        self.variants += 1
        self.runs += outcome.runs
        self.assembled += assembled
        self.spilling += outcome.spills > 0
        for stage, seconds in outcome.seconds.items():
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + seconds
        self.coverage.add(variant, branches)
        for label in dict.fromkeys(f.label for f in outcome.failures):
            first = next(f for f in outcome.failures if f.label == label)
            known = self.classes.setdefault(label, FailureClass(label, 0, first.message, variant.command, first.code))
            known.count += 1


def sweep(
    target: str | Template,
    *,
    variants: int = 100,
    seed: int = 0,
    devices: tuple[str, ...] = DEVICES,
    seconds: float | None = None,
    workers: int | None = None,
    assemble_every: int = 10,
    progress: Callable[[SweepReport], None] | None = None,
) -> SweepReport:
    """Check ``variants`` random variants of a template (its name, or the object), fewer when ``seconds`` run out.

    The variants are a pure function of template, ``seed`` and ``devices``. ``workers``: processes (default: the cores;
    0 checks here, one after another, as a template that is not in the registry must be). Every ``assemble_every``-th
    variant is also compiled for its chip and held to its declaration. CompilerMissing without NVRTC or a C++ compiler.
    """
    _require_emulator()
    template = _template(target)
    report, start = SweepReport(template.name), time.perf_counter()
    drawing = Drawing(template, seed, devices)
    jobs = _jobs(drawing, variants, assemble_every)
    if template is not registry().get(template.name):
        workers = 0
    for drawn, outcome, assembled in _run(template, jobs, workers, start, seconds):
        report.add(drawn.variant, outcome, assembled, drawn.branches)
        report.seconds = time.perf_counter() - start
        if progress:
            progress(report)
    report.covered = report.coverage.summary(drawing) if report.variants else []
    report.seconds = time.perf_counter() - start
    return report


def check_case(template: str, case: str) -> SweepReport:
    """Check the one variant that a failing class's command names (``case``: the JSON in it)."""
    _require_emulator()
    try:
        data = json.loads(case)
    except ValueError as error:
        raise InvalidInput(
            "verify case", case, f"is not JSON ({error})", "copy the whole text between the quotes"
        ) from None
    variant = Variant.from_json(template, data)
    report, start = SweepReport(template), time.perf_counter()
    report.add(variant, check_variant(_template(template), variant, assemble=True), assembled=True)
    report.seconds = time.perf_counter() - start
    return report


def verify_kernel(path: str | Path, *, seeds: int = 4, seed: int = 0) -> SweepReport:
    """Check an emitted ``kernel.cu`` by the ``launch.json`` beside it; the source may have been edited.

    ``seeds``: how many rounds of inputs and interleavings. CorruptData when ``launch.json`` is missing or damaged.
    """
    _require_emulator()
    source = Path(path)
    source = source / "kernel.cu" if source.is_dir() else source
    try:
        code = text.read(source, LIMITS["kernel.cu"])
        data = json.loads(text.read(source.parent / "launch.json", LIMITS["launch.json"]))
        if not isinstance(data, dict):
            raise TypeError("launch.json is not an object")
        view = data.get("view")
        workload = from_dict(view["workload"] if view else data["workload"])
        plan, device, arch = LaunchPlan.from_json(data["plan"]), by_name(data["device"]), str(data["arch"])
        name, config = str(data["template"]), data["config"]
    except KeyError as error:
        raise CorruptData(f"{source}: its launch.json lacks {error}; it needs the one it was emitted with") from error
    except (OSError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CorruptData(
            f"{source}: cannot be verified ({why}); it needs the launch.json it was emitted with"
        ) from error
    template = registry().get(name)
    report, start = SweepReport(str(path)), time.perf_counter()
    for number in range(seeds):
        variant = Variant(name, workload, device, Config(config), seed + number)
        numerics = template.numerics(variant.config, workload) if template else Numerics()
        problem = Problem(plan, workload, device, numerics)
        outcome = Outcome()
        try:
            run_checks(outcome, code, problem, seed + number, arch)
        except GpuTuneError as error:
            outcome.failures.append(refusal(error))
        report.add(variant, outcome)
    for found in report.classes.values():
        found.command = f"gpu-tune verify {source} --variants {seeds} --seed {seed}"
    report.covered = [f"{workload.key} with {seeds} rounds of inputs and interleavings"]
    report.seconds = time.perf_counter() - start
    return report


def _require_emulator() -> None:
    if not emulator.available():
        raise CompilerMissing(
            "the emulator needs a C++17 compiler, and none was found; install g++ or clang++ (or set CXX)"
        )


def _template(target: str | Template) -> Template:
    if isinstance(target, Template):
        return target
    known = registry()
    if target not in known:
        raise InvalidInput(
            "template", target, "is unknown", f"use one of {', '.join(known)}, or the path of a kernel.cu"
        )
    return known[target]


def _jobs(drawing: Drawing, count: int, every: int) -> Iterator[tuple[Drawn, bool]]:
    for number, drawn in zip(range(count), drawing):
        yield drawn, bool(every) and number % every == 0


def _check(name: str, variant: Variant, assemble: bool) -> Outcome:
    return check_variant(registry()[name], variant, assemble=assemble)


def _run(
    template: Template, jobs: Iterable[tuple[Drawn, bool]], workers: int | None, start: float, seconds: float | None
) -> Iterator[tuple[Drawn, Outcome, bool]]:
    """Outcomes, in the order in which they finish."""

    def expired() -> bool:
        return seconds is not None and time.perf_counter() - start > seconds

    count = os.cpu_count() or 1 if workers is None else workers
    if count == 0:
        for number, (drawn, assemble) in enumerate(jobs, 1):
            yield drawn, check_variant(template, drawn.variant, assemble=assemble), assemble
            if number >= LEAST and expired():
                return
        return
    from pebble import ProcessPool

    with ProcessPool(max_workers=count) as pool:
        running: dict[Future[Any], tuple[Drawn, bool]] = {}
        todo = iter(jobs)
        try:
            while True:
                while len(running) < 2 * count and not expired():
                    job = next(todo, None)
                    if job is None:
                        break
                    drawn, assemble = job
                    future: Future[Any] = pool.schedule(
                        _check, args=[template.name, drawn.variant, assemble], timeout=TIME_LIMIT
                    )
                    running[future] = job
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    drawn, assemble = running.pop(future)
                    yield drawn, _outcome(future), assemble
        finally:
            for future in running:
                future.cancel()
            pool.stop()


def _outcome(future: Future[Any]) -> Outcome:
    """The outcome, or the failure that a checker which died or hung amounts to."""
    try:
        found: Outcome = future.result()
        return found
    except Expired:
        return Outcome([Failure("hangs", f"no answer in {TIME_LIMIT:g} s")])
    except Exception as error:
        return Outcome([Failure(f"checker died: {type(error).__name__}", str(error))])


__all__ = ["FailureClass", "SweepReport", "check_case", "sweep", "verify_kernel"]
