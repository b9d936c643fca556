"""Whole kernels through ``emulate``: SIMT, cp.async with mma.sync, TMA with wgmma, and blocks that sum up in turns."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_tune import emulator
from gpu_tune.errors import InvalidInput
from gpu_tune.plan import Arg, BufferArg, KernelStep, LaunchPlan, ScalarArg, TensorMapArg
from tests.helpers.emulator.snippets import HOPPER, PRELUDE, messages, needs_emulator, needs_nvrtc

pytestmark = [needs_emulator, needs_nvrtc]

SIMT = (
    PRELUDE
    + r"""
GLOBAL __launch_bounds__(256) product(const float* a, const float* b, float* out, int m, int n, int k) {
  __shared__ float sa[16][17], sb[16][16];
  const int x = threadIdx.x % 16, y = threadIdx.x / 16, row = blockIdx.y * 16 + y, col = blockIdx.x * 16 + x;
  float sum = 0;
  for (int k0 = 0; k0 < k; k0 += 16) {
    sa[y][x] = row < m && k0 + x < k ? a[row * k + k0 + x] : 0.f;
    sb[y][x] = k0 + y < k && col < n ? b[(k0 + y) * n + col] : 0.f;
    __syncthreads();
    for (int i = 0; i < 16; ++i) sum += sa[y][i] * sb[i][x];
    SECOND_BARRIER
  }
  if (row < m && col < n) out[row * n + col] = sum;
}
"""
)


def simt(m: int, n: int, k: int) -> LaunchPlan:
    sizes = tuple(ScalarArg(name, "int32", v) for name, v in (("m", m), ("n", n), ("k", k)))
    args: tuple[Arg, ...] = (BufferArg("a"), BufferArg("b"), BufferArg("out"), *sizes)
    return LaunchPlan((KernelStep("product", (-(-n // 16), -(-m // 16), 1), (256, 1, 1), args),))


@pytest.mark.parametrize("seed", range(4))
def test_simt_product(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n, k = (int(v) for v in rng.integers(1, 50, 3))
    a, b = rng.integers(-4, 5, (m, k)).astype(np.float32), rng.integers(-4, 5, (k, n)).astype(np.float32)
    arrays = {"a": a, "b": b, "out": np.full((m, n), np.nan, np.float32)}
    source = SIMT.replace("SECOND_BARRIER", "__syncthreads();")
    report = emulator.run_plan(source, simt(m, n, k), arrays, seed=seed)
    assert report.ok, messages(report)
    assert np.array_equal(report.arrays["out"], a @ b)
    assert np.isnan(arrays["out"]).all(), "the caller's array was written"


def test_a_missing_barrier_is_named_with_its_line() -> None:
    arrays = {"a": np.ones((16, 64), np.float32), "b": np.ones((64, 16), np.float32), "out": np.zeros((16, 16), "f4")}
    report = emulator.run_plan(SIMT.replace("SECOND_BARRIER", ""), simt(16, 16, 64), arrays)
    races = [f for f in report.findings if f.kind == "race"]
    assert races and all("kernel.cu:" in f.message and f.cuda_line for f in races)


def test_strided_views_keep_their_gaps() -> None:
    """A padded leading dimension: stepping over the gap is fine, what lies in it survives."""
    storage = np.full((20, 24), 7, np.float32)
    out = storage[:17, :19]
    a, b = np.ones((17, 8), np.float32), np.ones((8, 19), np.float32)
    source = SIMT.replace("SECOND_BARRIER", "__syncthreads();").replace("row * n + col] = sum", "row * 24 + col] = sum")
    report = emulator.run_plan(source, simt(17, 19, 8), {"a": a, "b": b, "out": out})
    assert report.ok, messages(report)
    assert report.arrays["out"].strides == out.strides and (report.arrays["out"] == 8).all()
    source = source.replace("col < n) out", "col < 24) out")  # beyond the last element
    report = emulator.run_plan(source, simt(17, 19, 8), {"a": a, "b": b, "out": out})
    assert any(f.kind == "bounds" for f in report.findings)


PACKED = """.version 8.0
.target sm_80
.address_size 64
.visible .entry packed(.param .u64 out) {
.reg .b32 %r<8>; .reg .b64 %rd<3>;
.shared .align 16 .b8 tile[16];
mov.u32 %r1, 5;
st.shared.b32 [tile+8], %r1;
ld.shared.v4.b32 {%r2, %r3, %r4, %r5}, [tile];
mov.b64 %rd1, {%r4, %r5};
mov.b64 {%r6, %r7}, %rd1;
ld.param.u64 %rd2, [out];
st.global.b32 [%rd2], USED;
ret;
}
"""


@pytest.mark.parametrize(("used", "kinds"), [("%r6", []), ("%r7", ["uninitialised"])])
def test_a_widened_load_reads_only_the_elements_that_are_used(used: str, kinds: list[str]) -> None:
    """Compilers widen loads over gaps and pass the elements on in packed pairs."""
    plan = LaunchPlan((KernelStep("packed", (1, 1, 1), (1, 1, 1), (BufferArg("out"),)),))
    report = emulator.run_plan(PACKED.replace("USED", used), plan, {"out": np.zeros(1, np.uint32)})
    assert [f.kind for f in report.findings] == kinds
    assert kinds or report.arrays["out"][0] == 5


def test_inputs_may_not_be_written() -> None:
    source = SIMT.replace("const float* a", "float* a").replace("SECOND_BARRIER", "__syncthreads(); a[0] = 1;")
    arrays = {"a": np.ones((16, 16), np.float32), "b": np.ones((16, 16), np.float32), "out": np.zeros((16, 16), "f4")}
    report = emulator.run_plan(source, simt(16, 16, 16), arrays)
    assert [f.kind for f in report.findings] == ["read_only"] and "`a`" in report.findings[0].message


MMA = (
    PRELUDE
    + r"""
