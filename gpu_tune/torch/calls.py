"""Calls of the operators but for their tensors: what workload they are, and who can compute them.

Tensors come by name, as the operators have them; an *array* is a tensor whose memory is as the workload says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import dispatch
from ..errors import require
from ..workload import Conv2d, Matmul, Workload
from . import arithmetic, layouts

Operands = Mapping[str, Tensor]


@dataclass(frozen=True)
class Product:
    """``epilogue(alpha * A @ B + beta * C)``, with scales for int8 and float8."""

    layout: str
    epilogue: str
    alpha: float
    beta: float
    out_dtype: torch.dtype | None
    permitted: str
    scales: str = "none"

    nhwc: ClassVar[bool] = False

    def shape(self, tensors: Operands) -> tuple[int, ...]:
        """The result's."""
        for name in ("a", "b"):
            shape = tuple(tensors[name].shape)
            rule, remedy = "is not a matrix or a batch of matrices", "give two dimensions, or three; linear takes any"
            require(len(shape) in (2, 3), f"{name}.shape", shape, rule, remedy)
        return layouts.product_shape(tensors["a"], tensors["b"], self.layout)

    def fitted(self, tensors: Operands) -> tuple[Product, dict[str, Tensor]]:
        """The call with the layout of its memory, and its arrays: views where that is possible, else copies."""
        a, first = layouts.matrix(tensors["a"], self.layout[0])
        b, second = layouts.matrix(tensors["b"], self.layout[1])
        more = {n: layouts.like_result(t) if n in ("c", "residual") else t.contiguous() for n, t in tensors.items()}
        return replace(self, layout=first + second), {**more, "a": a, "b": b}

    def workload(self, arrays: Operands) -> Workload:
        """What our kernels call it; InvalidInput where it is none."""
        a, b = arrays["a"], arrays["b"]
        shape, k = layouts.product_shape(a, b, self.layout), a.shape[-1 if self.layout[0] == "n" else -2]
        other = b.shape[-2 if self.layout[1] == "n" else -1]
        rule = f"sums over {k} products, b over {other} (layout {self.layout}, b {tuple(b.shape)})"
        require(k == other, "a.shape", tuple(a.shape), rule, "transpose one of them, or name another layout")
        return Matmul(
            shape[-2],
            shape[-1],
            k,
            batch=a.shape[0] if a.dim() == 3 else 1,
            dtype=layouts.name_of(a.dtype),
            out_dtype=layouts.name_of(self.out_dtype),
            layout=self.layout,
            lda=layouts.leading(a),
            ldb=layouts.leading(b),
            alpha="1" if self.alpha == 1 else "any",
            beta="0" if self.beta == 0 else "1" if self.beta == 1 else "any",
            epilogue=self.epilogue,
            scales=self.scales,
            math=permissions(self.permitted),
        )

    def scalars(self, workload: Workload) -> dict[str, float]:
        """The run-time scalars of a kernel's call."""
        return {name: getattr(self, name) for name in workload.scalars()}

    def by_torch(self, tensors: Operands, dtype: torch.dtype, native: bool) -> Tensor:
        """The result by PyTorch; of tensors that lie anyhow."""
        ops = arithmetic.parse(self.epilogue)
        return arithmetic.product(tensors, self.layout, ops, self.alpha, self.beta, dtype, native=native)

    def by_dispatch(self, arrays: Operands) -> Tensor:
        """The result by the dispatcher, with all its checks."""
        rest: dict[str, Any] = {n: t for n, t in arrays.items() if n not in "abc"}
        return dispatch.matmul(
            arrays["a"],
            arrays["b"],
            arrays.get("c"),
            layout=self.layout,
            epilogue=self.epilogue,
            alpha=self.alpha,
            beta=self.beta,
            out_dtype=layouts.name_of(self.out_dtype),
            scales=self.scales,
            math=permissions(self.permitted),
            **rest,
        )

    def strides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The result's: contiguous."""
        return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


@dataclass(frozen=True)
class Convolution:
    """A convolution of (n, c, h, w) images, which may lie as nhwc; stride, padding and dilation as in a workload."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    epilogue: str
    out_dtype: torch.dtype | None
    permitted: str
    scales: str = "none"
    nhwc: bool = False

    def shape(self, tensors: Operands) -> tuple[int, ...]:
        """The result's: (n, k, p, q)."""
        for name, value, count, least in (
            ("stride", self.stride, 2, 1),
            ("padding", self.padding, 4, 0),
            ("dilation", self.dilation, 2, 1),
        ):
            rule = f"is not {count} numbers of at least {least}, as an operator has them"
            require(len(value) == count and min(value) >= least, name, value, rule, "call gpu_tune.torch.conv2d")
        return layouts.convolved_shape(tensors["x"], tensors["w"], self.stride, self.padding, self.dilation)

    def fitted(self, tensors: Operands) -> tuple[Convolution, dict[str, Tensor]]:
        """The call with the layout of its memory, and its arrays: views where that is possible, else copies."""
        nhwc = layouts.channels_last(tensors["x"], tensors["w"])
        large = ("x", "w", "residual")
        arrays = {n: layouts.images(t, nhwc) if n in large else t.contiguous() for n, t in tensors.items()}
        return replace(self, nhwc=nhwc), arrays

    def workload(self, arrays: Operands) -> Workload:
        """What our kernels call it; InvalidInput where it is none."""
        order = (0, 3, 1, 2) if self.nhwc else (0, 1, 2, 3)
        n, c, h, w = (arrays["x"].shape[i] for i in order)
        k, _, r, s = (arrays["w"].shape[i] for i in order)
        return Conv2d(
            n,
            c,
            h,
            w,
            k,
            r,
            s,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            layout="nhwc" if self.nhwc else "nchw",
            dtype=layouts.name_of(arrays["x"].dtype),
            out_dtype=layouts.name_of(self.out_dtype),
            epilogue=self.epilogue,
            scales=self.scales,
            math=permissions(self.permitted),
        )

    def scalars(self, workload: Workload) -> dict[str, float]:
        """None: a convolution has no alpha and beta."""
        return {}

    def by_torch(self, tensors: Operands, dtype: torch.dtype, native: bool) -> Tensor:
        """The result by PyTorch; of tensors that lie anyhow."""
        return arithmetic.convolution(
            tensors,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            arithmetic.parse(self.epilogue),
            dtype,
            native=native,
            tf32="tf32" in self.permitted,
        )

    def by_dispatch(self, arrays: Operands) -> Tensor:
        """The result by the dispatcher, with all its checks, as (n, k, p, q)."""
        rest: dict[str, Any] = {n: t for n, t in arrays.items() if n not in "xw"}
        y = dispatch.conv2d(
            arrays["x"],
            arrays["w"],
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            layout="nhwc" if self.nhwc else "nchw",
            epilogue=self.epilogue,
            out_dtype=layouts.name_of(self.out_dtype),
            scales=self.scales,
            math=permissions(self.permitted),
            **rest,
        )
        return y.permute(0, 3, 1, 2) if self.nhwc else y

    def strides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The result's: contiguous in the layout of the images."""
        return layouts.image_strides(shape, self.nhwc)


def permissions(joined: str) -> tuple[str, ...]:
    """The permissions that an operator's argument joins by '+'."""
    return tuple(p for p in joined.split("+") if p)
