"""The operators ``torch.ops.gpu_tune.*``: schemas, bodies, fake implementations, autocast.

==================== ==========================================================================================
``matmul``           a product with any epilogue of float32, float16 or bfloat16 tensors; has gradients, autocasts
``conv2d``           the same for convolutions, of images that are nchw or channels-last
``conv2d_dgrad``     the gradient of a convolution for its images; ``conv2d_wgrad``: for its filters
``scaled_matmul``    int8 and float8 tensors, with or without scales; no gradients, and autocast leaves it alone
``scaled_conv2d``    the same for convolutions
==================== ==========================================================================================

They are functional: a result is always new memory. Who computes it is decided inside (see ``routes.py``), so that a
compiled graph knows nothing of sizes. Registered by ``Library.define`` and ``impl`` with a key for autograd of our own:
``torch.library.custom_op`` costs several times as much a call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..workload import MATH
from . import arguments, layouts, routes
from .calls import Convolution, Product, permissions
from .gradient_calls import Gradient, gradient_shape
from .routes import facts

library = torch.library.Library("gpu_tune", "DEF")

PRODUCT = ("a", "b", "c", "bias", "row_bias", "residual", "scale")
CONVOLUTION = ("x", "w", "bias", "residual", "scale")
SCALED_PRODUCT = ("a", "b", "scale_a", "scale_b", "bias", "row_bias", "residual", "scale")
SCALED_CONVOLUTION = ("x", "w", "scale_a", "scale_b", "bias", "residual", "scale")
DGRAD, WGRAD = ("dy", "w"), ("dy", "x")
"""Each operator's tensors, in its order."""
TENSORS = {
    "matmul": PRODUCT,
    "conv2d": CONVOLUTION,
    "conv2d_dgrad": DGRAD,
    "conv2d_wgrad": WGRAD,
    "scaled_matmul": SCALED_PRODUCT,
    "scaled_conv2d": SCALED_CONVOLUTION,
}

_GEOMETRY = "int[] stride, int[] padding, int[] dilation, int groups"
_LAST = "str epilogue, ScalarType? out_dtype, str math"


def _define(name: str, tensors: Sequence[str], options: str) -> Any:
    required, optional = tensors[:2], tensors[2:]
    typed = [*(f"Tensor {t}" for t in required), *(f"Tensor? {t}" for t in optional), options]
    library.define(f"{name}({', '.join(typed)}) -> Tensor", tags=(torch.Tag.needs_fixed_stride_order,))
    return getattr(torch.ops.gpu_tune, name).default


matmul = _define("matmul", PRODUCT, f"str layout, float alpha, float beta, {_LAST}")
conv2d = _define("conv2d", CONVOLUTION, f"{_GEOMETRY}, {_LAST}")
scaled_matmul = _define("scaled_matmul", SCALED_PRODUCT, f"str layout, str scales, {_LAST}")
scaled_conv2d = _define("scaled_conv2d", SCALED_CONVOLUTION, f"{_GEOMETRY}, str scales, {_LAST}")


conv2d_dgrad = _define("conv2d_dgrad", DGRAD, f"SymInt h, SymInt width, {_GEOMETRY}, str math")
conv2d_wgrad = _define("conv2d_wgrad", WGRAD, f"SymInt r, SymInt s, {_GEOMETRY}, str math")


def product(layout: str, alpha: float, beta: float, epilogue: str, out_dtype: torch.dtype | None, math: str) -> Product:
    return Product(layout, epilogue, alpha, beta, out_dtype, math)


def _scaled_product(layout: str, scales: str, epilogue: str, out_dtype: torch.dtype | None, math: str) -> Product:
    return Product(layout, epilogue, 1.0, 0.0, out_dtype, math, scales)


def convolution(
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    epilogue: str,
    out_dtype: torch.dtype | None,
    math: str,
) -> Convolution:
    return Convolution(stride, padding, dilation, groups, epilogue, out_dtype, math)


def _scaled_convolution(
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    scales: str,
    epilogue: str,
    out_dtype: torch.dtype | None,
    math: str,
) -> Convolution:
    return Convolution(stride, padding, dilation, groups, epilogue, out_dtype, math, scales)


_products, _convolutions = routes.Table(PRODUCT, product), routes.Table(CONVOLUTION, convolution)
_scaled_products = routes.Table(SCALED_PRODUCT, _scaled_product)
_scaled_convolutions = routes.Table(SCALED_CONVOLUTION, _scaled_convolution)

_dgrads, _wgrads = routes.Table(DGRAD, Gradient), routes.Table(WGRAD, Gradient)

# The bodies. Keys are written out: a loop over tensors would cost as much as all else that a call does. One function
# serves autograd's dispatch key and those below it: a second pass through PyTorch's dispatcher would cost 3 us.

Body = Callable[..., Tensor]
_grad_enabled = torch.is_grad_enabled


def _alone(backend: str) -> int:
    keys, key = torch._C.DispatchKeySet, torch._C.DispatchKey
    return int((keys(getattr(key, backend)) | keys(getattr(key, f"Autograd{backend}"))).raw_repr())


