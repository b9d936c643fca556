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
from typing import Any

from ..cuda import nvml
from ..cuda.device import DEFAULT, Device, by_name
from ..errors import InvalidInput, MeasureError
from ..templates.base import Template
from ..trial import MEASURED, PREDICTED, Candidate, Measurement, Policy, Pruner
from ..workload import Workload, from_dict, to_dict
from .compiling import Builder
from .finals import ROUNDS, Finalist, Finals
from .gpu import GpuMeasurer
from .predicted import PredictedMeasurer

TOLERANCE = 0.05
"""Calibration times further than this from the median (relative) exclude a worker."""
RESOURCE = {"GPU": 1}
RETRIES = 3
_lock = threading.Lock()
_open: dict[str, Any] = {}


class ClusterMeasurer(Builder):
    """See :class:`~gpu_tune.measure.protocol.Measurer`. ``address``: ``dask://host:port`` or ``tcp://host:port``.

    ``kind``: ``gpu``, or ``predicted`` to rehearse without GPUs; ``auto`` asks the workers. ``templates`` must be
    importable by the workers: they are named by their folder, not sent. ``calibration``: the candidate that proves the
    workers alike (default: the first one submitted).
    """

    def __init__(
        self,
        workload: Workload,
        device: Device | None,
        *,
        address: str,
        worker_kind: str = "auto",
        seed: int = 0,
        calibration: Candidate | None = None,
        tolerance: float = TOLERANCE,
        timeout: float = 20.0,
        **options: Any,
    ) -> None:
        client_class = _dask().Client
        where = address.replace("dask://", "tcp://", 1)
        if "://" not in where:
            raise InvalidInput("cluster address", address, "is not dask://host:port", "start one with: dask scheduler")
        try:
            self._client = client_class(where, timeout=timeout, set_as_default=False)
        except OSError as error:
            raise MeasureError(
                f"no Dask scheduler answers at {address}: {error}; start one with: dask scheduler"
            ) from error
        self.seed, self.tolerance, self._calibration = seed, tolerance, calibration
        try:
            kind, found = self._survey(worker_kind, device)
        except BaseException:
            self._client.close()
            raise
        self.source = MEASURED if kind == "gpu" else PREDICTED
        self.kind = kind
        super().__init__(workload, found, **options)
        if kind == "predicted" and "policy" not in options:
            self.policy = Policy(mode="model", repeats=7)
        self.workers: list[str] = []
        self.excluded: dict[str, str] = {}

    def submit(self, candidate: Candidate, pruner: Pruner | None = None) -> Future[Measurement]:
        """See :class:`~gpu_tune.measure.protocol.Measurer`."""
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

    def confirm(self, candidates: Sequence[Candidate], *, rounds: int = ROUNDS) -> Finals:
        """All finalists on one worker, interleaved: times of different GPUs are never compared."""
        if not self.workers:
            self._calibrate(self._calibration or candidates[0])
        names = [(c.template, dict(c.config)) for c in candidates]
        task = self._client.submit(
            confirm,
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

    def drivers(self) -> set[str]:
        """Versions of the display drivers of the workers; empty strings where NVML is missing."""
        return set(self._client.run(nvml.driver_version).values())

    def vendors(self) -> Sequence[Finalist]:
        """On one worker."""
        workers = self.workers or [w for w, c in self._client.run(describe).items() if c == self.device.chip]
        task = self._client.submit(
            vendors, self._facts(), resources=RESOURCE, workers=workers or None, retries=RETRIES, pure=False
        )
        found: Sequence[Finalist] = task.result()
        return found

    def close(self) -> None:
        """See :class:`~gpu_tune.measure.protocol.Measurer`. Workers live on, for others."""
        if not self._closed:
            super().close()
            self._client.close()

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
        folders = {n: str(t.folder) for n, t in (self.templates or {}).items()}
        return {
            "workload": to_dict(self.workload),
            "device": self.device.name,
            "chip": self.device.chip,
            "kind": self.kind,
            "seed": self.seed,
            "policy": asdict(self.policy),
            "folders": folders,
        }

    def _survey(self, kind: str, device: Device | None) -> tuple[str, Device]:
        chips: dict[str, Any] = self._client.run(describe)
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
        remote = device or next(iter(self._client.run(describe_fully, workers=alike).values()))
        return "gpu", remote

    def _calibrate(self, candidate: Candidate) -> None:
        chips = self._client.run(describe)
        ready = {w for w, c in chips.items() if self.kind == "predicted" or c == self.device.chip}
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
            for w in sorted(ready)
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
        self.workers = [w for w in sorted(ready) if w not in self.excluded]
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


def confirm(facts: Mapping[str, Any], names: Sequence[tuple[str, Mapping[str, Any]]], rounds: int) -> Finals:
    """On a worker: the finalists re-timed."""
    from ..space.knob import Config

    found: Finals = _measurer(facts).confirm([Candidate(t, Config(c)) for t, c in names], rounds=rounds)
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
                templates=_templates(facts) or None,
                jobs=1,
            )
            if facts["kind"] == "gpu":
                from ..cuda.driver import detect_device

                here = detect_device()
                if here is None or here.chip != facts["chip"]:
                    raise MeasureError(f"this worker has {here.chip if here else 'no GPU'}, not {facts['chip']}")
                _open[key] = GpuMeasurer(workload, here, **common)
            else:
                _open[key] = PredictedMeasurer(workload, by_name(facts["device"]), **common)
        return _open[key]


def _templates(facts: Mapping[str, Any]) -> dict[str, Template]:
    """Templates from outside the package: ``<name>.py`` beside the source, as in the package."""
    import importlib.util

    made = {}
    for name, folder in facts["folders"].items():
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
