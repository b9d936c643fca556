"""The gradients' fallback families: right on every convolution, in any order of sums, and no zeros multiplied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpu_tune import emulator, reference
from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.errors import Unsupported
from gpu_tune.kernel.export_cpp import header
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import render
from gpu_tune.templates.lib.phases import Phases
from gpu_tune.templates.registry import bind, registry
from gpu_tune.workload import Conv2d

A100, H200, T4 = by_name("nvidia-a100"), by_name("nvidia-h200"), by_name("nvidia-t4")
needs_emulator = pytest.mark.skipif(
    not nvrtc.available() or not emulator.available(), reason="NVRTC or a C++ compiler is not installed"
)


def run(workload: Conv2d, device: Any = A100, kind: str = "simt", **changes: Any) -> emulator.Report:
    """Emulate the default config with ``changes`` on integers, and compare with the reference exactly."""
    template = registry()[f"conv2d_{workload.direction}_{kind}"]
    config = Config(template.default(workload, device), **changes)
    assert not template.violations(config, workload, device)
    inputs = reference.example_inputs(workload, 3, "integer")
    scalars = reference.example_scalars(workload, "integer")
    out = reference.allocate(workload.arrays()["out"], 77)
    source, plan = render(template, config, workload, device), template.plan(config, workload, device)
    report = emulator.run_plan(source, plan, {**inputs, "out": out}, scalars=scalars, arch=device.arch, device=device)
    assert report.ok, report.findings
    result = reference.compare(report.arrays["out"], workload, inputs, scalars, exact=True)
    assert result.ok, str(result)
    return report


SHAPES: list[dict[str, Any]] = [
    dict(n=2, c=6, h=9, w=8, k=10, r=3, s=2, stride=(2, 3), padding=(0, 2, 1, 0), groups=2),
    dict(n=1, c=12, h=13, w=11, k=3, r=4, s=3, stride=(6, 4), dilation=(4, 2), padding=3),
    dict(n=1, c=5, h=7, w=2, k=5, r=1, s=1, stride=(3, 5), groups=5),
]


@needs_emulator
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_every_kind_of_convolution(layout: str, shape: dict[str, Any]) -> None:
    common: dict[str, Any] = dict(**shape, layout=layout, dtype="float16", out_dtype="float32")
    run(Conv2d(**common, direction="dgrad", epilogue="residual+bias"))
    run(Conv2d(**common, direction="wgrad", beta="any"), T4)


MATRIX: dict[str, Any] = dict(n=2, c=24, h=9, w=7, k=64, r=3, s=2, groups=2, padding=(2, 1, 0, 1), dtype="float16")


@needs_emulator
def test_gradients_on_tensor_cores_turn_filters_and_gather_pixels() -> None:
    run(Conv2d(**MATRIX, dilation=(1, 2), direction="dgrad", epilogue="scale+bias+relu"), kind="mma")
    run(Conv2d(**MATRIX, stride=(2, 3), dilation=(3, 1), direction="wgrad", beta="any"), kind="mma")
    parts: dict[str, Any] = dict(block_k=16, fragment_buffers=1, stages=2, split_k=3, reduction="last_arrival")
    parts.update(block_m=32, block_n=16, warp_m=16, warp_n=16, slice_k=1, raster_group=1)
    run(Conv2d(**MATRIX, direction="wgrad", out_dtype="float32"), kind="mma", **parts)
    run(Conv2d(**{**MATRIX, "r": 1, "padding": 0}, direction="dgrad"), kind="mma", **parts)


@needs_emulator
def test_phases_of_a_stride_are_dense_problems_on_tensor_cores() -> None:
    common: dict[str, Any] = dict(n=2, c=16, h=9, w=8, k=32, dtype="float16", out_dtype="float32", direction="dgrad")
    report = run(Conv2d(**common, r=3, s=3, stride=2, padding=1, epilogue="residual"), kind="mma", split_k=1)
    assert sum("phase" in name or "dgrad" in name for name in report.shared_bytes_touched) == 4
    run(Conv2d(**{**common, "groups": 2, "k": 64}, r=1, s=3, stride=(2, 1), padding=0), kind="mma")
    run(Conv2d(**common, r=3, s=3, stride=2, dilation=2, padding=2), kind="mma")


def test_what_tensor_cores_do_not_take_is_named() -> None:
    workload = Conv2d(**MATRIX, direction="dgrad")
    for change, said in (
        (dict(stride=(3, 2)), "at most 4 phases, each of which is a kernel to compile, not 3x2"),
        (dict(stride=2, dilation=2, padding=2, epilogue="bias"), "an epilogue would change"),
        (dict(h=1, stride=4, r=1, s=1, padding=(1, 0, 0, 0)), "at most 4"),
        (dict(h=1, stride=(2, 1), r=1, padding=(1, 0, 0, 0)), "no pixel that meets"),
        (dict(layout="nchw"), "in layout nhwc, not nchw"),
        (dict(dtype="float8_e4m3", out_dtype="float16"), "takes 16- and 32-bit data"),
        (dict(dtype="float32", out_dtype="float32"), "math permits neither"),
        (dict(padding=3), "leaves no part of dy out"),
        (dict(k=40), "20 of a group are no multiple of 32"),
        (dict(c=6), "copies 4 bytes or more"),
        (dict(direction="wgrad", c=6), "(3) are no multiple"),
    ):
        changed = replace(workload, **change)  # type: ignore[arg-type]
        answer = registry()[f"conv2d_{changed.direction}_mma"].supported(changed, A100)
        assert said in str(answer), (change, answer)
        assert registry()[f"conv2d_{changed.direction}_simt"].supported(changed, A100) is True


HOPPER: dict[str, Any] = dict(block_m=64, block_n=64, block_k=64, consumers=1, schedule="cooperative", stages=3)
HOPPER.update(cluster_m=1, cluster_n=1, producer_registers=0, epilogue_store="direct", raster_group=1, grid="all")
HOPPER.update(split_k=1, reduction="workspace", swap_ab=False, min_blocks=1, l2_keep="both")


@needs_emulator
def test_gradients_on_wgmma_gather_dy_and_x_with_the_copy_engine() -> None:
    shape: dict[str, Any] = dict(n=2, c=48, h=9, w=8, k=64, r=3, s=2, padding=(2, 1, 0, 1), dtype="float16")
    dgrad = Conv2d(**shape, dilation=(1, 2), direction="dgrad", epilogue="scale+bias+drelu(out)")
    run(dgrad, H200, kind="wgmma", **{**HOPPER, "block_n": 16, "cluster_m": 2})
    wgrad = Conv2d(**shape, stride=(2, 3), dilation=(3, 1), direction="wgrad", beta="any", out_dtype="float32")
    run(wgrad, H200, kind="wgmma", **{**HOPPER, "block_n": 80, "cluster_n": 2})  # boxes of 16 columns, in two taps
    groups: dict[str, Any] = dict(shape, c=32, k=128, groups=2, n=3)
    run(Conv2d(**groups, direction="dgrad"), H200, kind="wgmma", **{**HOPPER, "block_n": 16})
    run(Conv2d(**groups, direction="wgrad"), H200, kind="wgmma", **{**HOPPER, "block_n": 16, "split_k": 3})


def test_what_wgmma_does_not_take_of_a_gradient_is_named() -> None:
    workload = Conv2d(1, 64, 9, 9, 64, 3, 3, padding=1, dtype="bfloat16", direction="dgrad")
    for change, said in (
        (dict(stride=2), "takes stride 1"),
        (dict(dtype="int8", out_dtype="int32"), "16-bit data alone"),
        (dict(layout="nchw"), "layout 'nhwc' only"),
        (dict(padding=5), "leaves no part of dy out"),
        (dict(groups=4), "a group must have channels of dy"),
        (dict(c=12), "multiples of 16 bytes: 12 channels"),
        (dict(direction="wgrad", c=24), "24 channels are no multiple of 16"),
        (dict(direction="wgrad", groups=2), "filters in multiples of 64, not 32"),
        (dict(direction="wgrad", k=12), "k=12 are 24 bytes"),
        (dict(direction="wgrad", stride=9, padding=9), "stride ends at 8"),
    ):
        changed = replace(workload, **change)  # type: ignore[arg-type]
        assert said in str(registry()[f"conv2d_{changed.direction}_wgmma"].supported(changed, H200)), change
        assert bind(changed, H200), change


DEPTHWISE: list[dict[str, Any]] = [
    dict(n=2, c=24, h=9, w=14, r=3, s=3, padding=1),
    dict(n=2, c=8, h=13, w=10, r=3, s=5, stride=(2, 3), dilation=(3, 1), padding=(0, 2, 4, 1)),
    dict(n=1, c=8, h=11, w=7, r=1, s=2, stride=(3, 2), padding=(5, 0, 0, 4)),
]


@needs_emulator
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape", DEPTHWISE)
def test_depthwise_gradients_of_any_stride_and_padding(layout: str, shape: dict[str, Any]) -> None:
    common: dict[str, Any] = dict(**shape, k=shape["c"], groups=shape["c"], layout=layout, dtype="float16")
    run(Conv2d(**common, direction="dgrad", epilogue="scale+bias+drelu(out)"), kind="depthwise")
    run(Conv2d(**common, direction="wgrad", out_dtype="float32", beta="any"), T4, kind="depthwise")


@needs_emulator
def test_sums_of_lanes_warps_and_blocks_of_a_depthwise_wgrad_meet() -> None:
    common: dict[str, Any] = dict(c=40, h=12, w=9, k=40, r=3, s=3, padding=1, groups=40, direction="wgrad")
    tile: dict[str, Any] = dict(thread_p=2, thread_q=1, threads_c=4, threads_p=2, threads_q=16, min_blocks=0)
    for split_k, layout in ((1, "nhwc"), (3, "nchw"), (6, "nhwc")):  # one warp after the other; 4 and 8 sharers
        workload = Conv2d(n=2, layout=layout, dtype="int8", **common)
        run(workload, kind="depthwise", split_k=split_k, vector_width=4 if layout == "nhwc" else 1, **tile)


def test_depthwise_gradients_refuse_what_is_none_and_what_is_too_large() -> None:
    workload = Conv2d(1, 16, 40, 40, 16, 3, 3, groups=16, direction="dgrad")
    for change, said in (
        (dict(groups=8), "groups = c = k"),
        (dict(r=33, s=33), "33x33"),
        (dict(stride=16), "(16, 16)"),
    ):
        changed = replace(workload, **change)  # type: ignore[arg-type]
        assert said in str(registry()["conv2d_dgrad_depthwise"].supported(changed, A100))
        assert registry()["conv2d_dgrad_simt"].supported(changed, A100) is True
    changed = replace(workload, r=33, s=33, direction="wgrad")
    assert "33x33" in str(registry()["conv2d_wgrad_depthwise"].supported(changed, A100))
    names = [b.name for b in bind(replace(workload, direction="wgrad"), A100)]
    assert names == ["conv2d_wgrad_depthwise", "conv2d_wgrad_simt"]


@needs_emulator
@pytest.mark.parametrize("direction", ["dgrad", "wgrad"])
def test_parts_of_the_depth_are_added_by_a_second_kernel(direction: str) -> None:
    workload = Conv2d(1, 16, 8, 8, 32, 3, 3, stride=2, padding=1, dtype="int8", direction=direction)
    assert "split_k=4" not in registry()[f"conv2d_{direction}_simt"].default(workload, A100).key
    tile = dict(block_m=16, block_n=16, block_k=4, thread_m=2, thread_n=2, vector_width_a=1, vector_width_b=1)
    run(workload, split_k=4, unroll=1, vector_width_out=1, **tile)


@needs_emulator
def test_a_stride_divides_the_work() -> None:
    dense = Conv2d(1, 16, 16, 16, 16, 3, 3, padding=1, dtype="float32", direction="dgrad")
    strided = replace(dense, stride=2)  # dy has a quarter of the elements, dx has as many
    tile = dict(block_m=16, block_n=16, block_k=16, thread_m=2, thread_n=2, split_k=1, unroll=1)
    fixed = dict(vector_width_a=1, vector_width_b=1, vector_width_out=1, padding_a=0, **tile)
    counts = [run(w, **fixed).instructions for w in (dense, strided)]
    adds = [sum(n for name, n in c.items() if name.startswith("fma")) for c in counts]
    assert 0 < adds[1] == adds[0] / 4, counts


def test_phases_are_those_of_the_definition() -> None:
    for stride, dilation, padding, taps in ((6, 4, 3, 5), (4, 2, 0, 3), (5, 3, 7, 2), (1, 3, 1, 4), (3, 6, 2, 3)):
        axis = Phases(20, taps, 9, stride, dilation, padding)
        for first in range(axis.count):
            meets = [r for r in range(taps) if (first + padding - r * dilation) % stride == 0]
            found = axis.at(first)
            assert list(range(found.first_tap, taps, axis.step)) == meets and found.taps == len(meets) <= axis.most_taps
            assert found.pixels == len(range(first, 20, stride))
            assert not meets or found.start == (first + padding - meets[0] * dilation) // stride


def test_what_is_refused_is_named_and_what_is_exported_takes_dy() -> None:
    workload = Conv2d(1, 8, 6, 6, 8, 3, 3, direction="wgrad", beta="1")
    assert [b.name for b in bind(workload, A100)] == ["conv2d_wgrad_mma", "conv2d_wgrad_simt"]
    template = registry()["conv2d_wgrad_simt"]
    assert template.supported(replace(workload, direction="fprop", beta="0"), A100) == "computes wgrad, not fprop"
    plan = template.plan(template.default(workload, A100), workload, A100)
    text = header(plan, workload)
    assert all(f"CUdeviceptr {name}" in text for name in ("dy", "x", "c", "out"))
    with pytest.raises(Unsupported, match=r"conv2d_dgrad_simt computes dgrad, not wgrad.*are not indexed"):
        bind(replace(workload, n=2**20, h=2**9, w=2**9), A100)
