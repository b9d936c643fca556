"""The toy template, for every test of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_tune.cuda.device import by_name
from gpu_tune.measure import baselines, runtime
from gpu_tune.measure.check import Checker
from gpu_tune.measure.device_data import DeviceData
from gpu_tune.measure.worker import no_note
from gpu_tune.templates.base import Template
from gpu_tune.trial import Candidate
from gpu_tune.workload import Matmul
from tests.helpers import toy


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Template]:
    return {"toy": toy.make(tmp_path_factory.mktemp("toy"))}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, compiled_once: Path) -> Path:
    """A store for tests that leave nothing in it but compiled sources."""
    return linked(tmp_path_factory.mktemp("store"), compiled_once)


@pytest.fixture
def new_store(tmp_path: Path, compiled_once: Path) -> Path:
    """A new store, but for what has been compiled before."""
    return linked(tmp_path / "store", compiled_once)


def linked(folder: Path, compiled_once: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "compiled").symlink_to(compiled_once)
    return folder


@pytest.fixture
def workload() -> Matmul:
    return Matmul(20, 18, 16, dtype="float32", ldc=24)


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    def make(**changes: Any) -> Candidate:
        return Candidate("toy", toy.config(**changes))

    return make


@pytest.fixture
def stream(fake_cuda: Path) -> runtime.Stream:
    """A stream of the virtual GPU."""
    runtime.start(0)
    return runtime.new_stream()


@pytest.fixture
def prepared(fake_cuda: Path) -> Iterator[Any]:
    """Asks for one baseline of a workload on the virtual GPU; see :func:`gpu_tune.measure.baselines.prepare`."""
    runtime.start(0)
    owned: list[Any] = []

    def prepare(workload: Any, name: str) -> Any:
        stream = runtime.new_stream()
        data = DeviceData(workload, 0, 4096)
        owned.append(data)
        return baselines.prepare((name,), data, Checker(data, stream), stream, by_name("nvidia-h200"), no_note)

    yield prepare
    for data in owned:
        data.close()
