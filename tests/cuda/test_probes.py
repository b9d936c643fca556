"""The probes that a GPU is tried with (tests/gpu): right on the emulator, and accepted by the virtual GPU's driver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpu_tune.cuda import driver, nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.cuda.launch import Program
from gpu_tune.emulator import run_plan, unavailable_reason
from gpu_tune.measure.worker import Worker
from tests.gpu import probes
from tests.helpers import device_memory as memory
from tests.helpers.processes import HANG

H200 = by_name("nvidia-h200")


@pytest.mark.parametrize("name", [n for n in probes.PROBES if "16" not in n or "fp16" in n])  # the emulator stops at 8
def test_the_emulator_gives_the_answer_that_a_probe_expects(name: str):
    if unavailable_reason():
        pytest.skip(unavailable_reason())
    made = probes.PROBES[name][1](H200)
    for seed in (0, 1):
        report = run_plan(made.source, made.plan, made.buffers, arch=H200.arch, device=H200, seed=seed)
        assert report.ok, str(report)
        np.testing.assert_array_equal(report.arrays["out"].reshape(made.expected.shape), made.expected)


@pytest.mark.parametrize("name", probes.PROBES)
def test_the_driver_takes_a_probe_as_it_is(name: str, fake_cuda: Path):
    driver.use_context()
    made = probes.PROBES[name][1](H200)
    program = Program(nvrtc.to_cubin(made.source, H200.arch).data, made.plan)
    addresses = {n: memory.allocate(a.nbytes) for n, a in made.buffers.items()}
    stream = memory.Stream()
    graph = memory.Graph(stream, program.bind(addresses))
    graph.launch(stream)
    stream.synchronize()
    graph.close()


def test_the_process_in_which_steps_run_starts(fake_cuda: Path):
    child = Worker("tests.gpu.steps:handler")
    child.ask({"do": "ready"}, HANG)
    assert child.pid is not None
    child.kill()
