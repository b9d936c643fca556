"""Farming candidates out over GPUs and hosts of one chip with dask.distributed (extra ``cluster``).

Rendering happens here; a Dask worker compiles, and its GPU is owned by a killable child below it, never by the worker
itself: a crash or a hang costs one candidate and no worker. Workers offer GPUs as the abstract resource ``GPU``
(``dask worker --resources GPU=1 ...``); a worker that dies takes its task to another one. Before the first candidate
every worker measures the same calibration kernel: workers whose chip differs, or whose time is off by more than the
tolerance, take no part.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..cuda import nvml
from ..cuda.device import DEFAULT, Device, by_name
from ..cuda.driver import detect_device
from ..errors import InvalidInput, MeasureError
from ..paths import prepare, root
from ..templates.base import FOLDER, Template
from ..templates.bound import BoundTemplate
from ..templates.outside import load
from ..templates.registry import bind, registry
from ..trial import MEASURED, PREDICTED, Candidate, Measurement, Policy, Pruner
from .compiling import CompilingMeasurer
from .finals import ROUNDS, Finalist, Finals
from .gpu import GpuMeasurer
from .predicted import PredictedMeasurer
from .protocol import Build

TOLERANCE = 0.05
"""Calibration times further than this from the median (relative) exclude a worker."""
RESOURCE = {"GPU": 1}
RETRIES = 3
_lock = threading.Lock()
_open: dict[str, Any] = {}


class Cluster(contextlib.AbstractContextManager["Cluster"]):
    """The workers of a Dask cluster that can measure; they, not this machine, say what ``device`` it is.

    ``address``: ``dask://host:port`` or ``tcp://host:port``. ``kind``: ``gpu``, or ``predicted`` to rehearse without
    GPUs; ``auto`` asks the workers.
    """

    def __init__(self, address: str, device: Device | None = None, *, kind: str = "auto", timeout: float = 20.0):
        try:
            from distributed import Client
        except ImportError as error:
            raise MeasureError("dask.distributed is not installed; install gpu_tune[cluster]") from error
        where = address.replace("dask://", "tcp://", 1)
        if "://" not in where:
            raise InvalidInput("cluster address", address, "is not dask://host:port", "start one with: dask scheduler")
        try:
            self.client = Client(where, timeout=timeout, set_as_default=False)
        except OSError as error:
            raise MeasureError(
                f"no Dask scheduler answers at {address}: {error}; start one with: dask scheduler"
            ) from error
        try:
            self.kind, self.device = self._survey(kind, device)
        except BaseException:
            self.client.close()
            raise
        self.source = MEASURED if self.kind == "gpu" else PREDICTED

    def drivers(self) -> set[str]:
        """Versions of the display drivers of the workers; empty strings where NVML is missing."""
        return set(self.client.run(nvml.display_version).values())

    def alike(self) -> list[str]:
        """Addresses of the workers that have the device."""
        found: dict[str, Device | None] = self.client.run(detect_device)
        return sorted(w for w, d in found.items() if self.kind == "predicted" or (d and d.chip == self.device.chip))

    def __exit__(self, *exception: object) -> None:
        self.client.close()

    def _survey(self, kind: str, device: Device | None) -> tuple[str, Device]:
        workers: dict[str, Device | None] = self.client.run(detect_device)
        if not workers:
            raise MeasureError(
                "the Dask scheduler has no workers; start some with: dask worker ADDRESS --resources GPU=1"
            )
        found = {d.chip: d for d in workers.values() if d is not None}
        if kind == "predicted" or (kind == "auto" and not found):
            return "predicted", device or by_name(DEFAULT)
        wanted = device.chip if device is not None else min(found, default="")
        if wanted not in found:
            raise MeasureError(f"no worker has a {wanted} (there are: {', '.join(sorted(found)) or 'no GPUs'})")
        return "gpu", device or found[wanted]


class ClusterMeasurer(CompilingMeasurer):
    """Measures on ``cluster``, which stays open. Templates must be importable by the workers: they are named by their
    folder, not sent. ``calibration``: the candidate that proves the workers alike (default: the first one submitted).
    """

    def __init__(
        self,
        bound: Sequence[BoundTemplate],
        cluster: Cluster,
        *,
        seed: int = 0,
        calibration: Candidate | None = None,
        tolerance: float = TOLERANCE,
        policy: Policy | None = None,
        **options: Any,
    ) -> None:
        self.cluster, self.source = cluster, cluster.source
        self.seed, self.tolerance, self._calibration = seed, tolerance, calibration
        if policy is None and cluster.kind == "predicted":
            policy = Policy(mode="model", repeats=1)
        super().__init__(bound, policy=policy, **options)
        self.workers: list[str] = []
        self.excluded: dict[str, str] = {}

    def submit(self, candidate: Candidate, pruner: Pruner | None = None) -> Future[Measurement]:
        if self._closed:
            raise MeasureError("the measurer is closed; open another one")
        if not self.workers:
            self._calibrate(self._calibration or candidate)
        result: Future[Measurement] = Future()
        task = self._send("submit", candidate, pruner)
        result.set_running_or_notify_cancel()

        def done(finished: Any) -> None:
            try:
                result.set_result(self._told(candidate, finished.result()))
            except BaseException as error:
                lost = f"its workers were lost ({type(error).__name__}: {error})"
                result.set_result(self._ended(candidate, "run_error", lost))

        task.add_done_callback(done)
        return result

    def finals(self, candidates: Sequence[Candidate], *, rounds: int = ROUNDS) -> Finals:
        """All finalists on one worker, interleaved: times of different GPUs are never compared."""
        if not self.workers:
            self._calibrate(self._calibration or candidates[0])
        return self._send("finals", candidates, rounds=rounds).result()

    def vendors(self) -> Sequence[Finalist]:
        return self._send("vendors", workers=self.workers or self.cluster.alike()).result()

    def _send(self, method: str, *arguments: Any, workers: Sequence[str] | None = None, **options: Any) -> Any:
        """Dask's future of what the measurer of one of ``workers`` (default: those that passed) answers."""
        allowed = workers or (self.workers if self.excluded else None)  # one that is started again has a new address
        return self.cluster.client.submit(
            answer, self._facts(), method, *arguments, **options,
            workers=allowed, resources=RESOURCE, retries=RETRIES, pure=False,
        )  # fmt: skip

    def _time(self, build: Build) -> Measurement:
        return self.submit(build.candidate).result()

    def _told(self, candidate: Candidate, m: Measurement) -> Measurement:
        """``m``, with what is a duplicate decided here: workers know only what they timed themselves."""
        if not m.ok or not m.cubin_hash:
            return m
        with self._lock:
            twin = self._by_hash.setdefault(m.cubin_hash, m)
        if twin.candidate == candidate:
            return replace(m, status="ok", reason="")
        reason = f"same cubin and launch as {twin.candidate.key}"
        return replace(m, status="duplicate", samples=twin.samples, reason=reason)

    def _facts(self) -> dict[str, Any]:
        folders = {n: "" if b.template.folder == FOLDER else str(b.template.folder) for n, b in self.bound.items()}
        return {
            "workload": self.workload,
            "device": self.device,
            "kind": self.cluster.kind,
            "seed": self.seed,
            "policy": self.policy,
            "folders": folders,
        }

    def _calibrate(self, candidate: Candidate) -> None:
        ready = self.cluster.alike()
        tasks = {w: self._send("submit", candidate, workers=[w]) for w in ready}
        times: dict[str, float] = {}
        failed: dict[str, str] = {}
        for worker, task in tasks.items():
            try:
                m: Measurement = task.result()
            except Exception as error:  # whatever a remote worker raised
                self.excluded[worker] = f"calibration failed: {error}"
                continue
            if m.ok:
                times[worker] = m.time
            else:
                failed[worker] = f"the calibration kernel ended as {m.status} here: {m.reason}"
        if times:  # else it is the candidate's fault, and nothing is known of the workers
            self.excluded.update(failed)
            # two workers: the faster, since a median would split their difference
            middle = statistics.median(times.values()) if len(times) > 2 else min(times.values())
            for worker, seconds in times.items():
                off = seconds / middle - 1
                if abs(off) > self.tolerance:
                    self.excluded[worker] = f"its calibration time is {100 * off:+.1f} % off the others'"
        self.workers = [w for w in ready if w not in self.excluded]
        if not self.workers:
            raise MeasureError(
                "no worker passed the calibration: " + "; ".join(f"{w}: {r}" for w, r in self.excluded.items())
            )


