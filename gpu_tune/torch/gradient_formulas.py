"""Gradients of the operators. Backward products are workloads of their own, dispatched and tunable like any other.

For ``P = A @ B`` with its gradient ``G``: ``dA = G @ B^T`` and ``dB = A^T @ G``; which letters those are follows from
the layout (a linear layer, nt, needs nn and tn). A convolution's are workloads with direction dgrad and wgrad.

Where a gradient is asked for, one kernel computes the epilogue as far as it can be undone: all that is linear, one
gelu, gelu_tanh or silu, which saves what it was given as a second result, and a relu after these, which its result
tells. What follows (clamp, a second activation) is PyTorch's elementwise operators', which a compiler fuses. Under
torch.func (vmap included) and in forward mode, which know no formulas of ours, PyTorch's operators compute the whole.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..workload.epilogue import Op
from . import arithmetic, layouts, ops, pair_ops, pairs
from .known import Table
from .routes import Call, Route

LINEAR = ("scale", "bias", "row_bias", "residual")
SAVING = ("gelu", "gelu_tanh", "silu")
"""Activations that are undone from what they were given, which a kernel saves as it computes them."""
Gradients = dict[str, Tensor | None]


def kept(parsed: Sequence[Op], scale_needs_gradient: bool) -> tuple[Sequence[Op], Sequence[Op]]:
    """The epilogue in two: what can be undone, and the rest.

    The first part is all that is linear, up to a scale that is asked for its own gradient, with one activation that
    saves what it was given, and a relu after it.
    """
    split = saves = 0
    for op in parsed:
        saves += op.name in SAVING
        if saves > 1 or op.name not in (*LINEAR, *SAVING) or (op.name == "scale" and scale_needs_gradient):
            break
        split += 1
    split += split < len(parsed) and parsed[split].name == "relu"
    return parsed[:split], parsed[split:]


def saving(parsed: Sequence[Op]) -> str:
    """The text of an epilogue of which all is kept, for an operator that saves; empty where nothing is to be saved."""
    if not any(op.name in SAVING for op in parsed):
        return ""
    return joined([replace(op, saves=op.name in SAVING) for op in parsed])


joined = arithmetic.joined


def over(name: str, g: Tensor, channels_first: bool) -> Tensor:
    """The sum over all that a vector was broadcast to, in float32."""
    remaining = g.dim() - 2 if name == "row_bias" else 1 if channels_first else g.dim() - 1
    return g.sum([i for i in range(g.dim()) if i != remaining], dtype=torch.float32)


class Plan(NamedTuple):
    """A call with gradients but for its tensors: names of those that are given, the operator's ``options``, the names
    of what is ``saved``, and what :meth:`Operator.facts` tells of the two factors."""

    names: tuple[str, ...]
    options: tuple[Any, ...]
    saved: tuple[str, ...]
    facts: Any


class Operator:
    """What both operators share; subclasses have ``op``, ``names`` and ``at``, the epilogue's place among options;
    ``pair`` is the same operator with two results, and ``pair_table`` the table of its calls.

    The epilogue is one that :func:`kept` leaves whole. Saved are each factor for the other's gradient, the scale, the
    result of a relu, and the second result.
    """

    op: Any
    pair: Any
    pair_table: Table
    call: Callable[..., Call]
    names: tuple[str, ...]
    at: int
    channels_first: bool

    @classmethod
    def function(
        cls, names: tuple[str, ...], given: Sequence[Tensor], options: tuple[Any, ...], route: Route
    ) -> type[torch.autograd.Function]:
        """A function of calls with such tensors, whose results ``route`` computes: two where the epilogue saves.

        Each has one of its own, made in 30 us: a plan among its arguments would cost 0.4 us a call.
        """
        parsed = arithmetic.parse_all(options[cls.at])
        first, second = given[:2]
        wanted = {cls.names[0]: second.requires_grad, cls.names[1]: first.requires_grad, "scale": True}
        at = [i for i, name in enumerate(names) if wanted.get(name)]
        saved = [names[i] for i in at]
        if parsed and str(parsed[-1]) == "relu":
            at, saved = [*at, len(names)], [*saved, "out"]
        saves = any(op.saves for op in parsed)
        if saves:
            at, saved = [*at, len(names) + 1], [*saved, "aux"]
        save, plan = _picking(at), Plan(names, options, tuple(saved), cls.facts(first, second))

        def forward(ctx: Any, *given: Tensor) -> Any:
            out = route(*given)
            ctx.save_for_backward(*save((*given, out)))
            return out

        def forward_saving(ctx: Any, *given: Tensor) -> Any:
            """What is saved is a result, too: a gradient of a gradient goes through it."""
            out, second = route(*given)
            ctx.save_for_backward(*save((*given, out, second)))
            ctx.set_materialize_grads(False)
            return out, second

        def backward(ctx: Any, *gradients: Tensor | None) -> Any:
            return cls.undone(plan, ctx, *gradients)

        forward = forward_saving if saves else forward
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
    def undone(
        cls, plan: Plan, ctx: Any, first: Tensor | None, second: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        """One gradient for each tensor that was given, from those of the result and of what was saved."""
        kept = dict(zip(plan.saved, ctx.saved_tensors))
        wanted: Gradients = {n: None for n, needed in zip(plan.names, ctx.needs_input_grad) if needed}
        g = cls.laid(plan, torch.zeros_like(kept["aux"]) if first is None else first)
        for op in reversed(arithmetic.parse_all(plan.options[cls.at])):
            if op.saves:
                g = arithmetic.undo(op, g, kept["aux"], cls.order(plan))
                g = g if second is None else g + second
            elif op.name == "relu":
                g = torch.ops.aten.threshold_backward(g, kept["out"], 0)
            elif op.name == "scale":
                g = (g * arithmetic.vector("scale", kept["scale"], cls.channels_first)).to(g.dtype)
            elif op.name in wanted:
                # of the result's data type, as the operand is
                wanted[op.name] = g if op.name == "residual" else over(op.name, g, cls.channels_first).to(g.dtype)
        cls.inner(plan, g, kept, wanted)
        return tuple(map(wanted.get, plan.names))

    @classmethod
    def laid(cls, plan: Plan, g: Tensor) -> Tensor:
        """The gradient in memory of its own: that of a sum has strides of 0."""
        return g.contiguous()

    @classmethod
    def order(cls, plan: Plan) -> Sequence[int] | None:
        """The dimensions of images as they lie in memory; None for matrices."""
        return None


def _picking(at: Sequence[int]) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """What picks those of a tuple, as a tuple; four times as quick as a loop."""
    one = len(at) == 1  # of one index, not one slice, it would give the item itself
    picking: Any = operator.itemgetter(*(slice(i, i + 1) if one else i for i in at)) if at else lambda given: ()
    return picking


class Matmul(Operator):
    op, names, at, channels_first = ops.matmul, ops.PRODUCT, 3, False
    pair, pair_table = pair_ops.matmul_pair, pair_ops.products
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


class Conv2d(Operator):
    op, names, at, channels_first = ops.conv2d, ops.CONVOLUTION, 4, True
    pair, pair_table = pair_ops.conv2d_pair, pair_ops.convolutions
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

    @classmethod
    def order(cls, plan: Plan) -> Sequence[int]:
        return pairs.NHWC if plan.facts[2] is torch.channels_last else pairs.NCHW
