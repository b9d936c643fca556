"""Calls of the operators with two results, but for their tensors; see ``calls.py``.

The second result is the one that the epilogue writes: ``aux`` of ``gelu(aux)`` and its like, or ``dbias``; an empty
tensor where it writes none (a backward operation alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import require
from ..workload import Conv2d, Workload
from ..workload.epilogue import Op
from . import arithmetic, layouts, ops
from .calls import Convolution, Operands, Product
from .gradient_calls import Gradient

NCHW, NHWC = (0, 1, 2, 3), (0, 2, 3, 1)
"""The dimensions of images as they lie in memory, the outermost first."""
Spec = tuple[tuple[Any, ...], tuple[Any, ...], torch.dtype]
"""Shape, strides and data type of a result."""


def parse(epilogue: str) -> tuple[Op, ...]:
    """The operations of an epilogue with at most one second result; InvalidInput for more."""
    ops = arithmetic.parse_all(epilogue)
    rule = "writes two arrays beside the result, and an operator of gpu_tune.torch has one second result"
    require(sum(bool(op.writes) for op in ops) <= 1, "epilogue", epilogue, rule, "leave dbias to autograd")
    return ops


def second_spec(
    epilogue: str, shape: Sequence[Any], strides: tuple[Any, ...], dtype: torch.dtype, order: Sequence[int] | None
) -> Spec:
    """The second result of a call whose first has that shape; ``order``: the dimensions of images as they lie."""
    for op in parse(epilogue):
        if op.writes == "dbias":
            return (shape[-1 if order is None else 1],), (1,), dtype
        if op.writes and not op.bits:
            return tuple(shape), strides, dtype
        if op.writes:
            rows, columns = (shape[:-1], shape[-1]) if order is None else ((), _product(shape))
            mask = (*rows, (columns + 127) // 128 * 16)
            return mask, tuple(_product(mask[i + 1 :]) for i in range(len(mask))), torch.uint8
    return (0,), (1,), dtype


def _product(sizes: Sequence[Any]) -> Any:
    made: Any = 1
    for size in sizes:
        made = made * size
    return made


@dataclass(frozen=True)
class ProductPair(Product):
    """:class:`Product` with a second result."""

    def fitted(self, tensors: Operands) -> tuple[ProductPair, dict[str, Tensor]]:
        fitted, found = super().fitted(tensors)
        assert isinstance(fitted, ProductPair)
        return fitted, {n: layouts.like_result(t) if n == "aux" else t for n, t in found.items()}

    def second(self, shape: Sequence[Any], dtype: torch.dtype) -> Spec:
        """The second result beside one of that shape."""
        return second_spec(self.epilogue, shape, self.strides(tuple(shape)), dtype, None)

    def pair_by_torch(self, tensors: Operands, dtype: torch.dtype, native: bool) -> tuple[Tensor, Tensor]:
        """Both results by PyTorch; of tensors that lie anyhow."""
        first, rest = arithmetic.split(parse(self.epilogue))
        inner = dtype if native else torch.float32
        y = arithmetic.product(tensors, self.layout, first, self.alpha, self.beta, inner, native=native)
        return arithmetic.finished(rest, y, tensors, dtype)

    def in_steps(self, tensors: Operands, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The product by its own operator, which has gradients, and the rest by PyTorch's elementwise ones."""
        first, rest = arithmetic.split(parse(self.epilogue))
        options = (self.layout, self.alpha, self.beta, arithmetic.joined(first), self.out_dtype, self.permitted)
        y = ops.matmul(*_used(ops.PRODUCT, tensors, rest), *options)
        return arithmetic.finished(rest, y, tensors, dtype)