def answer(facts: Mapping[str, Any], method: str, *arguments: Any, **options: Any) -> Any:
    """On a worker: what ``method`` of its measurer gives; a trial is waited for."""
    given = getattr(_measurer(facts), method)(*arguments, **options)
    return given.result() if isinstance(given, Future) else given


def _measurer(facts: Mapping[str, Any]) -> Any:
    """The worker's own measurer for ``facts``, kept open between tasks (one at a time: workloads come in runs)."""
    key = repr(sorted((k, repr(v)) for k, v in facts.items()))
    with _lock:
        if key not in _open:
            for other in _open.values():
                other.close()
            _open.clear()
            wanted: Device = facts["device"]
            if facts["kind"] == "gpu":
                device = detect_device()
                if device is None or device.chip != wanted.chip:
                    raise MeasureError(f"this worker has {device.chip if device else 'no GPU'}, not {wanted.chip}")
                made: type[CompilingMeasurer] = GpuMeasurer
            else:
                made, device = PredictedMeasurer, wanted
            options = {"policy": facts["policy"], "seed": facts["seed"], "store": prepare(root()), "jobs": 1}
            _open[key] = made(bind(facts["workload"], device, _templates(facts)), **options)
        return _open[key]


def _templates(facts: Mapping[str, Any]) -> dict[str, Template]:
    """The templates named: of this process's registry, or of the folder in which the other side found them."""
    made: dict[str, Template] = {}
    for name, folder in facts["folders"].items():
        known = registry().get(name)
        if known is not None and (not folder or known.folder == Path(folder)):
            made[name] = known
        elif not (Path(folder) / f"{name}.py").exists():
            place = folder or "gpu_tune"
            raise MeasureError(f"template {name} is not at {place} on worker {os.uname().nodename}; install it there")
        else:
            made[name] = load(Path(folder), name)
    return made
