"""Modules: PyTorch's own layers, computed by our operators; and sequences that fuse a layer with its activation."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from . import arguments, arithmetic, functional


class Linear(nn.Linear):
    """``torch.nn.Linear``, with an ``activation`` (an epilogue without operands, such as "gelu") if wanted.

    State dicts are PyTorch's. Tensors that our operators do not take (float64, other devices) are PyTorch's to compute.
    """

    activation = ""

    def __init__(self, *args: Any, activation: str = "", **options: Any) -> None:
        checked = arguments.activation(activation)
        super().__init__(*args, **options)
        if checked:
            self.activation = checked

    def forward(self, x: Tensor) -> Tensor:
        return self.fused(x, self.activation)

    def fused(self, x: Tensor, activation: str) -> Tensor:
        """The layer with an activation in the same kernel."""
        if functional.served(x, self.weight):
            return functional.linear(x, self.weight, self.bias, activation=activation)
        return _activated(super().forward(x), activation)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", activation={self.activation}" if self.activation else "")


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d``, with an ``activation`` if wanted; see :class:`Linear`.

    Images in the channels-last memory format are convolved as they lie. Padding other than by zeros is PyTorch's.
    """

    activation = ""

    def __init__(self, *args: Any, activation: str = "", **options: Any) -> None:
        checked = arguments.activation(activation)
        super().__init__(*args, **options)
        if checked:
            self.activation = checked

    def forward(self, x: Tensor) -> Tensor:
        return self.fused(x, self.activation)

    def fused(self, x: Tensor, activation: str) -> Tensor:
        """The layer with an activation in the same kernel."""
        if self.padding_mode != "zeros" or x.dim() != 4 or not functional.served(x, self.weight):
            return _activated(super().forward(x), activation)
        steps = ("bias" if self.bias is not None else "", activation)
        return functional.conv2d(
            x,
            self.weight,
            bias=self.bias,
            stride=self.stride,
            padding=sides(self),
            dilation=self.dilation,
            groups=self.groups,
            epilogue="+".join(step for step in steps if step),
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", activation={self.activation}" if self.activation else "")


class Sequential(nn.Sequential):
    """``torch.nn.Sequential`` that gives an activation to the layer before it, where both are plain.

    Plain: one of our layers, then an activation that an epilogue has, and no hooks on either, which would see less.
    """

    def forward(self, input: Any) -> Any:
        waiting: Linear | Conv2d | None = None
        for module in self:
            if waiting is not None:
                activation = "" if _hooked(module) else epilogue_of(module)
                if activation:
                    input, waiting = waiting.fused(input, activation), None
                    continue
                input, waiting = waiting(input), None
            if isinstance(module, (Linear, Conv2d)) and not module.activation and not _hooked(module):
                waiting = module
            else:
                input = module(input)
        return input if waiting is None else waiting(input)


def epilogue_of(module: nn.Module) -> str:
    """The epilogue that computes what an activation module does; "" for other modules."""
    kind = type(module)
    if kind is nn.GELU:
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    if kind is nn.Hardtanh:
        bounds = float(module.min_val), float(module.max_val)
        return f"clamp({bounds[0]!r},{bounds[1]!r})" if all(map(math.isfinite, bounds)) else ""
    return {nn.ReLU: "relu", nn.SiLU: "silu", nn.ReLU6: "clamp(0,6)"}.get(kind, "")


def sides(layer: nn.Conv2d) -> tuple[int, ...]:
    """A convolution's padding as (top, bottom, left, right); for "same" the larger half comes after, as in PyTorch."""
    return tuple(arguments.padding(layer.padding, layer.kernel_size, layer.stride, layer.dilation))


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(len(kind) > 0 for kind in hooks)


def _activated(y: Tensor, activation: str) -> Tensor:
    for op in arithmetic.parse(activation):
        y = arithmetic.apply(op, y, {})
    return y


PLAIN: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, nn.Conv2d: Conv2d, nn.Sequential: Sequential}
"""Our module for each of PyTorch's."""
