"""The toy template, made once, and winners for the H200 without a tuning."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.plan import LaunchPlan
from gpu_tune.space.knob import Config
from gpu_tune.store.store import Winner
from gpu_tune.store.winner_set import SizeRange, WinnerSet
from gpu_tune.templates.base import Template, render
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.workload import Workload
from tests.helpers import toy

H200 = by_name("nvidia-h200")


@functools.cache
def toy_template() -> Template:
    """The toy template, its source in a folder that lives as long as the process."""
    folder = tempfile.TemporaryDirectory()
    toy_template.folder = folder  # type: ignore[attr-defined]
    return toy.make(Path(folder.name))


def winner(workload: Workload, code: str, plan: LaunchPlan, **more: Any) -> Winner:
    """A predicted winner for the H200 with that source and plan, really compiled."""
    body: dict[str, Any] = dict(chip=H200.chip, device="nvidia-h200", arch="sm_90a", template="t", template_hash="h")
    body.update(config=Config(x=1), source="predicted", seconds=1e-6, cubin=nvrtc.to_cubin(code, "sm_90a").data)
    return Winner(workload=workload, plan=plan, code=code, **{**body, **more})


def toy_winner_for(workload: Workload, **changes: Any) -> Winner:
    """A winner of the toy template."""
    template, config = toy_template(), toy.config(**changes)
    return winner(workload, render(template, config, workload, H200), template.plan(config, workload, H200))


def toy_set(workload: Workload, sizes: Sequence[int], ranges: Sequence[SizeRange], **more: Any) -> WinnerSet:
    """A set of toy kernels for a workload with an open size: one tuned at each of ``sizes``, in other configs."""
    template = replace(toy_template(), open_sizes=("m",))
    kernels = []
    for number, size in enumerate(sizes):
        bound = BoundTemplate(template, workload.at(size), H200, None, workload.open)
        config = toy.config(rows=2 ** (number + 1))
        rendered = bound.render(config)
        assert rendered.open_plan is not None
        kernels.append(winner(bound.workload, rendered.source, rendered.open_plan, config=config, open=("m",), **more))
    return WinnerSet(workload, H200.chip, kernels[0].source, tuple(kernels), tuple(ranges), tuple(sizes))
