"""Candidates farmed out over a real Dask cluster whose GPUs are virtual; a worker is killed in mid-run."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_tune.cuda import driver
from gpu_tune.errors import InvalidInput, MeasureError
from gpu_tune.measure.cluster import Cluster
from gpu_tune.measure.select import open_measurer
from gpu_tune.templates.base import Template
from gpu_tune.templates.registry import bind
from gpu_tune.trial import MEASURED, PREDICTED, Candidate
from gpu_tune.workload import Matmul
from tests.helpers import virtual_gpu
from tests.helpers.cache import cache_folder
from tests.helpers.processes import HANG

distributed = pytest.importorskip("distributed", reason="needs gpu_tune[cluster]")
Make = Callable[..., Candidate]


@pytest.fixture(scope="module")
def cluster(fake_libcuda: Path, tmp_path_factory: pytest.TempPathFactory, compiled_once: Path) -> Iterator[Any]:
    """Two workers, each a process with one (virtual) GPU as an abstract resource."""
    cache = cache_folder(tmp_path_factory.mktemp("cluster"), compiled_once)
    changed = {**virtual_gpu.environment(fake_libcuda), "GPU_TUNE_CACHE_DIR": str(cache)}
    before = {n: os.environ.get(n) for n in changed}
    os.environ.update(changed)
    sys.path.insert(0, str(virtual_gpu.FAKE_CUPY))  # workers are given this process's path
    driver.library.cache_clear()
    made = distributed.LocalCluster(n_workers=2, threads_per_worker=1, resources={"GPU": 1}, dashboard_address=None)
    try:
        yield made
    finally:
        made.close()
        sys.path.remove(str(virtual_gpu.FAKE_CUPY))
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        driver.library.cache_clear()


@contextlib.contextmanager
def opened(
    cluster: Any, workload: Matmul, templates: dict[str, Template], compiled: Path, kind: str = "auto", **options: Any
) -> Iterator[Any]:
    with Cluster(cluster.scheduler_address.replace("tcp://", "dask://"), kind=kind) as workers:
        bound = bind(workload, workers.device, templates)
        with open_measurer(bound, workers.source, cluster=workers, store=compiled, **options) as m:
            yield m


def test_trials_and_finalists_run_on_the_workers_gpus(
    cluster: Any, workload: Matmul, templates: dict[str, Template], compiled: Path, candidate: Make
):
    some = [candidate(rows=r, threads=t) for r in (1, 4, 8) for t in (32, 64)]
    bad = {
        candidate(fault="crash"): "run_error",
        candidate(fault="wrong"): "wrong",
        candidate(fault="syntax"): "compile_error",
    }
    with opened(cluster, workload, templates, compiled) as m:
        assert (m.source, m.device.name) == (MEASURED, "nvidia-h200")
        good = {c: m.submit(c) for c in some}
        ends = {c: m.submit(c) for c in bad}
        assert all(f.result(HANG).status == "ok" for f in good.values())
        assert {c: f.result(HANG).status for c, f in ends.items()} == bad
        assert len(m.workers) == 2 and not m.excluded
        left = m.submit(candidate(rows=2), "{1.threads} threads".format).result(HANG)
        assert (left.status, left.reason) == ("pruned", "64 threads")
        found = m.finals([some[0], some[-1]], rounds=7)
    assert found.winner == min(good, key=lambda c: good[c].result().time) == some[-1] and found.vendor == "cublaslt"


def test_a_worker_killed_in_mid_run_loses_nothing(
    cluster: Any, workload: Matmul, templates: dict[str, Template], compiled: Path, candidate: Make
):
    with opened(cluster, workload, templates, compiled, kind="predicted") as m:
        assert m.source == PREDICTED
        some = [candidate(rows=r, threads=t, unroll=u) for r in (1, 2, 4) for t in (32, 64) for u in (1, 4)]
        futures = [m.submit(c) for c in some]
        with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
            pids = client.run(os.getpid)
        os.kill(sorted(pids.values())[0], signal.SIGKILL)
        ends = [f.result(HANG) for f in futures]
        assert [e.status for e in ends if e.status not in ("ok", "duplicate")] == []
        assert [e.candidate for e in ends] == some


def test_workers_that_differ_take_no_part(
    cluster: Any, workload: Matmul, templates: dict[str, Template], compiled: Path, candidate: Make
):
    alike = opened(cluster, workload, templates, compiled, kind="predicted", tolerance=-1.0)
    with alike as m, pytest.raises(MeasureError, match=r"no worker passed the calibration.*off the others"):
        m.submit(candidate())


def test_no_scheduler_and_bad_addresses_are_said():
    with pytest.raises(InvalidInput, match="cluster address"):
        Cluster("somewhere")
    with pytest.raises(MeasureError, match="no Dask scheduler"):
        Cluster("dask://127.0.0.1:9", timeout=1)
