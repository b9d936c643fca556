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
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import Unsupported
from ..workload.epilogue import Op
from . import arithmetic, layouts, ops
from .calls import permissions
from .gradient_calls import gradient_shape
from .known import Table
from .routes import Call, Route, Tensors

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


def joined(parsed: Sequence[Op]) -> str:
    """The text of an epilogue."""
    return "+".join(map(str, parsed))


def _over(name: str, g: Tensor, channels_first: bool) -> Tensor:
    """The sum over all that a vector was broadcast to, in float32."""
    remaining = g.dim() - 2 if name == "row_bias" else 1 if channels_first else g.dim() - 1
    return g.sum([i for i in range(g.dim()) if i != remaining], dtype=torch.float32)


class Plan(NamedTuple):
    """A call with gradients but for its tensors: names of those that are given, the operator's ``options``, the names
    of what is ``saved``, and what :meth:`_Operator.facts` tells of the two factors."""

    names: tuple[str, ...]
    options: tuple[Any, ...]
    saved: tuple[str, ...]
    facts: Any


class _Operator:
    """What both operators share; subclasses have ``op``, ``names`` and ``at``, the epilogue's place among options.

    The epilogue is one that :func:`kept` leaves whole. Saved are each factor for the other's gradient, the scale, and
    the result of a relu.
    """

    op: Any
    call: Callable[..., Call]
    names: tuple[str, ...]
    at: int
    channels_first: bool

    @classmethod
    def function(
        cls, names: tuple[str, ...], given: Sequence[Tensor], options: tuple[Any, ...], route: Route
    ) -> type[torch.autograd.Function]:
        """A function of calls with such tensors, whose results ``route`` computes.

        Each has one of its own, made in 30 us: a plan among its arguments would cost 0.4 us a call.
        """
        first, second = given[:2]
        wanted = {cls.names[0]: second.requires_grad, cls.names[1]: first.requires_grad, "scale": True}
        at = [i for i, name in enumerate(names) if wanted.get(name)]
        saved = [names[i] for i in at]
        if options[cls.at].endswith("relu"):
            at, saved = [*at, len(names)], [*saved, "out"]
        save, plan = _picking(at), Plan(names, options, tuple(saved), cls.facts(first, second))

        def forward(ctx: Any, *given: Tensor) -> Tensor:
            out = route(*given)
            ctx.save_for_backward(*save((*given, out)))
            return out

        def backward(ctx: Any, g: Tensor) -> Any:
            return cls.undone(plan, ctx, g)

        members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        return type(cls.__name__, (torch.autograd.Function,), members)

    @classmethod
    def facts(cls, first: Tensor, second: Tensor) -> Any:
        """What the gradients need to know of the factors, saved or not."""

    @classmethod
    def inner(cls, plan: Plan, g: Tensor, kept: Gradients, wanted: Gradients) -> None:
        """Put the gradients of the product's or convolution's own tensors into ``wanted``; ``kept`` was saved."""
        raise NotImplementedError

    @classmethod
    def undone(cls, plan: Plan, ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """One gradient for each tensor that was given, from that of the result."""
        kept = dict(zip(plan.saved, ctx.saved_tensors))
        wanted: Gradients = {n: None for n, needed in zip(plan.names, ctx.needs_input_grad) if needed}
        g = cls.laid(plan, g)
        for op in reversed(arithmetic.parse(plan.options[cls.at])):
            if op.name == "relu":
                g = torch.ops.aten.threshold_backward(g, kept["out"], 0)
            elif op.name == "scale":
                g = (g * arithmetic.vector("scale", kept["scale"], cls.channels_first)).to(g.dtype)
            elif op.name in wanted:
                # of the result's data type, as the operand is
                wanted[op.name] = g if op.name == "residual" else _over(op.name, g, cls.channels_first).to(g.dtype)
        cls.inner(plan, g, kept, wanted)
        return tuple(map(wanted.get, plan.names))

    @classmethod
    def laid(cls, plan: Plan, g: Tensor) -> Tensor:
        """The gradient in memory of its own: that of a sum has strides of 0."""
        return g.contiguous()


def _picking(at: Sequence[int]) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """What picks those of a tuple, as a tuple; four times as quick as a loop."""
    one = len(at) == 1  # of one index, not one slice, it would give the item itself
    picking: Any = operator.itemgetter(*(slice(i, i + 1) if one else i for i in at)) if at else lambda given: ()
    return picking


class Matmul(_Operator):
    op, names, at, channels_first = ops.matmul, ops.PRODUCT, 3, False
    call = staticmethod(ops.product)

    @classmethod
    def inner(cls, plan: Plan, g: Tensor, kept: Gradients, wanted: Gradients) -> None:
        layout, alpha, beta, *_, math = plan.options
        first, second = kept.get("a"), kept.get("b")
        if "c" in wanted:
            wanted["c"] = g * beta
        factor = first if first is not None else second
        if factor is None:
            return
        g = g.to(factor.dtype)

        def product(left: Tensor | None, right: Tensor | None, letters: str) -> Tensor:
            return ops.matmul(left, right, None, None, None, None, None, letters, alpha, 0.0, "", None, math)

        a, b = layout
        if "a" in wanted:
            turned = layouts.FLIPPED[b]
            wanted["a"] = product(g, second, "n" + turned) if a == "n" else product(second, g, b + "t")
        if "b" in wanted:
            turned = layouts.FLIPPED[a]
            wanted["b"] = product(first, g, turned + "n") if b == "n" else product(g, first, "t" + a)


class Conv2d(_Operator):
    op, names, at, channels_first = ops.conv2d, ops.CONVOLUTION, 4, True
    call = staticmethod(ops.convolution)

    @classmethod
    def facts(cls, first: Tensor, second: Tensor) -> Any:
        """Rows and columns of the images and of a filter, and the memory format of the result's gradient."""
        last = layouts.channels_last(first, second)
        return first.shape[2:], second.shape[2:], torch.channels_last if last else torch.contiguous_format

    @classmethod
    def inner(cls, plan: Plan, g: Tensor, kept: Gradients, wanted: Gradients) -> None:
        *geometry, _, _, math = plan.options
        x, w, (image, window, _) = kept.get("x"), kept.get("w"), plan.facts
        if w is not None and "x" in wanted:
            wanted["x"] = ops.conv2d_dgrad(g.to(w.dtype), w, *image, *geometry, math)
        if x is not None and "w" in wanted:
            wanted["w"] = ops.conv2d_wgrad(g.to(x.dtype), x, *window, *geometry, math)

    @classmethod
    def laid(cls, plan: Plan, g: Tensor) -> Tensor:
        return g.contiguous(memory_format=plan.facts[2])


def _traced_by_functions(tensors: Sequence[Tensor | None]) -> bool:
    """Whether torch.func or forward-mode differentiation is at work on a call of ours."""
    if torch._C._are_functorch_transforms_active():
        return True
    given = (t for t in tensors if t is not None)
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in given)


