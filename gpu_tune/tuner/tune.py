"""Tuning: ``tune`` is the whole of it, ``Tuner`` the open loop for people with a measuring machine of their own.

The search is a pure function of (seed, measurements told). ``tune`` resumes from the records by default, publishes the
winner in the store, and answers from the store when the winner there has had at least the asked budget.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import dispatch
from ..cuda import nvml, nvrtc
from ..cuda.device import Device, by_name
from ..emulator import build as emulator_build
from ..errors import CompilerMissing, EmulationError, InvalidInput, StoreError
from ..kernel.emit import duration, emit
from ..kernel.kernel import TunedKernel
from ..kernel.kernel_set import KernelSet
from ..measure.compiling import CompilingMeasurer
from ..measure.finals import Finals
from ..measure.protocol import Build, Measurer
from ..measure.select import open_measurer, select_device
from ..store.records import Record, Records
from ..store.store import Store, Winner, lookup, lookup_set, opened
from ..store.winner import Compiler
from ..store.winner_set import WinnerSet
from ..templates.base import Template
from ..templates.bound import BoundTemplate
from ..templates.registry import bind
from ..trial import MEASURED, Candidate, Measurement, Policy
from ..workload import Workload, require_workload
from .budget import Budget, OnTrial, Progress, SpeedGoal, silent
from .foresee import expectations
from .live import Live, somebody_looks
from .loop import Loop
from .sizes import sizes_asked, tune_sizes

if TYPE_CHECKING:
    from ..measure.cluster import Cluster
    from ..search.search import Tuner

log = logging.getLogger(__name__)


def tune(
    workload: Workload,
    *,
    device: Device | str | None = None,
    kind: str = "auto",
    trials: int | None = None,
    seconds: float | None = None,
    effort: str = "full",
    target: float | str | None = None,
    seed: int = 0,
    jobs: int | None = None,
    store: Store | Path | str | None = None,
    records: Records | Path | str | None = None,
    on_trial: OnTrial | None = None,
    force: bool = False,
    executor: str | None = None,
    templates: Mapping[str, Template] | None = None,
    progress: bool | None = None,
    sizes: Sequence[int] | None = None,
) -> TunedKernel | KernelSet:
    """The fastest kernel for ``workload`` that was found and checked, published in the store.

    On this machine's GPU, or for ``device`` (``nvidia-h200`` unless named) where there is none: then times
    are predicted, and the kernel says so. ``trials`` and ``seconds`` bound the search, counting what is already
    recorded: the same call resumes, and returns at once when the stored winner has had that much; ``effort`` (``quick``
    or ``full``) bounds it when neither is given. ``target`` ends it sooner: 1.03 when ours is confirmed to beat the
    fastest vendor library by 3 % (which is timed before the search), "350us" when a run takes that little. ``force``
    starts afresh. ``store`` and ``records``: instead of the user's (a folder will do). Ctrl-C ends the search and keeps
    the best so far. ``on_trial`` gets a :class:`~gpu_tune.tuner.budget.Progress` after every trial. ``progress``: show
    how far it is, on standard error; by default on a terminal and in a notebook, unless ``on_trial`` is given.
    ``executor``: the ``dask://host:port`` to measure on.

    A workload with an open size is tuned at a few ``sizes`` (by default up to 8), which share ``trials`` and
    ``seconds`` (``effort`` is for each); between them the performance model chooses, and a KernelSet comes out.

    Raises
    InvalidInput, Unsupported, StoreError, MeasureError, or WrongResult when no config computed the right thing.
    """
    budget = Budget(trials, seconds, effort, None if target is None else SpeedGoal.parse(target))
    if type(seed) is not int or seed < 0:
        raise InvalidInput("seed", seed, "is not a non-negative integer", "give 0 or more")
    if jobs is not None and (type(jobs) is not int or jobs < 1):
        raise InvalidInput("jobs", jobs, "is not a positive integer", "give the compiles at a time, or leave it out")
    require_workload(workload)
    if workload.open is not None and target is not None:
        raise InvalidInput("target", target, f"is of one size, and {workload.open.name} is open", "leave it out")
    if workload.open is None and sizes is not None:
        raise InvalidInput("sizes", sizes, "are to tune of a workload that leaves none open", "leave them out")
    if workload.open is not None and sizes is not None:
        sizes = sizes_asked(workload.open, sizes)
    explicit, shown = opened(store), progress
    with contextlib.ExitStack() as open_:
        cluster: Cluster | None = None
        if executor:  # the workers, not this machine, say what device it is
            from ..measure import cluster as dask

            wanted = by_name(device) if isinstance(device, str) else device
            cluster = open_.enter_context(dask.Cluster(executor, wanted))
            device, source = cluster.device, cluster.source
            drivers: Collection[str] = cluster.drivers()
        else:
            device, source = select_device(device, kind)
            drivers = {nvml.display_version()}
        bound = bind(workload, device, templates)
        if budget.target is not None and budget.target.ratio is not None and source != MEASURED:
            rule = "compares with a vendor library, whose time cannot be predicted"
            raise InvalidInput("target", target, rule, "give a time instead, as in 350us, or tune on a GPU")
        store = explicit or Store()
        if not isinstance(records, Records):
            records = Records() if records is None else Records(Path(records))
        if workload.open is not None and not force:
            kept = lookup_set(workload, device.chip, source, store=store, user=explicit is None)
            if kept is not None and _still_good(kept[0], workload, sizes, bound, budget, drivers):
                return KernelSet(kept[0], path=kept[1].path(workload, device.chip, source))
        found = (
            None
            if force or workload.open
            else lookup(workload, device.chip, source, store=store, user=explicit is None)
        )
        current = found is not None and (found[0].template, found[0].template_hash) in {(b.name, b.hash) for b in bound}
        stored = found[0] if found is not None and current and _enough(found[0], budget) else None
        if stored is not None and found is not None and not _outdated(stored, drivers):
            return TunedKernel(stored, path=found[1].path(workload, device.chip, source))
        store.prepare()
        records.prepare()
        open_.callback(records.close)
        so_far = Progress(workload, device, source, budget)
        if shown is None:
            shown = on_trial is None and somebody_looks()
        live = open_.enter_context(Live(workload.key, quiet=not shown))

        def tell(progress: Progress) -> None:
            live.update(progress)
            (on_trial or silent)(progress)

        if cluster is None:
            _build_emulator(so_far, tell)
        tell(so_far)
        search = _Search(device, source, records, budget, seed, jobs, force, drivers, cluster)
        if workload.open is not None:
            tuned = functools.partial(_at_size, search, so_far, templates, tell)
            made: Winner | WinnerSet = tune_sizes(workload, device, source, sizes, budget, seed, tuned)
        else:
            made, _ = search.winner(bound, so_far, tell, stored)
    so_far.phase = "done"
    try:
        path = store.publish(made)
        dispatch.forget()
    except StoreError as error:
        log.error("%s; the kernel was not kept", error)
        path = None
    tell(so_far)
    return TunedKernel(made, path=path) if isinstance(made, Winner) else KernelSet(made, path=path)


@dataclass(frozen=True)
class _Search:
    """What a tuning runs on; :meth:`winner` is the search for one size."""

    device: Device
    source: str
    records: Records
    budget: Budget
    seed: int
    jobs: int | None
    force: bool
    drivers: Collection[str]
    cluster: Cluster | None

    def winner(
        self, bound: Sequence[BoundTemplate], so_far: Progress, tell: OnTrial, stored: Winner | None = None
    ) -> tuple[Winner, Build]:
        """The fastest of ``bound`` that was found and checked, and its build; of ``stored``, whose times are outdated,
        the finalists are timed again."""
        source, device, records, budget = self.source, self.device, self.records, so_far.budget
        own = {b.hash for b in bound}
        history = records.read(source)  # of every chip: what is told apart is left to the models
        from ..search.search import Tuner  # LightGBM loads here, not where the store answers

        tuner = Tuner(spaces=[b.space() for b in bound], seed=self.seed, history=history, pipelined=True)
        if not self.force:
            elsewhere = self.cluster is not None
            comparable = [r for r in history if _comparable(r.measurement, self.drivers, elsewhere)]
            _resume(tuner, comparable, bound, so_far)
        with open_measurer(
            bound, source, cluster=self.cluster, jobs=self.jobs, seed=self.seed, seen=tuner.observations
        ) as measurer:
            loop = Loop(tuner, measurer, records, so_far, tell)
            fresh = source == MEASURED and not any(r.chip == device.chip and r.template_hash in own for r in history)
            if stored is None and fresh and isinstance(measurer, CompilingMeasurer) and self.cluster is None:
                found = expectations(tuner.spaces, measurer, records, budget.limits, seed=self.seed, run=loop.name)
                tuner.expect(found)
            if stored is None:
                if budget.target is not None:
                    vendors = measurer.vendors() if budget.target.ratio is not None else ()
                    so_far.goal = budget.target.goal(vendors)
                finals = loop.run_until_confirmed()
                return make_winner(tuner, measurer, finals, so_far, loop.ended, self.seed)
            # another driver: the search stands, the finalists are timed again
            finals = loop.finals(stored.finalists)
            ended = str(stored.budget.get("ended", ""))
            winner, build = make_winner(tuner, measurer, finals, so_far, ended, stored.seed)
            before = dict(trials=stored.trials, spent=stored.spent, budget=stored.budget, complete=stored.complete)
            return replace(winner, **before), build  # type: ignore[arg-type]


def _at_size(
    search: _Search,
    together: Progress,
    templates: Mapping[str, Template] | None,
    tell: OnTrial,
    size: int,
    budget: Budget,
) -> tuple[Winner, Build]:
    """The winner among kernels that leave the size of a workload open, by their times at ``size``; its trials are added
    to those of all sizes ``together``."""
    workload = together.workload
    bound = bind(workload, search.device, templates, size)
    so_far = Progress(bound[0].workload, search.device, search.source, budget, size=f"{workload.openable}={size}")
    try:
        return search.winner(bound, so_far, tell)
    finally:
        together.trials += so_far.trials
        together.resumed += so_far.resumed
        together.statuses += so_far.statuses


def _build_emulator(progress: Progress, tell: OnTrial) -> None:
    """Build the emulator where it is not there yet, before the clock of the budget runs."""
    with contextlib.suppress(CompilerMissing):  # which the verdict tells
        if emulator_build.ready():
            return
        progress.phase, start = "build", time.monotonic()
        tell(progress)
        try:
            emulator_build.library()
        except EmulationError as error:
            log.warning("%s: kernels are not executed", error)
        progress.phase, progress.building = "prepare", time.monotonic() - start


def _outdated(winner: Winner, drivers: Collection[str]) -> bool:
    """Whether a measured winner was timed under another driver than the ``drivers`` of where it would be timed."""
    then = winner.environment.get("driver", "")
    return winner.source == MEASURED and bool(winner.finalists) and bool(then) and then not in drivers


def _still_good(
    winners: WinnerSet,
    workload: Workload,
    sizes: Sequence[int] | None,
    bound: Sequence[BoundTemplate],
    budget: Budget,
    drivers: Collection[str],
) -> bool:
    """Whether a stored set is of this workload, these sizes, the templates as they are, and had ``budget``."""
    now, had = {(b.name, b.hash) for b in bound}, winners.budget
    current = all((k.template, k.template_hash) in now and not _outdated(k, drivers) for k in winners.kernels)
    if budget.open:
        enough = had.get("effort") in ("full", budget.effort)
    else:
        trials, seconds = budget.limits
        enough = (had.get("trials") or winners.trials) >= trials or (had.get("seconds") or winners.spent) >= seconds
    asked = set(sizes or winners.sizes) <= set(winners.sizes)
    return winners.workload == workload and winners.complete and asked and current and enough


def _enough(winner: Winner, budget: Budget) -> bool:
    """Whether a stored winner has had at least ``budget``, or holds its target."""
    if budget.target is not None and winner.complete and budget.target.met_by(winner.seconds, winner.verdict):
        return True
    trials, seconds = budget.limits
    ended = winner.budget.get("ended")
    had = max(winner.spent, float(winner.budget.get("seconds") or 0.0) if ended == "seconds" else 0.0)
    over = ended == "exhausted" or (ended == "plateau" and budget.open)
    return winner.complete and (over or winner.trials >= trials or had >= seconds)


def _comparable(m: Measurement, drivers: Collection[str], elsewhere: bool) -> bool:
    """Whether an earlier trial's time may stand beside new ones: the same driver and, where it was compiled here, the
    same NVRTC release. Those of other circumstances still teach the models.
    """
    driver, compiler = m.environment.get("driver", ""), m.environment.get("nvrtc", "")
    same = elsewhere or not compiler or compiler == nvrtc.identity()
    return same and (m.source != MEASURED or not driver or driver in drivers)


def _resume(tuner: Tuner, history: Sequence[Record], bound: Sequence[BoundTemplate], progress: Progress) -> None:
    """Take in what earlier runs measured for exactly this choice: templates as they are now, this workload and chip."""
    now, chip = {(b.hash, b.computed) for b in bound}, progress.device.chip
    mine = [r for r in history if r.chip == chip and (r.template_hash, r.workload) in now]
    spaces = {s.name: s for s in tuner.spaces}
    last = {c: r for r in mine if (c := r.measurement.candidate).config in spaces[c.template]}
    spans: dict[str, tuple[float, float]] = {}
    for r in last.values():
        progress.note(r.measurement, tuner.defaults)
        begun = re.match(r"\d{1,12}(\.\d+)?(?=-)", r.run)
        start = min(float(begun[0]), r.time) if begun else r.time
        spans[r.run] = (start, max(r.time, spans.get(r.run, (0.0, 0.0))[1]))
    progress.resumed = len(last)
    progress.earlier_seconds = sum(end - start for start, end in spans.values())
    tuner.tell(r.measurement for r in last.values())


def make_winner(
    tuner: Tuner, measurer: Measurer, finals: Finals, progress: Progress, ended: str, seed: int
) -> tuple[Winner, Build]:
    """What is published of finals that have a winner, and its build. ``ended``: why the search stopped."""
    chosen = finals.winner
    assert chosen is not None
    build, finalist = measurer.build(chosen), finals.finalist(chosen)
    told = next((m for m in tuner.observations if m.candidate == chosen and m.ok), None)
    winner = Winner.of(
        build.bound,
        chosen.config,
        build.rendered,
        measurer.published(build),
        source=progress.source,
        seconds=statistics.median(finalist.samples),
        samples=finalist.samples,
        host_seconds=finalist.host_seconds or None,
        verdict=verdict_of(finals, tuner.defaults),
        resources=build.resources,
        policy=told.policy if told else Policy(),
        compiler=Compiler("nvrtc", build.nvrtc),
        options=nvrtc.all_options(progress.device.arch),
        prediction=dict(told.prediction) if told else {},
        environment=dict(finals.environment or (told.environment if told else {})),
        finalists=tuple(c.candidate for c in finals.finalists if c.candidate is not None and c.ok),
        seed=seed,
        trials=progress.trials,
        spent=progress.seconds,
        complete=ended not in ("interrupted", "device lost"),
        budget={
            "trials": progress.budget.trials,
            "seconds": progress.budget.seconds,
            "effort": progress.budget.effort,
            "target": str(progress.budget.target) if progress.budget.target else None,
            "ended": ended,
        },
    )
    return replace(winner, code=emit(winner)), build


def verdict_of(finals: Finals, defaults: frozenset[Candidate] = frozenset()) -> dict[str, Any]:
    """What finals say, as plain data: ``text`` for people; ``ours`` against the vendor library is ``faster``,
    ``tied``, ``slower`` or ``unknown``; ``ratio`` with its interval; ``default``: the best default config, re-timed.
    What is compared is time on the device; the text says what issuing one run takes the host, where that was measured.
    """
    versus = finals.verdict
    ours = "unknown" if versus is None else "faster" if versus.faster else "slower" if versus.slower else "tied"
    host = finals.finalist(finals.winner).host_seconds if finals.winner is not None else 0.0
    issuing = f"; issuing a run takes the host {duration(host)}" if host else ""
    verdict: dict[str, Any] = {
        "text": f"{finals} (time on the device{issuing})" if versus is not None else str(finals),
        "ours": ours,
        "vendor": finals.vendor,
        "rule": finals.rule,
        "noise_floor": finals.noise_floor,
        "rounds": finals.rounds,
        "tied": len(finals.tied),
        "finalists": [
            {
                "name": c.name,
                "label": c.label,
                "seconds": statistics.median(c.samples) if c.samples else None,
                "status": c.status,
                "reason": c.reason,
            }
            for c in finals.finalists
        ],
        "checks": [asdict(check) for c in finals.finalists if c.candidate == finals.winner for check in c.checks],
    }
    if versus is not None:
        verdict.update(ratio=versus.ratio, low=versus.low, high=versus.high, confidence=versus.confidence)
    timed = [c for c in finals.finalists if c.candidate in defaults and c.ok]
    if timed:
        default = min(timed, key=lambda c: statistics.median(c.samples))
        against = finals.comparisons.get(default.name)
        verdict["default"] = {
            "name": default.name,
            "seconds": statistics.median(default.samples),
            "speedup": against.ratio if against else 1.0,
            "text": str(against) if against else "is the winner",
        }
    return verdict
