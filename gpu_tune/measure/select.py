"""Which measurer a call means: decided here alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cuda.device import Device
from ..paths import prepare, root
from ..store.select import select_device
from ..templates.base import Template
from ..templates.bound import BoundTemplate
from ..templates.registry import bind
from ..trial import MEASURED
from ..workload import Workload
from .protocol import Measurer

if TYPE_CHECKING:
    from .cluster import Cluster


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
