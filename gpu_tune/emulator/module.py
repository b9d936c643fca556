"""Load PTX (or CUDA source) once, run launch plans on it many times."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import paths
from ..cuda import nvrtc
from ..cuda.device import Device
from ..errors import CompilerMissing, StoreError, require
from ..plan import BUFFERS, BufferArg, KernelStep, LaunchPlan, MemsetStep, ScalarArg, TensorMapArg
from . import build
from .machine import Machine, copied, span
from .ptx import Ptx
from .report import ALL_CHECKS, Checks, Finding, Report

WRITABLE = ("out", "workspace")


@dataclass
class _Bound:
    """A buffer of a run: its bytes here, the address the kernel sees, and how to view the result."""

    index: int
    data: np.ndarray
    address: int
    like: np.ndarray | None


class Module(Ptx):
    """PTX ready to run. Make one with :meth:`load`; runs share nothing, so threads and processes may run it at once."""

    @classmethod
    def load(cls, source_or_ptx: str, arch: str = "sm_80", options: Sequence[str] = ()) -> Module:
        """The module of a CUDA source (compiled for ``arch`` with NVRTC ``options``) or of PTX text.

        Modules are kept in memory (the last 64), PTX on disk by a hash of source, options and NVRTC version, unless the
        source includes other files.
        EmulationError when the text is no PTX. A kernel with an instruction that is not supported is refused when it is
        launched; :attr:`refused` says why.
        """
        kind = type(source_or_ptx).__name__
        remedy = "pass the content of a file: Path(...).read_text()"
        require(isinstance(source_or_ptx, str), "source_or_ptx", kind, "is no text", remedy)
        named = re.fullmatch(r"[^\n;{}]*\.(cu|cuh|ptx|cubin|h|hpp|cpp|txt)\s*", source_or_ptx) is not None
        rule = "is the name of a file, where its content is wanted"
        require(not named, "source_or_ptx", source_or_ptx, rule, f"pass Path({source_or_ptx!r}).read_text()")
        if is_ptx(source_or_ptx):
            return _load(source_or_ptx, "", ())
        if reads_files(source_or_ptx, options):
            return _load(compile_ptx(source_or_ptx, arch, options), "", ())
        return _load(source_or_ptx, arch, tuple(options))

    def run(
        self,
        plan: LaunchPlan,
        arrays: Mapping[str, np.ndarray],
        *,
        scalars: Mapping[str, float] | None = None,
        device: Device | None = None,
        seed: int = 0,
        late: bool | None = None,
        checks: Checks = ALL_CHECKS,
        alignment: int | None = None,
        ignore: Sequence[str] = (),
        stop: str = "first",
        writes: Sequence[str] = (),
    ) -> Report:
        """Run every step of ``plan`` in order. See :func:`gpu_tune.emulator.run_plan` for the arguments.

        ``alignment``: place every buffer at an odd multiple of this many bytes, to catch kernels that assume more.
        """
        plan.check()
        machine = Machine(self, device=device, seed=seed, late=late, checks=checks, ignore=ignore, stop=stop)
        return _Run(machine, plan, arrays, scalars or {}, seed, alignment, (*WRITABLE, *writes)).result()


@functools.lru_cache(maxsize=64)
def _load(text: str, arch: str, options: tuple[str, ...]) -> Module:
    return Module(compile_ptx(text, arch, options) if arch else text)


def is_ptx(text: str) -> bool:
    """Whether ``text`` is PTX (it starts with a .version directive after comments) rather than CUDA source."""
    return re.search(r"^\s*\.version\s", text, re.MULTILINE) is not None


def reads_files(source: str, options: Sequence[str] = ()) -> bool:
    """Whether a compile reads other files, so that its result outlives what it was made from."""
    directive = re.search(r"^\s*#\s*(include|embed)|__has_include", source, re.MULTILINE)
    return directive is not None or any("include" in option for option in options)


def compile_ptx(source: str, arch: str, options: Sequence[str] = ()) -> str:
    """PTX with line information for a CUDA source, from the cache on disk when it is there and reads no other file."""
    if reads_files(source, options):
        return nvrtc.to_ptx(source, arch, lineinfo=True, options=options).data.decode()
    key = hashlib.sha256(repr((source, arch, *options, nvrtc.identity())).encode()).hexdigest()[:32]
    path = build.folder() / "ptx" / key[:2] / f"{key}.ptx"
    kept = paths.sealed(path)
    if kept is not None:
        return kept.decode()
    ptx = nvrtc.to_ptx(source, arch, lineinfo=True, options=options).data.decode()
    try:
        paths.prepare(path.parent)
        with paths.replacing(path) as new:
            new.write_text(ptx)
            paths.seal(new)
    except (OSError, StoreError) as error:
        paths.cannot_keep("PTX for the emulator", path.parent, error)
    return ptx


def run_plan(
    source_or_ptx: str,
    plan: LaunchPlan,
    arrays: Mapping[str, np.ndarray],
    *,
    scalars: Mapping[str, float] | None = None,
    arch: str = "sm_80",
    device: Device | None = None,
    seed: int = 0,
    late: bool | None = None,
    checks: Checks = ALL_CHECKS,
    alignment: int | None = None,
    writes: Sequence[str] = (),
) -> Report:
    """Run a launch plan on the CPU and report its results and everything that is wrong with it.

    ``source_or_ptx``: CUDA C++ (compiled for ``arch`` with line information, PTX cached on disk) or PTX text.
    ``arrays``: the plan's buffers by name; they are not modified. The span from a view's first to its last element is
    the buffer. When ``out`` is among them only it, the workspace, those that ``writes`` names and a ``c`` that is the
    same memory as ``out`` may be written.
    The workspace is made here (garbage; zeros when the plan says so, and then checked to be left zeroed) unless given.
    ``scalars``: run-time ``alpha`` and ``beta``. ``device`` bounds how many blocks are resident (default: an H200).
    ``seed`` chooses the interleaving. ``late``: asynchronous results land as late as is legal (True) or at random
    moments (False); None takes late for even seeds. ``alignment``: see :meth:`Module.run`.

    Raises EmulationError (unsupported instruction, plan that does not fit the kernel), CompileError, CompilerMissing,
    InvalidInput.
    """
    return Module.load(source_or_ptx, arch).run(
        plan,
        arrays,
        scalars=scalars,
        device=device,
        seed=seed,
        late=late,
        checks=checks,
        alignment=alignment,
        writes=writes,
    )


def available() -> bool:
    """Whether the emulator can run here: its library is built or a C++ compiler is there."""
    return not unavailable_reason()


def unavailable_reason() -> str:
    """Why not, in one sentence; empty when it can."""
    try:
        return build.failure()
    except CompilerMissing as error:
        return str(error)


class _Run:
    """A launch plan on a machine of its own."""

    def __init__(
        self,
        machine: Machine,
        plan: LaunchPlan,
        arrays: Mapping[str, np.ndarray],
        scalars: Mapping[str, float],
        seed: int,
        alignment: int | None,
        writable: Sequence[str],
    ) -> None:
        self.machine, self.plan, self.arrays, self.scalars = machine, plan, arrays, scalars
        self.seed, self.alignment, self.writable = seed, alignment, writable
        self.findings: list[Finding] = []

    def result(self) -> Report:
        try:
            bound, stop = self._bind(), False
            for step in self.plan.steps:
                stop = self._memset(step, bound) if isinstance(step, MemsetStep) else self._launch(step, bound)
                if stop:
                    break
            span = self.plan.zeroed_span
            if span and not stop and bound["workspace"].data[:span].any():
                data = bound["workspace"].data
                at = int(np.flatnonzero(data)[0])
                promise = f"the plan promises a workspace that every run leaves zeroed, but byte {at} is {data[at]}"
                self.findings.append(Finding("workspace", f"{promise} after the run."))
            return self.machine.report({n: _view(b) for n, b in bound.items()}, self.findings)
        finally:
            self.machine.close()

    # ---- memory
    def _bind(self) -> dict[str, _Bound]:
        bound: dict[str, _Bound] = {}
        given = self.arrays
        for name, array in given.items():
            require(name in BUFFERS, "emulated buffer", name, f"is not one of {BUFFERS}")
            numpy, kind = isinstance(array, np.ndarray), type(array).__name__
            require(numpy, f"emulated buffer {name!r}", kind, "is not a numpy array")
        for name in sorted(given, key=lambda n: n != "out"):  # `out` first: c may alias it
            if name == "c" and "out" in bound and np.may_share_memory(given["c"], given["out"]):
                out = bound["out"]
                start, end = span(given["c"])
                if start == span(given["out"])[0] and end - start <= out.data.size:
                    bound[name] = _Bound(out.index, out.data, out.address, given["c"])
                    continue
            array = given[name]
            writable = name in self.writable or "out" not in given  # a run without `out` has no notion of inputs
            bound[name] = self._add(name, copied(*span(array)), writable, False, _offset(array), array)
        size, zeroed = self.plan.workspace_bytes, self.plan.workspace_zeroed
        if "workspace" not in bound and size:
            rng = np.random.default_rng(self.seed)
            data = np.zeros(size, np.uint8) if zeroed else rng.integers(0, 256, size, np.uint8) | 0x80
            bound["workspace"] = self._add("workspace", data, True, not zeroed, 0, None)
        return bound

    def _add(
        self, name: str, data: np.ndarray, writable: bool, track: bool, offset: int, like: np.ndarray | None
    ) -> _Bound:
        if self.alignment is not None and name != "workspace":  # the caller allocates the workspace, well aligned
            offset = max(self.alignment, data.dtype.itemsize if like is None else like.dtype.itemsize) % 256
        index, address = self.machine.buffer(name, data, writable=writable, track=track, offset=offset)
        return _Bound(index, data, address, like)

    def _memset(self, step: MemsetStep, bound: dict[str, _Bound]) -> bool:
        target = self._buffer(step.buffer, bound, "memset")
        if step.offset + step.nbytes > target.data.size:
            memset = f"the plan's memset of {step.nbytes} bytes at byte {step.offset}"
            leaves = f"leaves buffer `{step.buffer}` ({target.data.size} bytes)."
            self.findings.append(Finding("bounds", f"{memset} {leaves}"))
            return True
        target.data[step.offset : step.offset + step.nbytes] = step.value
        self.machine.mark_written(target.index, step.offset, step.nbytes)
        return False

    # ---- launches
    def _launch(self, step: KernelStep, bound: dict[str, _Bound]) -> bool:
        values = [self._argument(step, arg, bound) for arg in step.args]
        return self.machine.launch(
            step.kernel, step.grid, step.block, values, cluster=step.cluster, shared_bytes=step.shared_bytes
        )

    def _argument(self, step: KernelStep, arg: Any, bound: dict[str, _Bound]) -> bytes:
        if isinstance(arg, ScalarArg):
            return bytes(arg.evaluate(self.scalars))
        buffer = self._buffer(arg.buffer, bound, f"kernel {step.kernel!r}")
        address = buffer.address + arg.offset
        if isinstance(arg, BufferArg):
            return address.to_bytes(8, "little")
        assert isinstance(arg, TensorMapArg)
        left = buffer.data.size - arg.offset
        return self.machine.tensor_map(arg, buffer.index, address, left, f"kernel {step.kernel!r}")

    def _buffer(self, name: str, bound: dict[str, _Bound], what: str) -> _Bound:
        rule = f"is missing although {what} of the plan uses it"
        require(name in bound, f"array {name!r}", ..., rule, "pass it in `arrays`")
        return bound[name]


def _offset(array: np.ndarray) -> int:
    """Where a view starts in the array that owns its memory, mod 256 (device allocations are aligned to 256 bytes)."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return (span(array)[0] - span(owner)[0]) % 256


def _view(b: _Bound) -> np.ndarray:
    if b.like is None or b.like.size == 0:
        return b.data if b.like is None else b.like.copy()
    return np.ndarray(b.like.shape, b.like.dtype, b.data.data, 0, b.like.strides)
