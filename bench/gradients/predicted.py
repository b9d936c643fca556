"""Predicted times of the default configs of a layer's forward convolution and of its gradients, beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import Device
from gpu_tune.kernel.emit import limits
from gpu_tune.model.performance.prediction import Prediction, predict
from gpu_tune.report import suites, summary
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import bind
from gpu_tune.workload import Conv2d

BATCH = 32
LAYERS = tuple(
    Conv2d(BATCH, c, size, size, k, r, r, stride=stride, padding=r // 2, dtype="float16")
    for c, size, k, r, stride in (
        (64, 56, 64, 3, 1),
        (128, 56, 128, 3, 2),
        (128, 28, 128, 3, 1),
        (256, 14, 256, 3, 1),
        (512, 7, 512, 3, 1),
        (256, 56, 512, 1, 2),
    )
)
"""Layers of ResNet-50 that no matmul computes."""
DIRECTIONS = ("fprop", "dgrad", "wgrad")
FALLBACKS = ("conv2d_direct", "conv2d_dgrad_simt", "conv2d_wgrad_simt")


@dataclass(frozen=True)
class Expected:
    """One direction of a layer on one chip: the default that is predicted to be the fastest.

    ``pipe``: the workload's arithmetic at the chip's peak rate over the predicted time, the share of the tensor pipe;
    ``roofline``: likewise of what its arithmetic or its memory traffic takes at least. ``fallback``: predicted seconds
    of the default of the family that computes everything. ``limits``: what takes the time, the largest cause first.
    """

    layer: str
    direction: str
    device: str
    template: str
    seconds: float
    fallback: float
    pipe: float
    roofline: float
    limits: str


def layers(suite: str) -> list[tuple[str, Conv2d]]:
    """Forward convolutions of the workloads of ``suite``, each once, with short names."""
    found = dict.fromkeys(
        replace(entry.workload, direction="fprop", beta="0")
        for entry in suites.load(suite).entries
        if isinstance(entry.workload, Conv2d)
    )
    return [(name(w), w) for w in found]


def usual() -> list[tuple[str, Conv2d]]:
    """``LAYERS`` and those of the depthwise suite, with short names."""
    return [*((name(w), w) for w in LAYERS), *layers("mobilenet-depthwise-backward")]


def name(w: Conv2d) -> str:
    """A layer in a few words: channels x rows, filters, stride where it is not 1."""
    filters = f"depthwise {w.r}x{w.s}" if w.groups == w.c > 1 else f"{w.k} filters {w.r}x{w.s}"
    return f"{w.c} x {w.h}, {filters}" + (f", stride {w.stride[0]}" if w.stride != (1, 1) else "")


def expected(layer: str, workload: Conv2d, device: Device) -> Expected:
    """Compile and play the default of each family that computes ``workload``."""
    played = {bound.name: _played(bound, device) for bound in bind(workload, device)}
    times = {family: told.seconds for family, told in played.items()}
    best = min(times, key=lambda family: times[family])
    fallback = next(times[family] for family in FALLBACKS if family in times)
    pipe = workload.flops / summary.peak_flops(device, "fp16") / times[best]
    share = summary.roofline(workload, device) / times[best]
    words = limits(played[best].terms())
    return Expected(layer, workload.direction, device.name, best, times[best], fallback, pipe, share, words)


def _played(bound: BoundTemplate, device: Device) -> Prediction:
    rendered = bound.render(bound.default())
    cubin = nvrtc.to_cubin(rendered.source, device.arch).data
    return predict(cubin, rendered.plan, rendered.estimate, bound.computed, device)


def outlook(named: Sequence[tuple[str, Conv2d]], device: Device) -> Iterator[Expected]:
    """Every direction of every layer."""
    for layer, workload in named:
        for direction in DIRECTIONS:
            yield expected(layer, replace(workload, direction=direction), device)


def line(e: Expected) -> str:
    """A row of a table."""
    times = f"{e.seconds * 1e6:9.1f} us{e.fallback / e.seconds:8.1f} x fallback"
    shares = f"{e.pipe:6.0%} of the pipe{e.roofline:6.0%} of the roofline"
    return f"{e.layer:34}{e.direction:6}{times}{shares}  {e.template}: {e.limits}"