def _differentiable(name: str, kind: type[_Operator], table: Table, make_body: Callable[..., ops.Body]) -> None:
    op, grad_enabled, any_requires_grad = kind.op, torch.is_grad_enabled, torch._C._any_requires_grad

    def by_torch(*args: Any) -> Tensor:
        count, lead = len(kind.names), args[0]
        given = {n: t for n, t in zip(kind.names, args) if t is not None}
        call = kind.call(*args[count:])
        return call.by_torch(given, layouts.result_dtype(lead.dtype, call.out_dtype), lead.is_cuda)

    def with_gradients(
        names: tuple[str, ...], given: tuple[Tensor, ...], options: tuple[Any, ...]
    ) -> tuple[Route, bool]:
        """Who serves a call of which gradients are asked."""
        first, rest = _steps(kind, names, given, options)
        if rest:
            return functools.partial(_in_steps, kind, names, options, first, rest), True
        route, keep = table.decide(names, given, options)
        made: Any = kind.function(names, given, options, route)
        # past Function.apply, which looks for dead wrappers of torch.func: no direct call has such tensors
        return super(torch.autograd.Function, made).apply, keep

    def below(hint: Any, tensors: Tensors, options: tuple[Any, ...]) -> Tensor:
        return table.serve(tensors, options, hint=hint)

    def unknown(hint: Any, tensors: Tensors, options: tuple[Any, ...]) -> Tensor:
        if not (grad_enabled() and any_requires_grad(*tensors)):
            return table.serve(tensors, options, hint=hint, otherwise=otherwise)
        asked = tuple([t is not None and t.requires_grad for t in tensors])
        return table.serve(tensors, options, hint=hint, gradients=asked, decide=with_gradients, otherwise=otherwise)

    def otherwise(tensors: Tensors, options: tuple[Any, ...]) -> Tensor:
        """A call that a mode or a transform has to see."""
        if _traced_by_functions(tensors):
            return by_torch(*tensors, *options)
        if not (grad_enabled() and any_requires_grad(*tensors)):
            with torch._C._AutoDispatchBelowAutograd():
                return op(*tensors, *options)
        names, given = zip(*((n, t) for n, t in zip(kind.names, tensors) if t is not None))
        first, rest = _steps(kind, names, given, options)
        if rest:
            return _in_steps(kind, names, options, first, rest, *given)

        def route(*now: Tensor) -> Tensor:
            named = dict(zip(names, now))
            with torch._C._AutoDispatchBelowAutograd():
                return op(*map(named.get, kind.names), *options)

        return kind.function(names, given, options, route).apply(*given)

    ops.library.impl(name, by_torch, "FuncTorchBatched")
    ops.library.impl(name, make_body(unknown, grad_enabled), "Autograd")
    for place in ("CPU", "CUDA"):
        ops.library.impl(name, make_body(below, lambda: False), place)


def _steps(
    kind: type[_Operator], names: Sequence[str], given: Sequence[Tensor], options: tuple[Any, ...]
) -> tuple[Sequence[Op], Sequence[Op]]:
    """The epilogue of a call with gradients in two, as :func:`kept` does."""
    scaled = names[-1] == "scale" and given[-1].requires_grad
    return kept(arithmetic.parse(options[kind.at]), scaled)


def _in_steps(
    kind: type[_Operator],
    names: Sequence[str],
    options: tuple[Any, ...],
    first: Sequence[Op],
    rest: Sequence[Op],
    *given: Tensor,
) -> Tensor:
    """The operator with the first operations of the epilogue, and PyTorch's own operators for the others."""
    named, later = dict(zip(names, given)), {op.name for op in rest}
    tensors = (None if name in later else named.get(name) for name in kind.names)
    y = kind.op(*tensors, *options[: kind.at], joined(first), *options[kind.at + 1 :])
    for op in rest:
        y = arithmetic.apply(op, y, named, kind.channels_first)
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
    _differentiable("matmul", Matmul, ops.products, ops.matmul_body)
    _differentiable("conv2d", Conv2d, ops.convolutions, ops.conv2d_body)
    _gradient_of_a_gradient("conv2d_dgrad", "dgrad", ops.conv2d_dgrad)
    _gradient_of_a_gradient("conv2d_wgrad", "wgrad", ops.conv2d_wgrad)
    _not_differentiable("scaled_matmul", ops.scaled_matmul)
    _not_differentiable("scaled_conv2d", ops.scaled_conv2d)
