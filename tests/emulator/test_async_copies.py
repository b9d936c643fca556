"""cp.async and 1-D bulk copies: in, out, added, between the blocks of a cluster."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_tune.plan import BufferArg
from tests.helpers.emulator.snippets import (
    HOPPER,
    PRELUDE,
    messages,
    needs_emulator,
    needs_nvrtc,
    result,
    run,
    run_args,
    tensor_map,
)

pytestmark = [needs_emulator, needs_nvrtc]


AMPERE = (
    PRELUDE
    + r"""
#define CP(NAME, OP, N) GLOBAL NAME(const unsigned char* in, u32* out, int bytes) { \
  __shared__ __align__(16) u32 s[32 * 4]; int l = threadIdx.x; \
  for (int i = 0; i < 4; ++i) s[l * 4 + i] = 0x77777777u; \
  __syncthreads(); \
  asm volatile(OP " [%0], [%1], " #N ", %2;" \
    :: "r"(shared_address(s) + l * 16), "l"(__cvta_generic_to_global(in + l * N)), "r"(bytes) : "memory"); \
  asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory"); \
  __syncthreads(); \
  for (int i = 0; i < 4; ++i) out[l * 4 + i] = s[l * 4 + i]; }
CP(ca4, "cp.async.ca.shared.global", 4)
CP(ca8, "cp.async.ca.shared.global", 8)
CP(ca16, "cp.async.ca.shared.global", 16)
CP(cg16, "cp.async.cg.shared.global", 16)
CP(cg16hint, "cp.async.cg.shared.global.L2::128B", 16)
GLOBAL groups(const u32* in, u32* out) {
  __shared__ u32 s[3][32]; int l = threadIdx.x;
  for (int g = 0; g < 3; ++g)
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\ncp.async.commit_group;"
                 :: "r"(shared_address(&s[g][l])), "l"(__cvta_generic_to_global(in + g * 32 + l)) : "memory");
  asm volatile("cp.async.wait_group 2;" ::: "memory"); out[l] = s[0][l];
  asm volatile("cp.async.wait_group 1;" ::: "memory"); out[32 + l] = s[1][l];
  asm volatile("cp.async.wait_all;" ::: "memory"); out[64 + l] = s[2][l];
}
GLOBAL vectors(const uint4* in, uint4* out) { out[threadIdx.x] = __ldg(in + threadIdx.x); }
GLOBAL hints(const u32* in, u32* out) {
  u32 r; asm volatile("ld.global.nc.L1::no_allocate.L2::128B.b32 %0, [%1];" : "=r"(r) : "l"(in + threadIdx.x));
  asm volatile("st.global.cs.b32 [%0], %1;" :: "l"(out + threadIdx.x), "r"(r) : "memory"); }
"""
)


@pytest.mark.parametrize(("kernel", "size"), [("ca4", 4), ("ca8", 8), ("ca16", 16), ("cg16", 16), ("cg16hint", 16)])
@pytest.mark.parametrize("late", [False, True])
def test_cp_async_copies_and_fills_with_zeros(kernel: str, size: int, late: bool) -> None:
    data = np.random.default_rng(0).integers(1, 255, 32 * size, dtype=np.uint8)
    for valid in (size, size // 2, 0):
        report = run(AMPERE, kernel, [data, np.zeros(128, np.uint32)], [valid], arch="sm_80", late=late)
        got = result(report, 1).view(np.uint8).reshape(32, 16)
        expected = np.full((32, 16), 0x77, np.uint8)
        expected[:, :size] = 0
        expected[:, :valid] = data.reshape(32, size)[:, :valid]
        assert np.array_equal(got, expected), valid


@pytest.mark.parametrize("late", [False, True])
def test_cp_async_groups_complete_in_order(late: bool) -> None:
    data = np.arange(96, dtype=np.uint32)
    for seed in range(3):
        assert np.array_equal(
            result(run(AMPERE, "groups", [data, np.zeros(96, np.uint32)], arch="sm_80", seed=seed, late=late), 1),
            data,
        )


def test_vector_loads_and_cache_hints() -> None:
    data = np.arange(128, dtype=np.uint32)
    assert np.array_equal(result(run(AMPERE, "vectors", [data, np.zeros(128, np.uint32)], arch="sm_80"), 1), data)
    assert np.array_equal(
        result(run(AMPERE, "hints", [data[:32], np.zeros(32, np.uint32)], arch="sm_80"), 1), data[:32]
    )


BULK = (
    HOPPER
    + r"""