GLOBAL __launch_bounds__(32) product(const u16* a, const u16* b, float* out, int k) {  // a 16 x 8 tile
  __shared__ __align__(16) u16 sa[2][16][16]; __shared__ __align__(16) u16 sb[2][8][16];
  const int t = threadIdx.x;
  float d[4] = {0, 0, 0, 0};
  auto load = [&](int stage, int k0) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(shared_address(&sa[stage][t / 2][t % 2 * 8])),
                 "l"(a + t / 2 * k + k0 + t % 2 * 8) : "memory");
    if (t < 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :: "r"(shared_address(&sb[stage][t / 2][t % 2 * 8])), "l"(b + t / 2 * k + k0 + t % 2 * 8) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  load(0, 0);
  for (int k0 = 0; k0 < k; k0 += 16) {
    const int s = k0 / 16 & 1;
    if (k0 + 16 < k) load(s ^ 1, k0 + 16); else asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    u32 x[4], y[2];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(&sa[s][t % 16][t / 16 * 8])) : "memory");
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(y[0]), "=r"(y[1])
                 : "r"(shared_address(&sb[s][t % 8][t / 8 % 2 * 8])) : "memory");
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
    __syncthreads();
  }
  for (int q = 0; q < 4; ++q) out[(t / 4 + q / 2 * 8) * 8 + t % 4 * 2 + q % 2] = d[q];
}
"""
)


@pytest.mark.parametrize("late", [True, False])
def test_cp_async_and_mma(late: bool) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(-4, 5, (16, 80)).astype(np.float16), rng.integers(-4, 5, (8, 80)).astype(np.float16)
    args = (BufferArg("a"), BufferArg("b"), BufferArg("out"), ScalarArg("k", "int32", 80))
    plan = LaunchPlan((KernelStep("product", (1, 1, 1), (32, 1, 1), args),))
    arrays: dict[str, np.ndarray] = {"a": a, "b": b, "out": np.full((16, 8), np.nan, np.float32)}
    report = emulator.run_plan(MMA, plan, arrays, late=late)
    assert report.ok, messages(report)
    assert np.array_equal(report.arrays["out"], a.astype("f4") @ b.astype("f4").T)
    early = MMA.replace("wait_group 1", "wait_group 2")
    assert not emulator.run_plan(early, plan, arrays, late=late).ok


WGMMA = (
    HOPPER
    + r"""
