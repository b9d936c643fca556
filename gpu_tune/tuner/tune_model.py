"""``tune_model``: the kernels of a whole PyTorch model from one budget. PyTorch is imported here when it is called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cuda.device import Device
from ..errors import InvalidInput, NotTuned, Unsupported
from ..store.records import Records
from ..store.select import select_device
from ..store.store import Store, opened
from ..templates.base import Template
from ..templates.registry import bind
from ..trial import MEASURED
from .joint_live import JointLive
from .live import somebody_looks
from .session import JointBudget
from .together import JointProgress, OnJoint, tune_together
from .tuned_model import LayerResult, TunedModel, weight_of

if TYPE_CHECKING:
    from ..torch.extraction import Extraction, Layer

SECONDS = 600.0
"""The budget where neither seconds nor trials are named."""


def tune_model(
    model: Any,
    example_inputs: Any = (),
    *,
    kwargs: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    trials: int | None = None,
    device: Device | str | None = None,
    kind: str = "auto",
    math: Sequence[str] = (),
    fuse: str = "neighbours",
    seed: int = 0,
    jobs: int | None = None,
    store: Store | Path | str | None = None,
    records: Records | Path | str | None = None,
    force: bool = False,
    templates: Mapping[str, Template] | None = None,
    on_trial: OnJoint | None = None,
    progress: bool | None = None,
) -> TunedModel:
    """Tune every matrix product and convolution of one forward pass of a PyTorch ``model``; the winners are published
    in the store, where ``gt.matmul``, ``gt.conv2d`` and the operators and modules of ``gpu_tune.torch`` find them.

    ``model``: a ``torch.nn.Module`` (in the mode it is in) or an ``ExportedProgram``; ``example_inputs`` and
    ``kwargs``: the arguments of a call, whose shapes, dtypes and strides decide what is tuned. ``math`` permits
    arithmetic beyond strict (``tf32``, ``winograd``) for the workloads it means something for; ``fuse``: what becomes a
    part of a kernel (``neighbours``, ``modules``, ``none``: see :func:`gpu_tune.torch.extract.extract`).

    ``seconds`` (600 unless ``trials`` is given) and ``trials`` are for all layers together, recorded ones included: the
    same call resumes. Who gets the next trials is decided by the gain expected for the pass. ``device``, ``kind``,
    ``seed``, ``jobs``, ``store``, ``records``, ``force`` and ``progress`` as for :func:`gpu_tune.tune`; without a GPU
    times are predicted, and say so. Ctrl-C ends the search and keeps the best so far. ``on_trial`` gets a
    :class:`~gpu_tune.tuner.together.JointProgress`.

    Raises
    InvalidInput (PyTorch is missing, the model cannot be exported, a bad budget), StoreError, MeasureError, or NotTuned
    when no layer got a kernel.
    """
    if seconds is None and trials is None:
        seconds = SECONDS
    JointBudget(seconds, trials)
    chosen, source = select_device(device, kind)
    found = extracted(model, example_inputs, kwargs, math=math, fuse=fuse)
    found, weights = supported(found, chosen, templates)
    if not weights:
        reasons = "; ".join(f"{p.operation}: {p.reason}" for p in found.left_out[:3])
        raise NotTuned(f"no kernel family computes any layer of {found.model} on {chosen.name} ({reasons})")
    looks = on_trial is None and somebody_looks() if progress is None else progress
    with JointLive(found.model, quiet=not looks) as live:

        def tell(state: JointProgress) -> None:
            live.update(state)
            if on_trial is not None:
                on_trial(state)

        joint = tune_together(
            weights,
            device=device,
            kind=kind,
            seconds=seconds,
            trials=trials,
            seed=seed,
            jobs=jobs,
            store=store,
            records=records,
            force=force,
            templates=templates,
            on_trial=tell,
        )
    if not joint.kernels:
        why = next(iter(joint.failed.values()), "no trial was made")
        raise NotTuned(f"no layer of {found.model} got a kernel on {chosen.name}: {why}")
    results = []
    for layer in found.layers:
        kernel = joint.kernels.get(layer.workload)
        reason = "" if kernel else joint.failed.get(layer.workload, "the budget ended before its first trial")
        results.append(LayerResult(layer, kernel, reason, weight_of(layer, kernel)))
    results.sort(key=lambda r: (r.weight is None, -(r.weight or 0.0), -r.layer.flops))
    tuned = TunedModel(
        found,
        tuple(results),
        chosen.chip,
        chosen.name,
        source,
        joint.complete,
        joint.seconds,
        joint.trials,
        joint.ended,
        tuple(joint.slices),
    )
    explicit = opened(store)
    if explicit is not None and explicit.folder != Store().folder:
        return replace(tuned, no_forward="the winners are in a store of their own, where a model's calls do not look")
    return _with_forward(tuned, model, example_inputs, kwargs, math=math, fuse=fuse)


def extracted(model: Any, example_inputs: Any, kwargs: Mapping[str, Any] | None, **options: Any) -> Extraction:
    """What a model multiplies (:func:`gpu_tune.torch.extract.extract`); InvalidInput where PyTorch is missing."""
    try:
        from ..torch.extract import extract
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        remedy = "pip install 'gpu_tune[torch]'"
        raise InvalidInput("tune_model", ..., "needs PyTorch, which is not installed", remedy) from error
    return extract(model, example_inputs, kwargs, **options)


def supported(
    found: Extraction, device: Device, templates: Mapping[str, Template] | None
) -> tuple[Extraction, dict[Any, float]]:
    """The extraction with epilogues that a kernel family of the device has, and the layers that none computes left out;
    and by workload its calls in one pass."""
    from ..torch.extraction import LeftOut

    layers: dict[Any, Layer] = {}
    left_out = list(found.left_out)
    for layer in found.layers:
        try:
            workload = _fitting(layer.workload, lambda w: bind(w, device, templates))
        except Unsupported as error:
            reason = str(error).partition(": ")[2] or str(error)
            left_out.append(LeftOut(layer.workload.key, layer.count, layer.names, layer.flops, reason))
            continue
        known = layers.get(workload)
        made = replace(layer, workload=workload)
        if known is not None:
            names = tuple(dict.fromkeys(known.names + layer.names))
            made = replace(known, count=known.count + layer.count, names=names, weights=known.weights + layer.weights)
        layers[workload] = made
    left_out.sort(key=lambda part: (part.flops is not None, -(part.flops or 0)))
    ordered = tuple(sorted(layers.values(), key=lambda layer: -layer.flops))
    return replace(found, layers=ordered, left_out=tuple(left_out)), {w: float(v.count) for w, v in layers.items()}


def _fitting(workload: Any, bound: Callable[[Any], Any]) -> Any:
    """The workload with as much of its epilogue as a family computes; Unsupported where none computes it bare."""
    steps = workload.epilogue.split("+") if workload.epilogue else []
    for kept in range(len(steps), -1, -1):
        shorter = replace(workload, epilogue="+".join(steps[:kept]))
        with contextlib.suppress(Unsupported):
            bound(shorter)
            return shorter
    bound(workload)  # says why
    return workload


def _with_forward(
    tuned: TunedModel, model: Any, example_inputs: Any, kwargs: Mapping[str, Any] | None, **options: Any
) -> TunedModel:
    """``tuned`` with the time of a pass before, and with the layers replaced and rewritten, where there is a GPU."""
    if tuned.source != MEASURED:
        return replace(tuned, no_forward="there is no GPU here: no pass was timed")
    from ..torch.forward import compare, why_not

    reason = why_not(model, example_inputs, kwargs)
    if reason:
        return replace(tuned, no_forward=reason)
    return replace(tuned, forward=compare(model, example_inputs, kwargs, **options))
