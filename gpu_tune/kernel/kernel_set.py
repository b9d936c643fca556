"""A kernel for sizes that nobody listed: what ``tune`` and ``load`` return for a workload with an open size.

A call reads the size from its first array, finds the kernel of its range by bisection, and is from then on a call of
that kernel with the launch plan of that size (:class:`~.kernel.TunedKernel`), which is kept: grids, arguments and
tensor maps are computed once a size. Code is loaded once, whatever the sizes, and a stream has one workspace a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import require
from ..plan.size import Size, allowed
from ..store.winner_set import WinnerSet
from ..trial import MEASURED
from . import arrays
from .arguments import Arguments
from .kernel import TunedKernel
from .prepared import KEPT, BoundCall, Key, signature
from .shared_code import SharedCode


class KernelSet:
    """Kernels for every size of a workload that leaves one open; called as a :class:`TunedKernel` is.

    ``workload`` is what it computes, ``chip`` what it was tuned for; ``winners`` the tuned kernels, and which of them
    serves which sizes (:class:`~gpu_tune.store.winner_set.WinnerSet`). ``template`` names their families. ``match`` is
    ``set``, ``nearest`` for a wider one, or ``default`` for an untuned default. :meth:`at` is the kernel of one size. A
    call with a size outside the workload's bounds raises InvalidInput, and nothing is launched.
    """

    def __init__(self, winners: WinnerSet, match: str = "set", path: Path | None = None) -> None:
        self.winners, self.match, self.path = winners, match, path
        self.workload, self.chip = winners.workload, winners.chip
        self.measured = winners.source == MEASURED
        self.template = ", ".join(dict.fromkeys(winners.kernels[r.kernel].template for r in winners.ranges))
        self._code = [SharedCode(winners.at(winners.most(i))) for i in range(len(winners.kernels))]
        self._arguments = Arguments(self.workload)
        lead = self._arguments.specs[self._arguments.lead].shape
        self._rank, self._axis = len(lead), next(i for i, extent in enumerate(lead) if isinstance(extent, Size))
        self._sizes: dict[int, TunedKernel] = {}
        self._routes: dict[Key, TunedKernel] = {}

    def __repr__(self) -> str:
        kinds = ", ".join(
            f"{r.least}..{r.most}: {self.winners.kernels[r.kernel].template}" for r in self.winners.ranges
        )
        return f"KernelSet({self.workload.key}, {self.chip}, {kinds}, match={self.match!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelSet:
        """The set itself: nothing of it changes."""
        return self

    def at(self, size: int) -> TunedKernel:
        """The kernel for one ``size``; InvalidInput where the workload does not allow it."""
        found = self._sizes.get(size) if type(size) is int else None  # True is no size, though it equals one
        if found is None:
            size = allowed(self.winners.size, size)
            part = self.winners.range_of(size)
            found = TunedKernel(self.winners.at(size), self.match, self.path, self._code[part.kernel])
            if len(self._sizes) >= KEPT:
                self._sizes = {}  # a new dictionary: another thread may be reading the old one
            self._sizes[size] = found
        return found

    def __call__(
        self,
        *operands: Any,
        stream: int | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        out: Any = None,
        **named: Any,
    ) -> Any:
        found = signature(operands[0], operands, named, out) if operands else None
        if found is not None:
            kernel = self._routes.get(found[0])
            if kernel is not None:
                result = kernel.repeat(found, out, alpha, beta, stream, named)
                if result is not None:
                    return result
        kernel = self._of(operands, named)
        result = kernel(*operands, stream=stream, alpha=alpha, beta=beta, out=out, **named)
        if found is not None:
            if len(self._routes) >= KEPT:
                self._routes = {}
            self._routes[found[0]] = kernel
        return result

    def bind(self, *operands: Any, **settings: Any) -> BoundCall:
        """The same call with everything decided, for arrays of one size; see :meth:`TunedKernel.bind`."""
        return self._of(operands, settings).bind(*operands, **settings)

    def emulate(self, *operands: Any, **settings: Any) -> Any:
        """The same call on NumPy arrays, computed by the emulator on the CPU; see :meth:`TunedKernel.emulate`."""
        return self._of(operands, settings).emulate(*operands, **settings)

    def prepare(self, size: int, stream: int = 0, device: int = 0) -> None:
        """Load the code for ``size`` and make its workspace for ``stream`` now, before the first call."""
        self.at(size).prepare(stream, device)

    def _of(self, operands: tuple[Any, ...], named: Mapping[str, Any]) -> TunedKernel:
        """The kernel for a call's arrays: the first of them says the size."""
        lead = self._arguments.lead
        shape = arrays.view(lead, self._arguments.first(operands, named)).shape
        require(len(shape) == self._rank, f"{lead}.shape", shape, f"has not {self._rank} dimensions")
        return self.at(allowed(self.winners.size, shape[self._axis]))
