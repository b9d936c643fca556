"""Functions for tensors: products and convolutions with gradients, under autocast and in compiled graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInput, require
from . import arguments, layouts, ops


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
    aux: None = None,
) -> Tensor:
    """``epilogue(alpha * A @ B + beta * C)``, as :func:`gpu_tune.matmul`, with gradients for every tensor.

    ``a`` and ``b`` are matrices, or batches (batch, rows, columns), as ``layout`` says; they may lie in memory in any
    way (transposed views are taken as they are, others copied). The result is a new contiguous tensor. int8 and float8
    tensors, with ``scales`` or without, have no gradients; a float8 result saturates at the largest number, where
    PyTorch's own conversion to float8_e5m2 gives infinity. InvalidInput for what does not fit, and for ``aux``:
    backward epilogues are :func:`gpu_tune.matmul`'s, and autograd's work here.
    """
    arguments.no_aux(aux, epilogue)
    beta = (0.0 if c is None else 1.0) if beta is None else arguments.number("beta", beta)
    alpha, c = arguments.number("alpha", alpha), c if beta else None
    dtype, permitted = layouts.as_dtype(out_dtype), arguments.permitted(math)
    require(layout in layouts.LAYOUTS, "layout", layout, "is unknown", f"use one of {', '.join(layouts.LAYOUTS)}")
    try:
        if a.dtype in layouts.WIDE and scales == "none":
            if scale_a is None and scale_b is None:
                options = (layout, alpha, beta, epilogue, dtype, permitted)
                return ops.matmul(a, b, c, bias, row_bias, residual, scale, *options)
            raise InvalidInput("scales", scales, "names no kind of scale_a and scale_b", "give scales=, or leave them")
        arguments.operand("a", a, scales)
        if alpha != 1 or beta:
            rule = f"are not both left out, as {a.dtype} tensors want it"
            raise InvalidInput("alpha, beta", (alpha, beta), rule, "use scales, or gpu_tune.matmul")
        tensors = (a, b, scale_a, scale_b, bias, row_bias, residual, scale)
        return ops.scaled_matmul(*tensors, layout, scales, epilogue, dtype, permitted)
    except (AttributeError, TypeError, RuntimeError) as error:
        more = {"bias": bias, "row_bias": row_bias, "residual": residual, "scale": scale}
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
        y = matmul(_rows(x), weight, layout="nt", epilogue=epilogue, bias=bias, residual=added, math=math)
        return y.reshape((*x.shape[:-1], weight.shape[0]))
    except (AttributeError, TypeError, RuntimeError) as error:
        arguments.explain(error, x=x, weight=weight, bias=bias, residual=residual)


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
    aux: None = None,
) -> Tensor:
    """A 2-D convolution of (n, c, h, w) images with (k, c/groups, r, s) filters, with gradients for every tensor.

    Sizes are always in that order, as PyTorch has them; how the memory lies decides the kernel: channels-last images
    (or, where the images' strides leave it open, channels-last filters) are convolved as nhwc and give a channels-last
    result, all others as nchw. Filters that lie otherwise are copied at every call: convert a model once, by
    ``model.to(memory_format=torch.channels_last)``. ``padding`` is a number, (rows, columns), (top, bottom, left,
    right), "same" (with a stride of 1) or "valid". See :func:`matmul` for the rest.
    """
    arguments.no_aux(aux, epilogue)
    try:
        if x.dim() != 4 or w.dim() != 4:
            raise InvalidInput("x.shape, w.shape", (tuple(x.shape), tuple(w.shape)), "are not four-dimensional")
        steps, spread = arguments.integers("stride", stride, 2, 1), arguments.integers("dilation", dilation, 2, 1)
        sides = arguments.padding(padding, w.shape[2:], steps, spread)
        (count,) = arguments.integers("groups", groups, 1, 1)
        shape = (steps, sides, spread, count)
        dtype, permitted = layouts.as_dtype(out_dtype), arguments.permitted(math)
        if x.dtype in layouts.WIDE and scales == "none":
            if scale_a is None and scale_b is None:
                return ops.conv2d(x, w, bias, residual, scale, *shape, epilogue, dtype, permitted)
            raise InvalidInput("scales", scales, "names no kind of scale_a and scale_b", "give scales=, or leave them")
        arguments.operand("x", x, scales)
        tensors = (x, w, scale_a, scale_b, bias, residual, scale)
        return ops.scaled_conv2d(*tensors, *shape, scales, epilogue, dtype, permitted)
    except (AttributeError, TypeError, RuntimeError) as error:
        more = {"bias": bias, "residual": residual, "scale": scale}
        arguments.explain(error, x=x, w=w, scale_a=scale_a, scale_b=scale_b, **more)


def served(tensor: Tensor, weight: Tensor) -> bool:
    """Whether the operators take these: on a CPU or a CUDA device, of one data type with gradients, or autocast."""
    kind = tensor.device.type
    if kind not in ("cpu", "cuda") or tensor.dtype not in layouts.WIDE or weight.dtype not in layouts.WIDE:
        return False
    return tensor.dtype == weight.dtype or torch.is_autocast_enabled(kind)
