"""The player: twins that agree, causes that add up, and small programs whose time is known."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gpu_tune.cuda import cubin, nvrtc, sass
from gpu_tune.cuda.device import by_name
from gpu_tune.model.performance import block, native, player, trace
from gpu_tune.model.performance.cast import Cast
from gpu_tune.model.performance.constants import ARCHITECTURES, architecture
from gpu_tune.model.performance.costs import CAUSES, ISSUE, TENSOR, UNITS, costs

pytestmark = [
    pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed"),
    pytest.mark.usefixtures("compile_once"),
]
SOURCE = r"""
extern "C" __global__ void __launch_bounds__(256) tensor(float* o, const uint4* p, int n) {
    __shared__ uint4 s[512];
    float d[8][4] = {};
    for (int i = 0; i < n; ++i) {
        s[threadIdx.x] = p[i * 256 + threadIdx.x];
        __syncthreads();
        uint4 a = s[threadIdx.x ^ 33], b = s[threadIdx.x ^ 65];
        for (int j = 0; j < 8; ++j)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
                : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
        __syncthreads();
    }
    for (int j = 0; j < 8; ++j) o[j * 256 + threadIdx.x] = d[j][0] + d[j][1] + d[j][2] + d[j][3];
}
extern "C" __global__ void plain(float* o, float x, int n) {
    float a[16];
    for (int j = 0; j < 16; ++j) a[j] = x + j + threadIdx.x;
    #pragma unroll 1
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < 4; ++k)
            for (int j = 0; j < 16; ++j) a[j] = a[j] * x + 1.5f;
    for (int j = 0; j < 16; ++j) o[j * 1024 + threadIdx.x] = a[j];
}
"""  # noqa: E501


def program(kernel: str, arch: str = "sm_80"):
    return cubin.programs(nvrtc.to_cubin(SOURCE, arch).data)[kernel]


def table(kernel: str, warps: int, blocks: int, device: str = "nvidia-a100"):
    code, d = program(kernel), by_name(device)
    path = trace.path(code)
    cast = Cast.alike(path.trace(24), path.marks(24), warps, blocks)
    return costs(code, architecture(80), d, warps * blocks), cast


@pytest.mark.parametrize(
    ("kernel", "warps", "blocks"), [("tensor", 8, 2), ("plain", 4, 3), ("plain", 1, 2), ("tensor", 8, 1)]
)
def test_the_twins_give_one_result(kernel: str, warps: int, blocks: int) -> None:
    if native.library() is None:
        pytest.skip("needs a C++ compiler")
    arguments = (*table(kernel, warps, blocks), architecture(80))
    fast, slow = player.play(*arguments), player.play_in_python(*arguments)
    for name in ("first", "times", "causes", "busy"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), rtol=1e-12, atol=0)
    start = time.process_time()
    player.play_in_python(*arguments)
    python = time.process_time() - start
    start = time.process_time()
    for _ in range(10):
        player.play(*arguments)
    assert python > 5 * (time.process_time() - start) / 10


def test_causes_add_up_to_the_time() -> None:
    played = player.play(*table("tensor", 8, 2), architecture(80))
    np.testing.assert_allclose(played.causes.sum(axis=1)[-1], played.times[-1])
    assert (np.diff(played.times) > 0).all() and (played.first <= played.times).all()
    assert played.causes.shape[1] == len(CAUSES) and played.busy.shape[1] == len(UNITS)


def test_arithmetic_alone_runs_at_the_rate_of_its_pipe() -> None:
    """64 FFMA an iteration; 16 lanes (A100) serve a warp in 2 cycles, and one warp of each sub-partition is enough."""
    pace = block.Kernel(program("plain"), by_name("nvidia-a100"), 4).pace(1)
    assert pace.iteration == pytest.approx(128, rel=0.12)
    assert pace.shares[UNITS.index("fma")] > 0.85
    four = block.Kernel(program("plain"), by_name("nvidia-a100"), 16).pace(1)
    assert four.iteration == pytest.approx(512, rel=0.03)


def test_tensor_cores_take_what_the_data_sheet_says() -> None:
    """Eight 16x8x16 products for each of two warps of a sub-partition, 8 cycles each on an A100, 32 on an RTX 3090."""
    kernel = block.Kernel(program("tensor"), by_name("nvidia-a100"), 8)
    steps = kernel.work / (8 * 16 * 8 * 16)  # ptxas unrolls
    assert steps in (1, 2, 4)
    assert kernel.pace(1).iteration * kernel.pace(1).shares[UNITS.index("mma")] == pytest.approx(steps * 2 * 8 * 8)
    other = block.Kernel(program("tensor", "sm_86"), by_name("nvidia-rtx-3090"), 8)
    slower, steps = other.pace(1), other.work / (8 * 16 * 8 * 16)
    assert slower.iteration * slower.shares[UNITS.index("mma")] == pytest.approx(steps * 2 * 8 * 32)
    assert kernel.pace(4).iteration < 4 * kernel.pace(1).iteration  # more blocks hide each other's latency
    assert kernel.pace(4).causes[TENSOR] + kernel.pace(4).causes[ISSUE] > 0


def test_short_loops_are_as_played() -> None:
    pace = block.Kernel(program("tensor"), by_name("nvidia-a100"), 8).pace(2)
    times = [pace.cycles(n) for n in (0, 1, 2, 8, 24, 25, 100)]
    assert times == sorted(times)
    assert pace.cycles(101) - pace.cycles(100) == pytest.approx(pace.iteration)
    assert pace.cycles(2) - pace.cycles(0) >= 1.0 * pace.iteration


def test_every_architecture_has_positive_constants() -> None:
    for cc, sm in ARCHITECTURES.items():
        assert sm.cc == cc and sm.l1 < sm.l2 < sm.dram and min(sm.fma, sm.alu, sm.imad, sm.half) >= 1
    assert architecture(110) is ARCHITECTURES[103] and architecture(70) is ARCHITECTURES[75]


def test_a_walk_tries_each_branch_once() -> None:
    count = 60  # branches, each past an exit of its own: 2^60 ways to none that leads where the walk is to end

    class Program:
        turns = sass.Program.turns
        guarded = np.array([True, False] * count + [False, False])
        target = np.array([n for i in range(count) for n in (2 * i + 2, -1)] + [-1, -1])

        def __len__(self) -> int:
            return len(self.target)

        def is_(self, names: str) -> np.ndarray:
            exits = np.zeros(len(self), bool)
            exits[2 * count] = True
            return exits

    stop = 2 * count + 1
    assert trace.walk(Program(), 0, stop)[-1] == 2 * count  # type: ignore[arg-type]