DIRECT = frozenset(map(_alone, ("CPU", "CUDA")))
"""Dispatch keys of a call in which nothing stands between autograd and the body: no mode, subclass, transform or view
whose sign or conjugation is still to be resolved."""


def matmul_body(differentiable: Body, otherwise: Body) -> Body:
    """``body(keyset, *args)`` of ``matmul``; ``keyset`` is None below autograd.

    ``differentiable(None, *args)`` computes a call that a gradient is asked of, ``otherwise(keyset, *args)`` one that a
    mode or a transform has to see.
    """
    known, decide = _products.known, _products.decide

    def body(
        keyset: Any, a: Tensor, b: Tensor, c: Any, bias: Any, row_bias: Any, residual: Any, scale: Any, *options: Any
    ) -> Tensor:
        if keyset is not None:
            if keyset.raw_repr() not in DIRECT or forward_ad._current_level >= 0:
                return otherwise(keyset, a, b, c, bias, row_bias, residual, scale, *options)
            if _grad_enabled() and (
                a.requires_grad
                or b.requires_grad
                or (bias is not None and bias.requires_grad)
                or (c is not None and c.requires_grad)
                or (row_bias is not None and row_bias.requires_grad)
                or (residual is not None and residual.requires_grad)
                or (scale is not None and scale.requires_grad)
            ):
                return differentiable(None, a, b, c, bias, row_bias, residual, scale, *options)
        key = (
            options, a.shape, a.stride(), a.dtype, a.get_device(), b.shape, b.stride(), b.dtype, b.get_device(),
            bias is None or (bias.shape, bias.stride(), bias.dtype, bias.get_device()), c is None or facts(c),
            row_bias is None or facts(row_bias), residual is None or facts(residual), scale is None or facts(scale),
        )  # fmt: skip
        tensors = (a, b, c, bias, row_bias, residual, scale)
        return (known.get(key) or decide(key, tensors, options))(tensors)

    return body


def conv2d_body(differentiable: Body, otherwise: Body) -> Body:
    """The same of ``conv2d``."""
    known, decide = _convolutions.known, _convolutions.decide

    def body(
        keyset: Any, x: Tensor, w: Tensor, bias: Any, residual: Any, scale: Any,
        stride: Any, padding: Any, dilation: Any, *rest: Any
    ) -> Tensor:  # fmt: skip
        if keyset is not None:
            if keyset.raw_repr() not in DIRECT or forward_ad._current_level >= 0:
                return otherwise(keyset, x, w, bias, residual, scale, stride, padding, dilation, *rest)
            if _grad_enabled() and (
                x.requires_grad
                or w.requires_grad
                or (bias is not None and bias.requires_grad)
                or (residual is not None and residual.requires_grad)
                or (scale is not None and scale.requires_grad)
            ):
                return differentiable(None, x, w, bias, residual, scale, stride, padding, dilation, *rest)
        options = (*stride, None, *padding, None, *dilation, *rest)
        key = (
            options, x.shape, x.stride(), x.dtype, x.get_device(), w.shape, w.stride(), w.dtype, w.get_device(),
            bias is None or (bias.shape, bias.stride(), bias.dtype, bias.get_device()),
            residual is None or facts(residual), scale is None or facts(scale),
        )  # fmt: skip
        tensors = (x, w, bias, residual, scale)
        route = known.get(key)
        if route is None:
            route = decide(key, tensors, (tuple(stride), tuple(padding), tuple(dilation), *rest))
        return route(tensors)

    return body


def _scaled_matmul(*args: Any) -> Tensor:
    return _scaled(_scaled_products, args[:8], args[8:])


def _scaled_conv2d(*args: Any) -> Tensor:
    stride, padding, dilation = map(tuple, args[7:10])
    return _scaled(_scaled_convolutions, args[:7], (stride, padding, dilation, *args[10:]))


def _conv2d_dgrad(dy: Tensor, w: Tensor, *options: Any) -> Tensor:
    return _gradient(_dgrads, "dgrad", dy, w, *options)


def _conv2d_wgrad(dy: Tensor, x: Tensor, *options: Any) -> Tensor:
    return _gradient(_wgrads, "wgrad", dy, x, *options)


def _gradient(
    table: routes.Table, direction: str, dy: Tensor, other: Tensor, rows: int, columns: int,
    stride: Any, padding: Any, dilation: Any, *rest: Any
) -> Tensor:  # fmt: skip
    options = (direction, (rows, columns), tuple(stride), tuple(padding), tuple(dilation), *rest)
    key, tensors = (options, facts(dy), facts(other)), (dy, other)
    return (table.known.get(key) or table.decide(key, tensors, options))(tensors)


def _scaled(table: routes.Table, tensors: tuple[Any, ...], options: tuple[Any, ...]) -> Tensor:
    key = (options, *(None if t is None else facts(t) for t in tensors))
    with _autocast_off(tensors[0]):
        return (table.known.get(key) or table.decide(key, tensors, options))(tensors)


