"""What PyTorch itself computes: epilogues of tensors, products and convolutions.

``native``: in the tensors' own data type, as PyTorch's users call it (on a GPU: cuBLAS and cuDNN). Otherwise in the
arithmetic of our kernels: inputs are widened, sums and the epilogue are float32, and the result is rounded once.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import require
from ..measure.vendor import packed_tensor, unpacked_tensor
from ..workload import epilogue as grammar
from ..workload.epilogue import DERIVATIVES, Op

Operands = Mapping[str, Tensor]


parse_all = functools.lru_cache(maxsize=1024)(grammar.parse)
"""The operations of an epilogue, backward ones among them."""


@functools.lru_cache(maxsize=1024)
def parse(epilogue: str) -> tuple[Op, ...]:
    """The operations of an epilogue; InvalidInput for backward ones and those that save for them."""
    ops = grammar.parse(epilogue)
    rule = "has a backward operation, or one that saves for it, which operators with one result do not take"
    remedy = "call gpu_tune.torch.matmul or conv2d, or gpu_tune.matmul"
    require(not has_second(ops), "epilogue", epilogue, rule, remedy)
    return ops


def has_second(ops: Sequence[Op]) -> bool:
    """Whether an epilogue has a second result, or a backward operation: what operators with two results compute."""
    return any(op.operand == "aux" or op.writes for op in ops)


def joined(ops: Sequence[Op]) -> str:
    """The text of an epilogue."""
    return "+".join(map(str, ops))


def split(ops: Sequence[Op]) -> tuple[Sequence[Op], Sequence[Op]]:
    """An epilogue in two: what operators with one result compute, and the rest."""
    at = next((i for i, op in enumerate(ops) if op.operand == "aux" or op.writes), len(ops))
    return ops[:at], ops[at:]


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


def undo(op: Op, g: Tensor, saved: Tensor, order: Sequence[int] | None = None) -> Tensor:
    """``g`` times the slope of an activation, from what it was given, what it gave (``drelu(out)``) or from bits.

    ``order``: the dimensions of images as they lie in memory, which is their bits' order; None: each row has its own.
    """
    aten, name = torch.ops.aten, op.name.removeprefix("d")
    if not saved.is_floating_point():
        return torch.where(unpacked(saved, g.shape, order), g, torch.zeros((), dtype=g.dtype, device=g.device))
    saved = saved.to(g.dtype)
    if name == "relu(out)":
        return aten.threshold_backward(g, saved, 0)
    if name == "silu" and torch.is_grad_enabled():  # PyTorch's own kernel has no derivative
        sigmoid = torch.sigmoid(saved)
        return g * (sigmoid * (1 + saved * (1 - sigmoid)))
    if name == "silu":
        return aten.silu_backward(g, saved)
    return aten.gelu_backward(g, saved, approximate="tanh" if name == "gelu_tanh" else "none")


def packed(where: Tensor, order: Sequence[int] | None) -> Tensor:
    """Booleans as bits, as a ReLU saves them; ``order`` as :func:`undo` has it."""
    return packed_tensor(torch, where if order is None else where.permute(*order).flatten())


def unpacked(mask: Tensor, shape: Sequence[int], order: Sequence[int] | None) -> Tensor:
    """What :func:`packed` packed, of that shape."""
    if order is None:
        return unpacked_tensor(torch, mask, shape[-1])
    lies = [shape[i] for i in order]
    flat = unpacked_tensor(torch, mask, math.prod(lies)).reshape(lies)
    return flat.permute(*(list(order).index(i) for i in range(len(order))))


def finished(
    ops: Sequence[Op],
    y: Tensor,
    operands: Operands,
    dtype: torch.dtype,
    order: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The rest of an epilogue (see :func:`split`) and its second result, which is empty where it has none.

    ``order`` as :func:`undo` has it; None for a product. A bias's gradient sums the result as it is stored.
    """
    second = None
    for op in ops:
        if op.name == "dbias":
            y = y.to(dtype)
            channels = y.dim() - 1 if order is None else 1
            second = y.sum([i for i in range(y.dim()) if i != channels], dtype=torch.float32).to(dtype)
        elif op.name in DERIVATIVES:
            y = undo(op, y, operands["aux"], order)
        else:
            if op.saves:
                second = packed(~(y <= 0), order) if op.bits else y.to(dtype)
            y = apply(op, y, operands, channels_first=order is not None)
    y = y.to(dtype)
    return y, y.new_empty(0) if second is None else second


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
