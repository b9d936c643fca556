"""Load PTX (or CUDA source) once, run launch plans on it many times."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import math
import re
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from .. import paths
from ..cuda import nvrtc
from ..cuda.device import Device
from ..errors import EmulationError, require
from ..plan import BUFFERS, TENSOR_MAP_DTYPES, BufferArg, KernelStep, LaunchPlan, MemsetStep, ScalarArg, TensorMapArg
from . import build, tensor_map
from .report import ALL_CHECKS, BankConflicts, Checks, Finding, Report

WRITABLE = ("out", "workspace")
DEFAULT_RESIDENT_BLOCKS = 64
_MAGIC = 0x70616D726F736E65


@dataclass
class _Bound:
    """A buffer of a run: its bytes here, the address the kernel sees, and how to view the result."""

    index: int
    data: np.ndarray
    address: int
    like: np.ndarray | None


class Module:
    """PTX ready to run. Make one with :meth:`load`; runs share nothing, so threads and processes may run it at once."""

    def __init__(self, ptx: str) -> None:
        self.ptx = ptx
        self._library = build.library()
        error = ctypes.create_string_buffer(1000)
        self._handle = self._library.emu_load(ptx.encode(), error, len(error))
        _expect(self._handle, f"the emulator refuses this PTX: {error.value.decode(errors='replace')}")
        weakref.finalize(self, self._library.emu_unload, self._handle)

    @classmethod
    def load(cls, source_or_ptx: str, arch: str = "sm_80") -> Module:
        """The module of a CUDA source (compiled for ``arch``) or of PTX text.

        Modules are kept in memory (the last 64), PTX on disk by a hash of source, architecture and NVRTC version.
        EmulationError names an instruction or modifier that is not supported, with its PTX line.
        """
        return _load(source_or_ptx, "" if is_ptx(source_or_ptx) else arch)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels in the module."""
        out = ctypes.create_string_buffer(65536)
        names: bytes = self._library.emu_kernels(self._handle, out, len(out))
        return tuple(names.decode().split())

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
    ) -> Report:
        """Run every step of ``plan`` in order. See :func:`gpu_tune.emulator.emulate` for the arguments.

        ``alignment``: place every buffer at an odd multiple of so many bytes, to catch kernels that assume more.
        """
        plan.check()
        return _Run(self, plan, arrays, scalars or {}, device, seed, late, checks, alignment).result()


@functools.lru_cache(maxsize=64)
def _load(text: str, arch: str) -> Module:
    return Module(compile_ptx(text, arch) if arch else text)


def is_ptx(text: str) -> bool:
    """Whether ``text`` is PTX (it starts with a .version directive after comments) rather than CUDA source."""
    return re.search(r"^\s*\.version\s", text, re.MULTILINE) is not None


def compile_ptx(source: str, arch: str) -> str:
    """PTX with line information for a CUDA source, from the cache on disk when it is there."""
    key = hashlib.sha256(repr((source, arch, nvrtc.identity())).encode()).hexdigest()[:32]
    path = build.folder() / "ptx" / key[:2] / f"{key}.ptx"
    try:
        return path.read_text()
    except OSError:
        pass
    ptx = nvrtc.to_ptx(source, arch, lineinfo=True).data.decode()
    paths.prepare(path.parent)
    with paths.replacing(path) as new:
        new.write_text(ptx)
    return ptx


