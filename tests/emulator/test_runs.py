"""What a run is: plans of several steps, seeds, counters in the report, and kernels as NVCC writes them."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_tune import emulator
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan, MemsetStep, ScalarArg
from tests.helpers.emulator.snippets import PRELUDE, messages, needs_emulator, needs_nvrtc, result, run, run_args

pytestmark = [needs_emulator, needs_nvrtc]

SOURCE = (
    PRELUDE
    + r"""
GLOBAL fill(u32* w, int value) { w[blockIdx.x * 32 + threadIdx.x] += value; }
GLOBAL gather(const u32* w, u32* out, float alpha, long long big) {
  u32 sum = 0; for (int i = 0; i < 4; ++i) sum += w[i * 32 + threadIdx.x];
  out[threadIdx.x] = sum * (u32)alpha + (u32)(big >> 40); }
GLOBAL columns(const float* a, float* b) {
  __shared__ float s[32][32]; s[threadIdx.x][0] = a[threadIdx.x]; __syncwarp();
  b[threadIdx.x] = s[31 - threadIdx.x][0]; }
GLOBAL rows(const float* a, float* b) {
  __shared__ float s[32]; s[threadIdx.x] = a[threadIdx.x]; __syncwarp(); b[threadIdx.x] = s[31 - threadIdx.x]; }
GLOBAL lanes(u32* b) {
  if (threadIdx.x < 8) { u32 x = b[threadIdx.x]; for (int i = 0; i < 50; ++i) x = x * 3 + 1; b[threadIdx.x] = x; } }
GLOBAL dependent(const u32* a, u32* b) {
  asm volatile("griddepcontrol.wait;" ::: "memory");
  b[threadIdx.x] = a[threadIdx.x] + 1;
  asm volatile("griddepcontrol.launch_dependents;"); }