DEVICE u64 descriptor(u32 a) { return (u64)((a & 0x3FFFF) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62; }
GLOBAL __launch_bounds__(128)
product(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* out) {
  SMEM; const u32 sa = shared_address(smem), sb = sa + 8192, bar = sb + 1024;
  const int t = threadIdx.x;
  if (t == 0) { mbar_init(bar, 1); fence_barrier_init(); }
  __syncthreads();
  if (t == 0) { mbar_expect(bar, 9216); tma_load_2d(sa, &a, bar, 0, 0); tma_load_2d(sb, &b, bar, 0, 0); }
  mbar_wait(bar, 0);
  float d[4] = {0, 0, 0, 0};
  wgmma_fence();
  for (int k = 0; k < 4; ++k)
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "l"(descriptor(sa) + k * 2), "l"(descriptor(sb) + k * 2));
  wgmma_commit(); WAIT;
  for (int q = 0; q < 4; ++q) out[(t / 32 * 16 + t % 32 / 4 + q / 2 * 8) * 8 + t % 4 * 2 + q % 2] = d[q];
}
"""
)


def test_tma_and_wgmma() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(-4, 5, (64, 64)).astype(np.float16), rng.integers(-4, 5, (8, 64)).astype(np.float16)

    def tile(name: str, array: np.ndarray) -> TensorMapArg:
        return TensorMapArg(name, "float16", (64, array.shape[0]), (128,), (64, array.shape[0]), 128)

    step = KernelStep("product", (1, 1, 1), (128, 1, 1), (tile("a", a), tile("b", b), BufferArg("out")), 9224)
    arrays: dict[str, np.ndarray] = {"a": a, "b": b, "out": np.full((64, 8), np.nan, np.float32)}
    report = emulator.run_plan(WGMMA.replace("WAIT", "wgmma_wait()"), LaunchPlan((step,)), arrays, arch="sm_90a")
    assert report.ok, messages(report)
    assert np.array_equal(report.arrays["out"], a.astype("f4") @ b.astype("f4").T)
    assert report.shared_bytes_touched == {"product": 9224}
    assert sum(n for op, n in report.instructions.items() if op.startswith("wgmma.mma_async")) == 16
    report = emulator.run_plan(WGMMA.replace("WAIT", ""), LaunchPlan((step,)), arrays, arch="sm_90a")
    assert any(f.kind == "wgmma" for f in report.findings)


TURNS = (
    PRELUDE
    + r"""
