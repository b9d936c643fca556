"""The forward pass of a model on a GPU, as it is, with its layers replaced and rewritten, timed in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .extraction import Forward
from .replacing import replace, restore
from .rewriting import rewrite

ROUNDS, WARM = 20, 3
"""Passes that are timed each way, in turns, and passes before them that are not."""


def why_not(model: Any, example_inputs: Any, kwargs: Mapping[str, Any] | None) -> str:
    """Why a pass of ``model`` cannot be timed here; empty where it can."""
    if not isinstance(model, torch.nn.Module):
        return "an exported program has no layers to replace"
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [t for t in (*inputs, *(kwargs or {}).values()) if isinstance(t, torch.Tensor)]
    places = sorted({t.device.type for t in tensors})
    return "" if places == ["cuda"] else f"model and example inputs are on {', '.join(places) or 'no device'}"


def on_gpu(call: Callable[[], Any]) -> float:
    """Seconds of one call on the GPU, what the host takes to issue it included."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def compare(
    model: torch.nn.Module,
    example_inputs: Any,
    kwargs: Mapping[str, Any] | None,
    *,
    math: Sequence[str] = (),
    fuse: str = "neighbours",
    rounds: int = ROUNDS,
    timed: Callable[[Callable[[], Any]], float] = on_gpu,
) -> Forward:
    """Medians of ``rounds`` passes each way, in turns, so that clocks and temperature are the same for all. The model
    is as it was afterwards. ``math``, ``fuse``: what it was tuned with. ``timed``: what tells the seconds of a call."""
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    already = bool(restore(model))
    rewritten = rewrite(model, inputs, kwargs, math=math, fuse=fuse)

    def once(module: Any) -> float:
        def call() -> Any:
            with torch.no_grad():
                return module(*inputs, **dict(kwargs or {}))

        return timed(call)

    times: list[tuple[float, float, float]] = []
    layers = 0
    for _ in range(WARM + rounds):
        before = once(model)
        try:
            layers = len(replace(model).replaced)
            after = once(model)
        finally:
            restore(model)
        times.append((before, after, once(rewritten)))
    if already:
        replace(model)
    before, after, fused = (statistics.median(column) for column in zip(*times[WARM:]))
    return Forward(before, after, fused, rounds, layers)
