"""These tests need a CUDA GPU; without one each says so and is skipped.

They go from simple to complex (``test_1`` ... ``test_4``), and no failure hides another: what may hang or lose its
context runs in a process of its own, with a time limit, and after a few steps of one kind that hung no more of it are
tried. What failed and what was found is printed at once, for a run may be ended before its summary; the facts of the
machine come at the end.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_tune.cuda import driver, nvml, nvrtc
from gpu_tune.cuda.device import Device
from gpu_tune.measure.worker import Worker, WorkerLost
from gpu_tune.templates.base import Template
from gpu_tune.trial import Candidate
from tests.helpers import toy, virtual_gpu

TOLD: list[str] = []
STEP_SECONDS, READY_SECONDS = 12.0, 60.0
"""For a step, and for its process to start and make a context."""
HANGS = 4
_hung: Counter[str] = Counter()
_config: pytest.Config | None = None


def pytest_configure(config: pytest.Config) -> None:
    global _config
    _config = config


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What fails says so now: the summary may never come."""
    if report.failed and "tests/gpu/" in report.nodeid:
        _say(f"\nFAILED {report.nodeid} ({report.when}, {report.duration:.1f} s)\n{report.longreprtext}")


def _say(text: str) -> None:
    reporter = _config.pluginmanager.get_plugin("terminalreporter") if _config is not None else None
    if reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(text, flush=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """One test at a time has the GPU, however many workers run tests: what one does would be in another's times."""
    if item.get_closest_marker("gpu") is None or driver.device_count() == 0:
        return (yield)
    with (Path(tempfile.gettempdir()) / f"gpu_tune_tests_{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return (yield)


@pytest.fixture(scope="session")
def gpu() -> Device:
    if driver.device_count() == 0:
        virtual = [name for name in virtual_gpu.drivers() if Path(name).name.startswith("libcuda-")]
        why = f"{virtual[0]}, of tests on a virtual one, is loaded here: run tests/gpu apart" if virtual else ""
        pytest.skip(f"needs a CUDA GPU: {why or driver.missing() or 'the driver shows none'}")
    return driver.describe()


@pytest.fixture(scope="session")
def told() -> Callable[[str], None]:
    """Something to be read now, and at the end of the run."""

    def tell(text: str) -> None:
        TOLD.append(text)
        _say(text)

    return tell


@pytest.fixture(scope="session")
def _stepping() -> Iterator[Worker]:
    child = Worker("tests.gpu.steps:handler")
    yield child
    child.kill()


@pytest.fixture
def alone(_stepping: Worker) -> Callable[..., Any]:
    """``alone(step, ...)``: the function ``step`` of steps.py, run in another process, which ends when it fails."""

    def ask(step: str, limit: float = STEP_SECONDS, **arguments: Any) -> Any:
        if _hung[step] >= HANGS:
            pytest.fail(f"{step}: not tried, {HANGS} before it hung", pytrace=False)
        try:
            if _stepping.pid is None:
                _stepping.ask({"do": "ready"}, READY_SECONDS)
            return _stepping.ask({"do": step, **arguments}, limit)
        except WorkerLost as error:
            _hung[step] += error.timed_out
            pytest.fail(f"{step}: {error}", pytrace=False)
        except BaseException:
            _stepping.kill()  # its context may be lost
            raise

    return ask


@pytest.fixture(scope="session")
def measuring() -> Iterator[Worker]:
    """The process that verifies and times when a GPU is tuned for."""
    child = Worker("gpu_tune.measure.gpu_worker:handler", {"ordinal": 0})
    yield child
    child.kill()


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Template]:
    return {"toy": toy.make(tmp_path_factory.mktemp("toy"))}


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    def make(**changes: Any) -> Candidate:
        return Candidate("toy", toy.config(**changes))

    return make


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if driver.device_count() == 0:
        return
    gpu = driver.describe()
    terminalreporter.section("GPU")
    version = "{}.{}".format(*driver.version())
    terminalreporter.line(f"{gpu.product} as {gpu.chip}, {gpu.arch}; {gpu}")
    terminalreporter.line(
        f"driver {nvml.display_version()} (CUDA {version}), NVRTC {nvrtc.version()} {nvrtc.library_path()}"
    )
    for line in TOLD:
        terminalreporter.line(line)
