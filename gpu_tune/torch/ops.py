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
from . import arguments, layouts
from .calls import Convolution, Product, permissions
from .gradient_calls import Gradient, gradient_shape
from .known import Table

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

GEOMETRY = "int[] stride, int[] padding, int[] dilation, int groups"
LAST = "str epilogue, ScalarType? out_dtype, str math"


def define(name: str, tensors: Sequence[str], options: str, results: int = 1) -> Any:
    """The operator of that name: its first two tensors are required."""
    required, optional = tensors[:2], tensors[2:]
    typed = [*(f"Tensor {t}" for t in required), *(f"Tensor? {t}" for t in optional), options]
    returned = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
    library.define(f"{name}({', '.join(typed)}) -> {returned}", tags=(torch.Tag.needs_fixed_stride_order,))
    return getattr(torch.ops.gpu_tune, name).default


matmul = define("matmul", PRODUCT, f"str layout, float alpha, float beta, {LAST}")
conv2d = define("conv2d", CONVOLUTION, f"{GEOMETRY}, {LAST}")
scaled_matmul = define("scaled_matmul", SCALED_PRODUCT, f"str layout, str scales, {LAST}")
scaled_conv2d = define("scaled_conv2d", SCALED_CONVOLUTION, f"{GEOMETRY}, str scales, {LAST}")


conv2d_dgrad = define("conv2d_dgrad", DGRAD, f"SymInt h, SymInt width, {GEOMETRY}, str math")
conv2d_wgrad = define("conv2d_wgrad", WGRAD, f"SymInt r, SymInt s, {GEOMETRY}, str math")


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


products, convolutions = Table(PRODUCT, product), Table(CONVOLUTION, convolution)
_scaled_products = Table(SCALED_PRODUCT, _scaled_product)
_scaled_convolutions = Table(SCALED_CONVOLUTION, _scaled_convolution)

_dgrads, _wgrads = Table(DGRAD, Gradient), Table(WGRAD, Gradient)

# The bodies. A call that was served before is told by a hint (its options, which tensors there are, and the id of the
# second, which is a weight most often) and by a guard on the tensors: all that it costs beside the launch. They are
# written out, as a loop over tensors would cost as much as the rest, and are not given PyTorch's keyset, which would
# cost 0.2 us. They serve autograd's dispatch key, too: a second pass through PyTorch's dispatcher would cost 3 us.

Body = Callable[..., Tensor]
Unknown = Callable[[Any, tuple[Tensor | None, ...], tuple[Any, ...]], Tensor]
"""Serves a call that is not known, from hint, tensors and options."""


def matmul_body(unknown: Unknown, gradients: Callable[[], bool]) -> Body:
    """The body of ``matmul``; ``gradients()`` tells whether those that tensors ask for are computed."""
    recent = products.recent

    def body(
        a: Tensor, b: Tensor, c: Any, bias: Any, row_bias: Any, residual: Any, scale: Any, *options: Any
    ) -> Tensor:
        hint = (
            id(b), options, gradients(), bias is None, c is None, row_bias is None, residual is None, scale is None,
        )  # fmt: skip
        tensors = (a, b, c, bias, row_bias, residual, scale)
        for fits, pick, run, _ in recent.get(hint, ()):
            given = pick(tensors)
            if fits(*given) and forward_ad._current_level < 0:
                return run(*given)
        return unknown(hint, tensors, options)

    return body


def conv2d_body(unknown: Unknown, gradients: Callable[[], bool]) -> Body:
    """The body of ``conv2d``; its options contain lists, which cannot be part of a key."""
    recent = convolutions.recent

    def body(x: Tensor, w: Tensor, bias: Any, residual: Any, scale: Any, *options: Any) -> Tensor:
        hint = (id(w), gradients(), bias is None, residual is None, scale is None)
        tensors = (x, w, bias, residual, scale)
        for fits, pick, run, known in recent.get(hint, ()):
            given = pick(tensors)
            if fits(*given) and options == known and forward_ad._current_level < 0:
                return run(*given)
        return unknown(hint, tensors, options)

    return body


def _scaled_matmul(*args: Any) -> Tensor:
    with _autocast_off(args[0]):
        return _scaled_products.serve(args[:8], args[8:])


def _scaled_conv2d(*args: Any) -> Tensor:
    with _autocast_off(args[0]):
        return _scaled_convolutions.serve(args[:7], args[7:])


def _conv2d_dgrad(dy: Tensor, w: Tensor, rows: int, columns: int, *options: Any) -> Tensor:
    return _dgrads.serve((dy, w), ("dgrad", (rows, columns), *options))


