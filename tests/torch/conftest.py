"""No GPU unless a test says so, and no word about CPU tensors where that is not the subject."""

from __future__ import annotations

import pytest

from gpu_tune.cuda import driver
from gpu_tune.torch import routes


@pytest.fixture(autouse=True)
def quiet_on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_said", True)
    if not {"fake_cuda", "gpu"} & set(request.fixturenames):
        monkeypatch.setattr(driver, "library", lambda: None)
    routes.forget()
