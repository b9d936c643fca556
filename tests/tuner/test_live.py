"""Progress is shown where somebody looks: on a terminal, in a notebook."""

from __future__ import annotations

import io
import sys
import time
import types
from typing import Any

import pytest

from gpu_tune.cuda.device import by_name
from gpu_tune.emulator import build
from gpu_tune.errors import EmulationError
from gpu_tune.tuner import live, tune
from gpu_tune.tuner.budget import Budget, Progress
from gpu_tune.workload import Matmul

W = Matmul(64, 64, 64, dtype="float32")


class Stopped(Exception):
    """As far as these tests go."""


def progress() -> Progress:
    return Progress(W, by_name("nvidia-h200"), "predicted", Budget(4, None, "full", None))


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A notebook's IPython, and what its cell has shown."""
    shown: list[str] = []

    def display(data: dict[str, str], raw: bool, display_id: bool) -> Any:
        assert raw and display_id
        shown.append(data["text/plain"])
        return types.SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))

    shell = type("ZMQInteractiveShell", (), {})()
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    modules = {"IPython": ipython, "IPython.display": types.SimpleNamespace(display=display)}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return shown


def test_a_notebooks_cell_shows_one_line_that_changes(notebook: list[str]):
    assert live.somebody_looks()
    now, stream = progress(), io.StringIO()
    with live.Live("title", stream=stream) as told:
        for phase in ("prepare", "search", "search", "finals"):
            now.phase = phase
            told.update(now)
    assert [line.partition(";")[0] for line in notebook] == [
        "title: preparing the search",
        "title: 0/4 trials, 0 s",
        "title: checking and re-timing the finalists",
    ]
    assert not stream.getvalue()
    with live.Live("title", stream=stream, quiet=True) as told:
        told.update(now)
    assert len(notebook) == 3


def test_a_terminal_is_looked_at_and_a_file_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not live.somebody_looks()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert live.somebody_looks()


@pytest.mark.parametrize(
    "looked_at, options, shown",
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"progress": False}, False),
        (False, {"progress": True}, True),
        (True, {"on_trial": lambda progress: None}, False),
    ],
)
def test_tune_shows_its_progress_by_default_where_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, home: Any, looked_at: bool, options: dict[str, Any], shown: bool
):
    made: list[bool] = []

    class Recorder(live.Live):
        def __init__(self, title: str, *, quiet: bool) -> None:
            super().__init__(title, quiet=quiet)
            made.append(not quiet)

        def update(self, progress: Progress) -> None:
            raise Stopped

    monkeypatch.setattr(tune, "somebody_looks", lambda: looked_at)
    monkeypatch.setattr(tune, "Live", Recorder)
    with pytest.raises(Stopped):
        tune.tune(W, trials=2, device="nvidia-h200", **options)
    assert made == [shown]


@pytest.mark.parametrize("fails", [False, True])
def test_an_emulator_that_is_not_built_yet_is_built_first_and_said_and_counted_apart(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: bool
):
    clock = [time.monotonic()]

    def built() -> None:
        clock[0] += 60.0
        if fails:
            raise EmulationError("no room for g++")

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    now, said = progress(), list[str]()
    now.started = clock[0]
    monkeypatch.setattr(build, "ready", lambda: False)
    monkeypatch.setattr(build, "library", built)
    tune._build_emulator(now, lambda p: said.append(live.plain("title", p)))
    assert said == [f"title: {build.ANNOUNCED}"] and now.phase == "prepare"
    assert now.building == 60.0 and now.seconds == 0.0
    assert ("no room for g++: kernels are not executed" in caplog.text) == fails
    monkeypatch.setattr(build, "ready", lambda: True)
    tune._build_emulator(now, lambda p: said.append("again"))
    assert len(said) == 1
