"""How tensors lie in memory, told as workloads tell it: leading dimensions and letters, nchw and nhwc, output dtypes.

What an operator allocates must not depend on who computes it, so its fake implementation and its body ask the same
functions here. Strides of dimensions of one mean nothing (PyTorch sets them as it likes) and are never looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import require
from ..workload import OUT_DTYPES, dtype_name

FLIPPED = {"n": "t", "t": "n"}
LAYOUTS = ("nn", "nt", "tn", "tt")
WIDE = (torch.float32, torch.float16, torch.bfloat16)
"""Data types that have gradients."""
NARROW = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)
"""Data types of the quantised operators."""
DTYPES: dict[str, torch.dtype] = {
    **{name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "int8", "int32")},
    "float8_e4m3": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
"""PyTorch's data type of each of our names."""
NAMES = {theirs: name for name, theirs in DTYPES.items()}


def result_dtype(dtype: torch.dtype, asked: torch.dtype | None) -> torch.dtype:
    """The data type of a result: what is asked for, else a workload's default for inputs of ``dtype``."""
    outputs = OUT_DTYPES.get(NAMES.get(dtype, ""))
    return DTYPES[outputs[0]] if asked is None and outputs else asked or dtype


def as_dtype(value: Any) -> torch.dtype | None:
    """``value``, a data type in any usual notation, as PyTorch's; None for None and ""."""
    if value is None or isinstance(value, torch.dtype):
        return value
    if isinstance(value, str) and value == "":
        return None
    name = dtype_name(value)
    require(name in DTYPES, "out_dtype", value, "is no data type of a result", f"name one of {', '.join(DTYPES)}")
    return DTYPES[name]


def name_of(dtype: torch.dtype | None) -> str:
    """What a workload calls ``dtype``; "" for None, PyTorch's own word for what no workload has."""
    return "" if dtype is None else NAMES.get(dtype, str(dtype))


def product_shape(a: Any, b: Any, layout: str) -> tuple[Any, ...]:
    """The shape of a product: (m, n), with the batch before it where ``a`` has one."""
    m = a.shape[-2] if layout[0] == "n" else a.shape[-1]
    n = b.shape[-1] if layout[1] == "n" else b.shape[-2]
    return (*a.shape[:-2], m, n)


def matrix(tensor: torch.Tensor, letter: str) -> tuple[torch.Tensor, str]:
    """The same matrix (or batch) with contiguous rows, and its letter: a view where the memory has that, else a copy.

    A transposed view is told by the other letter. A batch of one has no batch dimension.
    """
    if tensor.dim() == 3 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if _has_rows(tensor):
        return tensor, letter
    if _has_rows(tensor.mT):
        return tensor.mT, FLIPPED[letter]
    return tensor.contiguous(), letter


def leading(tensor: torch.Tensor) -> int:
    """Elements between the rows of what :func:`matrix` returned; 0 where there is one row."""
    if tensor.shape[-2] > 1:
        return tensor.stride(-2)
    return tensor.stride(0) if tensor.dim() == 3 else 0


def _has_rows(tensor: torch.Tensor) -> bool:
    """Whether rows are contiguous, apart from each other, and a batch is ``rows * ld`` elements."""
    rows, columns = tensor.shape[-2:]
    if columns > 1 and tensor.stride(-1) != 1:
        return False
    if rows > 1 and tensor.stride(-2) < columns:
        return False
    if tensor.dim() == 2:
        return True
    return tensor.stride(0) == rows * tensor.stride(-2) if rows > 1 else tensor.stride(0) >= columns


def like_result(tensor: torch.Tensor) -> torch.Tensor:
    """C or a residual, which must lie as the result does: contiguous, without a batch of one."""
    tensor = tensor[0] if tensor.dim() == 3 and tensor.shape[0] == 1 else tensor
    return tensor.contiguous()


def channels_last(x: Any, w: Any, sure: Callable[[Any], bool] = bool) -> bool:
    """Whether a convolution is of nhwc images: as the images lie, else as the filters do, else no.

    ``sure`` decides a comparison of sizes that may be symbols.
    """
    for tensor in (x, w):
        last, first = _lies(tensor, (1, 3, 2), sure), _lies(tensor, (3, 2, 1), sure)
        if last != first:
            return last
        if not last and sure(tensor.shape[1] > 1) and sure(tensor.stride(1) == 1):
            return True  # a slice of a channels-last tensor
    return False


def _lies(tensor: Any, order: tuple[int, ...], sure: Callable[[Any], bool]) -> bool:
    """Whether the dimensions in ``order``, the innermost first, lie without gaps; the first dimension is not asked."""
    expected: Any = 1
    for dim in order:
        if not sure(tensor.shape[dim] == 1) and not sure(tensor.stride(dim) == expected):
            return False
        expected = expected * tensor.shape[dim]
    return True


def images(tensor: torch.Tensor, nhwc: bool) -> torch.Tensor:
    """An (n, c, h, w) tensor as a workload's array, (n, h, w, c) with nhwc; a copy only where it lies otherwise."""
    return tensor.permute(0, 2, 3, 1).contiguous() if nhwc else tensor.contiguous()


def image_strides(shape: tuple[int, ...], nhwc: bool) -> tuple[int, ...]:
    """The strides of a contiguous (n, c, h, w) tensor, or of one that lies as nhwc."""
    _, c, h, w = shape
    return (c * h * w, 1, w * c, c) if nhwc else (c * h * w, h * w, w, 1)


def convolved_shape(x: Any, w: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Any, ...]:
    """The shape (n, k, p, q) of a convolution; ``padding`` is (top, bottom, left, right)."""
    sizes = []
    for i in range(2):
        padded = x.shape[2 + i] + padding[2 * i] + padding[2 * i + 1]
        sizes.append((padded - dilation[i] * (w.shape[2 + i] - 1) - 1) // stride[i] + 1)
    return (x.shape[0], w.shape[0], *sizes)