GLOBAL __launch_bounds__(64) turns(float* out, unsigned* workspace) {    // block i adds after block i - 1
  const int t = threadIdx.x, turn = blockIdx.x;
  if (t == 0) { ACQUIRE }
  __syncthreads();
  if (turn == 0) out[t] = t; else out[t] = out[t] * 2 + turn;
  BEFORE_RELEASE
  __syncthreads();
  if (t == 0) { RELEASE }
}
"""
)
SPIN_ACQUIRE = (
    'u32 v; do { asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(workspace) : "memory"); } '
)
SPIN_RELAXED = (
    'u32 v; do { asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(workspace) : "memory"); } '
)
UNTIL = "while (v != turn);"
STORE = "const u32 next = turn + 1 == gridDim.x ? 0 : turn + 1; "
RELEASE_STORE = STORE + 'asm volatile("st.release.gpu.global.u32 [%0], %1;" :: "l"(workspace), "r"(next) : "memory");'
RELAXED_STORE = STORE + 'asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" :: "l"(workspace), "r"(next) : "memory");'
RED = (
    'asm volatile("red.release.gpu.global.add.u32 [%0], %1;" :: "l"(workspace), '
    '"r"(turn + 1 == gridDim.x ? 0u - turn : 1u) : "memory");'
)
GOOD = {
    "acquire and release": (SPIN_ACQUIRE + UNTIL, "", RELEASE_STORE),
    "acquire and release by reduction": (SPIN_ACQUIRE + UNTIL, "", RED),
    "fences of every thread": (SPIN_RELAXED + UNTIL + " __threadfence();", "__threadfence();", RELAXED_STORE),
    "fence of one thread behind the barrier": (
        SPIN_RELAXED + UNTIL + " __threadfence();",
        "",
        "__threadfence(); " + RELAXED_STORE,
    ),
    "volatile and atomic": (
        "while (*(volatile unsigned*)workspace != turn); __threadfence();",
        "__threadfence();",
        "atomicExch(workspace, turn + 1 == gridDim.x ? 0 : turn + 1);",
    ),
}
BAD = {
    "no release": (SPIN_ACQUIRE + UNTIL, "", RELAXED_STORE),
    "no acquire": (SPIN_RELAXED + UNTIL, "", RELEASE_STORE),
    "fence of block scope": (SPIN_ACQUIRE + UNTIL, "__threadfence_block();", RELAXED_STORE),
}


def turns(parts: tuple[str, str, str], seed: int, blocks: int = 5) -> emulator.Report:
    source = (
        TURNS.replace("ACQUIRE", parts[0], 1)
        .replace("BEFORE_RELEASE", parts[1])
        .replace("{ RELEASE }", f"{{ {parts[2]} }}")
    )
    step = KernelStep("turns", (blocks, 1, 1), (64, 1, 1), (BufferArg("out"), BufferArg("workspace")))
    plan = LaunchPlan((step,), workspace_bytes=4, workspace_zeroed=True)
    return emulator.run_plan(source, plan, {"out": np.full(64, np.nan, np.float32)}, seed=seed)


@pytest.mark.parametrize("how", GOOD)
def test_blocks_in_turns(how: str) -> None:
    for seed in range(6):
        report = turns(GOOD[how], seed)
        assert report.ok, messages(report)
        expected = np.arange(64, dtype=np.float32)
        for turn in range(1, 5):
            expected = expected * 2 + turn
        assert np.array_equal(report.arrays["out"], expected)


@pytest.mark.parametrize("how", BAD)
def test_blocks_in_turns_without_order_are_reported(how: str) -> None:
    reports = [turns(BAD[how], seed) for seed in range(6)]
    assert all(any(f.kind == "global_race" for f in r.findings) for r in reports)


def test_a_workspace_left_dirty_is_reported() -> None:
    dirty = (SPIN_ACQUIRE + UNTIL, "", RELEASE_STORE.replace("turn + 1 == gridDim.x ? 0 : ", ""))
    assert [f.kind for f in turns(dirty, 0).findings] == ["workspace"]


def test_a_missing_array_is_named() -> None:
    with pytest.raises(InvalidInput, match="'b'"):
        emulator.run_plan(SIMT.replace("SECOND_BARRIER", ""), simt(8, 8, 8), {"a": np.ones((8, 8), np.float32)})


def test_an_endless_loop_is_ended() -> None:
    source = PRELUDE + "GLOBAL k(u32* out) { u32 x = threadIdx.x | 1; while (x) x = x * 3 + 2 * out[1]; out[0] = x; }"
    step = KernelStep("k", (1, 1, 1), (32, 1, 1), (BufferArg("out"),))
    report = emulator.run_plan(source, LaunchPlan((step,)), {"out": np.zeros(2, np.uint32)})
    assert [f.kind for f in report.findings] == ["limit"] and report.stopped
