"""A model with every product and what follows it as one operator of ours: what runs the kernels that ``tune_model``
tunes with ``fuse="neighbours"``.

``replace`` swaps layers and keeps the model's code; ``rewrite`` traces the model as ``tune_model`` does and gives a
graph for inference, in which a convolution, the batch norm after it, a residual and an activation are one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GpuTuneError
from . import functional
from .extract import export, options
from .extract_epilogues import Followed, follow
from .extract_flops import named_operation
from .extract_products import Product, product
from .extraction import NotAWorkload


def rewrite(
    model: Any,
    example_inputs: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    math: Sequence[str] = (),
    fuse: str = "neighbours",
) -> torch.fx.GraphModule:
    """A module that computes what ``model`` does for inputs of these shapes, by our operators.

    Arguments as of :func:`gpu_tune.torch.extract.extract`; give ``math`` and ``fuse`` as to ``tune_model``. Linear
    layers, products of matrices or of equal batches, and convolutions are rewritten, in the outermost graph; all else
    stays as it is. For inference: batch norms are folded as they are now, in float32, and have no gradients; parameters
    are the model's own. InvalidInput where the model cannot be exported.
    """
    permitted = options(math, fuse)
    module = export(model, example_inputs, kwargs).module()
    taken: set[Any] = set()
    count = 0
    for node in list(module.graph.nodes):
        call = CALLS.get(named_operation(node)) if node.op == "call_function" else None
        if call is None:
            continue
        try:
            found = product(node, permitted)
            made = None if found is None else call(module, found, follow(found, taken, fuse))
        except (NotAWorkload, GpuTuneError):
            continue
        if found is not None and made is not None:
            _put(module.graph, found, *made, f"gpu_tune_{count}")
            count += 1
    module.graph.lint()
    module.recompile()
    return module


def multiplied(a: Tensor, b: Tensor, layout: str, epilogue: str, math: str, **operands: Tensor) -> Tensor:
    """``a @ b`` where the leading dimensions of ``a`` are rows, as many as there are; the operator's other operands."""
    rows = a.flatten(0, -2) if a.dim() > 2 and b.dim() == 2 else a
    if rows is not a and "residual" in operands:
        operands["residual"] = operands["residual"].flatten(0, -2)
    y = functional.matmul(rows, b, layout=layout, epilogue=epilogue, math=math, **operands)
    return y if rows is a else y.reshape((*a.shape[:-1], y.shape[-1]))


Made = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Followed]


def _linear(module: Any, found: Product, followed: Followed) -> Made | None:
    x, w = found.node.args[:2]
    bias = found.node.args[2] if len(found.node.args) > 2 else found.node.kwargs.get("bias")
    operands = {**({} if bias is None else {"bias": bias}), **followed.operands}
    return multiplied, (x, w, "nt", followed.workload.epilogue, _math(followed)), operands, followed


def _matmul(module: Any, found: Product, followed: Followed) -> Made | None:
    a, b = found.node.args[:2]
    ranks = a.meta["val"].dim(), b.meta["val"].dim()
    if (ranks[1] > 2 and ranks != (3, 3)) or (ranks == (3, 3) and a.meta["val"].shape[0] != b.meta["val"].shape[0]):
        return None
    return multiplied, (a, b, "nn", followed.workload.epilogue, _math(followed)), dict(followed.operands), followed


def _conv2d(module: Any, found: Product, followed: Followed) -> Made | None:
    node, w = found.node, followed.workload
    if node.args[0].meta["val"].dim() != 4:
        return None
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    operands = {**({} if bias is None else {"bias": bias}), **followed.operands}
    if followed.batch_norm is not None:
        folded = _folded(module, followed.batch_norm, bias)
        if folded is None:
            return None
        names = dict.fromkeys(("scale", "bias"), "")
        for name, tensor in zip(names, folded):
            names[name] = f"_gpu_tune_{name}_{node.name}"
            module.register_buffer(names[name], tensor, persistent=False)
        with module.graph.inserting_before(node):
            operands.update({name: module.graph.get_attr(held) for name, held in names.items()})
    options = {"stride": w.stride, "padding": w.padding, "dilation": w.dilation, "groups": w.groups}  # type: ignore[union-attr]
    options.update(epilogue=w.epilogue, math=_math(followed), **operands)
    return functional.conv2d, tuple(node.args[:2]), options, followed


def _folded(module: Any, norm: Any, bias: Any) -> tuple[Tensor, Tensor] | None:
    """(scale, bias) of an evaluated batch norm behind a convolution with ``bias``: float32 and the result's dtype; None
    where its tensors are no constants of the model."""
    weight, shift, mean, variance = (_held(module, n) for n in norm.args[1:5])
    own = _held(module, bias)
    missing = [t is None for n, t in ((norm.args[1], weight), (norm.args[2], shift), (bias, own)) if n is not None]
    if mean is None or variance is None or any(missing):
        return None
    with torch.no_grad():
        scale = torch.rsqrt(variance.double() + float(norm.args[7]))
        scale = scale if weight is None else scale * weight.double()
        begun = -mean.double() if own is None else own.double() - mean.double()
        moved = begun * scale if shift is None else begun * scale + shift.double()
    return scale.float(), moved.to(norm.meta["val"].dtype)


def _held(module: Any, node: Any) -> Tensor | None:
    """The tensor of the model that a node reads."""
    if node is None or getattr(node, "op", "") != "get_attr":
        return None
    held: Any = module
    for part in str(node.target).split("."):
        held = getattr(held, part, None)
    return held if isinstance(held, Tensor) else None


def _math(followed: Followed) -> str:
    return "+".join(followed.workload.math)


def _put(
    graph: Any,
    found: Product,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    options: dict[str, Any],
    followed: Followed,
    name: str,
) -> None:
    """Put one call in place of a product and what follows it."""
    chain = [found.node, *followed.nodes]
    last = chain[-1]
    with graph.inserting_before(last):
        made = graph.create_node("call_function", function, args, options, name)
    made.meta = {key: value for key, value in last.meta.items() if key in ("val", "nn_module_stack")}
    last.replace_all_uses_with(made)
    for node in reversed(chain):
        graph.erase_node(node)


CALLS: dict[str, Callable[[Any, Product, Followed], Made | None]] = {
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "bmm": _matmul,
    "conv2d": _conv2d,
}
"""By operation, the call that takes its place."""
