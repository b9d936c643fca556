"""What the emulator does not know it refuses by name; what a plan or tensor map may not be is refused with the rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpu_tune import emulator
from gpu_tune.errors import EmulationError, GpuTuneError
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan
from tests.helpers.emulator.snippets import (
    HOPPER,
    PRELUDE,
    messages,
    needs_emulator,
    needs_nvrtc,
    run,
    run_args,
    tensor_map,
)

pytestmark = needs_emulator

FRAME = """.version 8.7
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 k_a)
{
.reg .b32 %r<9>;
.reg .b64 %rd<9>;
.reg .f32 %f<9>;
.reg .b16 %h<9>;
.reg .pred %p<9>;
@BODY@
ret;
}
"""


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("frobnicate.u32 %r1, %r2;", "frobnicate"),
        ("add.shiny.u32 %r1, %r2, %r3;", "shiny"),
        ("add.sat.u32 %r1, %r2, %r3;", "sat"),
        ("ld.global.sideways.u32 %r1, [%rd1];", "sideways"),
        ("fma.rn.wild.f32 %f1, %f2, %f3, %f4;", "wild"),
        ("cp.async.ca.shared.global.wat [%r1], [%rd1], 16;", "wat"),
        ("mbarrier.arrive.odd.shared::cta.b64 _, [%r1];", "odd"),
        ("bar.sync.extra 0;", "extra"),
        ("add.cc.u16 %r1, %r2, %r3;", "type"),
        ("mul24.wide.u32 %r1, %r2, %r3;", "mul24"),
        ("cvt.pack.s8.s32.b32 %r1, %r2, %r3, %r4;", "pack"),
        (
            "mma.sync.aligned.m16n8k32.row.col.s32.s4.s8.s32 {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r7}, {%r1,%r2,%r3,%r4};",
            "types",
        ),
        ("mma.sync.aligned.m8n8k4.row.col.f16.f16.f16.f16 {%r1,%r2}, {%r3,%r4}, {%r5,%r6}, {%r1,%r2};", "m8n8k4"),
        ("atom.global.add.v4.u32 {%r1,%r2,%r3,%r4}, [%rd1], {%r5,%r6,%r7,%r8};", "vector"),
        ("tex.2d.v4.f32.s32 {%f1, %f2, %f3, %f4}, [%rd1, {%r1, %r2}];", "tex"),
        (
            "mma.sync.aligned.m7n8k16.row.col.f32.f16.f16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, "
            "{%f1,%f2,%f3,%f4};",
            "m7n8k16",
        ),
        (
            "wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16 {%f1,%f2,%f3,%f4}, "
            "%rd1, %rd2, %r1, 2, 1, 1, 1, 0, 0;",
            "selector",
        ),
        ("ld.relaxed.gpu.global.u2 %r1, [%rd1];", "u2"),
        ("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32;", "tcgen05"),
    ],
)
def test_unknown_instructions_and_modifiers_are_refused_by_name(body: str, word: str) -> None:
    module = emulator.Module.load(FRAME.replace("@BODY@", body), arch="sm_90a")
    with pytest.raises(EmulationError) as refused:
        module.facts("k")
    assert word in str(refused.value) and "11" in str(refused.value)  # the line in the PTX text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not ptx",
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(\n",
        FRAME.replace("@BODY@", "add.u32 %r1, %nope, 1;"),
        FRAME.replace("@BODY@", "bra nowhere;"),
        FRAME.replace("@BODY@", "add.u32 %r1, %r2;"),
        FRAME.replace("@BODY@", "add.u32 %r1, %r2, %rd1;"),
    ],
)
def test_malformed_ptx_is_refused(text: str) -> None:
    with pytest.raises(GpuTuneError):
        emulator.Module.load(text if text.startswith(".version") else ".version 8.0\n" + text).facts("k")


def test_a_module_without_the_kernel_is_refused() -> None:
    with pytest.raises(EmulationError, match="other"):
        run(FRAME.replace("@BODY@", ""), "other", [np.zeros(1, np.uint32)])


def test_a_plan_with_the_wrong_number_of_arguments_is_refused() -> None:
    with pytest.raises(EmulationError, match=r"argument|parameter"):
        run_args(FRAME.replace("@BODY@", ""), "k", {"a": np.zeros(1, np.uint32)}, [])


def test_a_missing_array_is_refused() -> None:
    with pytest.raises(GpuTuneError, match=r"\bb\b"):
        run_args(FRAME.replace("@BODY@", ""), "k", {"a": np.zeros(1, np.uint32)}, [BufferArg("b")])


SMALL = PRELUDE + "GLOBAL __launch_bounds__(64) k(u32* a) { SMEM; ((u32*)smem)[threadIdx.x] = 1; a[threadIdx.x] = 1; }"


@needs_nvrtc
@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"block": 128}, "64"),
        ({"shared": 300 * 1024}, "shared"),
    ],
)
def test_launches_that_the_device_refuses(options: dict[str, Any], word: str) -> None:
    try:
        report = run(SMALL, "k", [np.zeros(128, np.uint32)], **{"block": 64, "shared": 512, **options})
    except GpuTuneError as error:
        assert word in str(error)
    else:
        assert not report.ok and word in messages(report)


TMA = (
    HOPPER
    + r"""
