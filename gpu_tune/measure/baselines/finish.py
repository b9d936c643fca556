"""What a library leaves to do after the plain product: one elementwise kernel of our own, in the same graph."""

from __future__ import annotations

from collections.abc import Mapping

from ...device import Device
from ...launch import Program
from ...reference import NUMPY
from ...workload import Conv2d, Matmul, Workload
from .. import cuda
from . import elementwise
from .call import Unavailable


def plain(w: Workload) -> bool:
    """Whether nothing follows the product but the cast."""
    return not w.epilogue and w.scales == "none" and w.alpha == "1" and w.beta == "0"


def given(w: Workload) -> str:
    """dtype in which a library leaves the plain product when something is still to be done."""
    if w.dtype == "int8":
        return "int32"
    return w.out_dtype if w.out_dtype in ("float32", "float16", "bfloat16") else "float32"


def as_matmul(w: Workload) -> Matmul:
    """A matmul whose output lies and is finished as that of ``w``; Unavailable where there is none.

    An nhwc output is (n p q, k); an nchw output is a batch of n matrices (k, p q), whose bias is a row's.
    """
    if isinstance(w, Matmul):
        return w
    assert isinstance(w, Conv2d)
    rest: dict[str, object] = dict(dtype=w.dtype, out_dtype=w.out_dtype, alignment=w.alignment, scales=w.scales)
    if w.scales == "row_col":
        raise Unavailable("has no plain product for row_col scales of a convolution")
    size = w.c // w.groups * w.r * w.s
    if w.layout == "nhwc":
        return Matmul(w.n * w.p * w.q, w.k, size, epilogue=w.epilogue, **rest)  # type: ignore[arg-type]
    if any(op.name == "scale" for op in w.ops):
        raise Unavailable("cannot finish a scale per channel in nchw")
    epilogue = "+".join("row_bias" if op.name == "bias" else str(op) for op in w.ops)
    return Matmul(w.k, w.p * w.q, size, batch=w.n, epilogue=epilogue, **rest)  # type: ignore[arg-type]


class Finisher:
    """Finishes a product in dtype :func:`given`: scales, alpha, beta, epilogue, cast."""

    def __init__(self, w: Workload, device: Device) -> None:
        matmul, self.dtype = as_matmul(w), given(w)
        if w.scales == "block128":
            raise Unavailable("has no plain product for block scales")
        self._rows = w.op == "conv2d" and w.layout == "nchw"
        self._program = Program(
            elementwise.compile_cubin(matmul, self.dtype, device), elementwise.plan(matmul, self.dtype)
        )
        nbytes = matmul.batch * matmul.m * matmul.ldc * NUMPY[self.dtype].itemsize
        self._scratch = 0 if self.dtype == w.out_dtype else cuda.allocate(nbytes)

    def target(self, buffers: Mapping[str, int]) -> int:
        """Where the library should leave its product: in ``out`` itself when the dtypes are equal."""
        return self._scratch or buffers["out"]

    def run(self, buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int, product: int = 0) -> None:
        """Issue the kernel on the product at ``product`` (default: :meth:`target`)."""
        known = {**buffers, "workspace": product or self.target(buffers)}
        if self._rows and "bias" in buffers:
            known["row_bias"] = buffers["bias"]
        self._program.bind(known, scalars)(stream)

    def close(self) -> None:
        """Free its code and memory."""
        self._program.unload()
        if self._scratch:
            cuda.free(self._scratch)
