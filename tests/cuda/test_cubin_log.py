"""The reader of ptxas's log, on real logs."""

import functools
import re

import pytest

from gpu_tune.cuda import cubin, nvrtc
from gpu_tune.errors import CompileError

SOURCE = r"""
extern "C" __global__ void __launch_bounds__(1024) spills(float* x, int n) {
  float a[120];
  for (int i = 0; i < 120; ++i) a[i] = x[i * n];
  for (int j = 0; j < n; ++j) for (int i = 0; i < 120; ++i) a[i] = a[i] * a[(i + 7) % 120] + x[j];
  for (int i = 0; i < 120; ++i) x[i * n + n] = a[i];
}
extern "C" __global__ void lean(float* x) {
  __shared__ float s[32]; s[threadIdx.x] = x[0]; __syncthreads(); x[1] = s[3];
}
"""
TOUCHED_IN_FLIGHT = r"""
extern "C" __global__ void __launch_bounds__(128, 1) early(float* x, unsigned long long d) {
  float c[4] = {0, 0, 0, 0};
  asm volatile("wgmma.fence.sync.aligned;\n"
               "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0,%1,%2,%3}, %4, %4, 1, 1, 1, 0, 0;"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "l"(d));
  x[threadIdx.x] = c[0];
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;");
  x[128 + threadIdx.x] = c[1];
}
extern "C" __global__ void other(float* x) { x[0] = 1; }
"""
NO_BOUNDS = r"""extern "C" __global__ void k(float* x) {
  if (threadIdx.x < 128) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;"); x[0] = 1; }"""

needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")


@functools.cache
def log(source: str, arch: str) -> str:
    return nvrtc.to_cubin(source, arch).log


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_120"])
def test_registers_and_spills_of_each_kernel(arch: str) -> None:
    reports = cubin.read_log(log(SOURCE, arch))
    facts = cubin.read(nvrtc.to_cubin(SOURCE, arch).data).kernels
    assert set(reports) == {"spills", "lean"}
    for name, report in reports.items():
        own = log(SOURCE, arch).split(f"Compiling entry function '{name}'")[1].split("Compiling entry")[0]
        registers, barriers, shared = (
            int(found[1]) if (found := re.search(pattern, own)) else 0
            for pattern in (r"Used (\d+) registers", r"used (\d+) barriers", r"(\d+) bytes smem")
        )
        assert (registers, report.stack_bytes) == (facts[name].registers, facts[name].stack_bytes)
        assert (shared, barriers) == (facts[name].static_shared_bytes, facts[name].barriers)
    assert reports["spills"].spill_store_bytes > 0 and reports["spills"].spill_load_bytes > 0
    assert reports["spills"].spill_bytes == reports["spills"].spill_store_bytes + reports["spills"].spill_load_bytes
    assert reports["lean"].spill_bytes == 0 and reports["lean"].notes == ()


@needs_nvrtc
def test_a_note_belongs_to_the_kernel_it_names() -> None:
    reports = cubin.read_log(log(TOUCHED_IN_FLIGHT, "sm_90a"))
    assert any(re.match(r"C7517: (wgmma\.wait_group|warpgroup\.wait) is injected", n) for n in reports["early"].notes)
    assert reports["other"].notes == ()


@needs_nvrtc
def test_a_note_that_names_no_kernel_is_kept() -> None:
    assert any(n.startswith("C7508") for n in cubin.read_log(log(NO_BOUNDS, "sm_90a"))["k"].notes)


def test_a_log_without_report_is_empty() -> None:
    assert cubin.read_log("") == {} and cubin.read_log("kernel.cu(3): warning #177-D: unused\n") == {}


def test_a_note_without_any_report_is_not_lost() -> None:
    assert cubin.read_log("ptxas info : (C7510) something is serialised\n")[""].notes == (
        "C7510: something is serialised",
    )


def test_what_follows_a_nul_in_the_log_is_a_line_of_its_own() -> None:
    """NVRTC ends ptxas's report with a NUL before the errors that follow it."""
    log = "ptxas info    : Compiling entry function 'k' for 'sm_90a'\n\0ptxas info    : (C7510) Potential Performance"
    reports = cubin.read_log(log + " Loss: wgmma.mma_async instructions are serialized in function 'k'\n")
    assert reports["k"].notes and reports["k"].notes[0].startswith("C7510")


@needs_nvrtc
def test_no_log_or_reason_has_a_nul() -> None:
    asks_too_much = (
        'extern "C" __global__ void k(float* x) { __shared__ float s[70000]; s[threadIdx.x] = 1; x[0] = s[3]; }'
    )
    with pytest.raises(CompileError) as caught:
        nvrtc.to_cubin(asks_too_much, "sm_80")
    assert "\0" not in str(caught.value) and any(t.startswith("ptxas error") for t in str(caught.value).splitlines())
