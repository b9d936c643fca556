"""The toy template, and a user's folder on a machine without a GPU."""

from __future__ import annotations

import pytest

from gpu_tune.cuda import driver
from tests.helpers import toy


@pytest.fixture(scope="session")
def templates(tmp_path_factory):
    return {"toy": toy.make(tmp_path_factory.mktemp("toy"))}


@pytest.fixture
def home(home, request, monkeypatch):
    if "fake_cuda" not in request.fixturenames:
        monkeypatch.setattr(driver, "library", lambda: None)
    return home
