"""What ptxas says of the gradients' defaults and seeds: registers and spills, on chips of four generations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpu_tune.cuda import cubin, nvrtc
from gpu_tune.cuda.device import Device, by_name
from gpu_tune.templates.registry import bind
from gpu_tune.verify.draw import random_config
from gpu_tune.workload import Conv2d

DEVICES = ("nvidia-a100", "nvidia-rtx-3090", "nvidia-h200", "nvidia-rtx-5090")
"""sm_80, sm_86, sm_90a and sm_120."""
_STRIDED = Conv2d(32, 128, 56, 56, 128, 3, 3, stride=2, padding=1, dtype="float16")
_DEEP = Conv2d(32, 512, 7, 7, 512, 3, 3, padding=1, dtype="float16")
_DEPTHWISE = Conv2d(32, 128, 56, 56, 128, 3, 3, padding=1, groups=128, dtype="float16")
LAYERS = (_STRIDED, _DEEP, _DEPTHWISE, replace(_DEPTHWISE, stride=(2, 2)))
"""Of the suites resnet50-backward (many pixels and a stride of 2; many channels and one of 1) and
mobilenet-depthwise-backward."""
WORKLOADS = tuple(replace(w, direction=direction) for w in LAYERS for direction in ("dgrad", "wgrad"))


@dataclass(frozen=True)
class Row:
    """One config. ``kind``: default, seed or random; ``spilled``: bytes of spill stores and loads in the code."""

    workload: str
    arch: str
    template: str
    kind: str
    registers: int
    spilled: int
    stack: int
    config: str


def rows(workload: Conv2d, device: Device, seeds: bool, drawn: int) -> Iterator[Row]:
    """The default, with ``seeds`` those, and ``drawn`` random configs, of every convolution family that computes
    ``workload`` on ``device``."""
    for bound in bind(workload, device):
        if not bound.name.startswith("conv2d"):
            continue
        space, rng = bound.space(), np.random.default_rng([7, *bound.name.encode()])
        default, known = space.default(), space.seeds() if seeds else []
        others = [random_config(bound.template, workload, device, rng) for _ in range(drawn)]
        for config in dict.fromkeys(c for c in (default, *known, *others) if c is not None):
            rendered = bound.render(config)
            compiled = nvrtc.to_cubin(rendered.source, device.arch)
            facts, told = cubin.read(compiled.data).kernels, cubin.read_log(compiled.log)
            names = [step.kernel for step in rendered.plan.kernels]
            registers, stack = (max(getattr(facts[n], w) for n in names) for w in ("registers", "stack_bytes"))
            spilled = max(told[n].spill_bytes for n in names)
            kind = "default" if config == default else "seed" if config in known else "random"
            words = ", ".join(f"{knob}={value}" for knob, value in config.items())
            yield Row(workload.key, device.arch, bound.name, kind, registers, spilled, stack, words)


def lines(
    names: Sequence[str], workloads: Sequence[Conv2d], seeds: bool, drawn: int, found: list[Row]
) -> Iterator[str]:
    """A line for each chip and family, and one for each config that spills; all rows are put into ``found``."""
    for device in map(by_name, names):
        new = [row for workload in workloads for row in rows(workload, device, seeds, drawn)]
        found += new
        for family in sorted({row.template for row in new}):
            mine = [row for row in new if row.template == family]
            most, spilling = max(row.registers for row in mine), [row for row in mine if row.spilled]
            yield f"{device.arch:8}{family:24}{len(mine):4} configs, up to {most} registers, {len(spilling)} spill"
            for row in spilling:
                yield f"    {row.kind} of {row.workload}: {row.spilled} bytes; {row.config}"
