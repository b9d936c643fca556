"""What is found in a model, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from ..workload import Workload


class NotAWorkload(Exception):
    """A product that no workload of ours computes; the text says why."""


@dataclass(frozen=True)
class Layer:
    """Calls of a model that are one workload.

    ``count``: how often one forward pass runs it. ``names``: the modules that do, in the order of the pass.
    ``weights``: how many tensors of the model they multiply by (tied weights are one; 0: only activations are
    multiplied). ``copies``: operands that do not lie in memory as a kernel of ours reads them, so that a call copies
    them first. ``by_modules``: whether :func:`gpu_tune.torch.replace` makes a model run this very workload; what has
    more in its epilogue runs where the operators of ``gpu_tune.torch`` are called with it.
    """

    workload: Workload
    count: int
    names: tuple[str, ...] = ()
    weights: int = 0
    copies: tuple[str, ...] = ()
    by_modules: bool = False

    @property
    def flops(self) -> int:
        """Of all its calls in one forward pass."""
        return self.count * int(self.workload.flops)


@dataclass(frozen=True)
class LeftOut:
    """What no workload of ours computes: ``operation`` in the modules ``names``, with its FLOPs in one forward pass
    (None: they depend on data) and why."""

    operation: str
    count: int
    names: tuple[str, ...]
    flops: int | None
    reason: str


@dataclass(frozen=True)
class Extraction:
    """What one forward pass of ``model`` multiplies: ``layers``, the largest first, and what is ``left_out``.

    ``notes``: what is counted otherwise than a reader would expect, such as loops of unknown length."""

    model: str
    layers: tuple[Layer, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Of one forward pass, found and left out."""
        return sum(layer.flops for layer in self.layers) + sum(part.flops or 0 for part in self.left_out)

    def share(self, flops: int | None) -> float | None:
        """``flops`` as a share of those of a forward pass; None where they are not known."""
        return None if flops is None else flops / self.flops if self.flops else 0.0

    @property
    def found(self) -> float:
        """Share of the FLOPs that the layers have."""
        return sum(layer.flops for layer in self.layers) / self.flops if self.flops else 0.0


@dataclass(frozen=True)
class Forward:
    """Seconds of one forward pass, medians of ``rounds`` that took turns: the model as it is, with its layers replaced
    (:func:`gpu_tune.torch.replace`; ``layers``: how many were), and rewritten (:func:`gpu_tune.torch.rewrite`)."""

    before: float
    replaced: float
    rewritten: float
    rounds: int
    layers: int
