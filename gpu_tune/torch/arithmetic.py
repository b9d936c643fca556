"""What PyTorch itself computes: epilogues of tensors, products and convolutions.

``native``: in the tensors' own data type, as PyTorch's users call it (on a GPU: cuBLAS and cuDNN). Otherwise in the
arithmetic of our kernels: inputs are widened, sums and the epilogue are float32, and the result is rounded once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import require
from ..workload import epilogue as grammar
from ..workload.epilogue import Op

Operands = Mapping[str, Tensor]


@functools.lru_cache(maxsize=1024)
def parse(epilogue: str) -> tuple[Op, ...]:
    """The operations of an epilogue; InvalidInput for backward ones and those that save for them: autograd does it."""
    ops = grammar.parse(epilogue)
    rule = "has a backward operation, or one that saves for it, which the operators of gpu_tune.torch do not take"
    remedy = "leave it to autograd, or call gpu_tune.matmul, gpu_tune.tune or gpu_tune.load"
    require(not any(op.operand == "aux" or op.writes for op in ops), "epilogue", epilogue, rule, remedy)
    return ops


def vector(name: str, value: Tensor, channels_first: bool) -> Tensor:
    """An epilogue's vector as it is broadcast over a result; ``channels_first``: over (n, k, p, q)."""
    if name == "row_bias":
        return value[:, None]
    return value[:, None, None] if channels_first else value


def apply(op: Op, y: Tensor, operands: Operands, channels_first: bool = False) -> Tensor:
    """One operation of an epilogue, in the data type of ``y``."""
    if op.name in ("scale", "bias", "row_bias"):
        other = vector(op.name, operands[op.name].to(y.dtype), channels_first)
        return y * other if op.name == "scale" else y + other
    if op.name == "residual":
        return y + operands["residual"].to(y.dtype)
    if op.name == "relu":
        return functional.relu(y)
    if op.name == "silu":
        return functional.silu(y)
    if op.name == "clamp":
        return y.clamp(op.lo, op.hi)
    return functional.gelu(y, approximate="tanh" if op.name == "gelu_tanh" else "none")


def product(
    operands: Operands,
    layout: str,
    ops: Sequence[Op],
    alpha: float,
    beta: float,
    dtype: torch.dtype,
    *,
    native: bool,
) -> Tensor:
    """A matmul and its epilogue, as ``dtype``. ``operands`` by name: a, b, c where beta is not 0, the epilogue's."""
    a, b = (operands[n] if order == "n" else operands[n].mT for n, order in zip("ab", layout))
    a, b = (a, b) if native else (a.float(), b.float())
    bare = native and alpha == 1 and not beta and a.dim() == b.dim() == 2
    if bare and ops and ops[0].name == "bias":
        y, ops = torch.addmm(operands["bias"], a, b), ops[1:]  # one kernel of cuBLASLt's
    else:
        y = a @ b
    y = y if alpha == 1 else y * alpha
    if beta:
        y = y + beta * operands["c"].to(y.dtype)
    for op in ops:
        y = apply(op, y, operands)
    return y.to(dtype)


def convolution(
    operands: Operands,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    ops: Sequence[Op],
    dtype: torch.dtype,
    *,
    native: bool,
    tf32: bool,
) -> Tensor:
    """A convolution of (n, c, h, w) images and its epilogue, as ``dtype``; ``padding`` has four numbers."""
    x, w = (operands[n] if native else operands[n].float() for n in "xw")
    x, even = padded(x, padding)
    bias = None
    if native and ops and ops[0].name == "bias":
        bias, ops = operands["bias"], ops[1:]
    with permitted(tf32) if native and x.is_cuda and x.dtype is torch.float32 else contextlib.nullcontext():
        y = functional.conv2d(x, w, bias, list(stride), even, list(dilation), groups)
    for op in ops:
        y = apply(op, y, operands, channels_first=True)
    return y.to(dtype)


def gradient(
    direction: str,
    dy: Tensor,
    other: Tensor,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    tf32: bool,
) -> Tensor:
    """A convolution's gradient of ``shape``: for the images from the filters (``dgrad``), or the other way (``wgrad``).

    What is not asked for is a tensor without memory of its own, as in ``torch.nn.grad``.
    """
    top, bottom, left, right = padding
    even = (top, left) == (bottom, right)
    blank = dy.new_empty(1)
    if direction == "dgrad":
        n, c, h, w = shape
        more = (0, 0) if even else (top + bottom, left + right)
        image, around = blank.expand(n, c, h + more[0], w + more[1]), [top, left] if even else [0, 0]
        filters = other
    else:
        image, around = padded(other, padding)
        filters = blank.expand(tuple(shape))
    mask = [direction == "dgrad", direction == "wgrad", False]
    options = (list(stride), around, list(dilation), False, [0, 0], groups, mask)
    with permitted(tf32) if dy.is_cuda and dy.dtype is torch.float32 else contextlib.nullcontext():
        found = torch.ops.aten.convolution_backward(dy, image, filters, None, *options)
    if direction == "wgrad":
        return found[1]
    return found[0] if even else found[0][:, :, top : top + shape[2], left : left + shape[3]]


def padded(x: Tensor, padding: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Images and the padding that PyTorch still has to add, which is the same on opposite sides."""
    top, bottom, left, right = padding
    if (top, left) == (bottom, right):
        return x, [top, left]
    return functional.pad(x, (left, right, top, bottom)), [0, 0]


def permitted(tf32: bool) -> contextlib.AbstractContextManager[None]:
    """cuDNN takes TF32 for float32 data unless told otherwise; here it is a permission."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, allow_tf32=tf32)