def _conv2d_wgrad(dy: Tensor, x: Tensor, rows: int, columns: int, *options: Any) -> Tensor:
    return _wgrads.serve((dy, x), ("wgrad", (rows, columns), *options))


def _autocast_off(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    kind = tensor.device.type
    on = torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else contextlib.nullcontext()


def in_one_place(name: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    """``fake`` of tensors that are on one device: PyTorch calls it with one on ``meta`` beside others elsewhere."""
    names = TENSORS[name]

    def checked(*args: Any) -> Any:
        arguments.in_one_place(f"gpu_tune::{name}", dict(zip(names, args)))
        return fake(*args)

    return checked


def fake_product(a: Any, b: Any, layout: str, out_dtype: torch.dtype | None) -> Any:
    """Memory of the result's shape; nothing depends on the number of rows, so that one graph serves all."""
    inner, other = a.shape[-1 if layout[0] == "n" else -2], b.shape[-2 if layout[1] == "n" else -1]
    torch._check(inner == other, lambda: f"gpu_tune: a sums over {inner} products, b over {other} (layout {layout})")
    dtype = layouts.result_dtype(a.dtype, out_dtype)
    return a.new_empty(layouts.product_shape(a, b, layout), dtype=dtype)


def fake_convolution(x: Any, w: Any, stride: Any, padding: Any, dilation: Any, out_dtype: torch.dtype | None) -> Any:
    shape = layouts.convolved_shape(x, w, stride, padding, dilation)
    return _fake_images(x, w, shape, layouts.result_dtype(x.dtype, out_dtype))


def fake_gradient(direction: str, dy: Any, other: Any, size: Any, groups: int) -> Any:
    return _fake_images(dy, other, gradient_shape(direction, dy, other, size, groups), dy.dtype)


def _fake_images(first: Any, second: Any, shape: tuple[Any, ...], dtype: torch.dtype) -> Any:
    """Memory of that shape, in the layout that is told by the tensors."""
    from torch.fx.experimental.symbolic_shapes import guard_or_false  # slow to import, and only tracing needs it

    last = layouts.channels_last(first, second, guard_or_false)
    like = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device=first.device, memory_format=like)


def casted(tensor: Tensor | None, dtype: torch.dtype, kind: str) -> Tensor | None:
    """A tensor as autocast to ``dtype`` gives it, on that kind of device."""
    wide = tensor is not None and tensor.dtype in layouts.WIDE and tensor.device.type == kind
    return tensor.to(dtype) if wide and tensor is not None else tensor


def usable(math: str, dtype: torch.dtype) -> str:
    """The permissions that mean something for ``dtype``."""
    return "+".join(p for p in permissions(math) if layouts.NAMES[dtype] in MATH.get(p, ()))


def autocast(kind: str, op: Any, names: Sequence[str]) -> Callable[..., Any]:
    """An operator as autocast has it on that kind of device; ``names`` are those of its tensors."""
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{kind.upper()}"))

    def call(*args: Any) -> Any:
        *options, epilogue, out_dtype, math = args[len(names) :]
        dtype = torch.get_autocast_dtype(kind)
        kinds = dict.fromkeys(("c", "bias", "row_bias", "residual", "aux"), out_dtype or dtype)
        kinds["scale"] = torch.float32
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            tensors: list[Any] = [casted(tensor, kinds.get(name, dtype), kind) for name, tensor in zip(names, args)]
            return op(*tensors, *options, epilogue, out_dtype, usable(math, tensors[0].dtype))

    return call


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
        "conv2d_dgrad": lambda dy, w, *args: fake_gradient("dgrad", dy, w, args[:2], args[5]),
        "conv2d_wgrad": lambda dy, x, *args: fake_gradient("wgrad", dy, x, args[:2], args[5]),
        "matmul": lambda a, b, *args: fake_product(a, b, args[5], args[9]),
        "scaled_matmul": lambda a, b, *args: fake_product(a, b, args[6], args[9]),
        "conv2d": lambda x, w, *args: fake_convolution(x, w, args[3], args[4], args[5], args[8]),
        "scaled_conv2d": lambda x, w, *args: fake_convolution(x, w, args[5], args[6], args[7], args[11]),
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"gpu_tune::{name}", in_one_place(name, fake), lib=library)
    for kind in ("cpu", "cuda"):
        library.impl("matmul", autocast(kind, matmul, PRODUCT), f"Autocast{kind.upper()}")
        library.impl("conv2d", autocast(kind, conv2d, CONVOLUTION), f"Autocast{kind.upper()}")


_register()
