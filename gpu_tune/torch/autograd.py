"""Gradients of the operators. Backward products are workloads of their own, dispatched and tunable like any other.

For ``P = A @ B`` with its gradient ``G``: ``dA = G @ B^T`` and ``dB = A^T @ G``; which letters those are follows from
the layout (a linear layer, nt, needs nn and tn). A convolution's are workloads with direction dgrad and wgrad.

Where a gradient is asked for, our kernel computes the epilogue up to its last operation that can be undone from the
result: all that is linear, and a relu. What follows (gelu, silu, clamp) needs what it was given, which a fused kernel
does not keep: PyTorch's own operators compute it, and a compiler fuses them. Under torch.func (vmap included) and in
forward mode, which know no formulas of ours, PyTorch's operators compute the whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import Unsupported
from ..workload.epilogue import Op
from . import arithmetic, layouts, ops
from .calls import permissions
from .gradient_calls import gradient_shape
from .routes import Call

AFTER = torch._C._after_autograd_keyset
LINEAR = ("scale", "bias", "row_bias", "residual")
Gradients = dict[str, Tensor | None]


def kept(parsed: Sequence[Op], scale_needs_gradient: bool) -> tuple[Sequence[Op], Sequence[Op]]:
    """The epilogue in two: what can be undone from its result, and the rest.

    The first part is all that is linear, up to a scale that is asked for its own gradient, and a relu after it.
    """
    split = 0
    for op in parsed:
        if op.name not in LINEAR or (op.name == "scale" and scale_needs_gradient):
            break
        split += 1
    split += split < len(parsed) and parsed[split].name == "relu"
    return parsed[:split], parsed[split:]


@functools.lru_cache(maxsize=1024)
def whole(epilogue: str, scale_needs_gradient: bool) -> bool:
    """Whether :func:`kept` leaves the epilogue whole."""
    return not kept(arithmetic.parse(epilogue), scale_needs_gradient)[1]


def joined(parsed: Sequence[Op]) -> str:
    """The text of an epilogue."""
    return "+".join(map(str, parsed))


def _over(name: str, g: Tensor, channels_first: bool) -> Tensor:
    """The sum over all that a vector was broadcast to, in float32."""
    remaining = g.dim() - 2 if name == "row_bias" else 1 if channels_first else g.dim() - 1
    return g.sum([i for i in range(g.dim()) if i != remaining], dtype=torch.float32)


class _Operator(torch.autograd.Function):
    """What both operators share; subclasses have ``op``, ``names`` and ``at``, the epilogue's place among options.

    The epilogue is one that :func:`kept` leaves whole. Saved are each factor for the other's gradient, the scale, and
    the result of a relu.
    """

    op: Any
    body: Callable[..., Tensor]
    call: Callable[..., Call]
    names: tuple[str, ...]
    at: int
    channels_first: bool

    @classmethod
    def inner(cls, ctx: Any, g: Tensor, first: Tensor, second: Tensor, wanted: Gradients) -> None:
        """Put the gradients of the product's or convolution's own tensors into ``wanted``."""
        raise NotImplementedError

    @classmethod
    def undone(cls, ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """One gradient for each argument of the operator, from that of its result."""
        first, second, scale, out = ctx.saved_tensors
        wanted: Gradients = {n: None for n, needed in zip(cls.names, ctx.needs_input_grad[1:]) if needed}
        g = cls.laid(g, first, second)
        for op in reversed(arithmetic.parse(ctx.options[cls.at])):
            if op.name == "relu":
                g = torch.ops.aten.threshold_backward(g, out, 0)
            elif op.name == "scale":
                g = (g * arithmetic.vector("scale", scale, cls.channels_first)).to(g.dtype)
            elif op.name in wanted:
                # of the result's data type, as the operand is
                wanted[op.name] = g if op.name == "residual" else _over(op.name, g, cls.channels_first).to(g.dtype)
        cls.inner(ctx, g, first, second, wanted)
        return (None, *(wanted.get(name) for name in cls.names), *(None for _ in ctx.options))

    @classmethod
    def laid(cls, g: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """The gradient in memory of its own: that of a sum has strides of 0."""
        return g.contiguous()


class _Matmul(_Operator):
    op, names, at, channels_first = ops.matmul, ops.PRODUCT, 3, False
    call = staticmethod(ops.product)

    @staticmethod
    def forward(ctx: Any, keyset: Any, a: Tensor, b: Tensor, *rest: Any) -> Any:
        if keyset is None:
            out = _Matmul.body(None, a, b, *rest)
        else:
            out = ops.matmul.redispatch(keyset & AFTER, a, b, *rest)
        ctx.options = rest[5:]
        relu = out if rest[8].endswith("relu") else None
        ctx.save_for_backward(a if b.requires_grad else None, b if a.requires_grad else None, rest[4], relu)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Matmul.undone(ctx, g)

    @classmethod
    def inner(cls, ctx: Any, g: Tensor, first: Tensor, second: Tensor, wanted: Gradients) -> None:
        layout, alpha, beta, *_, math = ctx.options
        if "c" in wanted:
            wanted["c"] = g * beta
        factor = first if first is not None else second
        if factor is None:
            return
        g = g.to(factor.dtype)

        def product(left: Tensor, right: Tensor, letters: str) -> Tensor:
            return ops.matmul(left, right, None, None, None, None, None, letters, alpha, 0.0, "", None, math)

        a, b = layout
        if "a" in wanted:
            turned = layouts.FLIPPED[b]
            wanted["a"] = product(g, second, "n" + turned) if a == "n" else product(second, g, b + "t")
        if "b" in wanted:
            turned = layouts.FLIPPED[a]
            wanted["b"] = product(first, g, turned + "n") if b == "n" else product(g, first, "t" + a)


class _Conv2d(_Operator):
    op, names, at, channels_first = ops.conv2d, ops.CONVOLUTION, 4, True
    call = staticmethod(ops.convolution)

    @staticmethod
    def forward(ctx: Any, keyset: Any, x: Tensor, w: Tensor, *rest: Any) -> Any:
        if keyset is None:
            out = _Conv2d.body(None, x, w, *rest)
        else:
            out = ops.conv2d.redispatch(keyset & AFTER, x, w, *rest)
        ctx.options = rest[3:]
        relu = out if rest[7].endswith("relu") else None
        if x.requires_grad or w.requires_grad:
            ctx.save_for_backward(x, w, rest[2], relu)
        else:
            ctx.save_for_backward(None, None, rest[2], relu)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Conv2d.undone(ctx, g)

    @classmethod
    def inner(cls, ctx: Any, g: Tensor, first: Tensor, second: Tensor, wanted: Gradients) -> None:
        if "x" not in wanted and "w" not in wanted:
            return
        *geometry, _, _, math = ctx.options
        g = g.to(first.dtype)
        if "x" in wanted:
            wanted["x"] = ops.conv2d_dgrad(g, second, *first.shape[2:], *geometry, math)
        if "w" in wanted:
            wanted["w"] = ops.conv2d_wgrad(g, first, *second.shape[2:], *geometry, math)

    @classmethod
    def laid(cls, g: Tensor, first: Tensor, second: Tensor) -> Tensor:
        last = first is not None and layouts.channels_last(first, second)
        return g.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _traced_by_functions(tensors: Sequence[Tensor | None]) -> bool:
    """Whether torch.func or forward-mode differentiation is at work on a call of ours."""
    if torch._C._are_functorch_transforms_active():
        return True
    given = (t for t in tensors if t is not None)
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in given)


def _differentiable(name: str, function: type[_Operator], make_body: Callable[[ops.Body, ops.Body], ops.Body]) -> None:
    op, count, at = function.op, len(function.names), function.at
    grad_enabled, any_requires_grad = torch.is_grad_enabled, torch._C._any_requires_grad

    def by_torch(args: Sequence[Any]) -> Tensor:
        given = {n: t for n, t in zip(function.names, args) if t is not None}
        call, lead = function.call(*args[count:]), args[0]
        return call.by_torch(given, layouts.result_dtype(lead.dtype, call.out_dtype), lead.is_cuda)

    # past Function.apply, which looks for dead wrappers of torch.func: no direct call has such tensors
    direct = super(torch.autograd.Function, function).apply

    def differentiable(keyset: Any, *args: Any) -> Tensor:
        scale, epilogue = args[count - 1], args[count + at]
        scaled = scale is not None and scale.requires_grad
        if not epilogue or whole(epilogue, scaled):
            return direct(None, *args) if keyset is None else function.apply(keyset, *args)
        return _in_steps(function, args, *kept(arithmetic.parse(epilogue), scaled))

    def otherwise(keyset: Any, *args: Any) -> Tensor:
        if _traced_by_functions(args[:count]):
            return by_torch(args)
        if grad_enabled() and any_requires_grad(*args):
            return differentiable(keyset, *args)
        return op.redispatch(keyset & AFTER, *args)

    ops.library.impl(name, lambda keyset, *args: by_torch(args), "FuncTorchBatched", with_keyset=True)
    body = make_body(differentiable, otherwise)
    function.body = staticmethod(body)
    ops.library.impl(name, body, "Autograd", with_keyset=True)
    for place in ("CPU", "CUDA"):
        ops.library.impl(name, functools.partial(body, None), place)


def _in_steps(function: type[_Operator], args: Sequence[Any], first: Sequence[Op], rest: Sequence[Op]) -> Tensor:
    """The operator with the first operations of the epilogue, and PyTorch's own operators for the others."""
    count = len(function.names)
    given = dict(zip(function.names, args))
    options = list(args[count:])
    options[function.at] = joined(first)
    later = {op.name for op in rest}
    y = function.op(*(None if name in later else t for name, t in given.items()), *options)
    for op in rest:
        y = arithmetic.apply(op, y, given, function.channels_first)
    return y


