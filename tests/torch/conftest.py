"""No GPU unless a test says so, and no word about CPU tensors where that is not the subject."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from gpu_tune.cuda import driver
from gpu_tune.torch import routes

torch.set_num_threads(1)  # threads that wait for each other's turn would cost more than such small tensors do


@pytest.fixture(autouse=True)
def quiet_on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_said", True)
    if not {"fake_cuda", "gpu"} & set(request.fixturenames):
        monkeypatch.setattr(driver, "library", lambda: None)
    routes.forget()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``GPU_TUNE_TORCH_TESTS=quick``, as in continuous integration, the slow ones of this room are left out."""
    if os.environ.get("GPU_TUNE_TORCH_TESTS") == "quick":
        here = Path(__file__).parent
        slow = [item for item in items if here in item.path.parents and item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
