"""Layers in a row as one operator, ``torch.ops.gpu_tune.layers``, whose backward pass fuses across them.

Between two layers stands an activation. Forward, the first layer's kernel computes it and saves what its slope needs:
what it was given (``bias+gelu(aux)``), or for a ReLU its bits (``bias+relu(aux)``) where our kernels serve both
directions, else nothing but the result. Backward, the second layer's gradient for its input comes out multiplied by
that slope, and summed for the first layer's bias, of one kernel (``dgelu+dbias``): no elementwise pass is left between
the layers. Whoever serves a call is asked for each product alone, as for any other.

A gradient of a gradient is that of the layers one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..workload.epilogue import Op
from . import arithmetic, layouts, ops, pair_ops, routes
from .autograd import traced_by_functions
from .gradient_formulas import over
from .pairs import NCHW, NHWC, Pair

SIZES = 9
"""Numbers of a convolution: stride 2, padding 4, dilation 2, groups."""
Given = Sequence[Tensor | None]

ops.library.define(
    "layers(Tensor x, Tensor[] weights, Tensor?[] biases, str[] activations, int[] geometry, str math) -> Tensor",
    tags=(torch.Tag.needs_fixed_stride_order,),
)
layers = torch.ops.gpu_tune.layers.default


@dataclass(frozen=True)
class Layer:
    """A layer but for its tensors: a linear one, or a convolution.

    ``shape``: of a convolution stride, padding, dilation and groups. ``activation``: relu, gelu, gelu_tanh, silu or "".
    """

    activation: str
    shape: tuple[Any, ...]
    math: str

    def forward(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """The layer by its operator, which has gradients."""
        epilogue = self.epilogue(bias, self.activation)
        if self.shape:
            return ops.conv2d(x, w, bias, None, None, *self.shape, epilogue, None, self.math)
        return ops.matmul(x, w, None, bias, *[None] * 3, "nt", 1.0, 0.0, epilogue, None, self.math)

    def saving(self, x: Tensor, w: Tensor, bias: Tensor | None, bits: bool) -> tuple[Tensor, Tensor | None]:
        """The layer, and what its activation's slope is taken from; None without an activation."""
        if not self.activation:
            return self.forward(x, w, bias), None
        if self.activation == "relu" and not bits:
            y = self.forward(x, w, bias)
            return y, y
        epilogue = self.epilogue(bias, f"{self.activation}(aux)")
        if self.shape:
            return pair_ops.conv2d_pair(x, w, bias, *[None] * 3, *self.shape, epilogue, None, self.math)
        return pair_ops.matmul_pair(x, w, None, bias, *[None] * 4, "nt", 1.0, 0.0, epilogue, None, self.math)

    def for_input(
        self, g: Tensor, size: Sequence[Any], w: Tensor, aux: Tensor | None, epilogue: str
    ) -> tuple[Tensor, Tensor]:
        """The gradient for inputs of ``size``, with an epilogue that may read ``aux``, and its second result."""
        if self.shape:
            size = size[2:]
            if not epilogue:
                return ops.conv2d_dgrad(g, w, *size, *self.shape, self.math), g
            return pair_ops.conv2d_dgrad_pair(g, w, aux, *size, *self.shape, epilogue, self.math)
        if not epilogue:
            return ops.matmul(g, w, *[None] * 5, "nn", 1.0, 0.0, "", None, self.math), g
        return pair_ops.matmul_pair(g, w, *[None] * 5, aux, "nn", 1.0, 0.0, epilogue, None, self.math)

    def for_weight(self, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """The gradient for ``w``."""
        if self.shape:
            return ops.conv2d_wgrad(g, x, *w.shape[2:], *self.shape, self.math)
        return ops.matmul(g, x, *[None] * 5, "tn", 1.0, 0.0, "", None, self.math)

    def slope(self, aux: Tensor) -> str:
        """The operation that multiplies by the activation's slope at ``aux``."""
        return "drelu(out)" if self.activation == "relu" and aux.is_floating_point() else f"d{self.activation}"

    @staticmethod
    def epilogue(bias: Tensor | None, activation: str) -> str:
        """A layer's, with that activation."""
        return "+".join(step for step in ("" if bias is None else "bias", activation) if step)


def plan(activations: Sequence[str], geometry: Sequence[int], math: str) -> list[Layer]:
    """The layers of a call."""
    made = []
    for i, activation in enumerate(activations):
        g = tuple(geometry[SIZES * i : SIZES * (i + 1)])
        made.append(Layer(activation, (g[:2], g[2:6], g[6:8], g[8]) if g else (), math))
    return made


def one_by_one(
    x: Tensor, weights: Sequence[Tensor], biases: Given, activations: Sequence[str], geometry: Sequence[int], math: str
) -> Tensor:
    """The layers by their own operators."""
    for layer, w, bias in zip(plan(activations, geometry, math), weights, biases):
        x = layer.forward(x, w, bias)
    return x


class _Layers(torch.autograd.Function):
    """Saved are all that was given, inner inputs whose weights ask for gradients, and what slopes are taken from."""

    @staticmethod
    def forward(ctx: Any, rest: tuple[Any, ...], x: Tensor, *given: Any) -> Tensor:
        planned, asked = plan(*rest), ctx.needs_input_grad[1:]
        count, y, sizes = len(planned), x, []
        inputs: list[Tensor | None] = []
        saved: list[Tensor | None] = []
        for i, layer in enumerate(planned):
            following = (planned[i + 1], given[i + 1]) if i + 1 < count else None
            bits = (
                following is not None
                and layer.activation == "relu"
                and _with_bits(layer, y, given[i], given[count + i], *following)
            )
            inputs.append(y if asked[1 + i] else None)
            sizes.append(y.shape)
            y, aux = layer.saving(y, given[i], given[count + i], bits)
            saved.append(aux)
        ctx.rest, ctx.sizes, ctx.last = rest, sizes, len(y.shape) == 4 and layouts.channels_last(y, given[count - 1])
        ctx.save_for_backward(x, *given, *inputs, *saved)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        planned, asked, tensors = plan(*ctx.rest), ctx.needs_input_grad[1:], ctx.saved_tensors
        count, x = len(planned), tensors[0]
        weights, biases, inputs, saved = (tensors[1 + i * count : 1 + (i + 1) * count] for i in range(4))
        if torch.is_grad_enabled():
            return (None, *_one_by_one_gradients(x, weights, biases, ctx.rest, asked, g))
        images = g.dim() == 4 and bool(planned[0].shape)
        g = g.contiguous(memory_format=torch.channels_last if ctx.last else torch.contiguous_format)
        if planned[-1].activation:
            order = (NHWC if ctx.last else NCHW) if images else None
            g = arithmetic.undo(Op(planned[-1].slope(saved[-1])), g, saved[-1], order)
        found: list[Tensor | None] = [None] * (1 + 2 * count)
        summed = None
        for i in reversed(range(count)):
            layer, w = planned[i], weights[i]
            if asked[1 + count + i]:
                found[1 + count + i] = over("bias", g, images).to(g.dtype) if summed is None else summed
            if asked[1 + i]:
                found[1 + i] = layer.for_weight(g, inputs[i], w)
            if not any((*asked[: 1 + i], *asked[1 + count : 1 + count + i])):
                break
            before = planned[i - 1] if i else None
            steps = [before.slope(saved[i - 1])] if before is not None and before.activation else []
            sums = bool(i) and asked[count + i]  # of the layer before
            g, second = layer.for_input(g, ctx.sizes[i], w, saved[i - 1], "+".join([*steps, *["dbias"] * sums]))
            summed = second if sums else None
            if not i:
                found[0] = g
        return (None, *found)


def _one_by_one_gradients(
    x: Tensor, weights: Sequence[Tensor], biases: Given, rest: tuple[Any, ...], asked: Sequence[bool], g: Tensor
) -> list[Tensor | None]:
    """The gradients with gradients of their own: what is saved inside knows nothing of what it was computed from."""
    with torch.enable_grad():
        x, *given = (t if t is None else t.view_as(t) for t in (x, *weights, *biases))
        weights, biases = given[: len(weights)], given[len(weights) :]
        y = one_by_one(x, weights, biases, *rest)
        wanted = [t for t, needed in zip((x, *weights, *biases), asked) if needed and t is not None]
        found = iter(torch.autograd.grad(y, wanted, g, create_graph=True))
    return [next(found) if needed else None for needed in asked]


_bits: dict[Any, bool] = {}
dispatch.forgetting.append(_bits.clear)


def _with_bits(layer: Layer, x: Tensor, w: Tensor, bias: Tensor | None, after: Layer, then: Tensor) -> bool:
    """Whether our kernels are to serve a layer that saves a ReLU's bits, and the gradient for the input of the layer
    ``after`` it (whose weight is ``then``) that reads them: PyTorch has no kernels for bits."""
    gpu = routes.gpu_of(x)
    if gpu is None or not all(type(size) is int for t in (x, w, then) for size in t.shape):
        return False
    forward = layer.epilogue(bias, "relu(aux)")
    backward = "drelu" if bias is None or not bias.requires_grad else "drelu+dbias"
    key = (layer, after, forward, backward, gpu, *[(t.shape, t.stride(), t.dtype) for t in (x, w, then)])
    if key not in _bits:
        calls = _calls(layer, x, w, after, then, forward, backward)
        routes.keep(_bits, key, all(pair_ops.ours(call, tensors, gpu) for call, tensors in calls))
    return _bits[key]


def _calls(
    layer: Layer, x: Tensor, w: Tensor, after: Layer, then: Tensor, forward: str, backward: str
) -> list[tuple[Pair, dict[str, Tensor]]]:
    """Both calls by their epilogues, with tensors of the shapes and strides that theirs have."""
    if not layer.shape:
        g = torch.empty(x.shape[0], then.shape[0], dtype=x.dtype, device="meta")
        product = pair_ops.product("nt", 1.0, 0.0, forward, None, layer.math)
        undone: Pair = pair_ops.product("nn", 1.0, 0.0, backward, None, after.math)
        return [(product, {"a": x, "b": w}), (undone, {"a": g, "b": then})]
    shape = layouts.convolved_shape(x, w, *layer.shape[:3])
    last = torch.channels_last if layouts.channels_last(x, w) else torch.contiguous_format
    result = torch.empty(shape, dtype=x.dtype, device="meta", memory_format=last)
    size = layouts.convolved_shape(result, then, *after.shape[:3])
    g = torch.empty(size, dtype=x.dtype, device="meta", memory_format=last)
    convolved = pair_ops.convolution(*layer.shape, forward, None, layer.math)
    undone = pair_ops.gradient(*shape[2:], *after.shape, backward, after.math)
    return [(convolved, {"x": x, "w": w}), (undone, {"dy": g, "w": then})]


def _fake(
    x: Tensor, weights: Sequence[Tensor], biases: Given, activations: Sequence[str], geometry: Sequence[int], math: str
) -> Tensor:
    for layer, w in zip(plan(activations, geometry, math), weights):
        if layer.shape:
            stride, padding, dilation, _ = layer.shape
            x = ops.fake_convolution(x, w, stride, padding, dilation, None)
        else:
            x = ops.fake_product(x, w, "nt", None)
    return x


def _with_gradients(x: Tensor, weights: Sequence[Tensor], biases: Given, *rest: Any) -> Tensor:
    tensors = (x, *weights, *biases)
    asked = torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors)
    if not asked or traced_by_functions(tensors):
        return one_by_one(x, weights, biases, *rest)
    return _Layers.apply(rest, x, *weights, *biases)


def _autocast(kind: str) -> Any:
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{kind.upper()}"))

    def casted(
        x: Tensor, weights: Sequence[Tensor], biases: Given, activations: Any, geometry: Any, math: str
    ) -> Tensor:
        dtype = torch.get_autocast_dtype(kind)

        def cast(tensors: Given) -> list[Any]:
            return [ops.casted(tensor, dtype, kind) for tensor in tensors]

        with torch._C._ExcludeDispatchKeyGuard(excluded):
            usable = ops.usable(math, dtype)
            return layers(cast([x])[0], cast(weights), cast(biases), activations, geometry, usable)

    return casted


def _register() -> None:
    ops.library.impl("layers", _with_gradients, "Autograd")
    for key in ("CPU", "CUDA", "FuncTorchBatched"):
        ops.library.impl("layers", one_by_one, key)
    torch.library.register_fake("gpu_tune::layers", _fake, lib=ops.library)
    for kind in ("cpu", "cuda"):
        ops.library.impl("layers", _autocast(kind), f"Autocast{kind.upper()}")


_register()
