"""Tuning on the virtual GPU and on a cluster: measured times, other drivers, the vendor library."""

from __future__ import annotations

from dataclasses import replace

import pytest

import gpu_tune as gt
from gpu_tune.cuda import driver, nvml, nvrtc
from gpu_tune.errors import InvalidInput, MeasureError
from gpu_tune.measure.select import open_measurer
from gpu_tune.space.knob import Knob
from gpu_tune.store.records import Records
from gpu_tune.tuner import search_run
from tests.helpers.tuning import CHIP, WORKLOAD, tune
from tests.helpers.winners import toy_template


def test_on_the_virtual_gpu_times_are_measured_and_kept_apart(fake_cuda, home, templates):
    knobs = tuple(
        Knob(k.name, ("none", "wrong", "illegal"), "") if k.name == "fault" else k for k in templates["toy"].knobs
    )
    kernel = tune({"toy": replace(templates["toy"], knobs=knobs)}, trials=10)
    assert kernel.measured and kernel.path.is_relative_to(home / "kernels" / CHIP) and "measured" in kernel.source
    assert kernel.verdict["finalists"] and kernel.config["fault"] == "none"
    measured = [r.measurement for r in Records().read("measured")]
    assert len(measured) == 10 and all(m.prediction["seconds"] > 0 for m in measured if m.ok)
    assert all(r.measurement.source == "predicted" for r in Records().read("predicted"))
    assert gt.load(WORKLOAD).winner == kernel.winner
    with pytest.warns(UserWarning, match="not tuned"):
        assert gt.load(WORKLOAD, device="nvidia-a100").match == "default"


@pytest.mark.slow
def test_a_target_ratio_is_to_the_vendor_library_that_is_timed_first(fake_cuda, home, templates, monkeypatch):
    knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in templates["toy"].knobs)
    good = {"toy": replace(templates["toy"], knobs=knobs)}
    reached = tune(good, trials=40, target=0.1)
    assert reached.winner.budget["ended"] == "target" and reached.winner.trials < 40
    assert reached.verdict["ratio"] >= 0.1
    missed = tune(good, trials=6, target="10x", force=True)
    assert missed.winner.budget["ended"] == "trials" and missed.winner.trials == 6 and missed.verdict["ratio"] < 10
    trials = len(Records().read("measured"))
    for name in ("GPU_TUNE_CUBLAS", "GPU_TUNE_CUBLASLT"):
        monkeypatch.setenv(name, "/nowhere/lib.so")
    with pytest.raises(MeasureError, match="compares with a vendor library, and none could be timed"):
        tune(good, trials=20, target=1.03, force=True)
    assert len(Records().read("measured")) == trials


def test_a_new_driver_re_times_the_stored_finalists_and_searches_nothing(fake_cuda, home, templates, monkeypatch):
    knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in templates["toy"].knobs)
    good = {"toy": replace(templates["toy"], knobs=knobs)}
    monkeypatch.setattr(nvml, "display_version", lambda: "580.1")
    monkeypatch.setattr(
        "gpu_tune.measure.gpu.GpuMeasurer._environment", lambda self: {"driver": nvml.display_version()}
    )
    first = tune(good, trials=10)
    assert first.winner.environment["driver"] == "580.1" and tune(good, trials=10).winner == first.winner
    monkeypatch.setattr(nvml, "display_version", lambda: "581.2")
    phases = []
    again = tune(good, trials=10, on_trial=lambda p: phases.append(p.phase))
    assert "search" not in phases and len(Records().read("measured")) == 10
    assert again.winner.environment["driver"] == "581.2" and again.winner.trials == first.winner.trials
    assert tune(good, trials=10).winner == again.winner


