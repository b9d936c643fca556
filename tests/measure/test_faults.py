"""Faults, with real processes and real signals: one costs one config, and nothing else is lost or damaged.

Kernels go wrong on the virtual GPU, whose driver really hangs, crashes and loses its context.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpu_tune.cuda import nvrtc
from gpu_tune.errors import EnvironmentFault, MeasureError
from gpu_tune.measure.gpu import GpuMeasurer, _outside
from gpu_tune.measure.messages import FinalsRequest, TrialReply, TrialRequest
from gpu_tune.measure.select import make_measurer
from gpu_tune.measure.worker import Stage, Worker, WorkerLost
from gpu_tune.templates.base import Template
from gpu_tune.trial import Candidate
from gpu_tune.workload import Matmul
from tests.helpers.processes import HANG, gone, python, started, stopped, wait_until

Make = Callable[..., Candidate]
HERE = Path(__file__).parents[2]


@pytest.fixture
def opened(
    fake_cuda: Path, templates: dict[str, Template], workload: Matmul, new_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., GpuMeasurer]:
    def make(**options: Any) -> GpuMeasurer:
        made = make_measurer(
            workload, kind="gpu", templates=templates, store=new_store, jobs=1, run_limit=1.0, **options
        )
        assert isinstance(made, GpuMeasurer)
        for child in made.children:
            monkeypatch.setattr(child, "ask", patient(child.ask))
        return made

    return make


def patient(ask: Callable[..., Any]) -> Callable[..., Any]:
    """``ask`` of a child, with the time limits it is given only for candidates that hang; a busy machine is slow."""

    def longer(request: Any, timeout: Any) -> Any:
        def limit(stage: Stage) -> float:
            given = timeout(stage) if callable(timeout) else timeout
            hangs = "hang" in (stage.subject or str(request))
            return float(given if hangs else HANG)

        return ask(request, limit)

    return longer


FATAL = {"hang": "run_timeout", "crash": "run_error", "illegal": "run_error", "trap": "run_error"}
HARMLESS = {"guard": "wrong", "partial": "wrong", "race": "wrong", "wrong": "wrong", "shared": "launch_error", "syntax": "compile_error"}  # fmt: skip # noqa: E501


def test_each_fault_costs_its_own_config_and_killers_are_known_to_the_next_run(
    opened: Callable[..., GpuMeasurer], candidate: Make
):
    good = [candidate(rows=r) for r in (1, 2, 4, 8)]
    faults = {candidate(fault=f): s for f, s in {**FATAL, **HARMLESS}.items()}
    mixed = [c for pair in zip(faults, good * 3) for c in pair]
    with opened() as m:
        ends = {c: m.submit(c) for c in mixed}
        found = {c: f.result(HANG) for c, f in ends.items()}
        restarts = m.children[0].restarts
    assert {c: found[c].status for c in faults} == faults
    assert all(found[c].status in ("ok", "duplicate") for c in good)
    assert restarts == len(FATAL), "one new child for each lost one"
    assert "SIGSEGV" in found[candidate(fault="crash")].reason and "first run" in found[candidate(fault="hang")].reason
    assert "ILLEGAL_ADDRESS" in found[candidate(fault="illegal")].reason
    with opened() as m:
        again = {f: m.submit(candidate(fault=f)).result(HANG) for f in FATAL}
        assert {f: a.status for f, a in again.items()} == dict.fromkeys(FATAL, "quarantined")
        assert m.children[0].restarts <= 0 and m.submit(candidate(rows=4)).result(HANG).status == "ok"


@pytest.mark.slow
def test_a_template_whose_configs_hang_is_given_up_before_it_eats_the_time(
    opened: Callable[..., GpuMeasurer], candidate: Make
):
    hangs = [candidate(fault="hang", rows=r) for r in (1, 2, 4, 8)]
    with opened() as m:
        assert m.submit(candidate(rows=1)).result(HANG).status == "ok"
        ends = [m.submit(c).result(HANG) for c in (*hangs, candidate(rows=2))]
    assert [e.status for e in ends] == ["run_timeout"] * 3 + ["quarantined"] * 2
    assert "3 of 4 configs of toy hung" in ends[-1].reason


@pytest.mark.slow
def test_finalists_of_a_template_that_hangs_are_not_all_waited_for(opened: Callable[..., GpuMeasurer], candidate: Make):
    with opened(baselines=()) as m:
        found = m.finals([candidate(fault="hang", rows=r) for r in (1, 2, 4, 8)] + [candidate(rows=8)])
        assert m.children[0].restarts <= 3
    assert found.winner is None
    assert [c.status for c in found.finalists].count("run_error") == 3
    assert [c.status for c in found.finalists].count("quarantined") == 2


def killed_at(child: Worker, kind: type, left: list[int]) -> None:
    """From now on ``child`` is killed from outside at the next ``left[0]`` requests of ``kind``.

    It is stopped before the request is sent: so it has the request, and no answer, when it is killed.
    """
    ask = child.ask

    def killed(request: Any, timeout: Any) -> Any:
        pid = child.pid
        if not (isinstance(request, kind) and left[0] and pid is not None):
            return ask(request, timeout)
        left[0] -= 1
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: stopped(pid))

        def sent(stage: Stage) -> float:
            os.kill(pid, signal.SIGKILL)
            return float(timeout(stage) if callable(timeout) else timeout)

        return ask(request, sent)

    child.ask = killed  # type: ignore[method-assign]


@pytest.mark.parametrize("times", [1, 3])
def test_a_child_killed_from_outside_costs_no_config(
    opened: Callable[..., GpuMeasurer], candidate: Make, caplog: pytest.LogCaptureFixture, times: int
):
    """By an out-of-memory killer, say: the trial is tried again; when it is lost again and again, it is no trial."""
    with opened() as m:
        killed_at(m.children[0], TrialRequest, [times])
        trial = m.submit(candidate())
        if times < 3:
            assert trial.result(HANG).status == "ok"
        else:
            with pytest.raises(EnvironmentFault, match=r"lost 3 times for a reason outside of it.*SIGKILL"):
                trial.result(HANG)
        assert caplog.text.count("it is tried again") == 1
        assert m.submit(candidate(rows=2)).result(HANG).status == "ok"
        assert not m.journal or not m.journal.killers()


@pytest.mark.parametrize("times", [1, 3])
def test_memory_that_other_processes_hold_is_no_fault_of_a_config(
    opened: Callable[..., GpuMeasurer], candidate: Make, caplog: pytest.LogCaptureFixture, times: int
):
    """The trial is tried again; where others keep the memory, it is no trial, and nothing is recorded of the config."""
    full = TrialReply("launch_error", "out of device memory; other processes hold 130.0 of 139.0 GiB", outside=True)
    with opened() as m:
        child, left = m.children[0], [times]
        ask = child.ask

        def crowded(request: Any, timeout: Any) -> Any:
            if isinstance(request, TrialRequest) and left[0]:
                left[0] -= 1
                return full
            return ask(request, timeout)

        child.ask = crowded  # type: ignore[method-assign]
        trial = m.submit(candidate())
        if times < 3:
            assert trial.result(HANG).status == "ok"
        else:
            with pytest.raises(EnvironmentFault, match="lost 3 times for a reason outside of it: out of device"):
                trial.result(HANG)
        assert caplog.text.count("it is tried again") == 1 and m.submit(candidate(rows=2)).result(HANG).status == "ok"
        assert not m.journal or not m.journal.killers()


def test_a_loss_is_the_configs_only_where_the_gpu_is_well_afterwards(
    opened: Callable[..., GpuMeasurer], candidate: Make, monkeypatch: pytest.MonkeyPatch
):
    """A GPU on which a kernel that is known to be right fails proves nothing against the config that met it."""
    monkeypatch.setattr("gpu_tune.measure.gpu.PAUSES", (0.0, 0.0))
    bad = candidate(fault="illegal")
    with opened() as m:
        assert m.submit(candidate(rows=1)).result(HANG).status == "ok"
        monkeypatch.setenv("FAKE_CUDA_SICK", "1")
        with pytest.raises(EnvironmentFault, match=r"known to be right gives a wrong result.*ILLEGAL_ADDRESS"):
            m.submit(bad).result(HANG)
        with pytest.raises(MeasureError, match="cannot be used"):
            m.submit(candidate(rows=2)).result(HANG)
        monkeypatch.delenv("FAKE_CUDA_SICK")
        found = m.submit(bad).result(HANG)  # well again: now it is the config's
        assert found.status == "run_error" and "ILLEGAL_ADDRESS" in found.reason
        assert m.submit(candidate(rows=2)).result(HANG).status == "ok"


def test_a_time_limit_that_passes_before_the_kernel_has_begun_is_not_the_configs():
    for stage, outside in (("inputs", True), ("reference", True), ("first run", False), ("load", False)):
        assert _outside(WorkerLost("late", Stage(stage), timed_out=True)) == outside, stage


def test_finalists_lost_to_the_machine_are_asked_for_again(
    opened: Callable[..., GpuMeasurer],
    candidate: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    fast, slow = candidate(rows=8), candidate(rows=1)
    with opened(baselines=()) as m:
        left = [1]
        killed_at(m.children[0], FinalsRequest, left)
        assert m.finals([slow, fast]).winner == fast
        assert "SIGKILL): they are timed again" in caplog.text
        left[0] = 9
        with pytest.raises(EnvironmentFault, match="finalists were lost 3 times"):
            m.finals([slow, fast], rounds=3)
        monkeypatch.setattr(m, "build", lambda c: (_ for _ in ()).throw(EnvironmentFault("no NVRTC any more")))
        with pytest.raises(EnvironmentFault, match="no NVRTC"):  # no compile error of the finalists
            m.finals([slow, fast])


def test_out_of_device_memory_is_a_status(
    opened: Callable[..., GpuMeasurer], candidate: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FAKE_CUDA_MEMORY", str(4 * 2**20))
    with opened() as m:
        end = m.submit(candidate()).result(HANG)
        assert end.status in ("ok", "launch_error") and (end.ok or "out of device memory" in end.reason)


def test_a_gpu_that_cannot_be_used_is_an_error_of_the_machine_and_no_trial(
    opened: Callable[..., GpuMeasurer], candidate: Make, monkeypatch: pytest.MonkeyPatch
):
    with opened() as m:
        monkeypatch.setenv("FAKE_CUDA_NONE", "1")  # lost between the survey and the child's start
        with pytest.raises(Exception, match="cannot be used"):
            m.submit(candidate()).result(HANG)


def test_an_nvrtc_that_the_driver_does_not_know_is_said_before_anything_is_measured(
    opened: Callable[..., GpuMeasurer], candidate: Make, monkeypatch: pytest.MonkeyPatch
):
    major = nvrtc.version()[0]
    monkeypatch.setenv("FAKE_CUDA_VERSION", f"{major - 1}080")
    rule = rf"runs CUDA {major - 1}\.8, but NVRTC {major} .*install gpu_tune\[cuda{major - 1}\]"
    with opened() as m, pytest.raises(MeasureError, match=rule):
        m.submit(candidate()).result(HANG)


def test_a_gpu_that_needs_a_moment_after_a_lost_context_costs_no_innocent_candidate(
    opened: Callable[..., GpuMeasurer], candidate: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gpu_tune.measure.gpu.PAUSES", (0.0, 0.1, 0.1))
    with opened() as m:
        assert m.submit(candidate(rows=1)).result(HANG).status == "ok"
        m.children[0].kill()
        monkeypatch.setenv("FAKE_CUDA_BUSY", "1")
        started, ask = m.children[0].restarts, m.children[0].ask

        def free_at_the_second_try(request: Any, timeout: Any) -> Any:
            if m.children[0].restarts > started:
                monkeypatch.delenv("FAKE_CUDA_BUSY", raising=False)
            return ask(request, timeout)

        monkeypatch.setattr(m.children[0], "ask", free_at_the_second_try)
        assert m.submit(candidate(rows=2)).result(HANG).status == "ok"
        m.children[0].kill()
        monkeypatch.setenv("FAKE_CUDA_BUSY", "1")
        monkeypatch.setattr(m.children[0], "ask", ask)
        with pytest.raises(MeasureError, match=r"cannot be used: .*DEVICE_UNAVAILABLE.*exclusive-process"):
            m.submit(candidate(rows=4)).result(HANG)


PARENT = """
import os, sys
sys.path.insert(0, {here!r})
from tests.helpers import toy
from pathlib import Path
from gpu_tune.measure.select import make_measurer
from tests.helpers.processes import wait_until, worker_pids
from gpu_tune.trial import Candidate
from gpu_tune.workload import Matmul
root = Path(sys.argv[1])
w, templates = Matmul(20, 18, 16, dtype="float32"), {{"toy": toy.make(root)}}
m = make_measurer(w, kind="gpu", templates=templates, store=root, jobs=2, run_limit=1000.0)
assert m.submit(Candidate("toy", toy.config())).result(300).status == "ok"
futures = [m.submit(Candidate("toy", toy.config(fault="hang")))]
futures += [m.submit(Candidate("toy", toy.config(rows=r, threads=t))) for r in (1, 2, 8) for t in (32, 64)]
wait_until(lambda: bool(worker_pids(m.pool)))
print("PIDS", m.children[0].pid, *worker_pids(m.pool), flush=True)
futures[0].result()
"""


def test_kill_minus_nine_of_the_parent_leaves_no_process_behind(fake_cuda: Path, tmp_path: Path):
    with started(python(PARENT.format(here=str(HERE)), str(tmp_path))) as parent:
        pids = [int(w) for w in parent.line(lambda text: text.startswith("PIDS")).split()[1:]]
        assert len(pids) >= 2 and not any(gone(p) for p in pids)
        parent.kill()
    assert wait_until(lambda: all(gone(p) for p in pids)), "the child hangs in a kernel, and still goes"


def stubborn(request: str, note: Callable[[str], None]) -> object:
    """A handler that does as it is told."""
    if request == "stages":
        note("one")
        note("two")
        signal.pause()
    if request == "defect":
        raise ZeroDivisionError("a defect of the handler")
    if request == "children":
        return subprocess.Popen(["sleep", "1000"]).pid
    return os.getpid()


def test_a_lost_child_tells_how_and_where_and_the_next_request_gets_a_new_one():
    child = Worker("tests.measure.test_faults:stubborn")
    first = child.ask("pid", HANG)
    with pytest.raises(WorkerLost) as lost:
        child.ask("stages", lambda stage: 0.3 if stage.name == "two" else HANG)
    assert lost.value.timed_out and lost.value.stage.name == "two"
    second = child.ask("pid", HANG)
    assert second != first and gone(first)

    def kill_in_stage_two(stage: Stage) -> float:
        if stage.name == "two":
            os.kill(second, signal.SIGTERM)
        return HANG

    with pytest.raises(WorkerLost, match="SIGTERM") as lost:
        child.ask("stages", kill_in_stage_two)
    assert not lost.value.timed_out and lost.value.stage.name == "two"
    third = child.ask("pid", HANG)
    assert third != second
    os.kill(third, signal.SIGTERM)
    assert wait_until(lambda: child.pid is None)
    assert child.ask("pid", HANG) != third, "one that ends between two requests costs none"
    with pytest.raises(Exception, match="ZeroDivisionError"):
        child.ask("defect", HANG)
    grandchild = child.ask("children", HANG)
    child.kill()
    assert wait_until(lambda: gone(grandchild)), "the whole process group goes"


def broken(setup: object) -> object:
    """A handler that cannot be set up."""
    raise MeasureError("no such thing")


def echo(request: int, note: Callable[[str], None]) -> int:
    """In the child: gives back what it is asked."""
    return request


def test_a_working_directory_that_is_gone_and_a_full_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    child = Worker("tests.measure.test_faults:echo")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        assert child.ask(7, HANG) == 7
    finally:
        child.kill()
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: (_ for _ in ()).throw(OSError(28, "No space left")))
    files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MeasureError, match=r"cannot be started: .*No space left; free memory, processes, open files"):
        child.ask(7, HANG)
    assert len(os.listdir("/proc/self/fd")) == files, "what was opened for it is closed"


def test_a_child_that_cannot_be_set_up_is_gone_before_the_next_request():
    child = Worker("tests.measure.test_faults:broken", {"some": "setup"})
    for restarts in (0, 1, 2):
        with pytest.raises(MeasureError, match="no such thing"):
            child.ask("anything", HANG)
        assert child.pid is None and child.restarts == restarts
