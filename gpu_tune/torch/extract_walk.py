"""A walk over an exported graph and the graphs inside it, which collects products and names everything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import GpuTuneError
from ..workload import Workload
from .extract_epilogues import follow, is_layer
from .extract_flops import flops_of, named_operation
from .extract_products import MAKERS, product
from .extraction import Layer, LeftOut, NotAWorkload

FREE = ("view", "reshape", "transpose", "permute", "getitem", "to", "add", "mul", "layer_norm", "softmax")
"""Operations of which it is known that nothing in them multiplies matrices: they are not asked."""
REASONS = dict.fromkeys(("scaled_dot_product_attention", "flex_attention"), "attention is one fused operation")
"""Why an operation is left out, where there is more to say than that no kernel family computes it."""


@dataclass
class _Found:
    """The calls of one workload so far."""

    count: int = 0
    names: dict[str, None] = field(default_factory=dict)
    weights: set[Any] = field(default_factory=set)
    copies: dict[str, None] = field(default_factory=dict)
    by_modules: bool = True


@dataclass
class _Named:
    """The calls so far of one operation that is left out for one reason."""

    count: int = 0
    names: dict[str, None] = field(default_factory=dict)
    flops: int = 0
    unknown: bool = False


class Walk:
    """Collects what a graph multiplies; see :func:`gpu_tune.torch.extract.extract`."""

    def __init__(self, program: Any, math: tuple[str, ...], fuse: str) -> None:
        self.math, self.fuse = math, fuse
        self.notes: list[str] = []
        self.empty = False  # whether there was a product of no elements
        self._found: dict[Workload, _Found] = {}
        self._named: dict[tuple[str, str], _Named] = {}
        tensors = {**program.state_dict, **program.constants}
        targets = {s.arg.name: s.target for s in program.graph_signature.input_specs if s.target}
        self._storages = {name: _storage(tensors.get(target), target) for name, target in targets.items()}

    def layers(self) -> tuple[Layer, ...]:
        """What was found, the most FLOPs first."""
        made = [
            Layer(w, f.count, tuple(f.names), len(f.weights), tuple(f.copies), f.by_modules)
            for w, f in self._found.items()
        ]
        return tuple(sorted(made, key=lambda layer: -layer.flops))

    def left_out(self) -> tuple[LeftOut, ...]:
        """What was not, the most FLOPs first; those of unknown FLOPs before all."""
        made = [
            LeftOut(operation, n.count, tuple(n.names), None if n.unknown else n.flops, reason)
            for (operation, reason), n in self._named.items()
        ]
        return tuple(sorted(made, key=lambda part: (part.flops is not None, -(part.flops or 0))))

    def graph(self, module: Any, times: int = 1, weights: dict[str, Any] | None = None) -> int:
        """Collect what ``module`` multiplies, which runs ``times`` times; its FLOPs in one run. ``weights``: by name of
        a placeholder of its graph, the storage of the model's tensor that it is."""
        weights = self._storages if weights is None else weights
        taken: set[Any] = set()
        total = 0
        for node in module.graph.nodes:
            if node.op != "call_function":
                continue
            inside = list(_graphs(module, (node.args, node.kwargs)))
            if inside:
                total += self._higher(node, inside, times, weights)
            else:
                total += self._call(node, times, weights, taken)
        return total

    def _call(self, node: Any, times: int, weights: dict[str, Any], taken: set[Any]) -> int:
        name = _module_name(node)
        try:
            found = product(node, self.math)
            if found is not None:
                workload = follow(found, taken, self.fuse).workload
                by_modules = self.fuse == "modules" or workload == follow(found, set(), "modules").workload
                entry = self._found.setdefault(workload, _Found())
                entry.by_modules &= by_modules and is_layer(node)
                entry.count += times
                entry.names[name] = None
                entry.copies.update(dict.fromkeys(found.copies))
                entry.weights.update(s for o in found.operands if (s := _weight(o, weights)) is not None)
                return int(workload.flops)
            reason = REASONS.get(named_operation(node), "no kernel family computes it")
        except NotAWorkload as error:
            reason = str(error)
        except GpuTuneError as error:  # sizes or dtypes that no workload has
            reason = str(error)
        operation = named_operation(node)
        if operation in FREE:
            return 0
        flops = flops_of(node)
        if flops == 0:
            self.empty |= operation in MAKERS
            return 0
        self._name(operation, reason, name, times, flops)
        return flops or 0

    def _name(self, operation: str, reason: str, name: str, times: int, flops: int | None) -> None:
        entry = self._named.setdefault((operation, reason), _Named())
        entry.count += times
        entry.names[name] = None
        entry.flops += times * (flops or 0)
        entry.unknown |= flops is None

    def _higher(self, node: Any, inside: list[Any], times: int, weights: dict[str, Any]) -> int:
        """What the graphs inside a higher-order operation multiply: autocast and no-grad regions, branches, loops."""
        kind, operands = named_operation(node), _operands(node)
        if kind == "flex_attention":
            flops = flops_of(node)
            self._name(kind, REASONS[kind], _module_name(node), times, flops)
            return flops or 0

        def run(module: Any, count: int) -> int:
            holders = [n for n in module.graph.nodes if n.op == "placeholder"]
            tied = zip(reversed(holders), reversed(operands))  # what a loop carries comes before what it closes over
            known = {holder.name: s for holder, given in tied if (s := _weight(given, weights)) is not None}
            return self.graph(module, count, known)

        if kind == "cond":
            measured = [(_Counting(self).graph(module), module) for module in inside]
            most = max(flops for flops, _ in measured)
            total, chosen = 0, False
            for flops, module in measured:
                if flops == most and not chosen:
                    chosen, total = True, run(module, times)
                elif flops:
                    self.notes.append(f"{_module_name(node)}: of a torch.cond the branch with more FLOPs is counted")
            return total
        repeats = 1
        if kind in ("scan", "map_impl"):
            repeats = _length(node)
            if repeats > 1:
                self.notes.append(f"{_module_name(node)}: the body of a {kind.partition('_')[0]} runs {repeats} times")
        elif kind == "while_loop":
            self.notes.append(f"{_module_name(node)}: the body of a while_loop of unknown length is counted once")
        return repeats * sum(run(module, times * repeats) for module in inside)


