"""Loops that are longer than the instruction caches wait for their instructions."""

from __future__ import annotations

import dataclasses
import functools

import pytest

from gpu_tune.cuda import cubin, nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.model.performance import fetch
from gpu_tune.model.performance.block import Kernel
from gpu_tune.model.performance.constants import architecture
from gpu_tune.model.performance.costs import CAUSES, FETCH
from gpu_tune.model.performance.fetch import INSTRUCTION_BYTES, NEAR_CACHE_BYTES, SM_CACHE_BYTES, fetch_cycles
from gpu_tune.templates.registry import bind
from gpu_tune.workload import Matmul


def test_a_loop_costs_where_a_cache_does_not_hold_it_and_once_a_block() -> None:
    a100, h100 = architecture(80), architecture(90)
    near, whole = NEAR_CACHE_BYTES // INSTRUCTION_BYTES, SM_CACHE_BYTES // INSTRUCTION_BYTES
    assert fetch_cycles(near, 4, a100) == 0
    assert fetch_cycles(whole, 2, a100) == 2 * whole, "an instruction a clock"
    assert fetch_cycles(whole, 2, h100) == 0, "not known to matter"
    for sm in (a100, h100):
        assert fetch_cycles(whole + 1, 2, sm) == pytest.approx(2 * (whole + 1) * INSTRUCTION_BYTES / 3)


@pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")
def test_every_iteration_is_as_much_longer(compile_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = by_name("nvidia-a100")
    workload = Matmul(1024, 1024, 1024, dtype="float16", layout="nt")
    bound = next(b for b in bind(workload, chip) if b.name == "matmul_mma")
    rendered = bound.render(bound.default())
    step, loop = rendered.plan.kernels[0], rendered.estimate.loop
    program = cubin.programs(nvrtc.to_cubin(rendered.source, chip.arch).data)[step.kernel]
    kernel = functools.partial(Kernel, program, chip, step.threads // 32, loop=loop)
    plain = kernel().wave(1, 40.0, 1)
    monkeypatch.setattr(fetch, "NEAR_CACHE_BYTES", 0)
    slow = kernel()
    slow.sm = dataclasses.replace(slow.sm, near_fetch_bytes=0.1)
    found = slow.wave(1, 40.0, 1)
    needed = fetch_cycles(len(set(slow.code.path().body.tolist())), 1, slow.sm)
    assert needed < found.iteration < 1.01 * needed and plain.iteration < needed
    longer = found.iteration - plain.iteration
    assert found.cycles - plain.cycles == pytest.approx(40 * longer)
    assert found.causes[FETCH] == pytest.approx(40 * longer) and plain.causes[FETCH] == 0
    assert max(CAUSES, key=lambda name: found.causes[CAUSES.index(name)]) == "fetch"
    assert (found.shares <= plain.shares).all() and found.shares.max() > 0
