"""FLOPs of the operations that are left out: what a reader must know to judge how much of a model is tuned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def named_operation(node: Any) -> str:
    """The name of what a node calls, without its overload: ``linear``, ``scaled_dot_product_attention``."""
    target = node.target
    packet = getattr(target, "_schema", None)
    if packet is not None:
        return str(packet.name).partition("::")[2]
    name = getattr(target, "__name__", None) or getattr(target, "name", None)
    return str(name() if callable(name) else name or target)


def flops_of(node: Any) -> int | None:
    """FLOPs of the products inside one call, as PyTorch's FlopCounterMode counts them; None where they depend on data.

    The call runs on tensors without data. What that counter has no rule for (attention on the CPU, recurrent layers,
    products with a vector) is computed here.
    """
    name = named_operation(node)
    if not any(isinstance(v, torch.Tensor) for v in _values(node)):
        return 0
    symbolic = [v for v in _values(node) if isinstance(v, torch.Tensor) and not _known(v)]
    if name in RULES:
        return None if symbolic else RULES[name](node)
    try:
        counted = _counted(node)
    except Exception:  # an operation that cannot run without data
        return None if name in MULTIPLIERS else 0
    return None if symbolic and counted else counted


MULTIPLIERS = ("matmul", "mm", "bmm", "linear", "addmm", "baddbmm", "einsum", "tensordot", "conv1d", "conv2d", "conv3d")
"""Operations that multiply for certain: where one cannot be counted, it is named without FLOPs."""


def _counted(node: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    def value(n: Any) -> Any:
        return n.meta["val"]

    args, kwargs = torch.fx.node.map_arg(node.args, value), torch.fx.node.map_arg(node.kwargs, value)
    fake = next(v.fake_mode for v in _values(node) if hasattr(v, "fake_mode"))
    with fake, torch.no_grad(), FlopCounterMode(display=False) as counter:
        node.target(*args, **kwargs)
    return int(counter.get_total_flops())


def _values(node: Any) -> list[Any]:
    nodes: list[Any] = []
    torch.fx.node.map_arg((node.args, node.kwargs), nodes.append)
    return [n.meta.get("val") for n in nodes]


def _known(tensor: Any) -> bool:
    return all(isinstance(size, int) for size in tensor.shape)


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _attention(node: Any) -> int:
    """Q K^T and its product with V, every element of both, causal or not: 2 heads s t (d + e)."""
    query, key, value = (_shape(n) for n in node.args[:3])
    return 2 * math.prod(query[:-2]) * query[-2] * key[-2] * (query[-1] + value[-1])


def _recurrent(node: Any) -> int:
    """Every weight matrix times every step of every sequence."""
    sequence, weights = node.args[0], node.args[2]
    steps = math.prod(_shape(sequence)[:-1])
    return 2 * steps * sum(math.prod(_shape(w)) for w in weights if len(_shape(w)) == 2)


def _matrix_vector(node: Any) -> int:
    matrix = max((_shape(n) for n in node.args if hasattr(n, "meta")), key=len)
    return 2 * math.prod(matrix)


RULES: dict[str, Callable[[Any], int]] = {
    "scaled_dot_product_attention": _attention,
    "flex_attention": _attention,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn_tanh": _recurrent,
    "rnn_relu": _recurrent,
    "mv": _matrix_vector,
    "dot": _matrix_vector,
}
"""By operation, what FlopCounterMode counts as nothing on some devices."""
