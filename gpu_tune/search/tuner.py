from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..cuda.device import DEFAULT, Device, by_name
from ..errors import InvalidInput
from ..space.space import Space
from ..store.records import Record
from ..templates.base import Template
from ..templates.registry import bind
from ..trial import Candidate, Measurement, Pruner
from ..workload import Workload


class Tuner:
    """The open loop: ``ask`` for candidates, measure them however you like, ``tell`` how they ended.

    For a workload (then the spaces are those of every template that supports it or a view of it), or for any
    ``spaces``, recorded ones included. Default configs and the templates' seeds come first. ``history`` are records of
    any workload: the ranker learns from them. ``pipelined``: you ask for a batch before you
    tell of the one before it.
    """

    def __init__(
        self,
        workload: Workload | None = None,
        *,
        device: Device | str | None = None,
        spaces: Sequence[Space] | None = None,
        seed: int = 0,
        batch: int | None = None,
        history: Iterable[Record] = (),
        templates: Mapping[str, Template] | None = None,
        pipelined: bool = False,
    ) -> None:
        from .search import Search  # LightGBM loads here, not with ``import gpu_tune``
        from .space_search import PIPELINED, Settings

        if spaces is None:
            if workload is None:
                raise InvalidInput(
                    "Tuner", None, "needs a workload or spaces", "pass gpu_tune.Matmul(...) or spaces=[...]"
                )
            device = by_name(device) if isinstance(device, str) else device or by_name(DEFAULT)
            spaces = [bound.space() for bound in bind(workload, device, templates)]
        self.workload, self.device, self.spaces = workload, device, tuple(spaces)
        starts = [(s.name, s.default()) for s in self.spaces]
        self.defaults = frozenset(Candidate(name, config) for name, config in starts if config is not None)
        options: dict[str, Any] = {} if batch is None else {"batch": batch}
        settings = PIPELINED if pipelined else Settings()
        self.search = Search(self.spaces, seed=seed, history=history, settings=settings, **options)

    def ask(self, n: int | None = None) -> list[Candidate]:
        """At most ``n`` new candidates (default: a batch); empty when every config has been asked for."""
        return self.search.ask() if n is None else self.search.ask(n)

    def tell(self, measurements: Iterable[Measurement]) -> None:
        """How candidates ended, failures included."""
        self.search.tell(measurements)

    def pruners(self, batch: Sequence[Candidate]) -> Sequence[Pruner | None]:
        """For each candidate just asked for, what may prune its build before it runs (call it with the candidate and
        its Resources: '' to measure it, else why not; then tell of it with status ``pruned``), or None."""
        return self.search.pruners(batch)

    def final(self, n: int | None = None) -> list[Candidate]:
        """For the end of a run: untried neighbours of the best; empty when those are all tried."""
        return self.search.final(n)

    def plateau(self) -> bool:
        """Whether it is time to stop: no gain for so long that none of note is to be expected."""
        return self.search.plateau()

    @property
    def observations(self) -> Sequence[Measurement]:
        """Every measurement told, in order."""
        return self.search.observations

    @property
    def best(self) -> Measurement | None:
        """The fastest measurement told so far, None when none has a time."""
        return self.search.best
