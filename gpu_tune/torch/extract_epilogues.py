"""What follows a product and can be computed with it: bias, batch norm, residual, activation.

An operation is taken into the workload while it is the only use of what comes before it, so that nothing else needs the
value in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..workload import Workload
from .extract_flops import named_operation
from .extract_layout import contiguous
from .extract_products import Product

IDENTITIES = ("dropout", "dropout_", "feature_dropout", "alias", "detach")
"""Operations that change nothing in evaluation mode."""
ACTIVATIONS = {"relu": "relu", "relu_": "relu", "silu": "silu", "silu_": "silu"}
FUSED = ("neighbours", "modules", "none")
"""How much of what follows a product becomes a part of it; see :func:`gpu_tune.torch.extract.extract`."""
CLAMPS = ("clamp", "clamp_", "hardtanh", "hardtanh_", "relu6", "relu6_")


@dataclass
class Followed:
    """A product with what follows it: its ``workload``, the ``nodes`` taken after it, in order, the arrays of its
    epilogue by name (``operands``), and the evaluated ``batch_norm`` that its scale and bias come from."""

    workload: Workload
    nodes: list[Any] = field(default_factory=list)
    operands: dict[str, Any] = field(default_factory=dict)
    batch_norm: Any = None


def follow(found: Product, taken: set[Any], fuse: str) -> Followed:
    """``found`` with the operations that follow it, as far as ``fuse`` goes; these nodes are added to ``taken``, which
    no other product takes."""
    made, node = Followed(found.workload), found.node
    if fuse == "none" or (fuse == "modules" and not is_layer(node)):
        return made
    if made.workload.out_dtype == "int32" or made.workload.beta != "0":
        return made
    passed: list[Any] = []
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user in taken or user.op != "call_function" or not _same_kind(user, found.node):
            break
        if fuse == "modules" and not (node is found.node and _activates(node, user)):
            break
        if _identity(user, node):
            passed.append(user)
            node = user
            continue
        if not _operation(found, made, node, user):
            break
        made.nodes += [*passed, user]
        passed = []
        taken.add(user)
        node = user
    return made


def is_layer(node: Any) -> bool:
    """Whether a node is the call of an ``nn.Linear`` or ``nn.Conv2d``."""
    kind = str(_stack(node)[-1][1]) if _stack(node) else ""
    return kind.endswith(("modules.linear.Linear", "modules.conv.Conv2d"))


def _activates(node: Any, user: Any) -> bool:
    """Whether ``user`` is an activation module that stands right behind ``node``'s layer in an ``nn.Sequential``."""
    if named_operation(user) not in (*ACTIVATIONS, *CLAMPS, "gelu"):
        return False
    first, second = _stack(node), _stack(user)
    if len(first) < 2 or len(first) != len(second) or first[-2][0] != second[-2][0]:
        return False
    inside = str(first[-2][1]).endswith("container.Sequential")
    layer, activation = (str(stack[-1][0]).rpartition(".")[2] for stack in (first, second))
    return inside and layer.isdigit() and activation.isdigit() and int(activation) == int(layer) + 1


def _stack(node: Any) -> list[Any]:
    return list((node.meta.get("nn_module_stack") or {}).values())


def _operation(found: Product, made: Followed, node: Any, user: Any) -> bool:
    """Take ``user``, which is the only use of ``node``, into ``made``; False where it takes no part in it."""
    name, workload = named_operation(user), made.workload
    first = bool(user.args) and user.args[0] is node
    if name in ACTIVATIONS and first:
        return _longer(made, ACTIVATIONS[name])
    if name in ("gelu", "gelu_") and first:
        return _longer(made, "gelu_tanh" if user.kwargs.get("approximate", "none") == "tanh" else "gelu")
    if name in CLAMPS and first:
        bounds = _bounds(name, user)
        return bounds is not None and _longer(made, f"clamp({bounds[0]!r},{bounds[1]!r})")
    if name == "batch_norm" and first and workload.op == "conv2d" and workload.epilogue in ("", "bias"):
        if bool(user.args[5]) or None in user.args[3:5]:  # the statistics of the batch
            return False
        made.workload, made.batch_norm = replace(workload, epilogue="scale+bias"), user
        return True
    if name in ("add", "add_") and user.kwargs.get("alpha", 1) == 1 and (first or name == "add"):
        return _sum(found, made, node, user.args[1] if first else user.args[0])
    return False


def _sum(found: Product, made: Followed, node: Any, other: Any) -> bool:
    """The product plus ``other``: a bias along the channels, or a residual."""
    if other is node or not hasattr(other, "meta"):
        return False
    workload, parts = made.workload, [op.name for op in made.workload.ops]
    added, out = other.meta.get("val"), found.node.meta["val"]
    if not hasattr(added, "shape") or added.dtype != out.dtype:
        return False
    channels = found.channels % out.dim()
    along = (1,) * channels + (out.shape[channels],) + (1,) * (out.dim() - 1 - channels)
    shape = (1,) * (out.dim() - added.dim()) + tuple(added.shape)
    if shape == along and out.shape[channels] > 1:
        return parts == [] and _longer(made, "bias", other)
    if tuple(added.shape) != tuple(out.shape) or "residual" in parts:
        return False
    order = (0, 2, 3, 1) if workload.op == "conv2d" and workload.layout == "nhwc" else range(out.dim())
    ordered = out.dim() == 4 if workload.op == "conv2d" else True
    return ordered and contiguous(added, tuple(order)) and _longer(made, "residual", other)


def _same_kind(user: Any, node: Any) -> bool:
    """Whether ``user`` has one result, of the shape and dtype of the product."""
    value, out = user.meta.get("val"), node.meta["val"]
    return hasattr(value, "shape") and tuple(value.shape) == tuple(out.shape) and value.dtype == out.dtype


def _identity(user: Any, node: Any) -> bool:
    name = named_operation(user)
    if name not in IDENTITIES or user.args[0] is not node:
        return False
    return "dropout" not in name or not bool(user.args[2])


def _bounds(name: str, user: Any) -> tuple[float, float] | None:
    """Both bounds of a clamp as finite numbers; None where one is missing."""
    if name.startswith("relu6"):
        return 0.0, 6.0
    low, high = (-1.0, 1.0) if name.startswith("hardtanh") else (None, None)
    given = [*user.args[1:3], *[None] * (2 - len(user.args[1:3]))]
    low = given[0] if given[0] is not None else user.kwargs.get("min", low)
    high = given[1] if given[1] is not None else user.kwargs.get("max", high)
    numbers = all(isinstance(v, (int, float)) and abs(v) < float("inf") for v in (low, high))
    return (float(low), float(high)) if numbers and low < high else None


def _longer(made: Followed, operation: str, operand: Any = None) -> bool:
    """Append an operation to the epilogue, with the array that it needs."""
    workload = made.workload
    epilogue = f"{workload.epilogue}+{operation}" if workload.epilogue else operation
    made.workload = replace(workload, epilogue=epilogue)
    if operand is not None:
        made.operands[operation] = operand
    return True
