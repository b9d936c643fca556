"""Checking a large output where it lies: one pass over it on the device, instead of a copy to the host.

A kernel of our own, ``inspect``, compares every element with its bounds and every gap between rows with the poison. It
reads raw bits and converts them itself, so that it shares no code with what it checks; tests run it on the emulator.
Elements in which two runs differ are counted by CuPy, on raw bits as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..cuda import nvrtc
from ..cuda.driver import memset
from ..cuda.launch import Program
from ..plan import BufferArg, KernelStep, LaunchPlan
from ..reference import NUMPY, Bounds
from ..workload import ITEMSIZE, ArraySpec
from . import runtime

THREADS = 256
COUNTERS = 32
"""Bytes of the result: wrong elements, 1 + index of the first, changed gap elements, largest distance (float bits)."""
_DECODE = {
    "float32": "return __uint_as_float(x);",
    "float16": 'float f; asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(f) : "r"(x)); return f;',
    "bfloat16": "return __uint_as_float(x << 16);",
    "int32": "return (int)x;",
    "int8": "return (signed char)x;",
    "float8_e4m3": """const int e = x >> 3 & 15, m = x & 7;
    if (e == 15 && m == 7) return __uint_as_float(0x7fc00000);
    const float f = e ? (8 + m) * exp2f(e - 10.0f) : m * exp2f(-9.0f);
    return x & 128 ? -f : f;""",
    "float8_e5m2": """const int e = x >> 2 & 31, m = x & 3;
    if (e == 31) return __uint_as_float(m ? 0x7fc00000 : x & 128 ? 0xff800000 : 0x7f800000);
    const float f = e ? (4 + m) * exp2f(e - 17.0f) : m * exp2f(-16.0f);
    return x & 128 ? -f : f;""",
}
_WORD = {1: "unsigned char", 2: "unsigned short", 4: "unsigned"}


@dataclass(frozen=True)
class Found:
    """What one pass found: ``wrong`` elements (``first`` is the index of one, row-major, no gaps), ``gaps`` changed."""

    wrong: int
    first: tuple[int, ...]
    gaps: int
    distance: float


def source(spec: ArraySpec) -> str:
    """CUDA source of the kernel for an array like ``spec``."""
    rows, columns, ld = shape(spec)
    word, last = _WORD[ITEMSIZE[spec.dtype]], rows * columns
    return f"""
__device__ __forceinline__ double value(unsigned x) {{
    {_DECODE[spec.dtype]}
}}
extern "C" __global__ void __launch_bounds__({THREADS})
inspect(const {word}* __restrict__ out, const {word}* __restrict__ lo, const {word}* __restrict__ hi,
        unsigned long long* result) {{
    unsigned long long wrong = 0, gaps = 0, first = ~0ull;
    float distance = 0;
    for (long long at = (long long)blockIdx.x * {THREADS} + threadIdx.x; at < {(rows - 1) * ld + columns}ll;
         at += (long long)gridDim.x * {THREADS}) {{
        const long long row = at / {ld}, column = at % {ld};
        const unsigned bits = out[at];
        if (column >= {columns}) {{
            gaps += bits != {(1 << 8 * ITEMSIZE[spec.dtype]) - 1}u;
            continue;
        }}
        const long long i = row * {columns} + column;
        const double x = value(bits), low = value(lo[i]), high = value(hi[i]);
        if (!(x >= low && x <= high) && !(low != low && x != x)) {{
            ++wrong;
            first = min(first, (unsigned long long)i);
        }}
        const float off = (float)fabs(x - 0.5 * (low + high));
        if (off < 3.0e38f) distance = fmaxf(distance, off);
    }}
    if (wrong) {{
        atomicAdd(result, wrong);
        atomicMax(result + 1, {last}ull - first);
    }}
    if (gaps) atomicAdd(result + 2, gaps);
    if (distance > 0) atomicMax((unsigned*)(result + 3), __float_as_uint(distance));
}}
"""


def plan(blocks: int) -> LaunchPlan:
    """Buffers: ``out``; ``a`` and ``b`` are lo and hi; ``workspace`` is the result."""
    arguments = (BufferArg("out"), BufferArg("a"), BufferArg("b"), BufferArg("workspace"))
    return LaunchPlan((KernelStep("inspect", (blocks, 1, 1), (THREADS, 1, 1), arguments),), COUNTERS, True)


def shape(spec: ArraySpec) -> tuple[int, int, int]:
    """(rows, columns, elements from row to row) of ``spec`` seen as one matrix."""
    columns = spec.shape[-1]
    rows = math.prod(spec.shape[:-1])
    ld = spec.element_strides[-2] if len(spec.shape) > 1 else columns
    return rows, columns, ld


class DeviceCompare:
    """The kernel, compiled and loaded, for outputs like ``spec``; bounds stay on the device while they are used."""

    def __init__(self, spec: ArraySpec, arch: str, sm_count: int, stream: runtime.Stream) -> None:
        self.spec, self.stream = spec, stream
        self._nbytes = spec.span * ITEMSIZE[spec.dtype]
        self._inspect = Program(nvrtc.to_cubin(source(spec), arch).data, plan(4 * sm_count), runtime.Module)
        self._result = runtime.allocate(COUNTERS)
        self._kept = runtime.allocate(self._nbytes)

    def place(self, limits: Bounds) -> tuple[int, int]:
        """Addresses of the bounds' C-contiguous copies on the device."""
        places = []
        for array in (limits.lo, limits.hi):
            assert array.dtype == NUMPY[self.spec.dtype]
            places.append(runtime.allocate(array.nbytes))
            runtime.upload(places[-1], array)
        return places[0], places[1]

    def release(self, bounds: tuple[int, int]) -> None:
        for address in bounds:
            runtime.free(address)

    def inspect(self, out: int, bounds: tuple[int, int]) -> Found:
        """Compare the output at ``out`` (its gaps poisoned with 0xFF) with ``bounds``, and keep a copy of it."""
        memset(self._result, 0, COUNTERS, self.stream.ptr)
        self._inspect.run({"out": out, "a": bounds[0], "b": bounds[1], "workspace": self._result}, self.stream.ptr)
        with runtime.reporting("cuStreamSynchronize"):
            self.stream.synchronize()
        runtime.copy(self._kept, out, self._nbytes)
        return read(runtime.download(self._result, COUNTERS), self.spec)

    def differing(self, out: int) -> int:
        """Elements in which the output at ``out`` differs from the copy that was kept."""
        size = ITEMSIZE[self.spec.dtype]
        strides = tuple(s * size for s in self.spec.element_strides)
        first, second = (runtime.view(at, self.spec.shape, f"u{size}", strides) for at in (self._kept, out))
        with runtime.reporting("cuCtxSynchronize"):
            return int((first != second).sum())

    def close(self) -> None:
        runtime.free(self._result)
        runtime.free(self._kept)


def read(raw: np.ndarray, spec: ArraySpec) -> Found:
    words = raw.view(np.uint64)
    rows, columns, _ = shape(spec)
    wrong = int(words[0])
    first = np.unravel_index(rows * columns - int(words[1]), spec.shape) if wrong else ()
    distance = float(raw[24:28].view(np.float32)[0])
    return Found(wrong, tuple(int(i) for i in first), int(words[2]), distance)