@dataclass(frozen=True)
class ConvolutionPair(Convolution):
    """:class:`Convolution` with a second result."""

    def fitted(self, tensors: Operands) -> tuple[ConvolutionPair, dict[str, Tensor]]:
        fitted, found = super().fitted(tensors)
        assert isinstance(fitted, ConvolutionPair)
        return fitted, _with_aux(found, fitted.nhwc)

    def second(self, shape: Sequence[Any], dtype: torch.dtype) -> Spec:
        """The second result beside one of that shape."""
        strides, order = self.strides(tuple(shape)), NHWC if self.nhwc else NCHW
        return second_spec(self.epilogue, shape, strides, dtype, order)

    def pair_by_torch(self, tensors: Operands, dtype: torch.dtype, native: bool) -> tuple[Tensor, Tensor]:
        """Both results by PyTorch; of tensors that lie anyhow."""
        first, rest = arithmetic.split(parse(self.epilogue))
        tf32, inner = "tf32" in self.permitted, dtype if native else torch.float32
        shape = (self.stride, self.padding, self.dilation, self.groups)
        y = arithmetic.convolution(tensors, *shape, first, inner, native=native, tf32=tf32)
        return arithmetic.finished(rest, y, tensors, dtype, _order(tensors, "x"))

    def in_steps(self, tensors: Operands, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The convolution by its own operator, which has gradients, and the rest by PyTorch's elementwise ones."""
        first, rest = arithmetic.split(parse(self.epilogue))
        shape = (list(self.stride), list(self.padding), list(self.dilation), self.groups)
        options = (*shape, arithmetic.joined(first), self.out_dtype, self.permitted)
        y = ops.conv2d(*_used(ops.CONVOLUTION, tensors, rest), *options)
        return arithmetic.finished(rest, y, tensors, dtype, _order(tensors, "x"))


@dataclass(frozen=True)
class GradientPair(Gradient):
    """The gradient for the images, times the slope of the activation that gave them; with a second result."""

    epilogue: str = ""

    def fitted(self, tensors: Operands) -> tuple[GradientPair, dict[str, Tensor]]:
        nhwc = layouts.channels_last(tensors["dy"], tensors["w"])
        found = {n: layouts.images(t, nhwc) if n != "aux" else t for n, t in tensors.items()}
        return replace(self, nhwc=nhwc), _with_aux(found, nhwc)

    def workload(self, arrays: Operands) -> Workload:
        plain = super().workload(arrays)
        assert isinstance(plain, Conv2d)
        return replace(plain, epilogue=self.epilogue)

    def second(self, shape: Sequence[Any], dtype: torch.dtype) -> Spec:
        """The second result beside one of that shape."""
        strides, order = self.strides(tuple(shape)), NHWC if self.nhwc else NCHW
        return second_spec(self.epilogue, shape, strides, dtype, order)

    def pair_by_torch(self, tensors: Operands, dtype: torch.dtype, native: bool) -> tuple[Tensor, Tensor]:
        """Both results by PyTorch; of tensors that lie anyhow."""
        first, rest = arithmetic.split(parse(self.epilogue))
        y = self.by_torch({n: tensors[n] for n in ("dy", "w")}, dtype if native else torch.float32, native)
        return arithmetic.finished((*first, *rest), y, tensors, dtype, _order(tensors, "dy"))

    def in_steps(self, tensors: Operands, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The gradient by its own operator, and the rest by PyTorch's elementwise ones."""
        shape = (list(self.stride), list(self.padding), list(self.dilation), self.groups)
        y = ops.conv2d_dgrad(tensors["dy"], tensors["w"], *self.size, *shape, self.permitted)
        return arithmetic.finished(parse(self.epilogue), y, tensors, dtype, _order(tensors, "dy"))


Pair = ProductPair | ConvolutionPair | GradientPair


def _used(names: Sequence[str], tensors: Operands, rest: Sequence[Op]) -> list[Tensor | None]:
    """An operator's tensors in its order, without those of later operations."""
    later = {op.operand for op in rest}
    return [None if name in later else tensors.get(name) for name in names]


def _order(tensors: Operands, name: str) -> Sequence[int]:
    return NHWC if layouts.channels_last(tensors[name], tensors["w"]) else NCHW


def _with_aux(found: dict[str, Tensor], nhwc: bool) -> dict[str, Tensor]:
    """A saved array of images as the workload has it; a mask is flat."""
    aux = found.get("aux")
    if aux is None:
        return found
    return {**found, "aux": layouts.images(aux, nhwc) if aux.dim() == 4 else aux.contiguous()}
