"""Modules: PyTorch's own layers, computed by our operators; and sequences that fuse a layer with its activation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from ..workload.epilogue import ACTIVATIONS
from . import arguments, arithmetic, functional
from .layers import layers


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


Step = tuple[nn.Module, str]
"""A module, and the activation that is computed with it: its own, or the module's after it."""


class Sequential(nn.Sequential):
    """``torch.nn.Sequential`` that gives an activation to the layer before it, where both are plain, and in training
    computes layers of one kind with such activations between them together, whose backward pass then fuses them.

    Plain: one of our layers, then an activation that an epilogue has, and no hooks on either, which would see less.
    """

    def forward(self, input: Any) -> Any:
        row: list[Step] = []
        for step in self._steps():
            if row and not _joins(row[-1], step):
                input, row = _computed(row, input), []
            row.append(step)
        return _computed(row, input) if row else input

    def _steps(self) -> list[Step]:
        """The modules, with plain activations given to the layers before them."""
        steps: list[Step] = []
        for module in self:
            before = steps[-1] if steps else None
            if before is not None and not before[1] and _plain(before[0]) and not _hooked(module):
                activation = epilogue_of(module)
                if activation:
                    steps[-1] = (before[0], activation)
                    continue
            steps.append((module, module.activation if isinstance(module, (Linear, Conv2d)) else ""))
        return steps


def _plain(module: nn.Module) -> bool:
    return isinstance(module, (Linear, Conv2d)) and not _hooked(module)


def _joins(before: Step, step: Step) -> bool:
    """Whether a step may be computed together with that before it."""
    same = type(before[0]) is type(step[0]) and _plain(before[0]) and _plain(step[0])
    return same and before[1] in ACTIVATIONS


def _computed(row: list[Step], x: Any) -> Any:
    """What follows each other: in training as one, where our operators take it; else one by one."""
    if len(row) > 1 and _trains(row, x):
        modules: list[Any] = [module for module, _ in row]
        last = row[-1][1]
        later = "" if last in ACTIVATIONS else last  # one that cannot be undone: PyTorch's
        activations = [activation for _, activation in row[:-1]] + ["" if later else last]
        weights, biases = [m.weight for m in modules], [m.bias for m in modules]
        if isinstance(modules[0], Linear):
            rows = x.flatten(0, -2) if x.dim() > 1 else x[None]
            try:
                y = layers(rows, weights, biases, activations, [], "")
            except InvalidInput as error:
                raise arguments.of_layer(error, x, weights, biases, "weight of layer {}", "bias of layer {}") from None
            y = y.reshape((*x.shape[:-1], y.shape[-1]))
        else:
            y = layers(x, weights, biases, activations, [n for m in modules for n in _geometry(m)], "")
        return _activated(y, later) if later else y
    for module, activation in row:
        own = isinstance(module, (Linear, Conv2d)) and module.activation == activation
        x = module(x) if own or not isinstance(module, (Linear, Conv2d)) else module.fused(x, activation)
    return x


def _trains(row: list[Step], x: Any) -> bool:
    """Whether gradients are asked for, of tensors that our operators take."""
    if not isinstance(x, Tensor) or not torch.is_grad_enabled():
        return False
    modules: list[Any] = [module for module, _ in row]
    if not (x.requires_grad or any(p.requires_grad for m in modules for p in (m.weight, m.bias) if p is not None)):
        return False
    images = isinstance(modules[0], Conv2d)
    if images and (x.dim() != 4 or any(m.padding_mode != "zeros" for m in modules)):
        return False
    return all(functional.served(x, m.weight) for m in modules)


def _geometry(layer: Conv2d) -> tuple[int, ...]:
    """A convolution as the operator of layers has it: stride, padding, dilation, groups."""
    return (*layer.stride, *sides(layer), *layer.dilation, layer.groups)


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
