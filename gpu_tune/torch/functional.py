"""Functions for tensors: products and convolutions with gradients, under autocast and in compiled graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInput, require
from ..workload.epilogue import ACTIVATIONS
from . import arguments, layouts, ops, pair_ops
from .layers import layers


def matmul(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    layout: str = "nn",
    epilogue: str = "",
    alpha: float = 1.0,
    beta: float | None = None,
    out_dtype: Any = None,
    scales: str = "none",
    math: str | Sequence[str] = (),
    bias: Tensor | None = None,
    row_bias: Tensor | None = None,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    scale_a: Tensor | None = None,
    scale_b: Tensor | None = None,
    aux: Tensor | None = None,
) -> Any:
    """``epilogue(alpha * A @ B + beta * C)``, as :func:`gpu_tune.matmul`, with gradients for every tensor.

    ``a`` and ``b`` are matrices, or batches (batch, rows, columns), as ``layout`` says; they may lie in memory in any
    way (transposed views are taken as they are, others copied). The result is a new contiguous tensor. int8 and float8
    tensors, with ``scales`` or without, have no gradients; a float8 result saturates at the largest number, where
    PyTorch's own conversion to float8_e5m2 gives infinity. InvalidInput for what does not fit.

    An epilogue that saves what its activation was given (``bias+gelu(aux)``), or sums its result (``dgelu+dbias``),
    gives two results, ``(out, aux)`` or ``(out, dbias)``; a backward operation reads ``aux``. Autograd does all of this
    by itself; they are for backward passes of your own.
    """
    second = arguments.second_result(epilogue, aux)
    beta = (0.0 if c is None else 1.0) if beta is None else arguments.number("beta", beta)
    alpha, c = arguments.number("alpha", alpha), c if beta else None
    dtype, permitted = layouts.as_dtype(out_dtype), arguments.permitted(math)
    require(layout in layouts.LAYOUTS, "layout", layout, "is unknown", f"use one of {', '.join(layouts.LAYOUTS)}")
    try:
        if a.dtype in layouts.WIDE and scales == "none":
            if scale_a is None and scale_b is None:
                options = (layout, alpha, beta, epilogue, dtype, permitted)
                if second is not None:
                    pair = pair_ops.matmul_pair(a, b, c, bias, row_bias, residual, scale, aux, *options)
                    return pair if second else pair[0]
                return ops.matmul(a, b, c, bias, row_bias, residual, scale, *options)
            raise InvalidInput("scales", scales, "names no kind of scale_a and scale_b", "give scales=, or leave them")
        arguments.operand("a", a, scales)
        arguments.one_result("a", a, epilogue, second)
        if alpha != 1 or beta:
            rule = f"are not both left out, as {a.dtype} tensors want it"
            raise InvalidInput("alpha, beta", (alpha, beta), rule, "use scales, or gpu_tune.matmul")
        tensors = (a, b, scale_a, scale_b, bias, row_bias, residual, scale)
        return ops.scaled_matmul(*tensors, layout, scales, epilogue, dtype, permitted)
    except (AttributeError, TypeError, RuntimeError) as error:
        more = {"bias": bias, "row_bias": row_bias, "residual": residual, "scale": scale, "aux": aux}
        arguments.explain(error, a=a, b=b, c=c, scale_a=scale_a, scale_b=scale_b, **more)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "",
    residual: Tensor | None = None,
    math: str | Sequence[str] = (),
) -> Tensor:
    """``activation(x @ weight.T + bias) + residual``: x is (..., k), weight (n, k), the result (..., n).

    ``activation`` is any epilogue without operands: relu, gelu, gelu_tanh, silu, clamp(lo,hi), or several joined by +.
    """
    if not isinstance(activation, str):
        arguments.activation(activation)
    epilogue = activation
    if bias is not None:
        epilogue = f"bias+{activation}" if activation else "bias"
    if residual is not None:
        epilogue = f"{epilogue}+residual" if epilogue else "residual"
    try:
        rows = x.dim()
        if residual is not None and weight.dim() == 2:
            shape = (*x.shape[:-1], weight.shape[0])
            rule = f"is not the result's shape {tuple(shape)}"
            require(residual.shape == shape, "residual.shape", tuple(residual.shape), rule, "expand or reshape it")
        if rows == 2 and x.dtype in layouts.WIDE:
            permitted = "" if math == () else arguments.permitted(math)
            return ops.matmul(x, weight, None, bias, None, residual, None, "nt", 1.0, 0.0, epilogue, None, permitted)
        added = None if residual is None else _rows(residual)
        if arguments.second_result(epilogue, None) is not None:
            arguments.activation(activation)
        y = matmul(_rows(x), weight, layout="nt", epilogue=epilogue, bias=bias, residual=added, math=math)
        return y.reshape((*x.shape[:-1], weight.shape[0]))
    except InvalidInput as error:
        arguments.activation(activation)
        raise arguments.of_layer(error, x, [weight], [bias], "weight", "bias") from None
    except (AttributeError, TypeError, RuntimeError) as error:
        arguments.explain(error, x=x, weight=weight, bias=bias, residual=residual)


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None = None,
    *,
    activation: str = "gelu",
    math: str | Sequence[str] = (),
) -> Tensor:
    """Linear layers with an activation between each two: relu, gelu, gelu_tanh or silu.

    ``x`` is (..., k), the first weight (n, k) and so on, a bias (n,) or None. As :func:`linear` layer by layer, but the
    backward pass fuses across them: the gradient for what an activation gave comes out of its product multiplied by the
    slope, and summed for the bias. :class:`Sequential` does it with layers in a row.
    """
    count = arguments.layers(weights, biases)
    remedy = f"use one of {', '.join(ACTIVATIONS)}"
    known = isinstance(activation, str) and activation in ACTIVATIONS
    require(known, "activation", activation, "is not one that the layers save for", remedy)
    given = list(biases) if biases is not None else [None] * count
    try:
        rows = arguments.matrix("x", _rows(x))
        activations = [activation] * (count - 1) + [""]
        y = layers(rows, list(weights), given, activations, [], arguments.permitted(math))
        return y if x.dim() == 2 else y.reshape((*x.shape[:-1], y.shape[-1]))
    except InvalidInput as error:
        raise arguments.of_layer(error, x, weights, given, "weights[{}]", "biases[{}]") from None
    except (AttributeError, TypeError, RuntimeError) as error:
        more = {f"{kind}[{i}]": t for kind, of in (("weights", weights), ("biases", given)) for i, t in enumerate(of)}
        arguments.explain(error, x=x, **more)


def _rows(x: Tensor) -> Tensor:
    """(..., k) as a matrix."""
    return x.flatten(0, -2) if x.dim() > 1 else x[None]


def conv2d(
    x: Tensor,
    w: Tensor,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    epilogue: str = "",
    out_dtype: Any = None,
    scales: str = "none",
    math: str | Sequence[str] = (),
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    scale_a: Tensor | None = None,
    scale_b: Tensor | None = None,
    aux: Tensor | None = None,
) -> Any:
    """A 2-D convolution of (n, c, h, w) images with (k, c/groups, r, s) filters, with gradients for every tensor.

    Sizes are always in that order, as PyTorch has them; how the memory lies decides the kernel: channels-last images
    (or, where the images' strides leave it open, channels-last filters) are convolved as nhwc and give a channels-last
    result, all others as nchw. Filters that lie otherwise are copied at every call: convert a model once, by
    ``model.to(memory_format=torch.channels_last)``. ``padding`` is a number, (rows, columns), (top, bottom, left,
    right), "same" (with a stride of 1) or "valid". See :func:`matmul` for the rest.
    """
    second = arguments.second_result(epilogue, aux)
    try:
        if x.dim() != 4 or w.dim() != 4:
            remedy = "give (n, c, h, w) images and (k, c/groups, r, s) filters"
            raise InvalidInput("x.shape, w.shape", (tuple(x.shape), tuple(w.shape)), "are not four-dimensional", remedy)
        steps, spread = arguments.integers("stride", stride, 2, 1), arguments.integers("dilation", dilation, 2, 1)
        sides = arguments.padding(padding, w.shape[2:], steps, spread)
        (count,) = arguments.integers("groups", groups, 1, 1)
        shape = (steps, sides, spread, count)
        dtype, permitted = layouts.as_dtype(out_dtype), arguments.permitted(math)
        if x.dtype in layouts.WIDE and scales == "none":
            if scale_a is None and scale_b is None:
                if second is not None:
                    pair = pair_ops.conv2d_pair(x, w, bias, residual, scale, aux, *shape, epilogue, dtype, permitted)
                    return pair if second else pair[0]
                return ops.conv2d(x, w, bias, residual, scale, *shape, epilogue, dtype, permitted)
            raise InvalidInput("scales", scales, "names no kind of scale_a and scale_b", "give scales=, or leave them")
        arguments.operand("x", x, scales)
        arguments.one_result("x", x, epilogue, second)
        tensors = (x, w, scale_a, scale_b, bias, residual, scale)
        return ops.scaled_conv2d(*tensors, *shape, scales, epilogue, dtype, permitted)
    except (AttributeError, TypeError, RuntimeError) as error:
        more = {"bias": bias, "residual": residual, "scale": scale, "aux": aux}
        arguments.explain(error, x=x, w=w, scale_a=scale_a, scale_b=scale_b, **more)


def served(tensor: Tensor, weight: Tensor) -> bool:
    """Whether the operators take these: on a CPU or a CUDA device, of one data type with gradients, or autocast."""
    kind = tensor.device.type
    if kind not in ("cpu", "cuda") or tensor.dtype not in layouts.WIDE or weight.dtype not in layouts.WIDE:
        return False
    return tensor.dtype == weight.dtype or torch.is_autocast_enabled(kind)