def test_a_set_is_timed_on_the_gpu_and_again_under_a_new_driver(fake_cuda, home, templates, monkeypatch, caplog):
    knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in templates["toy"].knobs)
    good = {"toy": replace(templates["toy"], knobs=knobs, open_sizes=("m",))}
    monkeypatch.setattr(nvml, "display_version", lambda: "580.1")
    monkeypatch.setattr(
        "gpu_tune.measure.gpu.GpuMeasurer._environment", lambda self: {"driver": nvml.display_version()}
    )
    options = dict(templates=good, trials=8, sizes=[8, 40], jobs=1)
    w = gt.Matmul(gt.any_of(1, 40), 32, 16, dtype="float32")
    first = gt.tune(w, **options).winners
    assert first.source == "measured" and {k.environment["driver"] for k in first.kernels} == {"580.1"}
    assert all(k.samples and k.verdict["vendor"] for k in first.kernels)  # beside the vendor, those in between as well
    assert {r.ours for r in first.ranges} <= {"faster", "tied", "slower"}
    assert gt.tune(w, **options).winners == first
    monkeypatch.setattr(nvml, "display_version", lambda: "581.2")
    trials = len(Records().read("measured"))
    again = gt.tune(w, **options).winners
    assert "timed under driver 580.1: its kernels are timed again" in caplog.text
    assert {k.environment["driver"] for k in again.kernels} == {"581.2"} and again.sizes == first.sizes
    assert len(Records().read("measured")) == trials and again.trials == first.trials
    assert gt.tune(w, **options).winners == again


@pytest.mark.slow
def test_a_run_resumes_only_from_times_of_the_same_driver_and_compiler(fake_cuda, home, templates, monkeypatch):
    knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in templates["toy"].knobs)
    good = {"toy": replace(templates["toy"], knobs=knobs)}
    environment = {"driver": "580.1", "nvrtc": nvrtc.identity()}
    monkeypatch.setattr(nvml, "display_version", lambda: environment["driver"])
    monkeypatch.setattr("gpu_tune.measure.gpu.GpuMeasurer._environment", lambda self: dict(environment))
    tune(good, trials=6)
    assert tune(good, trials=8).winner.trials == 8 and len(Records().read("measured")) == 8
    environment["driver"] = "581.2"
    assert tune(good, trials=9).winner.trials == 9 and len(Records().read("measured")) == 8 + 9
    environment["nvrtc"] = "12.0"
    tune(good, trials=10)
    environment["nvrtc"] = nvrtc.identity()
    before = len(Records().read("measured"))
    tune(good, trials=11)
    assert len(Records().read("measured")) - before == 2, "nine of the eleven are comparable"


def test_on_an_executor_the_workers_drivers_count_not_this_machines(fake_cuda, home, templates, monkeypatch):
    knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in templates["toy"].knobs)
    good = {"toy": replace(templates["toy"], knobs=knobs)}
    monkeypatch.setattr(nvml, "display_version", lambda: "580.1")
    monkeypatch.setattr(
        "gpu_tune.measure.gpu.GpuMeasurer._environment", lambda self: {"driver": nvml.display_version()}
    )
    first = tune(good, trials=10)
    monkeypatch.setattr(nvml, "display_version", lambda: "999.9")
    there, asked = {"580.1"}, []

    class OneGpu:
        device, source, drivers = driver.describe(), "measured", lambda self: there

        def __init__(self, address, device):
            asked.append(address)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    def opened(bound, source, *, cluster, **options):
        assert isinstance(cluster, OneGpu)
        return open_measurer(bound, source, **options)

    monkeypatch.setattr("gpu_tune.measure.cluster.Cluster", OneGpu)
    monkeypatch.setattr(search_run, "open_measurer", opened)
    phases = []
    again = tune(good, trials=10, executor="dask://somewhere:1", on_trial=lambda p: phases.append(p.phase))
    assert again.winner == first.winner and not phases, "nothing is re-timed"
    assert asked == ["dask://somewhere:1"]
    there = {"581.2"}
    tune(good, trials=10, executor="dask://somewhere:1", on_trial=lambda p: phases.append(p.phase))
    assert phases and "search" not in phases


def test_a_cluster_is_tuned_on_and_names_the_device(fake_cuda, home, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="needs gpu_tune[cluster]")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, resources={"GPU": 1}, dashboard_address=None
    ) as made:
        address = made.scheduler_address.replace("tcp://", "dask://")
        kernel = gt.tune(WORKLOAD, trials=6, templates={"toy": toy_template()}, executor=address)
    assert kernel.measured and kernel.chip == CHIP and kernel.winner.trials == 6
    with pytest.raises(InvalidInput, match="is not dask://host:port"):
        gt.tune(WORKLOAD, trials=2, templates={"toy": toy_template()}, executor="nowhere")
