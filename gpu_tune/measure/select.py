"""Which device and which measurer a call means: decided here alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cuda.device import DEFAULT, Device, by_name
from ..cuda.driver import detect_device
from ..errors import InvalidInput, MeasureError
from ..paths import prepare, root
from ..templates.base import Template
from ..templates.bound import BoundTemplate
from ..templates.registry import bind
from ..trial import MEASURED, PREDICTED
from ..workload import Workload
from .protocol import Measurer

if TYPE_CHECKING:
    from .cluster import Cluster

KINDS = ("auto", "gpu", "predicted")
"""What ``tune`` may be told to measure on; ``auto`` takes the GPU where there is one."""


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


def open_measurer(
    bound: Sequence[BoundTemplate],
    source: str,
    *,
    cluster: Cluster | None = None,
    store: Path | str | None = None,
    **options: Any,
) -> Measurer:
    """The measurer of ``cluster``, else of this machine's GPU where ``source`` is measured, else the predicting one.

    Close it, or use it in a ``with`` block.
    ``store``: folder that keeps compiled kernels and the journal of started trials (default: the user's folder).
    ``options`` go to the measurer: ``jobs`` (compile workers; default: all CPUs), ``policy``, ``seed``, ``seen``
    (earlier measurements: a binary timed in them is not timed again), ``gpus`` and ``baselines`` (on a GPU).
    """
    folder = prepare(Path(store) if store is not None else root())
    if cluster is not None:
        from .cluster import ClusterMeasurer

        return ClusterMeasurer(bound, cluster, store=folder, **options)
    if source == MEASURED:
        from .gpu import GpuMeasurer

        return GpuMeasurer(bound, store=folder, **options)
    from .predicted import PredictedMeasurer

    return PredictedMeasurer(bound, store=folder, **options)


def make_measurer(
    workload: Workload,
    *,
    device: Device | str | None = None,
    kind: str = "auto",
    templates: Mapping[str, Template] | None = None,
    **options: Any,
) -> Measurer:
    """A measurer of every template that computes ``workload``; see :func:`select_device` and :func:`open_measurer`."""
    place, source = select_device(device, kind)
    return open_measurer(bind(workload, place, templates), source, **options)
