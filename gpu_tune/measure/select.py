"""Opening the right measurer: a GPU's when there is one, else one that predicts; a replay of what was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..cuda.device import DEFAULT, Device, by_name
from ..cuda.driver import detect_device
from ..errors import InvalidInput, MeasureError
from ..paths import prepare, root
from ..templates.base import Template
from ..trial import MEASURED, PREDICTED, Measurement, Policy
from ..workload import Workload
from ..workload.command import KINDS
from .protocol import Measurer

MEASURERS = ("auto", "gpu", "predicted", "replay", "cluster")


def make_measurer(
    workload: Workload,
    *,
    device: Device | str | None = None,
    kind: str = "auto",
    jobs: int | None = None,
    policy: Policy | None = None,
    store: Path | str | None = None,
    seed: int = 0,
    templates: Mapping[str, Template] | None = None,
    seen: Iterable[Measurement] = (),
    recorded: Iterable[Measurement] | None = None,
    address: str | None = None,
    **options: Any,
) -> Measurer:
    """A measurer for ``workload``; close it, or use it in a ``with`` block.

    ``auto``: the GPU of this machine when there is one and ``device`` is None or that GPU; else times are
    predicted for ``device`` (``nvidia-h200`` unless named). ``replay`` needs ``recorded`` (measurements to answer
    from), ``cluster`` the ``address`` of a Dask scheduler. ``jobs``: compile workers (default: all CPUs).
    ``store``: folder that keeps compiled kernels and the journal of started trials (default: the user's folder).
    ``seen``: earlier measurements; a binary timed in them is not timed again. ``templates`` replaces the registry.
    ``options`` go to the measurer: ``gpus`` and ``baselines`` (gpu), ``worker_kind`` and ``tolerance`` (cluster) ...
    InvalidInput for an unknown kind or device; MeasureError when ``gpu`` is demanded and there is none.
    """
    if kind not in MEASURERS:
        raise InvalidInput("measurer kind", kind, "is unknown", f"use one of {', '.join(MEASURERS)}")
    wanted = by_name(device) if isinstance(device, str) else device
    if kind == "replay":
        from .replay import ReplayMeasurer

        if recorded is None:
            raise InvalidInput("replay", None, "needs recorded measurements", "pass recorded=, or name a records file")
        return ReplayMeasurer(workload, wanted or by_name(DEFAULT), recorded, seed=seed, templates=templates)
    folder = prepare(Path(store) if store is not None else root())
    common: dict[str, Any] = dict(jobs=jobs, policy=policy, store=folder, templates=templates, seen=seen, **options)
    if kind == "cluster":
        if not address:
            raise InvalidInput("cluster", address, "needs the address of a Dask scheduler", "use dask://host:8786")
        from .cluster import ClusterMeasurer

        return ClusterMeasurer(workload, wanted, address=address, seed=seed, **common)
    found = detect_device() if kind in ("auto", "gpu") else None
    if kind == "gpu" and found is None:
        raise MeasureError(
            "no CUDA GPU was found on this machine; use kind='predicted', or ask gpu-tune doctor what is missing"
        )
    if found is not None and wanted is not None and wanted.chip != found.chip:
        if kind == "gpu":
            raise MeasureError(
                f"the GPU here is {found.chip}, not {wanted.chip}; leave device out or use kind='predicted'"
            )
        found = None
    if found is not None:
        from .gpu import GpuMeasurer

        return GpuMeasurer(workload, found, seed=seed, **common)
    from .predicted import PredictedMeasurer

    return PredictedMeasurer(workload, wanted or by_name(DEFAULT), seed=seed, **common)


def select_device(device: Device | str | None = None, kind: str = "auto") -> tuple[Device, str]:
    """The device that a call means, and ``measured`` (this machine's GPU, if it is meant) or ``predicted``."""
    if kind not in KINDS:
        raise InvalidInput("kind", kind, "is unknown", f"use one of {', '.join(KINDS)}")
    wanted = by_name(device) if isinstance(device, str) else device
    if not isinstance(wanted, Device | None):
        raise InvalidInput(
            "device", wanted, "is no device", "give a chip's name, such as 'nvidia-h200', or leave it out"
        )
    found = detect_device() if kind in ("auto", "gpu") else None
    if found is not None and (wanted is None or wanted.chip == found.chip):
        return found, MEASURED
    if kind == "gpu":
        reason = (
            "no CUDA GPU was found on this machine" if found is None else f"the GPU here is {found.chip}, not that one"
        )
        raise MeasureError(f"{reason}; leave the device out, or run gpu-tune doctor")
    return wanted or by_name(DEFAULT), PREDICTED
