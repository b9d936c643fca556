"""The kernel of a workload that nobody tuned: a family's default config, compiled now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..cuda import nvrtc
from ..cuda.device import Device
from ..errors import CompilerMissing, NotTuned
from ..store.winner import Compiler, Winner
from ..store.winner_set import SizeRange, WinnerSet
from ..templates.base import Template
from ..templates.bound import BoundTemplate
from ..templates.registry import bind
from ..workload import Workload, tune_command
from .emit import emit
from .kernel import TunedKernel
from .kernel_set import KernelSet


def preferred(found: Sequence[BoundTemplate]) -> list[BoundTemplate]:
    """The most specialised first: families for one kind of workload alone, then by the compute capability demanded."""
    return sorted(found, key=lambda b: (not b.template.special, -b.template.only_cc, -b.template.min_cc, b.name))


def untuned(
    workload: Workload, device: Device, source: str, templates: Mapping[str, Template] | None
) -> TunedKernel | KernelSet:
    """The default of the most specialised template that has one; see :func:`preferred`."""
    if not nvrtc.available():
        raise CompilerMissing(
            f"{workload.key} is not tuned for {device.chip}, and there is no NVRTC to compile its default; "
            f"run: {tune_command(workload)} on a machine that has one"
        )
    for bound in preferred(bind(workload, device, templates)):
        config = bound.space().default()
        if config is None:
            continue
        rendered = bound.render(config)
        untuned = Winner.of(
            bound,
            config,
            rendered,
            nvrtc.to_cubin(rendered.source, device.arch).data,
            source=source,
            seconds=0.0,
            compiler=Compiler("nvrtc", nvrtc.identity()),
            options=nvrtc.all_options(device.arch),
            verdict={"text": "untuned default config, not timed", "ours": "unknown"},
            complete=False,
        )
        untuned = replace(untuned, code=emit(untuned))
        size = workload.open
        if size is None:
            return TunedKernel(untuned, match="default")
        whole = (SizeRange(*size.bounds, 0),)
        return KernelSet(WinnerSet(workload, device.chip, source, (untuned,), whole, complete=False), match="default")
    raise NotTuned(
        f"{workload.key} is not tuned for {device.chip} and no template's default fits; run: {tune_command(workload)}"
    )