class _Run:
    def __init__(
        self,
        module: Module,
        plan: LaunchPlan,
        arrays: Mapping[str, np.ndarray],
        scalars: Mapping[str, float],
        device: Device | None,
        seed: int,
        late: bool | None,
        checks: Checks,
        alignment: int | None,
    ) -> None:
        self.module, self.plan, self.arrays, self.scalars, self.device = module, plan, arrays, scalars, device
        self.library, self.alignment = module._library, alignment
        self.findings: list[Finding] = []
        self.options = (ctypes.c_uint64 * 4)(
            seed, (seed & 1) == 0 if late is None else late, self._resident(), checks.bits
        )
        self.seed = seed

    def result(self) -> Report:
        start = time.perf_counter()
        handle = self.library.emu_begin(self.module._handle, self.options)
        try:
            bound = self._bind(handle)
            for step in self.plan.steps:
                stop = (
                    self._memset(handle, step, bound)
                    if isinstance(step, MemsetStep)
                    else self._launch(handle, step, bound)
                )
                if stop:
                    break
            facts = json.loads(self.library.emu_results(handle))
            lines = [self._lines(handle, which) for which in range(4)]
        finally:
            self.library.emu_end(handle)
        findings = [Finding(**{**f, "block": tuple(f["block"])}) for f in facts["findings"]] + self.findings
        span = self.plan.zeroed_span
        if span and not facts["stopped"] and bound["workspace"].data[:span].any():
            at = int(np.flatnonzero(bound["workspace"].data)[0])
            findings.append(
                Finding(
                    "workspace",
                    f"the plan promises a workspace that every run leaves zeroed, but byte {at} is "
                    f"{bound['workspace'].data[at]} after the run.",
                )
            )
        return Report(
            arrays={n: _view(b) for n, b in bound.items()},
            findings=tuple(findings),
            instructions=facts["instructions"],
            shared_bytes_touched=facts["shared"],
            bank_conflicts=BankConflicts(
                facts["load_wavefronts"], facts["load_extra"], facts["store_wavefronts"], facts["store_extra"]
            ),
            active_lanes=facts["lanes"] / (32 * facts["steps"]) if facts["steps"] else 1.0,
            covered_lines=lines[0],
            all_lines=lines[1],
            covered_ptx_lines=lines[2],
            useful_waits=lines[3],
            steps=facts["steps"],
            seconds=time.perf_counter() - start,
            stopped=facts["stopped"],
        )

    def _lines(self, handle: int, which: int) -> frozenset[int]:
        out = (ctypes.c_int * (self.module.ptx.count("\n") + 1000))()
        count = self.library.emu_lines(handle, which, out, len(out))
        return frozenset(out[:count])

    def _resident(self) -> int:
        """Clusters that can be resident at once."""
        found = []
        for step in self.plan.kernels:
            blocks, d = DEFAULT_RESIDENT_BLOCKS, self.device
            if d is not None:  # the registers are not known: as if they never limited it
                blocks = d.sm_count * max(1, d.resident_blocks(step.threads, 1, step.shared_bytes))
            found.append(max(1, blocks // math.prod(step.cluster)))
        return min(found)

    # ---- memory
    def _bind(self, handle: int) -> dict[str, _Bound]:
        bound: dict[str, _Bound] = {}
        given = self.arrays
        for name, array in given.items():
            require(name in BUFFERS, "emulated buffer", name, f"is not one of {BUFFERS}")
            numpy, kind = isinstance(array, np.ndarray), type(array).__name__
            require(numpy, f"emulated buffer {name!r}", kind, "is not a numpy array")
        for name in sorted(given, key=lambda n: n != "out"):  # `out` first: c may alias it
            if name == "c" and "out" in bound and np.may_share_memory(given["c"], given["out"]):
                out = bound["out"]
                start, end = byte_bounds(given["c"])
                if start == byte_bounds(given["out"])[0] and end - start <= out.data.size:
                    bound[name] = _Bound(out.index, out.data, out.address, given["c"])
                    continue
            array = given[name]
            writable = name in WRITABLE or "out" not in given  # a run without `out` has no notion of inputs
            bound[name] = self._add(handle, len(bound), name, _bytes(array), writable, False, _offset(array), array)
        size, zeroed = self.plan.workspace_bytes, self.plan.workspace_zeroed
        if "workspace" not in bound and size:
            rng = np.random.default_rng(self.seed)
            data = np.zeros(size, np.uint8) if zeroed else rng.integers(0, 256, size, np.uint8) | 0x80
            bound["workspace"] = self._add(handle, len(bound), "workspace", data, True, not zeroed, 0, None)
        return bound

    def _add(
        self,
        handle: int,
        index: int,
        name: str,
        data: np.ndarray,
        writable: bool,
        track: bool,
        offset: int,
        like: np.ndarray | None,
    ) -> _Bound:
        if self.alignment is not None and name != "workspace":  # the caller allocates the workspace, well aligned
            offset = max(self.alignment, data.dtype.itemsize if like is None else like.dtype.itemsize) % 256
        address = self.library.emu_buffer(
            handle, index, name.encode(), data.ctypes.data, data.size, writable | track << 1, offset
        )
        return _Bound(index, data, address, like)

    def _memset(self, handle: int, step: MemsetStep, bound: dict[str, _Bound]) -> bool:
        target = self._buffer(step.buffer, bound, "memset")
        if step.offset + step.nbytes > target.data.size:
            self.findings.append(
                Finding(
                    "bounds",
                    f"the plan's memset of {step.nbytes} bytes at byte {step.offset} leaves "
                    f"buffer `{step.buffer}` ({target.data.size} bytes).",
                )
            )
            return True
        target.data[step.offset : step.offset + step.nbytes] = step.value
        self.library.emu_mark_written(handle, target.index, step.offset, step.nbytes)
        return False

    # ---- launches
    def _launch(self, handle: int, step: KernelStep, bound: dict[str, _Bound]) -> bool:
        offsets, sizes, total = (ctypes.c_int * 256)(), (ctypes.c_int * 256)(), ctypes.c_int()
        count = self.library.emu_params(
            self.module._handle, step.kernel.encode(), offsets, sizes, 256, ctypes.byref(total)
        )
        kernel, given = f"kernel {step.kernel!r}", len(step.args)
        _expect(count >= 0, f"the module has no {kernel}; it has: {', '.join(self.module.kernels)}")
        _expect(count == given, f"{kernel} takes {count} arguments, the plan gives {given}")
        params = np.zeros(max(total.value, 1), np.uint8)
        for k, arg in enumerate(step.args):
            raw = self._argument(handle, step, arg, bound)
            fits = len(raw) == sizes[k]
            _expect(fits, f"argument {k} of {kernel} has {sizes[k]} bytes, the plan gives {len(raw)}")
            params[offsets[k] : offsets[k] + len(raw)] = np.frombuffer(raw, np.uint8)
        u3 = ctypes.c_uint32 * 3
        stopped = self.library.emu_launch(
            handle,
            step.kernel.encode(),
            u3(*step.grid),
            u3(*step.block),
            u3(*step.cluster),
            step.shared_bytes,
            params.ctypes.data,
            total.value,
        )
        return bool(stopped)

    def _argument(self, handle: int, step: KernelStep, arg: Any, bound: dict[str, _Bound]) -> bytes:
        if isinstance(arg, ScalarArg):
            return bytes(arg.evaluate(self.scalars))
        buffer = self._buffer(arg.buffer, bound, f"kernel {step.kernel!r}")
        address = buffer.address + arg.offset
        if isinstance(arg, BufferArg):
            return address.to_bytes(8, "little")
        assert isinstance(arg, TensorMapArg)
        broken = tensor_map.broken_rules(arg, address, buffer.data.size - arg.offset)
        illegal = f"the tensor map of buffer {arg.buffer!r} is not legal: {'; '.join(broken)}"
        _expect(not broken, f"kernel {step.kernel!r}: {illegal}")
        numbers = tensor_map.pack(
            arg, buffer.index, address, self.library.emu_type(TENSOR_MAP_DTYPES[arg.dtype].ptx.encode())
        )
        index = self.library.emu_tensor_map(handle, (ctypes.c_int64 * len(numbers))(*numbers))
        _expect(index >= 0, "a plan has more than 64 tensor maps")
        return _MAGIC.to_bytes(8, "little") + index.to_bytes(8, "little") + bytes(112)

    def _buffer(self, name: str, bound: dict[str, _Bound], what: str) -> _Bound:
        rule = f"is missing although {what} of the plan uses it"
        require(name in bound, f"array {name!r}", None, rule, "pass it in `arrays`")
        return bound[name]


def _expect(valid: object, problem: str) -> None:
    if not valid:
        raise EmulationError(problem)


def _bytes(array: np.ndarray) -> np.ndarray:
    """A copy of everything between the first and the last element, padding of strided views included."""
    require(
        min(array.strides, default=0) >= 0, "emulated buffer", array.strides, "has a negative stride", "pass a copy"
    )
    if not array.size:
        return np.zeros(0, np.uint8)
    start, end = byte_bounds(array)
    return np.array((ctypes.c_ubyte * (end - start)).from_address(start), np.uint8)


def _offset(array: np.ndarray) -> int:
    """Where a view starts in the array that owns its memory, mod 256 (device allocations are aligned to 256 bytes)."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return (byte_bounds(array)[0] - byte_bounds(owner)[0]) % 256


def _view(b: _Bound) -> np.ndarray:
    if b.like is None or b.like.size == 0:
        return b.data if b.like is None else b.like.copy()
    return np.ndarray(b.like.shape, b.like.dtype, b.data.data, 0, b.like.strides)
