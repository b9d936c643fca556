"""What tests of several rooms need: arrays on the virtual GPU, winners of the toy template."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpu_tune.cuda import memory, nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.plan import LaunchPlan
from gpu_tune.space.knob import Config
from gpu_tune.store.store import Winner
from gpu_tune.templates.base import Template, render
from gpu_tune.workload import Workload
from tests.helpers import toy

H200 = by_name("nvidia-h200")


class OnGpu:
    """An array in the virtual GPU's memory, known by its __cuda_array_interface__ alone."""

    def __init__(self, array: np.ndarray, offset: int = 0) -> None:
        self.spec = SimpleNamespace(shape=array.shape, strides=array.strides, dtype=array.dtype)
        self.span = sum((d - 1) * s for d, s in zip(array.shape, array.strides)) + array.itemsize
        self.address = memory.allocate(self.span + 64) + offset
        memory.upload(
            self.address, np.frombuffer((ctypes.c_ubyte * self.span).from_address(array.ctypes.data), np.uint8).copy()
        )

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "shape": spec.shape,
            "typestr": spec.dtype.str,
            "data": (self.address, False),
            "strides": spec.strides,
            "version": 3,
        }

    def get(self) -> np.ndarray:
        """A copy on the host, once all work is done."""
        memory.synchronize()
        raw = memory.download(self.address, self.span)
        return np.ndarray(self.spec.shape, self.spec.dtype, raw.tobytes(), 0, self.spec.strides)


@functools.cache
def toy_template() -> Template:
    """The toy template, its source in a folder that lives as long as the process."""
    folder = tempfile.TemporaryDirectory()
    toy_template.folder = folder  # type: ignore[attr-defined]
    return toy.make(Path(folder.name))


def gt_replace(template: Template, **changes: Any) -> Template:
    """``template`` with other fields."""
    return replace(template, **changes)


def winner(workload: Workload, code: str, plan: LaunchPlan, **more: Any) -> Winner:
    """A predicted winner for the H200 with that source and plan, really compiled."""
    body: dict[str, Any] = dict(chip=H200.chip, device="nvidia-h200", arch="sm_90a", template="t", template_hash="h")
    body.update(config=Config(x=1), source="predicted", seconds=1e-6, cubin=nvrtc.to_cubin(code, "sm_90a").data)
    return Winner(workload=workload, plan=plan, code=code, **{**body, **more})


def toy_winner_for(workload: Workload, **changes: Any) -> Winner:
    """A winner of the toy template."""
    template, config = toy_template(), toy.config(**changes)
    return winner(workload, render(template, config, workload, H200), template.plan(config, workload, H200))
