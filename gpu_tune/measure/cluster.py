"""Farming candidates out over GPUs and hosts of one chip with dask.distributed (extra ``cluster``).

Rendering happens here; a Dask worker compiles, and its GPU is owned by a killable child below it, never by the worker
itself: a crash or a hang costs one candidate and no worker. Workers offer GPUs as the abstract resource ``GPU``
(``dask worker --resources GPU=1 ...``); a worker that dies takes its task to another one. Before the first candidate
every worker measures the same calibration kernel: workers whose chip differs, or whose time is off by more than the
tolerance, take no part.
"""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ..cuda import nvml
from ..cuda.device import DEFAULT, Device, by_name
from ..errors import InvalidInput, MeasureError
from ..templates.base import FOLDER, Template
from ..templates.bound import BoundTemplate
from ..templates.registry import bind, registry
from ..trial import MEASURED, PREDICTED, Candidate, Measurement, Policy, Pruner
from ..workload import from_dict, to_dict
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


class Cluster:
    """The workers of a Dask cluster that can measure; they, not this machine, say what ``device`` it is.

    ``address``: ``dask://host:port`` or ``tcp://host:port``. ``kind``: ``gpu``, or ``predicted`` to rehearse without
    GPUs; ``auto`` asks the workers.
    """

    def __init__(self, address: str, device: Device | None = None, *, kind: str = "auto", timeout: float = 20.0):
        client_class = _dask().Client
        where = address.replace("dask://", "tcp://", 1)
        if "://" not in where:
            raise InvalidInput("cluster address", address, "is not dask://host:port", "start one with: dask scheduler")
        try:
            self.client = client_class(where, timeout=timeout, set_as_default=False)
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
        return set(self.client.run(nvml.driver_version).values())

    def alike(self) -> list[str]:
        """Addresses of the workers that have the device."""
        chips = self.client.run(describe)
        return sorted(w for w, c in chips.items() if self.kind == "predicted" or c == self.device.chip)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the workers to others."""
        self.client.close()

    def _survey(self, kind: str, device: Device | None) -> tuple[str, Device]:
        chips: dict[str, Any] = self.client.run(describe)
        if not chips:
            raise MeasureError(
                "the Dask scheduler has no workers; start some with: dask worker ADDRESS --resources GPU=1"
            )
        found = {c for c in chips.values() if c}
        if kind == "predicted" or (kind == "auto" and not found):
            return "predicted", device or by_name(DEFAULT)
        wanted = device.chip if device is not None else min(found)
        alike = [w for w, c in chips.items() if c == wanted]
        if not alike:
            raise MeasureError(f"no worker has a {wanted} (there are: {', '.join(sorted(found)) or 'no GPUs'})")
        remote = device or next(iter(self.client.run(describe_fully, workers=alike).values()))
        return "gpu", remote


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
        self.cluster, self.source, self._client = cluster, cluster.source, cluster.client
        self.seed, self.tolerance, self._calibration = seed, tolerance, calibration
        if policy is None and cluster.kind == "predicted":
            policy = Policy(mode="model", repeats=7)
        super().__init__(bound, policy=policy, **options)
        self.workers: list[str] = []
        self.excluded: dict[str, str] = {}

    def submit(self, candidate: Candidate, pruner: Pruner | None = None) -> Future[Measurement]:
        if self._closed:
            raise MeasureError("the measurer is closed; open another one")
        if not self.workers:
            self._calibrate(self._calibration or candidate)
        result: Future[Measurement] = Future()
        task = self._client.submit(
            measure,
            self._facts(),
            candidate.template,
            dict(candidate.config),
            pruner,
            key=f"gpu_tune-{id(result)}-{candidate.key}",
            resources=RESOURCE,
            workers=self._allowed(),
            retries=RETRIES,
            pure=False,
        )
        result.set_running_or_notify_cancel()

        def done(finished: Any) -> None:
            try:
                result.set_result(self._told(candidate, Measurement.from_json(finished.result())))
            except BaseException as error:
                lost = f"its workers were lost ({type(error).__name__}: {error})"
                result.set_result(self._ended(candidate, "run_error", lost))

        task.add_done_callback(done)
        return result

    def finals(self, candidates: Sequence[Candidate], *, rounds: int = ROUNDS) -> Finals:
        """All finalists on one worker, interleaved: times of different GPUs are never compared."""
        if not self.workers:
            self._calibrate(self._calibration or candidates[0])
        names = [(c.template, dict(c.config)) for c in candidates]
        task = self._client.submit(
            finals,
            self._facts(),
            names,
            rounds,
            resources=RESOURCE,
            workers=self._allowed(),
            retries=RETRIES,
            pure=False,
        )
        found: Finals = task.result()
        return found

    def vendors(self) -> Sequence[Finalist]:
        """On one worker."""
        workers = self.workers or self.cluster.alike()
        task = self._client.submit(
            vendors, self._facts(), resources=RESOURCE, workers=workers or None, retries=RETRIES, pure=False
        )
        found: Sequence[Finalist] = task.result()
        return found

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

    def _allowed(self) -> list[str] | None:
        """Workers that may take part; None for any (one that is started again has a new address)."""
        return self.workers if self.excluded else None

    def _facts(self) -> dict[str, Any]:
        folders = {n: "" if b.template.folder == FOLDER else str(b.template.folder) for n, b in self.bound.items()}
        return {
            "workload": to_dict(self.workload),
            "device": self.device.name,
            "chip": self.device.chip,
            "kind": self.cluster.kind,
            "seed": self.seed,
            "policy": asdict(self.policy),
            "folders": folders,
        }

    def _calibrate(self, candidate: Candidate) -> None:
        ready = self.cluster.alike()
        tasks = {
            w: self._client.submit(
                measure,
                self._facts(),
                candidate.template,
                dict(candidate.config),
                workers=[w],
                resources=RESOURCE,
                pure=False,
                retries=RETRIES,
            )
            for w in ready
        }
        times: dict[str, float] = {}
        failed: dict[str, str] = {}
        for worker, task in tasks.items():
            try:
                m = Measurement.from_json(task.result())
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


def describe() -> str:
    """On a worker: the chip of its GPU, empty without one."""
    from ..cuda.driver import detect_device

    device = detect_device()
    return device.chip if device is not None else ""


def describe_fully() -> Device:
    """On a worker: its GPU."""
    from ..cuda.driver import detect_device

    device = detect_device()
    assert device is not None
    return device


def measure(
    facts: Mapping[str, Any], template: str, config: Mapping[str, Any], pruner: Pruner | None = None
) -> dict[str, Any]:
    """On a worker: one trial, as JSON."""
    from ..space.knob import Config

    measurer = _measurer(facts)
    found: Measurement = measurer.submit(Candidate(template, Config(config)), pruner).result()
    return found.to_json()


def finals(facts: Mapping[str, Any], names: Sequence[tuple[str, Mapping[str, Any]]], rounds: int) -> Finals:
    """On a worker: the finalists re-timed."""
    from ..space.knob import Config

    found: Finals = _measurer(facts).finals([Candidate(t, Config(c)) for t, c in names], rounds=rounds)
    return found


def vendors(facts: Mapping[str, Any]) -> Sequence[Finalist]:
    """On a worker: the vendor baselines."""
    found: Sequence[Finalist] = _measurer(facts).vendors()
    return found


def _measurer(facts: Mapping[str, Any]) -> Any:
    """The worker's own measurer for ``facts``, kept open between tasks (one at a time: workloads come in runs)."""
    from ..paths import prepare, root

    key = repr(sorted((k, repr(v)) for k, v in facts.items()))
    with _lock:
        if key not in _open:
            for other in _open.values():
                other.close()
            _open.clear()
            workload = from_dict(facts["workload"])
            common: dict[str, Any] = dict(
                policy=Policy(**facts["policy"]),
                store=prepare(root()),
                seed=facts["seed"],
                jobs=1,
            )
            templates = _templates(facts)
            if facts["kind"] == "gpu":
                from ..cuda.driver import detect_device

                here = detect_device()
                if here is None or here.chip != facts["chip"]:
                    raise MeasureError(f"this worker has {here.chip if here else 'no GPU'}, not {facts['chip']}")
                _open[key] = GpuMeasurer(bind(workload, here, templates), **common)
            else:
                _open[key] = PredictedMeasurer(bind(workload, by_name(facts["device"]), templates), **common)
        return _open[key]


def _templates(facts: Mapping[str, Any]) -> dict[str, Template]:
    """The templates named; one from outside the package is ``<name>.py`` beside its source, as in the package."""
    import importlib.util

    made: dict[str, Template] = {}
    for name, folder in facts["folders"].items():
        if not folder:
            made[name] = registry()[name]
            continue
        path = Path(folder) / f"{name}.py"
        specification = importlib.util.spec_from_file_location(f"gpu_tune_template_{name}", path)
        if specification is None or specification.loader is None or not path.exists():
            raise MeasureError(f"template {name} is not at {path} on worker {os.uname().nodename}")
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        made[name] = module.TEMPLATE
    return made


def _dask() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MeasureError("dask.distributed is not installed; install gpu_tune[cluster]") from error
    return distributed