class _Counting(Walk):
    """A walk that is thrown away: for the FLOPs of a branch."""

    def __init__(self, walk: Walk) -> None:
        self.math, self.fuse, self.notes, self.empty = walk.math, "none", [], False
        self._found, self._named, self._storages = {}, {}, {}


def _graphs(module: Any, value: Any) -> Iterator[Any]:
    """The graphs among the arguments of a node of ``module``."""
    nodes: list[Any] = []
    torch.fx.node.map_arg(value, nodes.append)
    for node in nodes:
        if node.op == "get_attr":
            held = module
            for part in str(node.target).split("."):
                held = getattr(held, part, None)
            if isinstance(held, torch.fx.GraphModule):
                yield held


def _operands(node: Any) -> list[Any]:
    """The tensors that a higher-order operation hands to the graphs inside it."""
    nodes: list[Any] = []
    torch.fx.node.map_arg((node.args, node.kwargs), nodes.append)
    return [n for n in nodes if n.op != "get_attr"]


def _length(node: Any) -> int:
    """How often a scan or a map runs its body: the length of what it goes over; 1 where that is not known."""
    over = node.args[2] if named_operation(node) == "scan" and len(node.args) > 2 else node.args[1:2]
    first = next(iter(over[0] if over and isinstance(over[0], (list, tuple)) else over), None)
    shape = getattr(first.meta.get("val"), "shape", ()) if first is not None and hasattr(first, "meta") else ()
    return shape[0] if shape and isinstance(shape[0], int) else 1


def _weight(node: Any, weights: dict[str, Any]) -> Any:
    """The storage of the model's tensor that ``node`` is, or is a view of; None for an activation."""
    while node is not None and getattr(node, "op", "") == "call_function" and named_operation(node) in _VIEWS:
        node = node.args[0] if node.args else None
    return weights.get(node.name) if getattr(node, "op", "") == "placeholder" else None


_VIEWS = ("t", "transpose", "mT", "view", "reshape", "permute", "unflatten", "to", "alias", "detach", "contiguous")


def _storage(tensor: Any, name: str) -> Any:
    """What tells the memory of one tensor of a model from that of others; tied tensors share it."""
    return tensor.untyped_storage()._cdata if isinstance(tensor, torch.Tensor) else name


def _module_name(node: Any) -> str:
    """The module whose forward made ``node``, as a path in the model; the node's own name in the outermost one."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path or str(node.name)
