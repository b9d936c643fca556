"""These tests need a CUDA GPU; without one each says so and is skipped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "measure"))

import toy

from gpu_tune import driver
from gpu_tune.device import Device
from gpu_tune.templates.base import Template
from gpu_tune.trial import Candidate


@pytest.fixture(scope="session")
def gpu() -> Device:
    if driver.device_count() == 0:
        pytest.skip("needs a CUDA GPU: the driver shows none")
    return driver.describe()


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Template]:
    return {"toy": toy.make(tmp_path_factory.mktemp("toy"))}


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    def make(**changes: Any) -> Candidate:
        return Candidate("toy", toy.config(**changes))

    return make
