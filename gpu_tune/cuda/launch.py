"""Running a launch plan on a GPU: load the cubin once, bind buffers once, launch as often as wanted.

A :class:`Program` belongs to the context that was current when it was made. Binding encodes tensor maps and lays out
arguments; it is done once for each set of addresses and kept. Running issues the plan's steps into the caller's stream:
no allocation, no synchronisation, so it may be captured into a graph, and two streams may run one program at a time.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import CorruptData, InvalidInput
from ..plan import (
    CTYPES,
    L2_PROMOTIONS,
    SWIZZLES,
    TENSOR_MAP_DTYPES,
    Arg,
    BufferArg,
    LaunchPlan,
    MemsetStep,
    ScalarArg,
    Step,
    TensorMapArg,
)
from . import cubin, driver

KEPT = 64
"""Bindings that a program keeps."""
PORTABLE_CLUSTER = 8
"""Blocks of a cluster that every chip with clusters can run; more must be allowed kernel by kernel."""
_BYTES = {BufferArg: 8, TensorMapArg: 128}


class Program:
    """A cubin (``image``) and its launch plan, loaded into the current context (GPU 0's primary one when none is).

    ``load`` makes the module. CorruptData when the two do not belong together; DriverError when the GPU does not take
    them.
    """

    def __init__(self, image: bytes, plan: LaunchPlan, load: Callable[[bytes], Any] = driver.Module) -> None:
        driver.use_context()
        self.plan = plan.check()
        _belong_together(image, plan)
        self._module = load(image)
        self._functions: dict[str, Any] = {}
        for name in {step.kernel for step in plan.kernels}:
            steps = [step for step in plan.kernels if step.kernel == name]
            wide = any(math.prod(step.cluster) > PORTABLE_CLUSTER for step in steps)
            self._functions[name] = self._module.kernel(name, max(s.shared_bytes for s in steps), wide)
        self._bound: OrderedDict[tuple[Any, ...], Bound] = OrderedDict()
        self._lock = threading.Lock()

    def bind(
        self, buffers: Mapping[str, int], scalars: Mapping[str, float] | None = None, *, pdl: bool = False
    ) -> Bound:
        """The plan bound to ``buffers`` (device addresses by buffer name) and run-time ``scalars``.

        ``pdl``: the plan may start while what is before it in the stream drains (programmatic dependent launch); only
        a plan of one kernel without workspace may, as kernels do not wait for the memory of their predecessors.
        InvalidInput names what is missing or what the hardware refuses (a misaligned base of a tensor map).
        """
        numbers = dict(scalars or {})
        pdl = pdl and len(self.plan.steps) == 1 and not self.plan.workspace_bytes
        key = (pdl, *sorted(buffers.items()), *sorted(numbers.items()))
        with self._lock:
            if key in self._bound:
                self._bound.move_to_end(key)
                return self._bound[key]
        bound = Bound([self._operation(step, buffers, numbers, pdl) for step in self.plan.steps], self)
        with self._lock:
            self._bound[key] = bound
            while len(self._bound) > KEPT:
                self._bound.popitem(last=False)
        return bound

    def run(self, buffers: Mapping[str, int], stream: int = 0, scalars: Mapping[str, float] | None = None) -> None:
        """Issue the whole plan into ``stream`` (a CUstream as an integer; 0 is the default stream)."""
        self.bind(buffers, scalars)(stream)

    def unload(self) -> None:
        """Free the code. Only when no launch is pending; bindings are useless afterwards."""
        with self._lock:
            self._bound.clear()
            self._module.unload()

    def _operation(
        self, step: Step, buffers: Mapping[str, int], scalars: Mapping[str, float], pdl: bool
    ) -> Callable[[int], None]:
        if isinstance(step, MemsetStep):
            value, nbytes, address = step.value, step.nbytes, _address(buffers, step.buffer) + step.offset
            return lambda stream: driver.memset(address, value, nbytes, stream)
        arguments, function = [_argument(arg, buffers, scalars) for arg in step.args], self._functions[step.kernel]
        return driver.Launch(function, step.grid, step.block, step.shared_bytes, step.cluster, arguments, pdl)


def _belong_together(image: bytes, plan: LaunchPlan) -> None:
    """Raise CorruptData unless the kernels in the cubin take what the plan passes: the driver would read whatever lies
    beyond the arguments."""
    try:
        kernels = cubin.read(image).kernels
    except CorruptData:  # the driver will say what is wrong with it
        return
    for step in plan.kernels:
        if step.kernel in kernels:
            taken = [param.size for param in kernels[step.kernel].params]
            passed = [
                ctypes.sizeof(CTYPES[arg.ctype]) if isinstance(arg, ScalarArg) else _BYTES[type(arg)]
                for arg in step.args
            ]
            if taken != passed:
                raise CorruptData(
                    f"launch plan: kernel {step.kernel} takes arguments of {taken} bytes, the plan passes {passed}; "
                    "plan and cubin do not belong together: tune again"
                )


class Bound:
    """A plan with everything decided but the stream; call it with one."""

    def __init__(self, operations: Sequence[Callable[[int], None]], program: Program) -> None:
        self._operations = tuple(operations)
        self._program = program  # keeps the code loaded
        self.only = self._operations[0] if len(self._operations) == 1 else None
        """The one step of a plan that has no more: called by itself it is the whole plan, sooner."""

    def __call__(self, stream: int = 0) -> None:
        for operation in self._operations:
            operation(stream)


def encode(arg: TensorMapArg, base: int) -> ctypes.Array[ctypes.c_char]:
    """The CUtensorMap (128 bytes, aligned to 128) of ``arg`` for the buffer at device address ``base``.

    The bindings find the function, but are not what calls it: they encode into memory that is not aligned to the 64
    bytes which the driver demands (13.5 and 12.9).
    """
    storage = ctypes.create_string_buffer(256)
    offset = -ctypes.addressof(storage) % 128
    made: ctypes.Array[ctypes.c_char] = (ctypes.c_char * 128).from_buffer(storage, offset)
    rank = len(arg.shape)
    shape = (ctypes.c_uint64 * rank)(*arg.shape)
    strides = (ctypes.c_uint64 * max(1, rank - 1))(*arg.strides)
    steps = (ctypes.c_uint32 * rank)(*(arg.element_strides or (1,) * rank))
    head = (
        made,
        TENSOR_MAP_DTYPES[arg.dtype].number,
        ctypes.c_uint32(rank),
        ctypes.c_void_p(base + arg.offset),
        shape,
        strides,
    )
    tail = (steps, 0, SWIZZLES.index(arg.swizzle), L2_PROMOTIONS.index(arg.l2_promotion), int(arg.oob_nan))
    if arg.im2col is None:
        code = _encoder("cuTensorMapEncodeTiled")(*head, (ctypes.c_uint32 * rank)(*arg.box), *tail)
    else:
        corners = [(ctypes.c_int * (rank - 2))(*c) for c in (arg.im2col.lower_corner, arg.im2col.upper_corner)]
        sizes = (ctypes.c_uint32(arg.im2col.channels_per_pixel), ctypes.c_uint32(arg.im2col.pixels_per_column))
        code = _encoder("cuTensorMapEncodeIm2col")(*head, *corners, *sizes, *tail)
    if code:
        name = driver.bindings().CUresult(code).name
        raise InvalidInput(
            f"buffer {arg.buffer}",
            hex(base),
            f"cannot be described by a tensor map ({name}): {arg}",
            "align its address to 16 bytes, or tune with a smaller alignment",
        )
    return made


@functools.cache
def _encoder(name: str) -> Any:
    """The driver's function ``name``, which takes ctypes values and returns a CUresult as an integer."""
    address, _ = driver.call("cuGetProcAddress", name.encode(), 12000, 0)
    return ctypes.CFUNCTYPE(ctypes.c_int)(int(address))


def _argument(arg: Arg, buffers: Mapping[str, int], scalars: Mapping[str, float]) -> Any:
    if isinstance(arg, BufferArg):
        return ctypes.c_uint64(_address(buffers, arg.buffer) + arg.offset)
    if isinstance(arg, TensorMapArg):
        return encode(arg, _address(buffers, arg.buffer))
    return arg.evaluate(scalars)


def _address(buffers: Mapping[str, int], name: str) -> int:
    if name not in buffers:
        raise InvalidInput(f"buffer {name}", ..., f"is missing; have {', '.join(sorted(buffers))}", f"pass {name}=")
    return int(buffers[name])
