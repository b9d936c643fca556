"""Predicted times of the default configs of a layer's forward convolution and of its gradients, beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import Device
from gpu_tune.model.performance.prediction import predict
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


def best(workload: Conv2d, device: Device) -> tuple[float, str, str]:
    """Seconds, family and limiter of the default config that is predicted to be the fastest."""
    found = []
    for bound in bind(workload, device):
        config = bound.default()
        if bound.violations(config):
            continue
        rendered = bound.render(config)
        cubin = nvrtc.to_cubin(rendered.source, device.arch).data
        told = predict(cubin, rendered.plan, rendered.estimate, bound.computed, device)
        found.append((told.seconds, bound.name, told.limiter))
    return min(found)


def lines(device: Device) -> Iterator[str]:
    """A table's rows: each layer's directions with their rates."""
    yield f"predicted for {device.name}, default configs, float16, n = {BATCH}: TFLOP/s (family, what limits it)"
    for layer in LAYERS:
        words = []
        for direction in ("fprop", "dgrad", "wgrad"):
            seconds, family, limiter = best(replace(layer, direction=direction), device)
            words.append(f"{direction} {layer.flops / seconds / 1e12:.0f} ({family}, {limiter})")
        name = f"{layer.c} x {layer.h}, {layer.k} filters {layer.r}x{layer.s}, stride {layer.stride[0]}"
        yield f"{name}: {'; '.join(words)}"