__device__ u32 counter = 5; __constant__ u32 table[4] = {1, 2, 3, 4};
GLOBAL symbols(u32* b) { b[threadIdx.x] = table[threadIdx.x & 3] + counter; }
GLOBAL shape(u32* b) {
  int id = ((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * (blockDim.x * blockDim.y * blockDim.z)
         + (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  b[id] = id; }
GLOBAL branches(const int* a, int* b) {
  int t = threadIdx.x, x = a[t];
  switch (x % 7) { case 0: x += 5; break; case 1: x *= 3; break; case 2: x -= 4;
                   case 3: x ^= 9; break; case 4: x = -x; break; }
  for (int i = 0; i < t % 5; ++i) { if (x & 1) { x = x * 3 + 1; continue; } x >>= 1; if (x > 1000) break; }
  b[t] = x; }
"""
)


def test_steps_run_in_order_and_see_each_other() -> None:
    plan = LaunchPlan(
        (
            MemsetStep("workspace", 512, 0),
            KernelStep("fill", (4, 1, 1), (32, 1, 1), (BufferArg("workspace"), ScalarArg("v", "int32", 3))),
            KernelStep(
                "gather",
                (1, 1, 1),
                (32, 1, 1),
                (
                    BufferArg("workspace"),
                    BufferArg("out"),
                    ScalarArg("alpha", "float32"),
                    ScalarArg("big", "int64", 7 << 40),
                ),
            ),
        ),
        workspace_bytes=512,
    )
    module = emulator.Module.load(SOURCE, arch="sm_80")
    report = module.run(plan, {"out": np.zeros(32, np.uint32)}, scalars={"alpha": 2.0})
    assert report.ok, messages(report)
    assert (report.arrays["out"] == 4 * 3 * 2 + 7).all()


def test_offsets_of_buffers() -> None:
    data = np.arange(64, dtype=np.uint32)
    report = run_args(SOURCE, "fill", {"a": data}, [BufferArg("a", 128), 5])
    assert report.ok and np.array_equal(report.arrays["a"], data + 5 * (data >= 32))


def test_the_callers_arrays_are_left_alone() -> None:
    data = np.zeros(32, np.uint32)
    run_args(SOURCE, "fill", {"a": data}, [BufferArg("a"), 5])
    assert not data.any()


def test_results_are_a_function_of_the_seed() -> None:
    text = PRELUDE + "GLOBAL order(u32* a, u32* b) { if (threadIdx.x == 0) b[blockIdx.x] = atomicAdd(a, 1u); }"

    def tickets(seed: int) -> list[int]:
        return list(
            result(run(text, "order", [np.zeros(1, np.uint32), np.zeros(8, np.uint32)], grid=8, block=64, seed=seed), 1)
        )

    assert all(tickets(s) == tickets(s) for s in range(4))
    assert len({tuple(tickets(s)) for s in range(8)}) > 1, "seeds never change the interleaving"


def test_bank_conflicts_are_counted() -> None:
    a = np.zeros(32, np.float32)
    assert run(SOURCE, "rows", [a, a]).bank_conflicts.share == 0
    conflicts = run(SOURCE, "columns", [a, a]).bank_conflicts
    assert (
        (conflicts.store_wavefronts, conflicts.store_extra)
        == (32, 31)
        == (conflicts.load_wavefronts, conflicts.load_extra)
    )
    assert conflicts.share == pytest.approx(62 / 64)


def test_active_lanes_and_instruction_mix() -> None:
    few = run(SOURCE, "lanes", [np.zeros(32, np.uint32)])
    every = run(SOURCE, "rows", [np.zeros(32, np.float32), np.zeros(32, np.float32)])
    assert few.active_lanes < every.active_lanes == pytest.approx(1)
    assert any(name.startswith("st.global") for name in every.instructions) and all(
        n > 0 for n in every.instructions.values()
    )


def test_shared_bytes_touched() -> None:
    text = (
        PRELUDE
        + "GLOBAL k(u32* a) { SMEM; ((u32*)smem)[threadIdx.x] = 1; a[threadIdx.x] = ((u32*)smem)[threadIdx.x]; }"
    )
    assert run(text, "k", [np.zeros(32, np.uint32)], shared=1024).shared_bytes_touched == {"k": 128}


def test_programmatic_dependent_launch_is_accepted() -> None:
    data = np.arange(32, dtype=np.uint32)
    assert np.array_equal(result(run(SOURCE, "dependent", [data, np.zeros(32, np.uint32)]), 1), data + 1)


def test_module_variables() -> None:
    got = result(run(SOURCE, "symbols", [np.zeros(32, np.uint32)]), 0)
    assert np.array_equal(got, np.arange(32) % 4 + 6)


def test_three_dimensional_grids() -> None:
    count = 3 * 2 * 2 * 4 * 3 * 2
    assert np.array_equal(
        result(run(SOURCE, "shape", [np.zeros(count, np.uint32)], grid=(3, 2, 2), block=(4, 3, 2)), 0),
        np.arange(count),
    )


def test_divergent_control_flow() -> None:
    a = np.random.default_rng(0).integers(0, 500, 128).astype(np.int32)
    expected = []
    for t, x in enumerate(map(int, a)):
        case = x % 7
        x = {0: x + 5, 1: x * 3, 2: (x - 4) ^ 9, 3: x ^ 9, 4: -x}.get(case, x)
        for _ in range(t % 5):
            if x & 1:
                x = x * 3 + 1
                continue
            x >>= 1
            if x > 1000:
                break
        expected.append(x)
    assert list(result(run(SOURCE, "branches", [a, np.zeros(128, np.int32)], block=128), 1)) == expected


def test_covered_lines_name_cuda_lines() -> None:
    report = run(SOURCE, "lanes", [np.zeros(32, np.uint32)])
    line = next(i for i, text in enumerate(SOURCE.splitlines(), 1) if "GLOBAL lanes" in text)
    assert line in {c if isinstance(c, int) else c[-1] for c in report.covered_lines}