GLOBAL k(u32* out, const __grid_constant__ TensorMap m, int bytes) {
  SMEM; const u32 base = shared_address(smem), bar = base + 65536;
  if (threadIdx.x == 0) {
    mbar_init(bar, 1); fence_barrier_init(); fence_proxy_async();
    mbar_expect(bar, bytes);
    tma_load_2d(base, &m, bar, 0, 0);
  }
  __syncwarp(); mbar_wait(bar, 0); out[threadIdx.x] = ((u32*)smem)[threadIdx.x];
}
"""
)


@needs_nvrtc
@pytest.mark.parametrize(
    ("shape", "box", "swizzle", "changes", "word"),
    [
        ((64, 36), (32, 8), 0, {}, "16"),  # row of 72 bytes
        ((64, 512), (512, 2), 0, {}, "256"),  # box wider than 256
        ((64, 64), (64, 8), 64, {}, "swizzle"),  # 128 bytes inside a span of 64
        ((64, 64), (4, 8), 0, {}, "16"),  # inner box of 8 bytes
        ((64, 64), (32, 8), 0, {"offset": 8}, "16"),  # base address
        ((64, 64), (0, 8), 0, {}, "box"),
        ((64, 64), (32, 8), 0, {"element_strides": (9, 1)}, "stride"),
    ],
)
def test_illegal_tensor_maps(
    shape: tuple[int, int], box: tuple[int, int], swizzle: int, changes: dict[str, Any], word: str
) -> None:
    """NVIDIA's rules for cuTensorMapEncodeTiled: the driver refuses these."""
    array = np.zeros(shape, np.uint16)
    mapped = replace(tensor_map("b", array, box, swizzle), **changes)
    with pytest.raises(GpuTuneError, match=word):
        run_args(TMA, "k", {"a": np.zeros(32, np.uint32), "b": array}, [BufferArg("a"), mapped, 512], shared=65552)


@needs_nvrtc
def test_swizzled_tiles_want_aligned_shared_memory() -> None:
    array = np.zeros((64, 64), np.uint16)
    source = TMA.replace("tma_load_2d(base, &m", "tma_load_2d(base + 64, &m")
    report = run_args(
        source,
        "k",
        {"a": np.zeros(32, np.uint32), "b": array},
        [BufferArg("a"), tensor_map("b", array, (64, 8), 128), 1024],
        shared=65552,
    )
    assert not report.ok and "align" in messages(report)


def test_a_plan_is_checked() -> None:
    step = KernelStep("k", (3, 1, 1), (32, 1, 1), (BufferArg("a"),), cluster=(2, 1, 1))
    with pytest.raises(GpuTuneError, match="cluster"):
        emulator.Module.load(FRAME.replace("@BODY@", ""), arch="sm_90a").run(
            LaunchPlan((step,)), {"a": np.zeros(1, np.uint32)}
        )
