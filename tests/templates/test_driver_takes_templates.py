"""What templates launch is legal: the virtual driver holds plans against cubins, and tensor maps against the rules.

The same cubins are held against what the families declare of them, as in test_contract.py."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from gpu_tune.cuda import cubin, driver, nvrtc
from gpu_tune.cuda.launch import Program
from gpu_tune.measure.device_data import layout
from gpu_tune.templates.base import render
from gpu_tune.templates.registry import registry
from gpu_tune.verify.draw import variants
from tests.helpers import device_memory as cuda_memory
from tests.helpers.as_declared import agrees

COUNT = int(os.environ.get("GPU_TUNE_LAUNCH_VARIANTS", "3"))
SEED = int(os.environ.get("GPU_TUNE_LAUNCH_SEED", "0"))


@pytest.mark.slow
@pytest.mark.parametrize("name", registry())
def test_every_launch_of_random_variants_is_legal(name: str, fake_cuda: Path):
    driver.use_context()
    template, stream, refused = registry()[name], cuda_memory.Stream(), []
    for v in itertools.islice(variants(template, SEED, ("nvidia-h200",)), COUNT):
        plan = template.plan(v.config, v.workload, v.device).check()
        made = nvrtc.to_cubin(render(template, v.config, v.workload, v.device), v.device.arch).data
        agrees(template, v.config, v.workload, v.device, cubin.read(made))
        offsets, size = layout(v.workload.arrays())
        memory = cuda_memory.allocate(size + plan.workspace_bytes + 1024)
        shift = v.workload.alignment % 256  # as little aligned as is promised
        buffers = {n: memory + shift + o for n, o in offsets.items()}
        buffers.setdefault("c", buffers["out"])
        buffers["workspace"] = memory + -(-(size + 256) // 256) * 256
        program = None
        try:
            program = Program(made, plan)
            program.bind(buffers, dict.fromkeys(v.workload.scalars(), 1.0))(stream.handle)
            stream.synchronize()
        except Exception as error:
            refused.append(f"{error}\n    {v.command}")
        cuda_memory.free(memory)
        if program:
            program.unload()
    assert not refused, "\n".join(refused)
