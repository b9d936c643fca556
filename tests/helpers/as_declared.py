"""A compiled config against what its family declares of it."""

from __future__ import annotations

import re

from gpu_tune.cuda import cubin
from gpu_tune.cuda.device import Device
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import Template, render
from gpu_tune.workload import Workload


def agrees(template: Template, config: Config, workload: Workload, device: Device, facts: cubin.Cubin) -> None:
    """The plan and the estimate against the cubin: names, threads, shared memory, registers, parameters."""
    made, estimate = template.plan(config, workload, device), template.resources(config, workload, device)
    what = (workload.key, device.name, config)
    granted = re.findall(r"setmaxnreg\.inc\S* (\d+)", render(template, config, workload, device))
    shared, registers = 0, max(map(int, granted), default=0)  # the cubin names those at launch alone
    for step in made.kernels:
        kernel = facts.kernels[step.kernel]
        assert kernel.max_threads in (0, step.threads), what
        assert len(kernel.params) == len(step.args), what
        assert kernel.stack_bytes == 0 or kernel.registers >= 24, what
        shared = max(shared, kernel.static_shared_bytes + step.shared_bytes)
        registers = max(registers, kernel.registers)
    assert shared == estimate.shared_bytes, what
    assert registers >= estimate.accumulators, what
    assert estimate.threads in {step.threads for step in made.kernels}, what
