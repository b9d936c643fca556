"""Sweeps over random variants of a template, and the proof of one emitted kernel, on the emulator.

:func:`sweep` draws random variants of a template (workloads over every cell of dtype, layout and epilogue that it
supports, sizes of every tail, configs that pair knob values anew), runs each on the emulator with several
interleavings, and says what failed, how to see it again, and what was covered. :func:`verify_kernel` does the same for
one emitted ``kernel.cu``. What the emulator cannot certify is said in :mod:`gpu_tune.emulator`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from .. import text
from ..cuda.device import by_name
from ..emulator import build
from ..errors import CorruptData, GpuTuneError, InvalidInput, MeasureError
from ..measure.emulated import LARGEST
from ..measure.worker import Worker, WorkerLost, WorkerPool
from ..plan import LaunchPlan
from ..reference import Numerics
from ..space.knob import Config
from ..store.store import LIMITS
from ..store.winner_set import INDEX
from ..templates.base import Template
from ..templates.registry import broken, registry
from ..workload import Workload, from_dict
from .branches import Branch
from .cases import DEVICES, Variant
from .check import Failure, Outcome, Problem, check_variant, failure_of, run_checks
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
    """What a sweep found until now. ``ok``: something was checked and nothing failed."""

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
    started: float = field(default_factory=time.perf_counter)

    @property
    def ok(self) -> bool:
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
        first: dict[str, Failure] = {}
        for failure in outcome.failures:
            first.setdefault(failure.label, failure)
        for label, failure in first.items():
            found = FailureClass(label, 0, failure.message, variant.command, failure.code)
            self.classes.setdefault(label, found).count += 1
        self.seconds = time.perf_counter() - self.started


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
    template = _template(target)
    report = SweepReport(template.name)
    drawing = Drawing(template, seed, devices)
    jobs = ((drawn, assemble_every > 0 and n % assemble_every == 0) for n, drawn in zip(range(variants), drawing))
    if template is not registry().get(template.name):
        workers = 0
    elif workers is None:
        workers = os.cpu_count() or 1
    stop = math.inf if seconds is None else report.started + seconds
    with contextlib.closing(_outcomes(template, jobs, workers, stop)) as outcomes:
        for drawn, assembled, outcome in outcomes:
            report.add(drawn.variant, outcome, assembled, drawn.branches)
            if progress:
                progress(report)
    report.covered = report.coverage.summary(drawing) if report.variants else []
    return report


def check_case(target: str, case: str) -> SweepReport:
    """Check the one variant that a failing class's command names (``case``: the JSON in it)."""
    template, report = _template(target), SweepReport(target)
    try:
        data = json.loads(case)
    except ValueError as error:
        rule, remedy = f"is not JSON ({error})", "copy the whole text between the quotes"
        raise InvalidInput("verify case", case, rule, remedy) from None
    variant = Variant.from_json(target, data)
    report.add(variant, check_variant(template, variant, assemble=True), assembled=True)
    return report


def verify_kernel(path: str | Path, *, seeds: int = 4, seed: int = 0) -> SweepReport:
    """Check an emitted ``kernel.cu`` by the ``launch.json`` beside it; the source may have been edited. Of a set of
    kernels (its folder, or ``0.cu`` and so on in it) by ``0.json`` and so on, at the ends of the ranges of each.

    ``seeds``: how many rounds of inputs and interleavings, at each size. CorruptData when a file is missing or damaged.
    """
    build.compiler()
    source = Path(path)
    if source.is_dir():
        ranges = _ranges(source)
        sources = [source / f"{n}.cu" for n in sorted(ranges)] if ranges else [source / "kernel.cu"]
    else:
        ranges = _ranges(source.parent) if source.stem.isdecimal() else {}
        sources = [source]
    report = SweepReport(str(path))
    report.covered = [told for one in sources for told in _verify_source(report, one, ranges, seeds, seed)]
    return report