GLOBAL copy(const u32* in, u32* out, int bytes) {
  SMEM; const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 8192;
  if (t == 0) { mbar_init(bar, 1); fence_barrier_init(); }
  __syncthreads();
  if (t == 0) {
    mbar_expect(bar, bytes);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(base), "l"(__cvta_generic_to_global(in)), "r"(bytes), "r"(bar) : "memory");
  }
  mbar_wait(bar, 0);
  for (int i = t; i < bytes / 4; i += 32) ((u32*)smem)[i] += 1;
  fence_proxy_async(); __syncthreads();
  if (t == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;"
                 :: "l"(__cvta_generic_to_global(out)), "r"(base), "r"(bytes) : "memory");
    bulk_commit(); bulk_wait();
  }
}
GLOBAL add(const u32* in, u32* out, int bytes) {
  SMEM; const int t = threadIdx.x; const u32 base = shared_address(smem);
  for (int i = t; i < bytes / 4; i += 32) ((u32*)smem)[i] = in[i];
  fence_proxy_async(); __syncthreads();
  if (t == 0) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%0], [%1], %2;"
                 :: "l"(__cvta_generic_to_global(out)), "r"(base), "r"(bytes) : "memory");
    bulk_commit(); bulk_wait();
  }
}
GLOBAL tile_add(const float* in, const __grid_constant__ TensorMap to) {
  SMEM; const int t = threadIdx.x; const u32 base = shared_address(smem);
  for (int i = t; i < 128; i += 32) ((float*)smem)[i] = in[i];
  fence_proxy_async(); __syncthreads();
  if (t == 0) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];"
                 :: "l"(&to), "r"(base), "r"(4), "r"(6) : "memory");
    bulk_commit(); bulk_wait();
  }
}
GLOBAL between_blocks(u32* out) {
  SMEM; const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 2048, rank = cluster_rank();
  ((u32*)smem)[t] = rank * 1000 + t;
  if (t == 0) { mbar_init(bar, 1); fence_barrier_init(); mbar_expect(bar, 128); }
  fence_proxy_async(); cluster_sync();
  if (t == 0)
    asm volatile("{\n.reg .b32 d, m;\nmapa.shared::cluster.u32 d, %0, %3;\nmapa.shared::cluster.u32 m, %2, %3;\n"
                 "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [d], [%1], 128, [m];\n}"
                 :: "r"(base + 1024), "r"(base), "r"(bar), "r"(rank ^ 1) : "memory");
  mbar_wait(bar, 0);
  out[rank * 32 + t] = ((u32*)(smem + 1024))[t];
  cluster_sync();
}
"""
)


@pytest.mark.parametrize("late", [False, True])
def test_bulk_copy_in_and_out(late: bool) -> None:
    data = np.arange(1024, dtype=np.uint32)
    assert np.array_equal(
        result(run(BULK, "copy", [data, np.zeros(1024, np.uint32)], [4096], shared=8256, late=late), 1), data + 1
    )


def test_bulk_reduction_adds_from_every_block() -> None:
    data = np.arange(256, dtype=np.uint32)
    got = result(run(BULK, "add", [data, np.full(256, 7, np.uint32)], [1024], grid=3, shared=4096), 1)
    assert np.array_equal(got, 7 + 3 * data)


def test_tile_reduction_adds_inside_the_array_only() -> None:
    data, target = np.arange(128, dtype=np.float32), np.ones((10, 16), np.float32)
    to = tensor_map("b", target, (16, 8), 0, "float32")
    report = run_args(BULK, "tile_add", {"a": data, "b": target}, [BufferArg("a"), to], shared=4096)
    assert report.ok, messages(report)
    expected = np.ones((10, 16), np.float32)
    expected[6:, 4:] += data.reshape(8, 16)[:4, :12]
    assert np.array_equal(report.arrays["b"], expected)


def test_bulk_copy_between_blocks_of_a_cluster() -> None:
    got = result(run(BULK, "between_blocks", [np.zeros(64, np.uint32)], grid=2, cluster=2, shared=4096), 0)
    t = np.arange(32)
    assert np.array_equal(got, np.concatenate([1000 + t, t]))
