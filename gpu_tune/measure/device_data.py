"""A candidate on the GPU, ready to be checked and timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..cuda import driver
from ..cuda.driver import DriverError, memset
from ..cuda.launch import Bound, Program
from ..reference import NUMPY
from ..workload import ArraySpec, Workload
from . import runtime
from .messages import KernelToLoad
from .reference_products import large_inputs

GUARD = 4096
"""Bytes on each side of the output that a kernel must leave alone."""
MAX_SETS = 256
_STEP = 256


SCALARS = {"alpha": 0.75, "beta": 0.5}


class DeviceData:
    """Example inputs of ``workload`` for ``seed``, uploaded. Buffers by name; addresses keep ``workload.alignment``.

    The set to verify on keeps that alignment and no more; those to time on are aligned to 256 bytes, as libraries
    allocate. ``sets`` of them, so that three times ``l2_bytes`` rotate (at most 256, and what memory allows).
    """

    def __init__(self, workload: Workload, seed: int, l2_bytes: int) -> None:
        self.workload, self.seed = workload, seed
        self.specs = workload.arrays()
        self.scalars = {name: SCALARS[name] for name in workload.scalars()}
        self.arrays = large_inputs(workload, seed)
        self._offsets, size = layout(self.specs, workload.outputs)
        self.footprint = sum(spec.span * NUMPY[spec.dtype].itemsize for spec in self.specs.values())
        wanted = min(MAX_SETS, max(2, -(-3 * l2_bytes // max(1, self.footprint))))
        room = int(0.6 * runtime.free_bytes()) // (size + _STEP)
        self.sets = max(1, min(wanted, room - 2))
        self._owned: list[int] = []
        try:
            shift = workload.alignment % _STEP
            base = self._allocate(size + _STEP) + shift
            self.verify = {n: base + o for n, o in self._offsets.items()}
            self.load(self.arrays)
            first = self._allocate(size)
            self.timing = [{n: first + o for n, o in self._offsets.items()}]
            for name in self.arrays:
                runtime.copy(self.timing[0][name], self.verify[name], self.nbytes(name))
            for _ in range(self.sets - 1):
                more = self._allocate(size)
                runtime.copy(more, first, size)
                self.timing.append({n: more + o for n, o in self._offsets.items()})
        except DriverError:
            self.close()
            raise

    def nbytes(self, name: str) -> int:
        """Bytes from the first to the last element of ``name``."""
        return self.specs[name].span * NUMPY[self.specs[name].dtype].itemsize

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put ``arrays`` into the set to verify on."""
        for name, array in arrays.items():
            runtime.upload(self.verify[name], _flat(array, self.specs[name]))

    def poison(self, value: int, stream: int) -> None:
        """Fill the results to verify, and the guard bands around each, with the byte ``value``."""
        for name in self.workload.outputs:
            memset(self.verify[name] - GUARD, value, self.nbytes(name) + 2 * GUARD, stream)

    def guards(self) -> np.ndarray:
        """The bytes of both guard bands of each result to verify."""
        ends = [(self.verify[name], self.verify[name] + self.nbytes(name)) for name in self.workload.outputs]
        return np.concatenate([runtime.download(at, GUARD) for start, end in ends for at in (start - GUARD, end)])

    def element(self, name: str, index: tuple[int, ...]) -> float:
        """One element of the result ``name`` to verify, of a mask one bit."""
        spec = self.specs[name]
        dtype, (*lead, last) = NUMPY[spec.dtype], index
        bit = last % 8 if spec.dtype == "uint8" else None
        place = (*lead, last if bit is None else last // 8)
        at = sum(i * s for i, s in zip(place, spec.element_strides)) * dtype.itemsize
        found = runtime.download(self.verify[name] + at, dtype.itemsize).view(dtype)[0]
        return float(found if bit is None else found >> bit & 1)

    def close(self) -> None:
        while self._owned:
            runtime.free(self._owned.pop())
        runtime.release()

    def _allocate(self, nbytes: int) -> int:
        self._owned.append(runtime.allocate(nbytes))
        return self._owned[-1]


def layout(specs: Mapping[str, ArraySpec], guarded: Sequence[str] = ("out",)) -> tuple[dict[str, int], int]:
    """(offset of each buffer, bytes altogether); guard bands around results, every offset a multiple of 256."""
    offsets, at = {}, 0
    for name, spec in specs.items():
        at += GUARD if name in guarded else 0
        offsets[name] = at
        at += spec.span * NUMPY[spec.dtype].itemsize + (GUARD if name in guarded else 0)
        at = -(-at // _STEP) * _STEP
    return offsets, at


def _flat(array: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """The memory from the first element of ``array`` to the last, gaps included."""
    size = array.dtype.itemsize  # as raw integers: NumPy's as_strided does not take every float8
    return np.lib.stride_tricks.as_strided(array.view(f"u{size}"), (spec.span,), (size,))


class LoadedKernel:
    """A build on the device, bound to the verify set and to each timing set."""

    def __init__(self, kernel: KernelToLoad, data: DeviceData, pdl: bool) -> None:
        self.plan, self.names, self.numerics = kernel.plan, kernel.buffers, kernel.numerics
        self.program = Program(kernel.cubin, self.plan, runtime.Module)
        self.data, self.pdl = data, pdl
        self.workspace = runtime.allocate(self.plan.workspace_bytes) if self.plan.workspace_bytes else 0
        self.sets, self.footprint = data.sets, data.footprint
        self._timed: list[Bound] = []

    def run(self, buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
        self.program.bind(self._named(buffers), scalars)(stream)

    def launch(self, i: int, stream: int) -> None:
        while len(self._timed) <= i:
            named = self._named(self.data.timing[len(self._timed)])
            self._timed.append(self.program.bind(named, self.data.scalars, pdl=self.pdl))
        self._timed[i](stream)

    def prepare_to_time(self, stream: runtime.Stream) -> None:
        if self.plan.workspace_bytes:
            driver.memset(self.workspace, 0, self.plan.workspace_bytes, stream.ptr)

    def close(self) -> None:
        if self.workspace:
            runtime.free(self.workspace)
        self.program.unload()

    def _named(self, buffers: Mapping[str, int]) -> dict[str, int]:
        known = {template: buffers[own] for template, own in self.names.items() if own in buffers}
        return {**known, "workspace": self.workspace} if self.workspace else known
