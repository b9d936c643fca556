"""Tuning: ``tune`` is the whole of it, ``Tuner`` the open loop for people with a measuring machine of their own.

The search is a pure function of (seed, measurements told). ``tune`` resumes from the records by default, publishes the
winner in the store, and answers from the store when the winner there has had at least the asked budget.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import dispatch
from ..cuda import nvml, nvrtc
from ..cuda.device import Device, by_name
from ..emulator import build as emulator_build
from ..errors import CompilerMissing, EmulationError, InvalidInput, StoreError
from ..kernel.kernel import TunedKernel
from ..kernel.kernel_set import KernelSet
from ..store.records import Records, opened_records
from ..store.select import select_device
from ..store.store import Store, Winner, lookup, lookup_set, opened
from ..store.winner_set import WinnerSet
from ..templates.base import Template
from ..templates.registry import bind
from ..trial import MEASURED
from ..workload import Workload, require_workload
from .budget import Budget, OnTrial, Progress, SpeedGoal, check_settings, silent
from .live import Live, somebody_looks
from .resume import outdated
from .search_run import SearchRun
from .size_search import SizeRuns
from .sizes import Earlier, sizes_asked, tune_sizes

if TYPE_CHECKING:
    from ..measure.cluster import Cluster

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
    ``seconds`` (``effort`` is for each); between them the performance model chooses, and a KernelSet comes out. Other
    ``sizes`` than those of a stored set are added to it; under another driver its kernels are timed again.

    Raises
    InvalidInput, Unsupported, StoreError, MeasureError, or WrongResult when no config computed the right thing.
    """
    budget = Budget(trials, seconds, effort, None if target is None else SpeedGoal.parse(target))
    check_settings(seed, jobs, force, progress, on_trial)
    require_workload(workload)
    if workload.open is not None and target is not None:
        raise InvalidInput("target", target, f"is of one size, and {workload.open.name} is open", "leave it out")
    if sizes is not None:
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
        records = opened_records(records)
        earlier = None
        if workload.open is not None and not force:
            kept = lookup_set(workload, device.chip, source, store=store, user=explicit is None)
            earlier = None if kept is None else Earlier.of(kept[0], workload, bound, _outdated_by(kept[0], drivers))
            if kept is not None and earlier is not None and earlier.enough(sizes, budget):
                if not earlier.outdated:
                    return KernelSet(kept[0], path=kept[1].path(workload, device.chip, source))
                sizes = () if nvrtc.available() and cluster is None else earlier.winners.sizes  # only timed again
        found = (
            None
            if force or workload.open
            else lookup(workload, device.chip, source, store=store, user=explicit is None)
        )
        current = found is not None and (found[0].template, found[0].template_hash) in {(b.name, b.hash) for b in bound}
        stored = found[0] if found is not None and current and _enough(found[0], budget) else None
        if stored is not None and found is not None and not outdated(stored, drivers):
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
        search = SearchRun(device, source, records, budget, seed, jobs, force, drivers, cluster)
        if workload.open is not None:
            at = SizeRuns(search, so_far, templates, tell)
            made: Winner | WinnerSet = tune_sizes(workload, device, source, sizes, budget, seed, at, earlier)
        else:
            made = search.search(bound, so_far, tell, stored).winner
    so_far.phase = "done"
    try:
        path = store.publish(made)
        dispatch.forget()
    except StoreError as error:
        log.error("%s; the kernel was not kept", error)
        path = None
    tell(so_far)
    return TunedKernel(made, path=path) if isinstance(made, Winner) else KernelSet(made, path=path)


def _build_emulator(progress: Progress, tell: OnTrial) -> None:
    """Build the emulator where it is not there yet, before the clock of the budget runs."""
    with contextlib.suppress(CompilerMissing):  # which the verdict tells
        if emulator_build.ready():
            return
        progress.phase, start = "build", time.monotonic()
        tell(progress)
        emulator_build.told()
        try:
            emulator_build.library()
        except EmulationError as error:
            log.warning("%s: kernels are not executed", error)
        progress.phase, progress.building = "prepare", time.monotonic() - start


def _outdated_by(winners: WinnerSet, drivers: Collection[str]) -> str:
    """The driver under which a kernel of the set was timed, where it is none of ``drivers``; empty where none was."""
    return next((str(k.environment["driver"]) for k in winners.kernels if outdated(k, drivers)), "")


def _enough(winner: Winner, budget: Budget) -> bool:
    """Whether a stored winner has had at least ``budget``, or holds its target."""
    if budget.target is not None and winner.complete and budget.target.met_by(winner.seconds, winner.verdict):
        return True
    trials, seconds = budget.limits
    ended = winner.budget.get("ended")
    had = max(winner.spent, float(winner.budget.get("seconds") or 0.0) if ended == "seconds" else 0.0)
    over = ended == "exhausted" or (ended == "plateau" and budget.open)
    return winner.complete and (over or winner.trials >= trials or had >= seconds)
