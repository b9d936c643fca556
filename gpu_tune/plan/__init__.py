"""Launch plans: what runs a candidate.

A :class:`LaunchPlan` is ordered steps (kernel launches and memsets), the bytes of workspace and its initial state.
It is plain data: the emulator, the GPU and a C++ caller all run a kernel from the same plan, and ``launch.json`` is
its JSON form. Arguments name buffers; who runs the plan binds the names to memory. Of a workload with an open size,
grids, bytes, shapes and scalars are expressions over it (:mod:`gpu_tune.plan.size`), and :meth:`LaunchPlan.at` gives
the plan of one size, which is what runs.

Buffer names. matmul: ``a b c out bias row_bias residual aux dbias scale scale_a scale_b workspace``; conv2d: two of
``x w dy`` for ``a b``. ``c`` is the input of ``beta * C``, ``out`` is always the result, ``dbias`` a second one, and
``aux`` where the epilogue saves. Run-time scalars: ``alpha``, ``beta``.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from .. import text
from ..errors import CorruptData, InvalidInput, require
from .size import Size, fixed, open_size

BUFFERS = (
    "a",
    "b",
    "x",
    "w",
    "dy",
    "c",
    "out",
    "bias",
    "row_bias",
    "residual",
    "aux",
    "dbias",
    "scale",
    "scale_a",
    "scale_b",
    "workspace",
)
SCALARS = ("alpha", "beta")
CTYPES: dict[str, Any] = {
    "int32": ctypes.c_int32,
    "uint32": ctypes.c_uint32,
    "int64": ctypes.c_int64,
    "uint64": ctypes.c_uint64,
    "float32": ctypes.c_float,
}
"""What a scalar may be passed as."""


class MapDtype(NamedTuple):
    """A data type of tensor maps: bytes of an element, CUtensorMapDataType, and its name in PTX."""

    itemsize: int
    number: int
    ptx: str


TENSOR_MAP_DTYPES = {
    "uint8": MapDtype(1, 0, "u8"),
    "uint16": MapDtype(2, 1, "u16"),
    "uint32": MapDtype(4, 2, "u32"),
    "int32": MapDtype(4, 3, "s32"),
    "uint64": MapDtype(8, 4, "u64"),
    "int64": MapDtype(8, 5, "s64"),
    "float16": MapDtype(2, 6, "f16"),
    "float32": MapDtype(4, 7, "f32"),
    "float64": MapDtype(8, 8, "f64"),
    "bfloat16": MapDtype(2, 9, "bf16"),
    "tfloat32": MapDtype(4, 11, "tf32"),
}
SWIZZLES = (0, 32, 64, 128)
"""Bytes, in the order of CUtensorMapSwizzle."""
L2_PROMOTIONS = (0, 64, 128, 256)
"""Bytes, in the order of CUtensorMapL2promotion."""

if TYPE_CHECKING:
    Extent = int
else:
    Extent = (
        int | Size
    )  # a number, or in the plan of an open size an expression over it: whoever runs a plan has numbers
Dim3 = tuple[Extent, Extent, Extent]


@dataclass(frozen=True)
class BufferArg:
    """A 64-bit device pointer: the buffer's first element plus ``offset`` bytes."""

    type: ClassVar[str] = "buffer"
    buffer: str
    offset: Extent = 0


@dataclass(frozen=True)
class ScalarArg:
    """A number by value. ``value`` is fixed in the plan, or None for a run-time scalar named ``name``."""

    type: ClassVar[str] = "scalar"
    name: str
    ctype: str
    value: Extent | float | None = None

    def evaluate(self, scalars: Mapping[str, float]) -> Any:
        """The number as a ctypes object, from ``scalars`` where the plan has none; InvalidInput when it is missing."""
        value = scalars.get(self.name) if self.value is None else self.value
        if value is None:
            raise InvalidInput(f"scalar {self.name}", ..., "is missing", f"pass {self.name}=")
        return CTYPES[self.ctype](value if self.ctype == "float32" else int(value))


@dataclass(frozen=True)
class TensorMapArg:
    """A CUtensorMap (128 bytes) by value, for a ``const __grid_constant__`` kernel parameter.

    All tuples have the innermost (contiguous) dimension first, as cuTensorMapEncodeTiled takes them.
    ``strides`` are bytes, for dimensions 1.. (the innermost is contiguous). ``swizzle`` is the span in bytes, 0 for
    none. ``l2_promotion`` is 0, 64, 128 or 256 bytes. ``im2col`` makes it an im2col map (rank 3..5).
    """

    type: ClassVar[str] = "tensor_map"
    buffer: str
    dtype: str
    shape: tuple[Extent, ...]
    strides: tuple[Extent, ...]
    box: tuple[int, ...]
    swizzle: int = 128
    element_strides: tuple[int, ...] = ()
    l2_promotion: int = 128
    oob_nan: bool = False
    offset: Extent = 0
    im2col: Im2Col | None = None


