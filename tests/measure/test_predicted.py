"""Predicted times are functions of code and chip, marked as what they are, and told where they were judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_tune import emulator
from gpu_tune.cuda import lines
from gpu_tune.cuda.device import by_name
from gpu_tune.errors import CompilerMissing, EmulationError, EnvironmentFault, GpuTuneError, MeasureError, StoreError
from gpu_tune.kernel.emit import UNJUDGED, duration, figure
from gpu_tune.measure import compiling, emulated
from gpu_tune.measure.predicted import PredictedMeasurer
from gpu_tune.measure.select import make_measurer
from gpu_tune.model.performance import Prediction, predict
from gpu_tune.templates.base import Template
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import bind, registry
from gpu_tune.trial import PREDICTED, Candidate, Measurement
from gpu_tune.workload import Conv2d, Matmul
from tests.helpers.processes import HANG

Make = Callable[..., Candidate]


def times(
    workload: Matmul, candidates: list[Candidate], templates: Mapping[str, Template], store: Path, **options: Any
) -> dict[Candidate, Measurement]:
    with make_measurer(workload, kind="predicted", templates=templates, store=store, jobs=1, **options) as m:
        futures = {c: m.submit(c) for c in candidates}
        return {c: f.result(HANG) for c, f in futures.items()}


def test_a_prediction_is_a_function_of_code_and_chip_alone(
    templates: dict[str, Template], compiled: Path, candidate: Make
):
    w = Matmul(512, 512, 512, dtype="float32")
    some = [candidate(rows=r, threads=t) for r in (1, 4) for t in (64, 128)]
    first = times(w, some, templates, compiled)
    for seed in (0, 1):
        again = times(w, some, templates, compiled, seed=seed)
        assert [again[c].samples for c in some] == [first[c].samples for c in some]
    for c in some:
        m = first[c]
        assert m.source == PREDICTED and len(m.samples) == 1 and m.prediction["seconds"] == m.time
        assert m.warm_samples[0] <= m.time
    assert all(v >= 0 and np.isfinite(v) for c in some for v in first[c].prediction.values())
    other = times(w, some, templates, compiled, device="nvidia-a100")
    ratios = np.array([other[c].time / first[c].time for c in some])
    assert ratios.std() / ratios.mean() > 0.005, "not one common factor"


def test_seconds_are_told_where_the_kind_of_kernel_was_judged(
    templates: dict[str, Template], compiled: Path, candidate: Make, monkeypatch: pytest.MonkeyPatch
):
    w = Matmul(512, 512, 512, dtype="float32")
    m = times(w, [candidate()], templates, compiled)[candidate()]
    assert "judged" not in m.environment and figure(m.time, m.source, m.environment) == UNJUDGED

    def judged_predict(*args: Any, **options: Any) -> Prediction:
        found = predict(*args, **options)
        return replace(found, judged="somewhere", low=found.seconds / 2, high=2 * found.seconds)

    monkeypatch.setattr(compiling, "predict", judged_predict)
    m = times(w, [candidate()], templates, compiled)[candidate()]
    assert m.environment["judged"] == "somewhere" and m.environment["low"] == m.time / 2
    assert figure(m.time, m.source, m.environment).startswith(f"{duration(m.time)} predicted (")


def test_time_grows_with_work_and_falls_with_a_faster_chip(
    templates: dict[str, Template], compiled: Path, candidate: Make
):
    by_size = [
        times(Matmul(n, n, n, dtype="float32"), [candidate()], templates, compiled)[candidate()].time
        for n in (256, 1024, 4096)
    ]
    assert by_size[0] < by_size[1] < by_size[2] and by_size[2] > 20 * by_size[1]
    w = Matmul(2048, 2048, 2048, dtype="float32")
    slow, fast = (
        times(w, [candidate()], templates, compiled, device=d)[candidate()].time for d in ("nvidia-t4", "nvidia-h200")
    )
    assert slow > 3 * fast


def test_no_time_beats_the_roofline(templates: dict[str, Template], compiled: Path, candidate: Make):
    device = by_name("nvidia-h200")
    for n in (1024, 4096):
        w = Matmul(n, n, n, dtype="float32")
        for m in times(w, [candidate(rows=r) for r in (1, 8)], templates, compiled).values():
            assert m.time > max(w.flops / device.peak_flops("fp32"), w.bytes / device.bandwidth)


def test_one_block_more_than_a_full_wave_costs_a_step(templates: dict[str, Template], compiled: Path, candidate: Make):
    one = candidate(rows=1, threads=256)
    resident = 132 * 8  # blocks of 256 threads on 132 SMs
    full, more, twice = (
        times(Matmul(blocks, 256, 4096, dtype="float32"), [one], templates, compiled)[one].time
        for blocks in (resident, resident + 8, 2 * resident)
    )
    assert more > 1.05 * full, "a started wave costs"
    assert twice < 2.2 * full


def test_too_much_shared_memory_or_device_memory_is_a_launch_error(
    templates: dict[str, Template], compiled: Path, candidate: Make
):
    bad = candidate(fault="shared")
    m = times(Matmul(64, 64, 64, dtype="float32"), [bad], templates, compiled)[bad]
    assert m.status == "launch_error" and "232448" in m.reason
    huge = Matmul(2**17, 2**18, 2**14, dtype="float32")
    m = times(huge, [candidate()], templates, compiled)[candidate()]
    assert m.status == "launch_error" and "out of memory" in m.reason


def test_the_winner_is_executed_and_a_wrong_one_loses_to_the_next_best(
    templates: dict[str, Template], compiled: Path, candidate: Make
):
    if emulator.unavailable_reason():
        pytest.skip(emulator.unavailable_reason())
    w = Matmul(33, 40, 20, dtype="float32")
    wrong, right = candidate(fault="wrong"), candidate(rows=1, threads=32)
    with make_measurer(w, kind="predicted", templates=templates, store=compiled, jobs=1) as m:
        assert isinstance(m, PredictedMeasurer)
        found = m.predict(m.build(right))
        first = replace(found, seconds=found.seconds / 2)
        m.predict = lambda build, **_: first if build.candidate == wrong else found  # type: ignore[method-assign]
        found = m.finals([wrong, right], rounds=7)
    assert found.winner == right and found.finalist(right).checks[0].ok
    assert found.finalist(right).checks[0].by == "emulator" and found.finalist(wrong).status == "wrong"
    assert "expected" in found.finalist(wrong).reason and found.verdict is None


def test_large_workloads_are_executed_on_a_small_one_that_keeps_config_and_tails(
    templates: dict[str, Template], candidate: Make
):
    device = by_name("nvidia-h200")
    large = Matmul(4100, 8192, 5003, dtype="float32", ldc=8200)
    config, bound = candidate().config, BoundTemplate(templates["toy"], large, device)
    found = emulated.stand_in(bound, config)
    assert found is not None and found.device == device
    small = found.computed
    assert isinstance(small, Matmul) and small.flops <= emulated.WHOLE
    assert (small.m % 128, small.n % 128, small.k % 128) == (4, 0, 5003 % 128) and small.ldc == small.n + 8
    cube = Matmul(64, 64, 64, dtype="float32")
    assert emulated.stand_in(own := bound.on(cube), config) is own


CONVOLUTIONS = [
    Conv2d(16, 256, 56, 56, 512, 3, 3, stride=2, padding=1),
    Conv2d(1, 1024, 112, 112, 1024, 3, 3, groups=1024, padding=1),
    Conv2d(8, 513, 64, 64, 1000, 7, 7, dilation=4),
    Conv2d(32, 2048, 28, 28, 2048, 3, 3, groups=32, padding=1),
]


@pytest.mark.parametrize("w", CONVOLUTIONS, ids=lambda w: w.key)
def test_smaller_convolutions_are_valid_and_small_enough(w: Conv2d):
    some = list(emulated.smaller(w))
    assert some and any(s.flops <= emulated.WHOLE for s in some)
    for s in some:
        assert isinstance(s, Conv2d) and (s.r, s.s, s.stride, s.dilation) == (w.r, w.s, w.stride, w.dilation)
        assert (s.groups == 1) == (w.groups == 1)


@pytest.mark.skipif(not emulator.available(), reason="no C++ compiler: the emulator cannot be built")
def test_lanes_of_a_build_are_known_and_what_is_published_has_no_line_tables(
    templates: dict[str, Template], compiled: Path, candidate: Make
):
    w = Matmul(512, 512, 512, dtype="float32")
    with make_measurer(w, kind="predicted", templates=templates, store=compiled, jobs=1) as m:
        build = m.build(candidate())
        plain = m.published(build)
    assert lines.ptx_lines(build.cubin) and not lines.ptx_lines(plain)
    assert replace(build, cubin=plain).hash == build.hash
    found = compiling.lanes_for(build)
    assert found is compiling.lanes_for(replace(build)), "kept by build"
    assert all(of.matched == of.accesses > 0 for of in found.values())


@pytest.mark.parametrize("fault", [CompilerMissing("no compiler"), MeasureError("no worker"), StoreError("no disk")])
def test_a_machine_that_cannot_execute_says_nothing_of_a_result(
    fault: GpuTuneError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that goes away between the search and the check of the winner, say."""
    simt = {"matmul_simt": registry()["matmul_simt"]}
    bound = bind(Matmul(16, 16, 16, dtype="float32"), by_name("nvidia-a100"), simt)[0]
    rendered = bound.render(bound.default())

    def raising(error: GpuTuneError) -> Callable[..., Any]:
        def run(*args: object, **options: object) -> None:
            raise error

        return run

    monkeypatch.setattr(emulated, "run_plan", raising(fault))
    with pytest.raises(type(fault)):
        emulated._executed(rendered, rendered.plan, bound.computed, bound.device, 0)
    monkeypatch.setattr(emulated, "run_plan", raising(EmulationError("an instruction")))
    check = emulated._executed(rendered, rendered.plan, bound.computed, bound.device, 0)
    assert not check.ok and check.detail == "could not be executed: an instruction"


@pytest.mark.parametrize("fault", [CompilerMissing("NVRTC went away"), EnvironmentFault("no process")])
def test_a_winner_is_published_with_its_tables_where_the_compiler_went_away(fault: GpuTuneError) -> None:
    def submit(source: str, arch: str, options: tuple[str, ...]) -> Any:
        made: Future[Any] = Future()
        made.set_exception(fault)
        return made

    measurer = SimpleNamespace(pool=SimpleNamespace(submit=submit), device=by_name("nvidia-a100"))
    build = SimpleNamespace(rendered=SimpleNamespace(source="..."), cubin=b"with tables")
    assert compiling.CompilingMeasurer.published(measurer, build) == b"with tables"  # type: ignore[arg-type]
