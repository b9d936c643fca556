"""Models: ``replace`` swaps their fitting layers for ours, ``restore`` swaps them back.

A layer stays the object that it is, with its parameters, buffers, hooks and names: only its class changes. Optimizers,
state dicts and references to the layer therefore know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from ..errors import require
from . import layouts
from .modules import PLAIN, Sequential

MARK = "_replaced_by_gpu_tune"


@dataclass
class Replacement:
    """What :func:`replace` did: names of the layers that were swapped, and of those left out with the reason."""

    replaced: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} layers replaced, {len(self.left_out)} left out"]
        return "\n".join(lines + [f"  {name}: {reason}" for name, reason in self.left_out.items()])


def replace(
    model: nn.Module, *, only: Callable[[str, nn.Module], bool] | None = None, fuse: bool = True
) -> Replacement:
    """Compute the ``nn.Linear`` and ``nn.Conv2d`` layers of ``model`` by our operators, in place.

    ``only(name, layer)`` picks layers. With ``fuse`` an activation that follows a layer in an ``nn.Sequential`` becomes
    its kernel's epilogue. Subclasses, and layers with parametrizations or data types that no kernel has, are left out,
    each with its reason. Layers whose weights a model reads without calling them (as nn.MultiheadAttention and the fast
    path of nn.TransformerEncoderLayer do) are computed as before.
    """
    _require_module(model)
    require(isinstance(fuse, bool), "fuse", fuse, "is neither True nor False", "give one")
    require(only is None or callable(only), "only", only, "is no function", "give only=lambda name, layer: ...")
    done = Replacement()
    for name, module in model.named_modules():
        kind = type(module)
        if kind is nn.Sequential:
            if fuse:
                _swap(module, Sequential)
            continue
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or kind in PLAIN.values():
            continue
        if only is not None and not only(name, module):
            continue
        reason = _unfit(module)
        if reason:
            done.left_out[name] = reason
        else:
            _swap(module, PLAIN[kind])
            done.replaced.append(name)
    return done


def restore(model: nn.Module) -> list[str]:
    """Undo :func:`replace`: the names of the layers that are PyTorch's again."""
    _require_module(model)
    back = {ours: theirs for theirs, ours in PLAIN.items()}
    names = []
    for name, module in model.named_modules():
        ours = type(module)
        if module.__dict__.pop(MARK, False):
            if ours in back:
                module.__class__ = back[ours]
            else:  # a parametrization put over ours a class that is this layer's alone
                ours.__bases__ = tuple(back.get(base, base) for base in ours.__bases__)
            if not isinstance(module, nn.Sequential):
                names.append(name)
    return names


def _require_module(model: object) -> None:
    kind = type(model).__name__
    require(isinstance(model, nn.Module), "model", kind, "is no torch.nn.Module", "pass the model itself")


def _swap(module: nn.Module, kind: type[nn.Module]) -> None:
    module.__class__ = kind
    module.__dict__[MARK] = True


def _unfit(module: nn.Linear | nn.Conv2d) -> str:
    """Why a layer is left out; "" for one that fits."""
    kind = type(module)
    if kind not in PLAIN:
        return f"is a {kind.__name__}, a class of its own, whose forward may differ"
    if module.weight.dtype not in layouts.WIDE:
        return f"has {module.weight.dtype} weights, which no kernel takes"
    if "forward" in module.__dict__:
        return "has a forward of its own"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"pads by {module.padding_mode}"
    return ""
