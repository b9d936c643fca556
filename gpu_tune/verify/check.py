"""One variant on the emulator: rendered, compiled to PTX, run on exact and on ordinary inputs, and what went wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import emulator
from ..cuda import cubin, nvrtc
from ..cuda.device import Device
from ..errors import CompileError, EmulationError, GpuTuneError
from ..plan import LaunchPlan
from ..reference import NUMPY, POISON, Numerics, changed_gaps, compare, elements, example_inputs, example_scalars
from ..space.knob import Config
from ..templates.base import Template
from ..templates.bound import BoundTemplate, Rendered
from ..workload import Workload
from .cases import Variant
from .draw import filling


@dataclass(frozen=True)
class Failure:
    """``label`` is the class (equal for the same fault in other variants), ``message`` this one's words.

    ``code``: the line of CUDA at fault, where one is known.
    """

    label: str
    message: str
    code: str = ""


@dataclass
class Outcome:
    """What checking one variant found; ``seconds`` by stage; ``instructions``: warp instructions emulated."""

    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    runs: int = 0
    instructions: int = 0
    spills: int = 0

    def fail(self, label: str, message: str) -> None:
        self.failures.append(Failure(label, message))


def check_variant(template: Template, variant: Variant, *, assemble: bool = False) -> Outcome:
    """Check ``variant``. ``assemble``: also compile it for the chip, and hold the declaration to what ptxas says."""
    outcome, start = Outcome(), time.perf_counter()
    try:
        rendered = BoundTemplate(template, variant.workload, variant.device).render(variant.config)
        outcome.seconds["render"] = time.perf_counter() - start
        run_checks(outcome, rendered.source, Problem.of(rendered, variant), variant.seed)
        if assemble:
            _static(outcome, rendered, variant)
            _touched(outcome, template, variant)
    except GpuTuneError as error:
        outcome.failures.append(failure_of(error))
    return outcome


@dataclass(frozen=True)
class Problem:
    """What a kernel is run on: the plan, the workload whose buffers it names, the device and how results compare."""

    plan: LaunchPlan
    workload: Workload
    device: Device
    numerics: Numerics

    @classmethod
    def of(cls, rendered: Rendered, variant: Variant) -> Problem:
        return cls(rendered.plan, variant.workload, variant.device, rendered.numerics)


def run_checks(outcome: Outcome, source: str, problem: Problem, seed: int, arch: str = "") -> None:
    """Compile ``source`` (for ``arch``, default the device's) and :func:`run_module` it."""
    start = time.perf_counter()
    module = emulator.Module.load(source, arch=arch or problem.device.arch)
    outcome.seconds["ptx"] = time.perf_counter() - start
    run_module(outcome, module, problem, seed, source)


def run_module(
    outcome: Outcome,
    module: emulator.Module,
    problem: Problem,
    seed: int,
    source: str = "",
    watch: Callable[[emulator.Report], None] | None = None,
) -> None:
    """Run a kernel three times: integers (exact), then normal inputs with two seeds, early and late landing.

    Every finding, wrong element, write between rows and bit that differs between the seeds is a failure of
    ``outcome``. ``source`` puts CUDA lines into the classes of findings; ``watch`` sees every report.
    """
    start, workload, outs = time.perf_counter(), problem.workload, []
    for kind, late, run_seed in (
        ("integer", bool(seed & 1), seed),
        ("normal", True, seed + 1),
        ("normal", False, seed + 2),
    ):
        arrays, scalars = example_inputs(workload, seed=seed, kind=kind), example_scalars(workload, kind)
        report = _emulate(module, problem, arrays, scalars, run_seed, late)
        if watch:
            watch(report)
        outcome.runs += 1
        outcome.instructions += sum(report.instructions.values())
        outcome.seconds["emulator"] = outcome.seconds.get("emulator", 0.0) + report.seconds
        outcome.failures += [_finding(f, source) for f in report.findings]
        exact = kind == "integer" and problem.numerics.exact_integers
        specs = {name: workload.arrays()[name] for name in workload.outputs}
        raw = {name: report.arrays[name].view(np.uint8).reshape(-1) for name in specs}
        found = {name: elements(raw[name], spec) for name, spec in specs.items()}
        result = compare(found, workload, arrays, scalars, numerics=problem.numerics, exact=exact)
        if not result.ok:
            outcome.fail("wrong result", f"{result} ({'integer' if exact else 'normal'} inputs)")
        if changed := sum(changed_gaps(raw[name], spec) for name, spec in specs.items()):
            outcome.fail("writes between rows", f"{changed} elements beyond n were overwritten")
        if kind == "normal":
            outs.append(np.concatenate(list(raw.values())))
        if outcome.failures:
            break
    if len(outs) == 2 and workload.deterministic and not np.array_equal(outs[0], outs[1]):
        outcome.fail("not deterministic", "two interleavings give different bits of the same inputs")
    outcome.seconds["references"] = time.perf_counter() - start - outcome.seconds["emulator"]


def _emulate(
    module: emulator.Module,
    problem: Problem,
    arrays: Mapping[str, np.ndarray],
    scalars: Mapping[str, float],
    seed: int,
    late: bool,
) -> emulator.Report:
    """One run into poisoned results."""
    specs, alignment, names = problem.workload.arrays(), problem.workload.alignment, problem.workload.outputs
    sizes = {name: specs[name].span * NUMPY[specs[name].dtype].itemsize for name in names}
    given = {**arrays, **{name: np.full(size, POISON, np.uint8) for name, size in sizes.items()}}
    options: dict[str, Any] = dict(seed=seed, late=late, alignment=alignment, writes=names)
    return module.run(problem.plan, given, scalars=scalars, device=problem.device, **options)


def _finding(finding: Any, source: str) -> Failure:
    """A finding's class is its kind and the text of its CUDA line, numbers left out."""
    lines = source.splitlines()
    where = lines[finding.cuda_line - 1].strip() if 0 < finding.cuda_line <= len(lines) else ""
    return Failure(f"{finding.kind}: {re.sub(r'[0-9]+', '#', where)[:90]}".rstrip(": "), finding.message, where)


def failure_of(error: GpuTuneError) -> Failure:
    """The class of an error that stopped a check: the first error of a compiler, or what the emulator refuses."""
    text = str(error)
    if isinstance(error, CompileError):
        first = next((line for line in error.log.splitlines() if "error" in line), text.splitlines()[0])
        return Failure("compile error: " + re.sub(r"[0-9]+", "#", first)[:90], first)
    kind = "emulator refuses" if isinstance(error, EmulationError) else type(error).__name__
    return Failure(f"{kind}: {re.sub(r'[0-9]+', '#', text)[:90]}", text)


_GRANTED = re.compile(r"setmaxnreg\.inc\.sync\.aligned\.u32 (\d+)")


def _touched(outcome: Outcome, template: Template, variant: Variant) -> None:
    """The dynamic shared memory that a plan asks for is used to its last byte, once the pipeline is full; what pads the
    last row of the last tile is asked for and not used (by families that declare padding in words)."""
    full = filling(template, variant)
    if full is None:
        return
    rendered = BoundTemplate(template, full.workload, full.device).render(full.config)
    module = emulator.Module.load(rendered.source, full.device.arch)
    arrays = example_inputs(full.workload, seed=full.seed, kind="integer")
    scalars = example_scalars(full.workload, "integer")
    report = _emulate(module, Problem.of(rendered, full), arrays, scalars, full.seed, full.seed % 2 == 0)
    for step in rendered.plan.kernels:
        touched = report.shared_bytes_touched.get(step.kernel, 0)
        if not step.shared_bytes - _padding(full.config) <= touched <= step.shared_bytes and not report.stopped:
            asked = f"{step.kernel} asks for {step.shared_bytes} bytes of dynamic shared memory"
            outcome.fail("shared bytes touched", f"{asked} and touches {touched} of them ({full.workload.key})")


def _padding(config: Config) -> int:
    """Bytes after the elements of a shared row, the largest over the operands: knobs ``padding_*`` count words."""
    return max((4 * int(value) for name, value in config.items() if name.startswith("padding_")), default=0)


def _static(outcome: Outcome, rendered: Rendered, variant: Variant) -> None:
    """The declaration against ptxas: threads, shared bytes, registers, notes."""
    start = time.perf_counter()
    source, plan, estimate = rendered.source, rendered.plan, rendered.estimate
    compiled = nvrtc.to_cubin(source, variant.device.arch)
    outcome.seconds["cubin"] = time.perf_counter() - start
    facts, reports = cubin.read(compiled.data).kernels, cubin.read_log(compiled.log)
    for name, report in reports.items():
        outcome.spills += report.spill_bytes
        for note in report.notes:
            outcome.fail(f"ptxas {note[:5]}", f"{name}: {note}")
    shared = 0
    for step in plan.kernels:
        kernel = facts.get(step.kernel)
        if kernel is None:
            outcome.fail("kernel missing", f"the plan launches {step.kernel}, the source has {', '.join(facts)}")
            continue
        step_shared = kernel.static_shared_bytes + step.shared_bytes
        shared = max(shared, step_shared)
        if kernel.max_threads and step.threads > kernel.max_threads:
            asked = f"{step.kernel} is launched with {step.threads} threads"
            outcome.fail("threads", f"{asked} and compiled for {kernel.max_threads}")
        if not variant.device.resident_blocks(step.threads, kernel.registers, step_shared):
            needs = f"{kernel.registers} registers x {step.threads} threads and {step_shared} shared bytes"
            outcome.fail("does not fit", f"{step.kernel} needs {needs}: too much for {variant.device.name}")
    if shared != estimate.shared_bytes:
        outcome.fail("shared bytes", f"declared {estimate.shared_bytes} bytes of shared memory, takes {shared}")
    if max(s.threads for s in plan.kernels) < estimate.threads:
        outcome.fail("threads declared", f"declared {estimate.threads} threads, the plan launches fewer")
    # a cubin names the registers at launch; setmaxnreg gives a consumer more
    registers = max((*(k.registers for k in facts.values()), *(int(r) for r in _GRANTED.findall(source))), default=0)
    if registers < estimate.accumulators:
        outcome.fail(
            "accumulators", f"declared {estimate.accumulators} accumulator registers, the kernel has {registers}"
        )
    if plan.workspace_bytes != estimate.workspace_bytes:
        outcome.fail(
            "workspace bytes",
            f"declared {estimate.workspace_bytes} bytes of workspace, the plan has {plan.workspace_bytes}",
        )
