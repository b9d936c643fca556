"""Kernels that hang or lose the context cost themselves alone, and not a machine's time."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpu_tune.errors import MeasureError
from gpu_tune.measure.worker import WorkerLost
from gpu_tune.plan import KernelStep, LaunchPlan
from tests.helpers.processes import HANG

PLAN = LaunchPlan((KernelStep("k", (1, 1, 1), (1, 1, 1), ()),))


def behave(request: dict[str, Any], note: Callable[[str], None]) -> dict[str, Any]:
    """In the process: what the name of the cubin says."""
    what = request.get("cubin", b"").decode()
    if what == "hang":
        time.sleep(600)
    if what == "crash":
        os._exit(3)
    if what == "lost":
        raise MeasureError("illegal address")
    return {"pid": np.array(os.getpid())}


@pytest.fixture
def conformance_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    return importlib.import_module("bench.conformance.gpu")


@pytest.mark.slow
def test_what_fails_costs_itself_and_many_that_hang_end_it(conformance_gpu: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conformance_gpu, "HANGS", 2)
    with conformance_gpu.Runner("tests.bench.test_conformance_gpu:behave") as runner:

        def run(what: str) -> int:
            runner._limit = 0.5 if what == "hang" else HANG
            return int(runner.run(what.encode(), PLAN, {}, {})["pid"])

        first = run("ok")
        assert run("ok") == first
        for what, error in (("crash", WorkerLost), ("lost", MeasureError), ("hang", WorkerLost)):
            with pytest.raises(error):
                run(what)
            assert run("ok") != first, "a process of its own after a loss"
        with pytest.raises(WorkerLost, match="killed after"):
            run("hang")
        with pytest.raises(MeasureError, match="not run: 2 kernels before it hung"):
            run("ok")
