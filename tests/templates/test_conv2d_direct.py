"""conv2d_direct: right on every convolution it promises, and its knobs do what they say."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_tune import emulator, reference
from gpu_tune.cuda import cubin, nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.errors import InvalidConfig
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import render
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.conv2d_direct import TEMPLATE
from gpu_tune.workload import Conv2d

A100, T4 = by_name("nvidia-a100"), by_name("nvidia-t4")
SMALL: dict[str, Any] = dict(
    block_k=8,
    block_p=2,
    block_q=4,
    block_c=2,
    thread_k=1,
    thread_p=1,
    thread_q=1,
    columns="adjacent",
    lanes="pixels",
    stage_x="shared",
    stage_w="shared",
    shared_x="c_outer",
    shared_w="k_inner",
    shared_type="stored",
    padding_x=0,
    padding_w=0,
    vector_width_x=1,
    vector_width_w=1,
    vector_width_out=1,
    stages=1,
    fragment_c=1,
    reuse_row=False,
    unroll="none",
    unroll_c=1,
    raster_along="n",
    split_k=1,
    min_blocks=0,
)
BODY = Conv2d(2, 16, 9, 10, 16, 3, 3, padding=1, layout="nchw", dtype="float32")
needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")
needs_emulator = pytest.mark.skipif(
    not nvrtc.available() or not emulator.available(), reason="NVRTC or a C++ compiler is not installed"
)


def run(workload: Conv2d, config: Config | None = None, device: Any = A100, kind: str = "integer") -> emulator.Report:
    """Emulate and compare with the reference, element by element (exactly for integer inputs)."""
    config = config or TEMPLATE.default(workload, device)
    assert not TEMPLATE.violations(config, workload, device)
    inputs = reference.example_inputs(workload, 3, kind)
    out = reference.allocate(workload.arrays()["out"], 77)
    report = emulator.run_plan(
        render(TEMPLATE, config, workload, device),
        TEMPLATE.plan(config, workload, device),
        {**inputs, "out": out},
        arch=device.arch,
        device=device,
    )
    assert report.ok, report.findings
    result = reference.compare(report.arrays["out"], workload, inputs, exact=kind == "integer")
    assert result.ok, str(result)
    return report


@needs_emulator
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    "shape",
    [
        dict(n=1, c=3, h=11, w=13, k=5, r=7, s=7, stride=2, padding=3),
        dict(n=2, c=8, h=7, w=7, k=12, r=1, s=1, stride=(2, 1)),
        dict(n=1, c=12, h=9, w=8, k=12, r=3, s=3, padding=1, groups=12),
        dict(n=1, c=8, h=10, w=9, k=4, r=3, s=2, padding=(0, 2, 1, 0), dilation=(2, 3), groups=2),
        dict(n=3, c=1, h=1, w=1, k=1, r=3, s=3, padding=1),
        dict(n=1, c=2, h=3, w=40, k=3, r=1, s=7, padding=(0, 0, 3, 3)),
        dict(n=1, c=2, h=4, w=6, k=2, r=2, s=2, padding=(0, 1, 30000, 30001), dilation=(1, 60000)),
        dict(n=1, c=13, h=5, w=6, k=513, r=1, s=1),
    ],
)
def test_every_shape_of_filter(layout: str, shape: dict[str, Any]) -> None:
    run(Conv2d(**shape, layout=layout, dtype="float16", out_dtype="float32", epilogue="scale+bias+relu"))


@needs_emulator
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    "changes",
    [
        dict(stage_x="global"),
        dict(stage_w="global"),
        dict(stage_x="global", stage_w="global"),
        dict(shared_x="c_inner", shared_w="c_inner", fragment_c=2, padding_x=1, padding_w=2),
        dict(thread_q=4, thread_k=2, columns="spread", block_k=16, block_p=4),
        dict(thread_q=2, reuse_row=True, unroll="s", block_k=16, block_p=4),
        dict(lanes="channels", thread_k=2, block_k=16, padding_w=4),
        dict(stages=2),
        dict(stages=3, block_c=4, padding_x=4),
        dict(split_k=4, raster_along="m"),
    ],
)
def test_every_way_of_staging(layout: str, changes: dict[str, Any]) -> None:
    workload = Conv2d(2, 16, 9, 10, 16, 3, 3, padding=1, layout=layout, dtype="float32", epilogue="residual+bias")
    run(workload, Config(SMALL, **changes))


@needs_emulator
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_default_stages_filters_without_bank_conflicts(layout: str) -> None:
    workload = Conv2d(1, 16, 14, 14, 64, 3, 3, padding=1, layout=layout, dtype="float32")
    conflicts = run(workload, TEMPLATE.default(workload, A100).replace(split_k=1)).bank_conflicts
    assert conflicts.store_wavefronts > 0
    assert conflicts.store_extra <= conflicts.store_wavefronts // 4
    assert conflicts.load_extra <= conflicts.load_wavefronts // 3


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("name", ["t4", "a100", "rtx-3090", "rtx-4090", "h200", "rtx-5090"])
def test_seeds_compile_without_spills(name: str) -> None:
    device = by_name(name)
    for layout, dtype in (("nchw", "float32"), ("nhwc", "float16")):
        workload = Conv2d(1, 64, 56, 56, 64, 3, 3, padding=1, layout=layout, dtype=dtype)
        seeds = TEMPLATE.seeds(workload, device)
        assert len(seeds) >= 3
        for config in seeds:
            log = nvrtc.to_cubin(render(TEMPLATE, config, workload, device), device.arch).log
            assert not any(r.spill_bytes for r in cubin.read_log(log).values()), config


def test_images_beyond_32_bit_offsets_use_64_bit_ones() -> None:
    small, huge = Conv2d(1, 16, 64, 64, 16, 3, 3), Conv2d(1, 256, 4096, 4096, 16, 3, 3)
    assert "(long long)h" not in render(TEMPLATE, Config(SMALL), small, A100)
    assert "(long long)h" in render(TEMPLATE, Config(SMALL), huge, A100)


def test_masks_exist_only_where_something_can_be_outside() -> None:
    inside = Conv2d(1, 16, 10, 10, 16, 3, 3, layout="nchw", dtype="float32")
    assert "zeros" in render(TEMPLATE, Config(SMALL), BODY, A100)
    assert "(unsigned)h <" not in render(TEMPLATE, Config(SMALL), inside, A100)
    assert "(unsigned)h < 9u" in render(TEMPLATE, Config(SMALL), BODY, A100)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (dict(thread_k=16), "thread_k_divides"),
        (dict(thread_p=7), "thread_p_divides"),
        (dict(block_k=1, block_p=1), "threads_fit"),
        (dict(block_k=64), "block_k_useful"),
        (dict(stage_x="global", padding_x=1), "shared_x_useful"),
        (dict(stage_w="global", shared_w="c_inner"), "shared_w_useful"),
        (dict(vector_width_x=4), "vector_x_aligned"),
        (dict(reuse_row=True), "reuse_row_legal"),
        (dict(shared_type="wide"), "shared_type_useful"),
        (dict(split_k=16), "split_k_fits"),
        (dict(fragment_c=4), "fragment_fits"),
    ],
)
def test_broken_rules_are_named(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"\b{rule}: "):
        BoundTemplate(TEMPLATE, BODY, A100).render(Config(SMALL, **changes))


def test_pretransformed_filters_are_refused() -> None:
    workload = Conv2d(1, 16, 8, 8, 16, 3, 3, padding=1, math=("winograd",), weights="pretransformed")
    assert "plain filters" in str(TEMPLATE.supported(workload, A100))
    assert TEMPLATE.supported(BODY, T4) is True


def test_sums_that_no_thread_has_inside_the_image_are_not_declared() -> None:
    """7 x 7 x 2 of a thread on an image of 4 x 5: ptxas drops those that are never stored."""
    config = Config(SMALL, block_p=7, block_q=7, thread_k=2, thread_p=7, thread_q=7, block_c=1, columns="spread")
    small, large = (
        Conv2d(1, 48, h, w, 76, 2, 2, padding=1, groups=2, dtype="float32", layout="nchw")
        for h, w in ((3, 4), (40, 40))
    )
    assert [TEMPLATE.resources(config, x, A100).accumulators for x in (small, large)] == [2 * 4 * 5, 2 * 7 * 7]
    apart = Config(config, block_q=14)  # two threads, whose columns are 2 apart: 0, 2, 4 are inside for one of them
    assert TEMPLATE.resources(apart, small, A100).accumulators == 2 * 4 * 3
