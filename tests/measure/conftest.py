"""The toy template, for every test of this folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import toy

from gpu_tune.templates.base import Template
from gpu_tune.trial import Candidate
from gpu_tune.workload import Matmul


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Template]:
    return {"toy": toy.make(tmp_path_factory.mktemp("toy"))}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that all tests share, so that the same source is compiled once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def workload() -> Matmul:
    return Matmul(20, 18, 16, dtype="float32", ldc=24)


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    def make(**changes: Any) -> Candidate:
        return Candidate("toy", toy.config(**changes))

    return make
