"""Gradients of the operators, at the dispatch keys where PyTorch looks for them; the formulas are those of
``gradient_formulas.py``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import Unsupported
from ..workload.epilogue import Op
from . import arithmetic, layouts, ops, pair_ops
from .calls import permissions
from .gradient_calls import gradient_shape
from .gradient_formulas import Conv2d, Matmul, Operator, joined, kept, saving
from .known import Table, direct
from .routes import Route, Tensors

AFTER = torch._C._after_autograd_keyset


def traced_by_functions(tensors: Sequence[Tensor | None]) -> bool:
    """Whether torch.func or forward-mode differentiation is at work on a call of ours."""
    if torch._C._are_functorch_transforms_active():
        return True
    given = (t for t in tensors if t is not None)
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in given)


def _differentiable(name: str, kind: type[Operator], table: Table, make_body: Callable[..., ops.Body]) -> None:
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
        saves, choose = saving(first), table
        if saves:
            options, choose = (*options[: kind.at], saves, *options[kind.at + 1 :]), kind.pair_table
        route, keep = choose.decide(names, given, options)
        made: Any = kind.function(names, given, options, route)
        # past Function.apply, which looks for dead wrappers of torch.func: no direct call has such tensors
        apply: Route = super(torch.autograd.Function, made).apply
        return (lambda *now: apply(*now)[0]) if saves else apply, keep

    def below(hint: Any, tensors: Tensors, options: tuple[Any, ...]) -> Tensor:
        return table.serve(tensors, options, hint=hint)

    def unknown(hint: Any, tensors: Tensors, options: tuple[Any, ...]) -> Tensor:
        if not (grad_enabled() and any_requires_grad(*tensors)):
            return table.serve(tensors, options, hint=hint, otherwise=otherwise)
        asked = tuple([t is not None and t.requires_grad for t in tensors])
        return table.serve(tensors, options, hint=hint, gradients=asked, decide=with_gradients, otherwise=otherwise)

    def otherwise(tensors: Tensors, options: tuple[Any, ...]) -> Tensor:
        """A call that a mode or a transform has to see."""
        if traced_by_functions(tensors):
            return by_torch(*tensors, *options)
        if not (grad_enabled() and any_requires_grad(*tensors)):
            with torch._C._AutoDispatchBelowAutograd():
                return op(*tensors, *options)
        names, given = zip(*((n, t) for n, t in zip(kind.names, tensors) if t is not None))
        first, rest = _steps(kind, names, given, options)
        if rest:
            return _in_steps(kind, names, options, first, rest, *given)
        saves = saving(first)
        if not saves:
            return kind.function(names, given, options, _below(op, kind.names, names, options)).apply(*given)
        options = (*options[: kind.at], saves, *options[kind.at + 1 :])
        return kind.function(names, given, options, _traced_pair(f"{name}_pair", names, options)).apply(*given)[0]

    ops.library.impl(name, by_torch, "FuncTorchBatched")
    ops.library.impl(name, make_body(unknown, grad_enabled), "Autograd")
    for place in ("CPU", "CUDA"):
        ops.library.impl(name, make_body(below, lambda: False), place)


def _below(op: Any, all_names: Sequence[str], names: Sequence[str], options: tuple[Any, ...]) -> Route:
    """The operator without gradients, of tensors of such names."""

    def route(*now: Tensor) -> Any:
        named = dict(zip(names, now))
        with torch._C._AutoDispatchBelowAutograd():
            return op(*map(named.get, all_names), *options)

    return route


def _traced_pair(name: str, names: Sequence[str], options: tuple[Any, ...]) -> Route:
    """The operator with two results without gradients, of tensors of such names, in a graph."""

    def route(*now: Tensor) -> Any:
        named = dict(zip(names, now))
        return pair_ops.traced(name, (*map(named.get, pair_ops.KINDS[name][2]), *options))

    return route


def _steps(
    kind: type[Operator], names: Sequence[str], given: Sequence[Tensor], options: tuple[Any, ...]
) -> tuple[Sequence[Op], Sequence[Op]]:
    """The epilogue of a call with gradients in two, as :func:`kept` does."""
    scaled = names[-1] == "scale" and given[-1].requires_grad
    return kept(arithmetic.parse(options[kind.at]), scaled)


def _in_steps(
    kind: type[Operator],
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


def _pair_with_gradients(name: str, kind: type[Operator] | None) -> None:
    """The gradients of an operator with two results: by one function where it saves, else by those of its steps."""
    op, _, names, _ = pair_ops.KINDS[name]

    def kernel(*args: Any) -> Any:
        tensors, options = args[: len(names)], args[len(names) :]
        if traced_by_functions(tensors):
            return pair_ops.by_torch(name, args)
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors)):
            if not direct(tensors):
                return pair_ops.traced(name, args)
            with torch._C._AutoDispatchBelowAutograd():
                return op(*args)
        there, given = zip(*((n, t) for n, t in zip(names, tensors) if t is not None))
        if kind is None or "aux" in there:
            return pair_ops.in_steps(name, args)
        parsed = arithmetic.parse_all(options[kind.at])
        scaled = there[-1] == "scale" and given[-1].requires_grad
        plain = [replace(other, saves=False) for other in parsed]
        if kept(plain, scaled)[1] or saving(plain) != joined(parsed):
            return pair_ops.in_steps(name, args)
        return kind.function(there, given, options, _below(op, names, there, options)).apply(*given)

    ops.library.impl(name, kernel, "Autograd")
    ops.library.impl(name, lambda *args: pair_ops.by_torch(name, args), "FuncTorchBatched")


def _gradient_of_a_gradient(name: str, direction: str, op: Any) -> None:
    """PyTorch's own operator where a gradient of it is asked for, and under ``torch.func``."""

    def kernel(keyset: Any, dy: Tensor, other: Tensor, rows: int, columns: int, *options: Any) -> Tensor:
        asked = torch.is_grad_enabled() and torch._C._any_requires_grad(dy, other)
        if not (asked or traced_by_functions((dy, other))):
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
    _pair_with_gradients("matmul_pair", Matmul)
    _pair_with_gradients("conv2d_pair", Conv2d)
    _pair_with_gradients("conv2d_dgrad_pair", None)
    _not_differentiable("scaled_matmul", ops.scaled_matmul)
    _not_differentiable("scaled_conv2d", ops.scaled_conv2d)
