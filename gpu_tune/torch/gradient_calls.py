"""Calls of the operators for a convolution's gradients but for their tensors; see ``calls.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import dispatch
from ..kernel.kernel import TunedKernel
from ..workload import Conv2d, Workload
from . import arithmetic, layouts
from .calls import permissions

Operands = Mapping[str, Tensor]


@dataclass(frozen=True)
class Gradient:
    """``dgrad``: the gradient for the images, from those of the result and the filters; ``wgrad``: for the filters.

    ``size`` is what the tensors leave open: rows and columns of the images (dgrad) or of a filter (wgrad).
    """

    direction: str
    size: tuple[int, int]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    permitted: str
    nhwc: bool = False

    out_dtype: ClassVar[torch.dtype | None] = None

    @property
    def other(self) -> str:
        """The name of the second tensor."""
        return "w" if self.direction == "dgrad" else "x"

    def shape(self, tensors: Operands) -> tuple[int, ...]:
        """The result's: that of the images or the filters."""
        return gradient_shape(self.direction, tensors["dy"], tensors[self.other], self.size, self.groups)

    def fitted(self, tensors: Operands) -> tuple[Gradient, dict[str, Tensor]]:
        """The call with the layout of its memory, and its arrays: views where that is possible, else copies."""
        nhwc = layouts.channels_last(tensors["dy"], tensors[self.other])
        return replace(self, nhwc=nhwc), {n: layouts.images(t, nhwc) for n, t in tensors.items()}

    def workload(self, arrays: Operands) -> Workload:
        """What our kernels call it; InvalidInput where it is none."""
        dy, other = (arrays[n].permute(0, 3, 1, 2) if self.nhwc else arrays[n] for n in ("dy", self.other))
        c = other.shape[1] * (self.groups if self.direction == "dgrad" else 1)
        (h, w), (r, s) = (self.size, other.shape[2:]) if self.direction == "dgrad" else (other.shape[2:], self.size)
        return Conv2d(
            dy.shape[0],
            c,
            h,
            w,
            dy.shape[1],
            r,
            s,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            layout="nhwc" if self.nhwc else "nchw",
            dtype=layouts.name_of(dy.dtype),
            math=permissions(self.permitted),
            direction=self.direction,
        )

    def scalars(self, workload: Workload) -> dict[str, float]:
        """None: nothing is added."""
        return {}

    def by_torch(self, tensors: Operands, dtype: torch.dtype, native: bool) -> Tensor:
        """The result by PyTorch; of tensors that lie anyhow."""
        dy, other = (tensors[n] if native else tensors[n].float() for n in ("dy", self.other))
        shape = self.shape(tensors)
        found = arithmetic.gradient(
            self.direction,
            dy,
            other,
            shape,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            tf32="tf32" in self.permitted,
        )
        return found.to(dtype)

    def by_dispatch(self, arrays: Operands) -> Tensor:
        """The result of copied or misaligned arrays, as a tensor with channels first."""
        workload, dy = self.workload(arrays), arrays["dy"]
        served: Any = dispatch.server(workload, dy.get_device(), "torch")
        fits = all(t.data_ptr() % workload.alignment == 0 for t in arrays.values())
        if isinstance(served, TunedKernel) and fits:
            y = served(*(arrays[name] for name in workload.inputs))
            return y.permute(0, 3, 1, 2) if self.nhwc else y
        tensors = {n: t.permute(0, 3, 1, 2) if self.nhwc else t for n, t in arrays.items()}
        return self.by_torch(tensors, dy.dtype, True)

    def strides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The result's: contiguous in the layout of the images."""
        return layouts.image_strides(shape, self.nhwc)


def gradient_shape(direction: str, dy: Any, other: Any, size: Any, groups: int) -> tuple[Any, ...]:
    """The shape of a gradient, whose tensors have it but for ``size``."""
    if direction == "dgrad":
        return (dy.shape[0], other.shape[1] * groups, *size)
    return (dy.shape[1], other.shape[1] // groups, *size)
