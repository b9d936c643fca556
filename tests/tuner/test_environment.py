"""What the machine does to a tuning is nobody's fault: nothing of it is recorded, and the next run does what was left.

Workers are lost and files fill up by stand-ins here; ``python -m bench.faults`` does it for real.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

import pytest

from gpu_tune import paths
from gpu_tune.errors import MeasureError, StoreError
from gpu_tune.measure import worker
from gpu_tune.measure.worker import Stage, WorkerLost
from gpu_tune.space.knob import Knob
from gpu_tune.store.records import Records
from gpu_tune.store.store import Store
from tests.helpers.processes import HANG
from tests.helpers.tuning import tune

TRIALS = 15


@pytest.fixture
def good(templates):
    """The toy template without faults, and as many valid configs as trials: every run ends with the best."""
    fixed = {"fault": "none", "clear": False, "unroll": 1}
    knobs = tuple(Knob(k.name, (fixed[k.name],), "") if k.name in fixed else k for k in templates["toy"].knobs)
    return {"toy": replace(templates["toy"], knobs=knobs)}


@pytest.fixture
def undisturbed(good, home, monkeypatch, tmp_path):
    """The winner of a tuning that nothing disturbs, in a folder of its own."""
    with monkeypatch.context() as away:
        (tmp_path / "calm").mkdir(mode=0o700)
        away.setenv("GPU_TUNE_CACHE_DIR", str(tmp_path / "calm"))
        for shared in ("compiled", "emulator"):
            (tmp_path / "calm" / shared).symlink_to(home / shared)
        return tune(good, trials=TRIALS).winner


def same(found, wanted):
    return (found.config, found.seconds, found.trials) == (wanted.config, wanted.seconds, wanted.trials)


LOSSES = {
    "killed": lambda: WorkerLost("was killed by SIGKILL", Stage("compile"), killed=True),
    "never started": lambda: WorkerLost("did not start", Stage("start"), timed_out=True),
    "no NVRTC": lambda: MeasureError("libnvrtc.so.13: cannot open shared object file"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_lost_compiles_are_no_trials_and_the_next_run_measures_their_configs(
    good, home, undisturbed, monkeypatch, tmp_path, loss
):
    (home / "compiled").unlink()  # a store of its own: everything is compiled
    ask, lost = worker.Worker.ask, []

    def lossy(self, request, timeout):
        if len(Records().read("predicted")) >= 4:
            lost.append(request)
            raise LOSSES[loss]()
        return ask(self, request, timeout)

    with monkeypatch.context() as disturbed:
        disturbed.setattr(worker.Worker, "ask", lossy)
        with contextlib.suppress(MeasureError):
            tune(good, trials=TRIALS, seconds=HANG)
    kept = [r.measurement for r in Records().read("predicted")]
    assert lost and 4 <= len(kept) < TRIALS and {m.status for m in kept} <= {"ok", "duplicate"}
    assert not [r for r in kept if "SIGKILL" in r.reason or "NVRTC" in r.reason]
    assert same(tune(good, trials=TRIALS).winner, undisturbed)
    assert len(Records().read("predicted")) == TRIALS


@pytest.mark.slow
def test_a_full_disk_keeps_nothing_and_the_result_comes_all_the_same(good, home, undisturbed, monkeypatch, caplog):
    (home / "compiled").unlink()

    @contextlib.contextmanager
    def full(*given, **more):
        raise OSError(28, os.strerror(28))
        yield

    def append(self, line, sync=False):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as disturbed:
        disturbed.setattr(paths, "replacing", full)
        disturbed.setattr(paths.LineFile, "append", append)
        disturbed.setattr(Store, "publish", lambda *given: (_ for _ in ()).throw(StoreError("the disk is full")))
        found = tune(good, trials=TRIALS)
        assert same(found.winner, undisturbed) and found.path is None
    assert not Records().read("predicted") and "this run goes on without records" in caplog.text
    assert same(tune(good, trials=TRIALS).winner, undisturbed) and len(Records().read("predicted")) == TRIALS


def test_a_gpu_that_is_lost_costs_no_config_and_the_next_run_goes_on(fake_cuda, home, good, monkeypatch):
    monkeypatch.setattr("gpu_tune.measure.gpu.PAUSES", (0.0,))
    ask = worker.Worker.ask

    def lossy(self, request, timeout):
        if "Request" in type(request).__name__ and len(Records().read("measured")) >= 4 and self.pid is not None:
            monkeypatch.setenv("FAKE_CUDA_SICK", "1")
            self.kill()
        return ask(self, request, timeout)

    with monkeypatch.context() as disturbed:
        disturbed.setattr(worker.Worker, "ask", lossy)
        with pytest.raises(MeasureError, match="known to be right gives a wrong result"):
            tune(good, trials=TRIALS)
    monkeypatch.delenv("FAKE_CUDA_SICK")
    kept = [r.measurement for r in Records().read("measured")]
    assert 4 <= len(kept) < TRIALS and {m.status for m in kept} <= {"ok", "duplicate"}
    found = tune(good, trials=TRIALS)
    assert found.measured and found.winner.trials == TRIALS == len(Records().read("measured"))