@dataclass(frozen=True)
class Im2Col:
    """The im2col half of a tensor map (cuTensorMapEncodeIm2col); corners are W, H(, D) first; ``box`` is unused."""

    type: ClassVar[str] = "im2col"
    lower_corner: tuple[int, ...]
    upper_corner: tuple[int, ...]
    channels_per_pixel: int
    pixels_per_column: int


Arg = BufferArg | ScalarArg | TensorMapArg


@dataclass(frozen=True)
class KernelStep:
    """One kernel launch. ``grid`` counts blocks (a multiple of ``cluster``); ``shared_bytes`` is dynamic."""

    type: ClassVar[str] = "kernel"
    kernel: str
    grid: Dim3
    block: Dim3
    args: tuple[Arg, ...]
    shared_bytes: int = 0
    cluster: Dim3 = (1, 1, 1)

    @property
    def threads(self) -> int:
        """Threads of one block."""
        return math.prod(self.block)

    @property
    def blocks(self) -> int:
        """Blocks of the whole grid."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class MemsetStep:
    """``nbytes`` of ``buffer`` from ``offset`` set to ``value`` (a byte)."""

    type: ClassVar[str] = "memset"
    buffer: str
    nbytes: Extent
    value: int = 0
    offset: Extent = 0


Step = KernelStep | MemsetStep


@dataclass(frozen=True)
class Walk:
    """What a block reads of one operand in one step: ``runs`` of ``run_bytes`` contiguous bytes, ``stride`` bytes from
    one to the next."""

    runs: int
    run_bytes: int
    stride: int


@dataclass(frozen=True)
class MainLoop:
    """The loop in which a kernel multiplies, as its family declares it: what its time is predicted from.

    A *unit* of work is what fills one tile of the output, over one part of a split K: ``steps`` times a tile of K.
    ``macs``: multiply-adds that one block executes in a step. ``tiles``: of the output down and across, and how many
    such outputs (batch, groups, parts of K) there are; a grid of fewer blocks walks over them. ``reads``: bytes of the
    operand of rows and of that of columns that a unit reads. ``band``: tiles that the raster walks together down
    (across where ``band_along`` is "n"), for reuse in L2. ``stages``: tiles of K in shared memory at once.
    ``consumers``: of a warp-specialised kernel, warpgroups that multiply what a producer copies; ``in_turn``: each has
    units of its own. ``shares``: blocks that share a tile of rows, and one of columns, by multicast. ``walks``: how the
    operands lie in memory (empty: not known). ``tail``: units, the last ones, that are split into ``parts`` parts of K;
    ``part_bytes``: of a part's sums.
    """

    kernel: str
    steps: int
    macs: float
    tiles: tuple[int, int, int]
    reads: tuple[float, float]
    band: int = 1
    band_along: str = "m"
    stages: int = 1
    consumers: int = 0
    in_turn: bool = False
    shares: tuple[int, int] = (1, 1)
    walks: tuple[Walk, ...] = ()
    tail: int = 0
    parts: int = 1
    part_bytes: int = 0

    @property
    def units(self) -> int:
        """Units of work of all blocks."""
        return math.prod(self.tiles)


@dataclass(frozen=True)
class ResourceEstimate:
    """What a config takes, known before compiling. ``accumulators``: registers per thread that hold accumulators.

    ``shared_bytes``: static plus dynamic of the largest kernel. ``workspace_bytes`` equals the plan's. ``loop``: of the
    kernel that does the arithmetic; None where its family declares none.
    """

    threads: int
    shared_bytes: int
    accumulators: int
    workspace_bytes: int = 0
    loop: MainLoop | None = None


@dataclass(frozen=True)
class LaunchPlan:
    """Ordered steps; every step is timed.

    ``workspace_zeroed``: the workspace holds zeros before the first run, and every run leaves it so (semaphores).
    Otherwise its content is arbitrary before each run. ``zeroed_bytes``: when above 0, only that many leading bytes are
    meant and the rest is arbitrary.
    """

    steps: tuple[Step, ...]
    workspace_bytes: Extent = 0
    workspace_zeroed: bool = False
    zeroed_bytes: Extent = 0

    @property
    def zeroed_span(self) -> int:
        """Leading bytes of the workspace that are zero before the first run and after every run."""
        return (self.zeroed_bytes or self.workspace_bytes) if self.workspace_zeroed else 0

    @property
    def kernels(self) -> tuple[KernelStep, ...]:
        """The kernel launches, in order."""
        return tuple(s for s in self.steps if isinstance(s, KernelStep))

    @cached_property
    def open(self) -> Size | None:
        """The open size of the workload that the plan is for; None where everything is a number."""
        return open_size(self)

    def at(self, size: int) -> LaunchPlan:
        """The plan for one ``size`` of the open one; InvalidInput where that is not allowed."""
        return fixed(self, size)

    def check(self) -> LaunchPlan:
        """Return self, or raise InvalidInput when a rule that holds on every device is broken.

        An open size: for the least and the largest, between which grids and bytes grow.
        """
        if self.open is not None:
            for size in self.open.bounds:
                self.at(size).check()
            return self
        for step in self.steps:
            if isinstance(step, MemsetStep):
                require(step.buffer in BUFFERS, "launch plan memset", step.buffer, f"is not one of {BUFFERS}")
                require(
                    0 <= step.value < 256 and step.nbytes > 0 and step.offset >= 0,
                    "launch plan memset",
                    step,
                    "needs 0 <= value < 256, nbytes > 0, offset >= 0",
                )
            else:
                _check_kernel(step)
        require(bool(self.kernels), "launch plan", ..., "has no kernel launch")
        require(self.workspace_bytes >= 0, "launch plan workspace_bytes", self.workspace_bytes, "is negative")
        require(
            0 <= self.zeroed_bytes <= self.workspace_bytes,
            "launch plan zeroed_bytes",
            self.zeroed_bytes,
            "is not within the workspace",
        )
        return self

    def to_json(self) -> dict[str, Any]:
        """A plain dict that ``from_json`` turns back into an equal plan."""
        return dict(text.to_json(self))

    @classmethod
    def from_json(cls, data: object) -> LaunchPlan:
        """The plan in ``data``; CorruptData when it is not exactly what ``to_json`` writes."""
        try:
            plan: LaunchPlan = text.from_json(cls, data, name="plan")
            return plan.check()
        except (TypeError, ValueError, InvalidInput) as error:
            raise CorruptData(f"launch plan: {error!s} (damaged or hand-edited; tune again to replace it)") from error


def _check_kernel(step: KernelStep) -> None:
    what = f"launch plan kernel {step.kernel!r}"
    require(step.kernel.isidentifier(), "launch plan kernel", step.kernel, "is not an identifier")
    for name in ("grid", "block", "cluster"):
        dims = getattr(step, name)
        require(
            len(dims) == 3 and all(isinstance(d, int) and d >= 1 for d in dims),
            f"{what} {name}",
            dims,
            "needs three positive integers",
        )
    require(
        all(g % c == 0 for g, c in zip(step.grid, step.cluster)),
        f"{what} grid",
        step.grid,
        f"is not a multiple of the cluster {step.cluster}",
    )
    require(step.threads <= 1024 and step.block[2] <= 64, f"{what} block", step.block, "exceeds 1024 threads")
    require(
        step.grid[0] < 2**31 and step.grid[1] < 65536 and step.grid[2] < 65536,
        f"{what} grid",
        step.grid,
        "exceeds (2^31-1, 65535, 65535)",
    )
    require(step.shared_bytes >= 0, f"{what} shared_bytes", step.shared_bytes, "is negative")
    for arg in step.args:
        if isinstance(arg, ScalarArg):
            require(arg.ctype in CTYPES, f"{what} scalar {arg.name}", arg.ctype, f"is not one of {tuple(CTYPES)}")
            require(
                arg.value is not None or arg.name in SCALARS,
                f"{what} scalar",
                arg.name,
                f"has no value and is not one of {SCALARS}",
            )
        else:
            require(arg.buffer in BUFFERS, f"{what} buffer", arg.buffer, f"is not one of {BUFFERS}")
            if isinstance(arg, TensorMapArg):
                require(
                    arg.dtype in TENSOR_MAP_DTYPES,
                    f"{what} tensor map dtype",
                    arg.dtype,
                    f"is not one of {tuple(TENSOR_MAP_DTYPES)}",
                )
                require(arg.swizzle in SWIZZLES, f"{what} tensor map swizzle", arg.swizzle, f"is not one of {SWIZZLES}")
