"""conv2d_depthwise: right on every depthwise convolution, refuses the others, reads each input row once."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_tune import emulator, reference
from gpu_tune.cuda import cubin, nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import render
from gpu_tune.templates.conv2d_depthwise import TEMPLATE
from gpu_tune.workload import Conv2d

A100, H200 = by_name("nvidia-a100"), by_name("nvidia-h200")
needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")
needs_emulator = pytest.mark.skipif(
    not nvrtc.available() or not emulator.available(), reason="NVRTC or a C++ compiler is not installed"
)


def depthwise(c: int, **more: Any) -> Conv2d:
    return Conv2d(c=c, k=c, groups=c, **{"n": 1, "h": 9, "w": 11, "r": 3, "s": 3, "padding": 1, **more})


def run(workload: Conv2d, config: Config, device: Any, kind: str = "integer") -> None:
    inputs = reference.example_inputs(workload, 3, kind)
    out = reference.allocate(workload.arrays()["out"], 77)
    source, plan = render(TEMPLATE, config, workload, device), TEMPLATE.plan(config, workload, device)
    report = emulator.run_plan(source, plan, {**inputs, "out": out}, arch=device.arch, device=device)
    assert report.ok, (workload.key, config, report.findings)
    result = reference.compare(report.arrays["out"], workload, inputs, exact=kind == "integer")
    assert result.ok, (workload.key, config, str(result))


@needs_emulator
@pytest.mark.parametrize("filters", ["registers", "shared", "memory"])
def test_every_place_of_the_filter(filters: str) -> None:
    workload = depthwise(24, stride=2, layout="nhwc", dtype="float16", epilogue="bias")
    config = Config(thread_p=2, thread_q=2, threads_c=4, threads_p=2, threads_q=4, vector_width=8, filters=filters,
                    raster_along="n", min_blocks=0)  # fmt: skip
    assert not TEMPLATE.violations(config, workload, A100)
    run(workload, config, A100)


@needs_emulator
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_defaults_are_right(layout: str) -> None:
    for c, size, stride in ((32, 14, 1), (64, 7, 2), (5, 3, 1)):
        workload = depthwise(
            c, h=size, w=size, stride=stride, layout=layout, dtype="float16", epilogue="scale+bias+relu"
        )
        run(workload, TEMPLATE.default(workload, A100), A100, "normal")


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("name", ["t4", "a100", "rtx-3090", "rtx-4090", "h200", "rtx-5090"])
def test_seeds_compile_without_spills(name: str) -> None:
    device = by_name(name)
    for layout, dtype in (("nhwc", "float16"), ("nchw", "float32")):
        workload = depthwise(256, n=8, h=56, w=56, layout=layout, dtype=dtype, epilogue="scale+bias+relu")
        seeds = TEMPLATE.seeds(workload, device)
        assert len(seeds) >= 3
        for config in seeds[::2]:
            log = nvrtc.to_cubin(render(TEMPLATE, config, workload, device), device.arch).log
            assert not any(r.spill_bytes for r in cubin.read_log(log).values()), config


def test_other_convolutions_are_refused_with_the_reason() -> None:
    ordinary = Conv2d(1, 16, 8, 8, 16, 3, 3, padding=1)
    assert "groups = c = k" in str(TEMPLATE.supported(ordinary, A100))
    multiplier = Conv2d(1, 16, 8, 8, 32, 3, 3, padding=1, groups=16)
    assert "groups = c = k" in str(TEMPLATE.supported(multiplier, A100))
    huge = depthwise(16, h=90, w=90, r=71, s=71, padding=35)
    assert "71x71" in str(TEMPLATE.supported(huge, A100))
