"""Where a campaign runs: device and kind, how far everything is shrunk, and the templates it is about."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_tune.cuda import driver
from gpu_tune.cuda.device import DEFAULT, Device, by_name
from gpu_tune.space.knob import Knob
from gpu_tune.store.records import Records
from gpu_tune.store.store import Store
from gpu_tune.templates.base import Template
from gpu_tune.templates.registry import registry

BOX = 40.0
"""Seconds that tuning one workload may take."""


class Setup:
    """``kind`` is auto, gpu or predicted, ``device`` the chip predicted for; ``scale`` below 1 shrinks counts and boxes
    for a rehearsal; ``toy`` puts a small kernel in the place of all templates; ``jobs`` 0 compiles on all CPUs.

    Raises SystemExit when kind is gpu and there is none.
    """

    def __init__(
        self, out: Path, kind: str, device: str | None, scale: float, seed: int, *, toy: bool = False, jobs: int = 0
    ) -> None:
        found = driver.detect_device() if kind != "predicted" else None
        if kind == "gpu" and found is None:
            raise SystemExit("no CUDA GPU was found; rehearse with --kind predicted")
        self.out, self.scale, self.seed, self.jobs = out, scale, seed, jobs or None
        self.kind = "gpu" if found is not None else "predicted"
        self.device: Device = found or by_name(device or DEFAULT)
        self.rehearsal = self.kind == "predicted" or toy or bool(os.environ.get("GPU_TUNE_LIBCUDA"))
        self.only: Mapping[str, Template] | None = self._toy() if toy else None
        self.end = math.inf  # of the slice, as time.monotonic tells it

    def _toy(self) -> dict[str, Template]:
        from tests.helpers import toy

        folder = self.out / "toy"
        folder.mkdir(parents=True, exist_ok=True)
        made = toy.make(folder)
        knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in made.knobs)
        return {"toy": dataclasses.replace(made, knobs=knobs)}

    @property
    def toy(self) -> bool:
        """Whether a small kernel stands for all templates."""
        return self.only is not None

    @functools.cached_property
    def templates(self) -> Mapping[str, Template]:
        """The templates by name, those that matter most first: matmul, then tensor cores of Hopper."""
        known = registry() if self.only is None else self.only
        return {n: known[n] for n in sorted(known, key=lambda n: (not n.startswith("matmul"), "wgmma" not in n, n))}

    @property
    def store(self) -> Store:
        """The campaign's winners."""
        return Store(self.out / "store" / "kernels")

    @property
    def records(self) -> Records:
        """The campaign's trials."""
        return Records(self.out / "store" / "records")

    @property
    def logs(self) -> Path:
        """Where the programs among the checks leave what they say."""
        return self.out / "logs"

    def count(self, n: int) -> int:
        """``n`` at this scale, at least 2."""
        return max(2, round(n * self.scale))

    @property
    def box(self) -> dict[str, Any]:
        """The limit of one tuning, as ``tune`` takes it."""
        return {"seconds": BOX} if self.scale >= 1 else {"trials": 12}

    @property
    def common(self) -> dict[str, Any]:
        """What ``tune`` and ``open_measurer`` are told alike."""
        device = None if self.kind == "gpu" else self.device
        return dict(kind=self.kind, device=device, seed=self.seed, jobs=self.jobs, templates=self.only)
