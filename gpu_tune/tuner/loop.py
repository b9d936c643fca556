"""One tuning run: the search loop with a batch in flight, then the finals."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from typing import TYPE_CHECKING

from ..errors import EnvironmentFault, MeasureError, StoreError, WrongResult
from ..measure.finals import Finals
from ..measure.protocol import Measurer
from ..store.records import Record, Records
from ..trial import Candidate, Measurement, Pruner
from .budget import OnTrial, Progress, silent

if TYPE_CHECKING:
    from ..search.search import Tuner


log = logging.getLogger(__name__)
FINALISTS = 8
CONFIRMATIONS = 4
"""How often new finalists are drawn while none of the last ones holds."""
RESERVED = 0.1
"""Share of a budget of seconds that is kept for the finalists."""
DESCENT = 0.15
"""Share of a budget, at its end, that is spent on untried neighbours of the best."""
MOST = 16
"""Candidates of a batch."""
AHEAD = 2
"""Batches in flight: one being measured, one being compiled."""


class Loop:
    """The search loop. ``tuner`` chooses; every measurement goes to ``records`` the moment it ends.

    ``ended`` says why the search stopped: ``trials``, ``seconds``, ``exhausted``, ``plateau``, ``target``,
    ``interrupted``, ``device lost``, or ``slice``: it has asked for ``most`` candidates (None: as many as it likes).
    """

    def __init__(
        self, tuner: Tuner, measurer: Measurer, records: Records, progress: Progress, on_trial: OnTrial = silent
    ) -> None:
        self.tuner, self.measurer, self.records = tuner, measurer, records
        self.progress, self.on_trial = progress, on_trial
        self.name = f"{time.time():.3f}-{uuid.uuid4().hex[:12]}"
        self.ended = ""
        self.most: int | None = None
        self._in_flight: deque[list[Future[Measurement]]] = deque()
        self._asked = 0
        self._noted = threading.Condition()
        self._open: set[Future[Measurement]] = set()
        self._unwritable = False

    def run_until_confirmed(self) -> Finals:
        """Search and confirm. A target that the trials promise must hold when the winner is re-timed beside the vendor
        library: where it does not, the search goes on to a goal that is as much nearer as it fell short."""
        target = self.progress.budget.target
        while True:
            self.progress.phase = "search"
            self.run()
            if self.ended == "interrupted" and self.tuner.best is None:
                raise KeyboardInterrupt
            finals = self.finals()
            reached = target.reached(finals) if target is not None and self.ended == "target" else 1.0
            if reached >= 1.0 or self.tuner.best is None:
                return finals
            self.progress.goal = self.tuner.best.time * reached
            self.ended = ""

    def run(self) -> None:
        """Ask, measure and tell until the budget is spent, the space exhausted, or Ctrl-C."""
        try:
            while not self.ended or self._in_flight:
                while not self.ended and len(self._in_flight) < AHEAD:
                    batch = self._ask()
                    if not batch:
                        break
                    self._in_flight.append([self._submit(c, pruner) for c, pruner in batch])
                if self._in_flight:
                    self._collect(self._in_flight[0])
                    self._tell(self._in_flight.popleft())
        except KeyboardInterrupt:
            self.ended = "interrupted"
            log.warning("interrupted after %d trials; keeping the best of them", self.progress.trials)
            self._cancel_all()
            while self._in_flight:
                self._tell(self._in_flight.popleft())
        except MeasureError as error:
            if self.progress.best is None:
                raise
            self.ended = "device lost"
            log.error("%s; keeping the best of %d trials", error, self.progress.trials)
            self._cancel_all()
            while self._in_flight:
                with contextlib.suppress(MeasureError):
                    self._tell([f for f in self._in_flight.popleft() if f.done()])

    def finals(self, first: Sequence[Candidate] = ()) -> Finals:
        """The fastest configs (``first``, or by the trials' times, and the best default) verified afresh and re-timed;
        the next ones while none holds.

        WrongResult when no config that has a time computed the right thing.
        """
        self.progress.phase = "finals"
        self.on_trial(self.progress)
        failed: set[Candidate] = set()
        finals: Finals | None = None
        for _ in range(CONFIRMATIONS):
            finalists = list(first) or self._finalists(failed)
            first = ()
            if not finalists:
                break
            finals = self.measurer.finals(finalists)
            if finals.winner is not None:
                return finals
            failed.update(finalists)
        first_failed = next((f for f in finals.finalists if f.candidate), None) if finals else None
        if first_failed is not None:
            details = (c.detail for c in first_failed.checks if not c.ok)
            why = f"the fastest failed: {first_failed.reason or next(details, first_failed.status)}"
        else:
            why = next((f"{s}: {r}" for s, r in self.progress.reasons.items() if r), "none was timed")
        counts = ", ".join(f"{n} {s}" for s, n in self.progress.statuses.most_common()) or "none tried"
        raise WrongResult(
            f"no config of {self.progress.workload.key} gave a checked kernel on {self.progress.device.name} "
            f"({counts}); {why}"
        )

    def _finalists(self, failed: set[Candidate]) -> list[Candidate]:
        best: dict[str, Measurement] = {}
        timed = sorted(
            (m for m in self.tuner.observations if m.ok and m.candidate not in failed),
            key=lambda m: (m.time, m.candidate.key),
        )
        for m in timed:
            best.setdefault(m.cubin_hash or m.candidate.key, m)
        chosen = [m.candidate for m in list(best.values())[:FINALISTS]]
        defaults = [m.candidate for m in timed if m.candidate in self.tuner.defaults]
        return chosen + [c for c in defaults[:1] if c not in chosen]

    def _ask(self) -> list[tuple[Candidate, Pruner | None]]:
        """The next batch, each with what may prune its build, fixed now by the trials that are known."""
        limit, seconds = self.progress.budget.limits
        in_flight = sum(map(len, self._in_flight))
        used = self.progress.resumed + self._asked
        if self._late():
            self.ended = "seconds"
            self._cancel_all()
            return []
        best, goal = self.tuner.best, self.progress.goal
        if goal is not None and best is not None and best.time <= goal:
            self.ended = "target"  # what is in flight ends as it would have, so that no clock decides what is told
            return []
        if used >= limit:
            self.ended = "trials"
            return []
        if self.most is not None and self._asked >= self.most:
            self.ended = "slice"
            return []
        room = int(min(limit - used, MOST if self.most is None else min(MOST, self.most - self._asked)))
        plateau = self.progress.budget.open and self.tuner.plateau()
        descend = used >= limit * (1 - DESCENT) or self.progress.seconds >= seconds * (1 - RESERVED) * (1 - DESCENT)
        batch = self.tuner.final(room) if plateau or descend else []
        if plateau and not batch:
            self.ended = "plateau"
            return []
        pruners: list[Pruner | None] = [None] * len(batch)
        if not batch:
            batch = self.tuner.ask(room)
            pruners = list(self.tuner.pruners(batch))
        self._asked += len(batch)
        if not batch and not in_flight:
            self.ended = "exhausted"
        return list(zip(batch, pruners))

    def _late(self) -> bool:
        """Whether the time is used up. However short it was, something is to be found: the first time is waited for."""
        used = self.progress.seconds >= self.progress.budget.limits[1] * (1 - RESERVED)
        return used and (self.progress.best is not None or self.progress.trials >= 2 * MOST)

    def _submit(self, candidate: Candidate, pruner: Pruner | None) -> Future[Measurement]:
        future = self.measurer.submit(candidate, pruner)
        with self._noted:
            self._open.add(future)
        future.add_done_callback(self._record)
        return future

    def _record(self, future: Future[Measurement]) -> None:
        """Runs the moment a trial ends, in whichever thread ended it."""
        with self._noted:
            try:
                if not future.cancelled() and future.exception() is None:
                    self._keep(future.result())
            finally:
                self._open.discard(future)
                self._noted.notify_all()

    def _keep(self, m: Measurement) -> None:
        bound = self.measurer.bound[m.candidate.template]
        try:
            self.records.append(Record(bound.computed, bound.device.chip, bound.hash, m, time.time(), self.name))
        except StoreError as error:
            if not self._unwritable:
                log.error("%s; this run goes on without records", error)
            self._unwritable = True
        self.progress.note(m, self.tuner.defaults)

    def _collect(self, batch: Sequence[Future[Measurement]]) -> None:
        pending = set(batch)
        while pending:
            _, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            self.on_trial(self.progress)
            if self._late():
                for future in pending:
                    future.cancel()
        with self._noted:
            self._noted.wait_for(lambda: self._open.isdisjoint(batch))

    def _tell(self, batch: Sequence[Future[Measurement]]) -> None:
        """What has ended; then MeasureError where the machine let nothing of the batch come to an end, or is lost."""
        measurements: list[Measurement] = []
        lost: MeasureError | None = None
        for future in batch:
            with contextlib.suppress(CancelledError):
                try:
                    measurements.append(future.result())
                except MeasureError as error:  # not the config's: neither told nor recorded
                    lost = lost if lost is not None and isinstance(error, EnvironmentFault) else error
        self.tuner.tell(measurements)
        if lost is not None and not (measurements and isinstance(lost, EnvironmentFault)):
            raise lost

    def _cancel_all(self) -> None:
        for future in [f for batch in self._in_flight for f in batch]:
            future.cancel()