def _gradient_of_a_gradient(name: str, direction: str, op: Any) -> None:
    """PyTorch's own operator where a gradient of it is asked for, and under ``torch.func``."""

    def kernel(keyset: Any, dy: Tensor, other: Tensor, rows: int, columns: int, *options: Any) -> Tensor:
        asked = torch.is_grad_enabled() and torch._C._any_requires_grad(dy, other)
        if not (asked or _traced_by_functions((dy, other))):
            return op.redispatch(keyset & AFTER, dy, other, rows, columns, *options)
        stride, padding, dilation, groups, math = options
        shape = gradient_shape(direction, dy, other, (rows, columns), groups)
        tf32 = "tf32" in permissions(math)
        return arithmetic.gradient(direction, dy, other, shape, stride, padding, dilation, groups, tf32=tf32)

    ops.library.impl(name, kernel, "Autograd", with_keyset=True)
    ops.library.impl(name, kernel, "FuncTorchBatched", with_keyset=True)


def _not_differentiable(name: str, op: Any) -> None:
    def kernel(keyset: Any, *args: Any) -> Tensor:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            raise Unsupported(
                f"gpu_tune::{name}: has no gradients (int8 and float8 data); call it under torch.no_grad(), or detach "
                "its tensors"
            )
        return op.redispatch(keyset & AFTER, *args)

    def batched(keyset: Any, *args: Any) -> Tensor:
        raise Unsupported(f"gpu_tune::{name}: cannot be called under vmap (int8 and float8 data); loop over the batch")

    ops.library.impl(name, kernel, "Autograd", with_keyset=True)
    ops.library.impl(name, batched, "FuncTorchBatched", with_keyset=True)


def register() -> None:
    """Give the operators their gradients."""
    _differentiable("matmul", _Matmul, ops.matmul_body)
    _differentiable("conv2d", _Conv2d, ops.conv2d_body)
    _gradient_of_a_gradient("conv2d_dgrad", "dgrad", ops.conv2d_dgrad)
    _gradient_of_a_gradient("conv2d_wgrad", "wgrad", ops.conv2d_wgrad)
    _not_differentiable("scaled_matmul", ops.scaled_matmul)
    _not_differentiable("scaled_conv2d", ops.scaled_conv2d)