def _autocast_off(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    kind = tensor.device.type
    on = torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else contextlib.nullcontext()


def _in_one_place(name: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    """``fake`` of tensors that are on one device: PyTorch calls it with one on ``meta`` beside others elsewhere."""
    names = TENSORS[name]

    def checked(*args: Any) -> Any:
        arguments.in_one_place(f"gpu_tune::{name}", dict(zip(names, args)))
        return fake(*args)

    return checked


def _fake_product(a: Any, b: Any, layout: str, out_dtype: torch.dtype | None) -> Any:
    """Memory of the result's shape; nothing depends on the number of rows, so that one graph serves all."""
    inner, other = a.shape[-1 if layout[0] == "n" else -2], b.shape[-2 if layout[1] == "n" else -1]
    torch._check(inner == other, lambda: f"gpu_tune: a sums over {inner} products, b over {other} (layout {layout})")
    dtype = layouts.result_dtype(a.dtype, out_dtype)
    return a.new_empty(layouts.product_shape(a, b, layout), dtype=dtype)


def _fake_convolution(x: Any, w: Any, stride: Any, padding: Any, dilation: Any, out_dtype: torch.dtype | None) -> Any:
    shape = layouts.convolved_shape(x, w, stride, padding, dilation)
    return _fake_images(x, w, shape, layouts.result_dtype(x.dtype, out_dtype))


def _fake_gradient(direction: str, dy: Any, other: Any, size: Any, groups: int) -> Any:
    return _fake_images(dy, other, gradient_shape(direction, dy, other, size, groups), dy.dtype)


def _fake_images(first: Any, second: Any, shape: tuple[Any, ...], dtype: torch.dtype) -> Any:
    """Memory of that shape, in the layout that is told by the tensors."""
    from torch.fx.experimental.symbolic_shapes import guard_or_false  # slow to import, and only tracing needs it

    last = layouts.channels_last(first, second, guard_or_false)
    like = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=first.device, memory_format=like)


def _autocast(kind: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The operators as autocast has them on that kind of device."""
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{kind.upper()}"))

    def cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        wide = tensor is not None and tensor.dtype in layouts.WIDE and tensor.device.type == kind
        return tensor.to(dtype) if wide and tensor is not None else tensor

    def usable(math: str, dtype: torch.dtype) -> str:
        return "+".join(p for p in permissions(math) if layouts.NAMES[dtype] in MATH.get(p, ()))

    def casted(names: Sequence[str], tensors: Sequence[Tensor | None], out_dtype: torch.dtype | None) -> list[Any]:
        dtype = torch.get_autocast_dtype(kind)
        kinds = {"bias": out_dtype or dtype, "row_bias": out_dtype or dtype, "residual": out_dtype or dtype}
        kinds |= {"c": out_dtype or dtype, "scale": torch.float32}
        return [cast(tensor, kinds.get(name, dtype)) for name, tensor in zip(names, tensors)]

    def casted_matmul(*args: Any) -> Tensor:
        *options, epilogue, out_dtype, math = args[7:]
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            tensors = casted(PRODUCT, args[:7], out_dtype)
            return matmul(*tensors, *options, epilogue, out_dtype, usable(math, tensors[0].dtype))

    def casted_conv2d(*args: Any) -> Tensor:
        *options, epilogue, out_dtype, math = args[5:]
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            tensors = casted(CONVOLUTION, args[:5], out_dtype)
            return conv2d(*tensors, *options, epilogue, out_dtype, usable(math, tensors[0].dtype))

    return casted_matmul, casted_conv2d


def _register() -> None:
    bodies = {
        "conv2d_dgrad": _conv2d_dgrad,
        "conv2d_wgrad": _conv2d_wgrad,
        "scaled_matmul": _scaled_matmul,
        "scaled_conv2d": _scaled_conv2d,
    }
    for name, body in bodies.items():
        for place in ("CPU", "CUDA"):
            library.impl(name, body, place)
    fakes: dict[str, Callable[..., Any]] = {
        "conv2d_dgrad": lambda dy, w, *args: _fake_gradient("dgrad", dy, w, args[:2], args[5]),
        "conv2d_wgrad": lambda dy, x, *args: _fake_gradient("wgrad", dy, x, args[:2], args[5]),
        "matmul": lambda a, b, *args: _fake_product(a, b, args[5], args[9]),
        "scaled_matmul": lambda a, b, *args: _fake_product(a, b, args[6], args[9]),
        "conv2d": lambda x, w, *args: _fake_convolution(x, w, args[3], args[4], args[5], args[8]),
        "scaled_conv2d": lambda x, w, *args: _fake_convolution(x, w, args[5], args[6], args[7], args[11]),
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"gpu_tune::{name}", _in_one_place(name, fake), lib=library)
    for kind in ("cpu", "cuda"):
        casted_matmul, casted_conv2d = _autocast(kind)
        library.impl("matmul", casted_matmul, f"Autocast{kind.upper()}")
        library.impl("conv2d", casted_conv2d, f"Autocast{kind.upper()}")


_register()