def _verify_source(
    report: SweepReport, source: Path, ranges: Mapping[int, list[int]], seeds: int, seed: int
) -> Iterator[str]:
    """Add the checks of one source to ``report``; what was covered. ``ranges``: of a set, ends by number of kernel."""
    number = int(source.stem) if ranges else None
    facts = source.parent / ("launch.json" if number is None else f"{number}.json")
    try:
        code = text.read(source, LIMITS[".cu"])
        data = json.loads(text.read(facts, LIMITS[".json"]))
        if not isinstance(data, dict):
            raise TypeError(f"{facts.name} is not an object")
        workload = from_dict(data["view"]["workload"] if data.get("view") else data["workload"])
        plan, device, arch = LaunchPlan.from_json(data["plan"]), by_name(data["device"]), str(data["arch"])
        name, config = str(data["template"]), Config(data["config"])
        ends = [] if number is None else ranges[number]
    except KeyError as error:
        raise CorruptData(f"{source}: its {facts.name} lacks {error}; it needs the one it was emitted with") from error
    except (OSError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        rule = f"it needs the {facts.name} it was emitted with"
        raise CorruptData(f"{source}: cannot be verified ({why}); {rule}") from error
    template, given = registry().get(name), sum(f.count for f in report.classes.values())
    sizes, left = _small_enough(workload, ends)
    for one in [workload.resized(size) for size in sizes] if ends else [workload]:
        numerics = template.numerics(config, one) if template else Numerics()
        at = plan if plan.open is None else plan.at(getattr(one, plan.open.name))
        for round_seed in range(seed, seed + seeds):
            outcome = Outcome()
            try:
                run_checks(outcome, code, Problem(at, one, device, numerics), round_seed, arch)
            except GpuTuneError as error:
                outcome.failures.append(failure_of(error))
            report.add(Variant(name, one, device, config, round_seed), outcome)
    if sum(f.count for f in report.classes.values()) > given:
        for found in report.classes.values():
            found.command = f"gpu-tune verify {source} --variants {seeds} --seed {seed}"
    told = f"{workload.key} with {seeds} rounds of inputs and interleavings"
    if ends:
        told = f"{source.name}: {workload.openable} = {', '.join(map(str, sizes))}, {told}"
    yield told + (f"; not run: {workload.openable} = {', '.join(map(str, left))} (too large)" if left else "")


def _ranges(folder: Path) -> dict[int, list[int]]:
    """The ends of the ranges of each kernel of the set in ``folder``, by its number; empty where none lies there."""
    if not (folder / INDEX).exists():
        return {}
    try:
        data = json.loads(text.read(folder / INDEX, LIMITS[".json"]))
        found: dict[int, set[int]] = {}
        for part in data["ranges"]:
            found.setdefault(int(part["kernel"]), set()).update((int(part["least"]), int(part["most"])))
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CorruptData(f"{folder / INDEX}: cannot be read ({error!r}); it needs the one it was made with") from error
    return {number: sorted(ends) for number, ends in found.items()}


def _small_enough(workload: Workload, ends: Sequence[int]) -> tuple[list[int], list[int]]:
    """The sizes whose workload the emulator executes in a reasonable time, the least in any case; and the others."""
    small = [size for size in ends if workload.resized(size).flops <= LARGEST or size == min(ends)]
    return small, [size for size in ends if size not in small]


def _template(target: str | Template) -> Template:
    build.compiler()  # raises CompilerMissing: the emulator is needed for everything that follows
    known = registry()
    if isinstance(target, str) and target in broken():
        raise broken()[target]
    if isinstance(target, str) and target not in known:
        remedy = f"use one of {', '.join(known)}, or the path of a kernel.cu"
        raise InvalidInput("template", target, "is unknown", remedy)
    return known[target] if isinstance(target, str) else target


def _outcomes(
    template: Template, jobs: Iterator[tuple[Drawn, bool]], workers: int, stop: float
) -> Generator[tuple[Drawn, bool, Outcome], None, None]:
    """Each job (a variant, and whether to assemble it) with its outcome, in the order in which they finish.

    No job is started after ``stop``, a time of ``perf_counter``.
    """
    if workers == 0:
        for number, (drawn, assemble) in enumerate(jobs, 1):
            yield drawn, assemble, check_variant(template, drawn.variant, assemble=assemble)
            if number >= LEAST and time.perf_counter() > stop:
                return
        return
    running: dict[Future[Outcome], tuple[Drawn, bool]] = {}
    pool = WorkerPool("gpu_tune.verify.sweep:check_request", workers)
    try:
        while True:
            while len(running) < 2 * workers and time.perf_counter() <= stop and (job := next(jobs, None)):
                running[pool.run(functools.partial(_ask, *job))] = job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield *running.pop(future), future.result()
    finally:
        pool.close()


def _ask(drawn: Drawn, assemble: bool, worker: Worker) -> Outcome:
    try:
        return worker.ask((drawn.variant, assemble), TIME_LIMIT)
    except MeasureError as error:
        if isinstance(error, WorkerLost) and error.timed_out and error.stage.name != "start":
            return Outcome([Failure("hangs", f"no answer in {TIME_LIMIT:g} s")])
        return Outcome([Failure("checker died", str(error))])


def check_request(request: tuple[Variant, bool], note: Callable[[str], None]) -> Outcome:
    """In a worker process: check a variant of a registered template, and assemble it or not."""
    variant, assemble = request
    return check_variant(registry()[variant.template], variant, assemble=assemble)


__all__ = ["FailureClass", "SweepReport", "check_case", "sweep", "verify_kernel"]
