"""What every measurer keeps, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpu_tune.cuda.device import by_name
from gpu_tune.errors import GpuTuneError, InvalidInput, MeasureError
from gpu_tune.measure.gpu import GpuMeasurer
from gpu_tune.measure.protocol import Measurer
from gpu_tune.measure.replay import ReplayMeasurer
from gpu_tune.measure.select import make_measurer
from gpu_tune.templates.base import Template
from gpu_tune.templates.registry import bind
from gpu_tune.trial import MEASURED, PREDICTED, REPLAYED, Candidate, Measurement, Resources
from gpu_tune.workload import Conv2d, Matmul
from tests.helpers.processes import HANG

SOURCES = {"predicted": PREDICTED, "gpu": MEASURED, "replay": REPLAYED}
Make = Callable[..., Candidate]


@pytest.fixture(params=list(SOURCES))
def measurer(
    request: pytest.FixtureRequest, templates: dict[str, Template], workload: Matmul, compiled: Path, candidate: Make
) -> Iterator[Measurer]:
    """Each kind in turn; ``gpu`` on the virtual GPU, ``replay`` over what the predicting one said."""
    common: dict[str, Any] = {"templates": templates, "store": compiled, "jobs": 1}
    if request.param == "gpu":
        request.getfixturevalue("fake_cuda")
    if request.param == "replay":
        with make_measurer(workload, kind="predicted", **common) as source:
            futures = [source.submit(c) for c in universe(candidate)]
            recorded = [f.result() for f in futures]
        with ReplayMeasurer(bind(workload, by_name("nvidia-h200"), templates), recorded) as made:
            yield made
        return
    with make_measurer(workload, kind=request.param, **common) as made:
        yield made


def universe(candidate: Make) -> list[Candidate]:
    good = [candidate(rows=r, threads=t) for r in (1, 2, 4, 8) for t in (32, 64)]
    return [
        *good,
        candidate(unroll=1),
        candidate(fault="syntax"),
        candidate(rows=8, threads=256),
        candidate(fault="shared"),
    ]


def test_a_good_candidate_ends_ok_with_positive_samples_and_its_resources(measurer: Measurer, candidate: Make):
    m = measurer.submit(candidate()).result(HANG)
    assert (m.status, m.source) == ("ok", measurer.source)
    assert m.candidate == candidate() and min(m.samples) > 0 and m.cubin_hash
    assert m.resources is not None and m.resources.registers > 8 and m.resources.threads == 64
    assert Measurement.from_json(m.to_json()) == m


def test_a_bad_candidate_is_a_status_with_a_reason_and_never_an_exception(measurer: Measurer, candidate: Make):
    bad = {
        candidate(fault="syntax"): ("compile_error", "error"),
        candidate(rows=8, threads=256): ("invalid", "threads x rows"),
        candidate(fault="shared"): ("launch_error", ""),
        Candidate("nowhere", candidate().config): (("compile_error", "invalid"), "n"),
    }
    futures = {c: measurer.submit(c) for c in bad}
    for c, (status, words) in bad.items():
        m = futures[c].result(HANG)
        assert m.status in status and words in m.reason and m.reason and not m.samples, m


def test_the_same_binary_is_timed_once_and_shares_its_samples(measurer: Measurer, candidate: Make):
    first, again = (measurer.submit(candidate()) for _ in range(2))
    a, b = first.result(HANG), again.result(HANG)
    assert a.samples == b.samples
    if measurer.source != REPLAYED:
        assert {a.status, b.status} == {"ok", "duplicate"} and a.cubin_hash == b.cubin_hash


def test_a_pruned_build_never_runs_and_the_others_are_timed(measurer: Measurer, candidate: Make):
    def few(c: Candidate, resources: Resources) -> str:
        return f"{resources.threads} threads" if resources.threads > 32 else ""

    left, kept = (measurer.submit(candidate(threads=t), few).result(HANG) for t in (64, 32))
    assert kept.status == "ok"
    if measurer.source == REPLAYED:  # nothing is built
        assert left.status == "ok"
        return
    assert (left.status, left.reason, left.samples) == ("pruned", "64 threads", ())
    assert left.resources is not None and left.resources.threads == 64 and "time" not in left.seconds
    assert Measurement.from_json(left.to_json()) == left
    assert measurer.submit(candidate(threads=64)).result(HANG).status == "ok", "it was never timed: no duplicate"
    again = measurer.submit(candidate(threads=64), few).result(HANG)
    assert again.status == "pruned"  # whether a twin is known by now or not


def test_confirmation_agrees_with_the_search_on_what_is_clearly_faster(measurer: Measurer, candidate: Make):
    timed = {
        m.candidate: m.time for f in [measurer.submit(c) for c in universe(candidate)[:8]] if (m := f.result(HANG)).ok
    }
    fast, slow = min(timed, key=timed.__getitem__), max(timed, key=timed.__getitem__)
    assert timed[slow] > 1.1 * timed[fast], "the toy's configs differ"
    found = measurer.finals([slow, fast], rounds=9)
    rounds = 0 if measurer.source == "predicted" else 9  # predictions have no noise: nothing is repeated
    assert found.winner == fast and found.source == measurer.source and found.rounds == rounds
    assert found.comparisons[slow.key].faster and 0 <= found.noise_floor < 0.2
    assert found.finalist(fast).ok and len(found.finalist(fast).samples) == max(1, rounds)


def test_a_finalist_that_does_not_hold_never_wins(measurer: Measurer, candidate: Make):
    found = measurer.finals([candidate(rows=8), candidate(fault="shared")], rounds=7)
    assert found.winner == candidate(rows=8)
    assert not found.finalist(candidate(fault="shared")).ok


def test_a_build_carries_source_cubin_plan_and_resources(measurer: Measurer, candidate: Make):
    build = measurer.build(candidate(rows=2))
    assert "toy_none" in build.rendered.source and build.cubin.startswith(b"\x7fELF")
    assert build.rendered.plan.kernels[0].kernel == "toy_none" and build.resources.registers > 8
    assert len(build.hash) == 16 and measurer.build(candidate(rows=2)).hash == build.hash
    with pytest.raises(GpuTuneError):
        measurer.build(candidate(fault="syntax"))
    with pytest.raises(GpuTuneError, match="threads x rows"):
        measurer.build(candidate(rows=8, threads=256))


def test_a_closed_measurer_refuses_work(measurer: Measurer, candidate: Make):
    measurer.close()
    measurer.close()
    with pytest.raises(MeasureError, match="closed"):
        measurer.submit(candidate())


def test_unknown_kinds_and_devices_are_refused(workload: Matmul):
    with pytest.raises(InvalidInput, match="kind: 'telepathy' is unknown; use one of auto"):
        make_measurer(workload, kind="telepathy")
    with pytest.raises(InvalidInput, match="device"):
        make_measurer(workload, device="nvidia-h900")
    with pytest.raises(InvalidInput, match="recorded"):
        ReplayMeasurer(bind(workload, by_name("nvidia-h200")), [])


def test_auto_takes_the_gpu_that_is_there_and_predictions_for_another(
    fake_cuda: Path, workload: Matmul, compiled: Path, monkeypatch: pytest.MonkeyPatch
):
    with make_measurer(workload, store=compiled) as m:
        assert m.source == MEASURED
    with make_measurer(workload, store=compiled, device="nvidia-a100") as m:
        assert m.source == PREDICTED and m.device == by_name("nvidia-a100")
    with pytest.raises(MeasureError, match="the GPU here is nvidia-h200"):
        make_measurer(workload, store=compiled, device="nvidia-a100", kind="gpu")
    monkeypatch.setenv("FAKE_CUDA_COUNT", "0")
    with make_measurer(workload, store=compiled) as m:
        assert m.source == PREDICTED and m.device.name == "nvidia-h200"
    with pytest.raises(MeasureError, match="no CUDA GPU"):
        make_measurer(workload, store=compiled, kind="gpu")


def test_a_planted_two_percent_is_found_and_a_wrong_kernel_is_not_compared(
    fake_cuda: Path, workload: Matmul, compiled: Path, templates: dict[str, Template], candidate: Make
):
    plain, slower, copy = candidate(), candidate(fault="slower"), candidate(fault="partial")
    with make_measurer(workload, kind="gpu", templates=templates, store=compiled, jobs=1, baselines=()) as m:
        found = m.finals([plain, slower, copy])
        assert found.winner == plain and found.comparisons[slower.key].faster
        assert found.comparisons[slower.key].ratio == pytest.approx(1.02, abs=0.002)
        assert found.finalist(copy).status == "wrong" and copy.key not in found.comparisons
        assert m.finals([plain, candidate(clear=True)]).winner == plain


def test_a_kernel_is_measured_on_the_view_that_its_template_computes(
    fake_cuda: Path, compiled: Path, templates: dict[str, Template], candidate: Make
):
    conv = Conv2d(1, 16, 3, 6, 20, 1, 1, layout="nchw", dtype="float32")
    with make_measurer(conv, kind="gpu", templates=templates, store=compiled, baselines=("cublas",)) as m:
        right, wrong = m.submit(candidate()), m.submit(candidate(fault="wrong"))
        assert (right.result(HANG).status, wrong.result(HANG).status) == ("ok", "wrong")
        found = m.finals([candidate(), candidate(rows=2)], rounds=7)
        assert found.winner == candidate() and len(found.finalist(candidate()).checks) == 4
        baseline = next(c for c in found.finalists if c.candidate is None)
        assert (baseline.name, baseline.status) == ("cublas", "invalid"), "it multiplies matrices"
        build = m.build(candidate())
        assert build.bound.computed == Matmul(20, 18, 16, dtype="float32") and build.bound.view is not None


def test_two_gpus_of_a_machine_work_side_by_side(
    fake_cuda: Path, workload: Matmul, compiled: Path, templates: dict[str, Template], candidate: Make,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setenv("FAKE_CUDA_COUNT", "2")
    with make_measurer(workload, kind="gpu", templates=templates, store=compiled, jobs=1, gpus=(0, 1)) as m:
        futures = [m.submit(candidate(rows=r, threads=t)) for r in (1, 2, 4, 8) for t in (32, 64)]
        assert all(f.result(HANG).ok for f in futures)
        assert isinstance(m, GpuMeasurer) and all(c.restarts == 0 for c in m.children), "both children started"


def test_earlier_measurements_of_the_same_binary_spare_timing_it(
    workload: Matmul, compiled: Path, templates: dict[str, Template], candidate: Make
):
    with make_measurer(workload, kind="predicted", templates=templates, store=compiled, jobs=1) as first:
        m = first.submit(candidate()).result(HANG)
    with make_measurer(workload, kind="predicted", templates=templates, store=compiled, jobs=1, seen=[m]) as second:
        again = second.submit(candidate()).result(HANG)
    assert again.status == "duplicate" and again.samples == m.samples


def test_a_library_that_takes_the_process_down_costs_itself_and_no_other(
    fake_cuda: Path, workload: Matmul, templates: dict[str, Template], compiled: Path, candidate: Make, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("cublas", "torch", "cublaslt", "triton")
    with make_measurer(workload, kind="gpu", templates=templates, store=compiled, baselines=names) as m:
        found = {c.name: c for c in m.finals([candidate()], rounds=7).finalists}
        assert found["cublas"].ok and found["cublaslt"].ok and found[candidate().key].ok
        assert found["torch"].status == "run_error" and "SIGSEGV" in found["torch"].reason
        alone = {c.name: c for c in m.vendors()}
        assert alone["cublas"].ok and alone["torch"].status == "run_error" and not alone["triton"].ok
