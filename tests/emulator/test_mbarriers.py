"""The mbarrier itself: phases, counts, arrivals of copies and of other blocks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.emulator.snippets import (
    HOPPER,
    needs_emulator,
    needs_nvrtc,
    result,
    run,
)

pytestmark = [needs_emulator, needs_nvrtc]


BARRIERS = (
    HOPPER
    + r"""
GLOBAL phases(u32* out) {                           // 64 producers and 64 consumers hand 5 values over one slot
  __shared__ __align__(8) u64 bars[2]; __shared__ u32 slot[64];
  const int t = threadIdx.x; const u32 full = shared_address(&bars[0]), empty = shared_address(&bars[1]);
  if (t == 0) { mbar_init(full, 64); mbar_init(empty, 64); }
  __syncthreads();
  for (int i = 0; i < 5; ++i) {
    if (t < 64) { mbar_wait(empty, (i & 1) ^ 1); slot[t] = 100 * i + t; mbar_arrive(full); }
    else { mbar_wait(full, i & 1); out[i * 64 + t - 64] = slot[t - 64]; mbar_arrive(empty); }
  }
}
GLOBAL test_wait_returns(u32* out) {
  __shared__ __align__(8) u64 bar; const u32 b = shared_address(&bar);
  if (threadIdx.x == 0) {
    mbar_init(b, 1); u32 before, after; u64 state;
    asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], 0;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(before) : "r"(b) : "memory");
    asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(state) : "r"(b) : "memory");
    asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(after) : "r"(b), "l"(state) : "memory");
    out[0] = before; out[1] = after;
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" :: "r"(b) : "memory");
  }
}
GLOBAL counts_of_states(u32* out) {                   // what was pending before each of three arrivals
  __shared__ __align__(8) u64 bar; const u32 b = shared_address(&bar);
  if (threadIdx.x) return;
  mbar_init(b, 3);
  for (int i = 0; i < 4; ++i) {
    u64 state; u32 count;
    asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(state) : "r"(b) : "memory");
    asm volatile("mbarrier.pending_count.b64 %0, %1;" : "=r"(count) : "l"(state));
    out[i] = count;
  }
}
GLOBAL arrive_counts(u32* out) {
  __shared__ __align__(8) u64 bar; const u32 b = shared_address(&bar);
  if (threadIdx.x == 0) mbar_init(b, 6);
  __syncthreads();
  if (threadIdx.x == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], 4;" :: "r"(b) : "memory");
  if (threadIdx.x == 40) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], 2;" :: "r"(b) : "memory");
  mbar_wait(b, 0); out[threadIdx.x] = 1;
}
GLOBAL copies_arrive(const u32* in, u32* out) {
  __shared__ __align__(8) u64 bar; __shared__ u32 s[32]; const u32 b = shared_address(&bar), t = threadIdx.x;
  if (t == 0) mbar_init(b, 32);
  __syncthreads();
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\ncp.async.mbarrier.arrive.noinc.shared::cta.b64 [%2];"
               :: "r"(shared_address(&s[t])), "l"(__cvta_generic_to_global(in + t)), "r"(b) : "memory");
  mbar_wait(b, 0); out[t] = s[31 - t];
}
GLOBAL remote_arrive(u32* out) {
  __shared__ __align__(8) u64 bar; const u32 b = shared_address(&bar), t = threadIdx.x, rank = cluster_rank();
  if (t == 0) { mbar_init(b, 32); fence_barrier_init(); }
  cluster_sync();
  mbar_arrive_remote(b, rank ^ 1);
  mbar_wait(b, 0); out[blockIdx.x * 32 + t] = rank + 1;
  cluster_sync();
}
"""
)


@pytest.mark.parametrize("seed", range(4))
def test_full_and_empty_barriers_hand_values_over(seed: int) -> None:
    got = result(run(BARRIERS, "phases", [np.zeros(320, np.uint32)], block=128, seed=seed), 0).reshape(5, 64)
    assert np.array_equal(got, 100 * np.arange(5)[:, None] + np.arange(64))


def test_test_wait_by_parity_and_by_state() -> None:
    assert list(result(run(BARRIERS, "test_wait_returns", [np.zeros(2, np.uint32)]), 0)) == [0, 1]


def test_the_pending_count_of_a_state() -> None:
    assert list(result(run(BARRIERS, "counts_of_states", [np.zeros(4, np.uint32)]), 0)) == [3, 2, 1, 3]


def test_arrivals_may_count_more_than_one() -> None:
    assert result(run(BARRIERS, "arrive_counts", [np.zeros(64, np.uint32)], block=64), 0).all()


def test_cp_async_arrives_on_a_barrier() -> None:
    data = np.arange(32, dtype=np.uint32)
    for seed in range(3):
        assert np.array_equal(
            result(run(BARRIERS, "copies_arrive", [data, np.zeros(32, np.uint32)], seed=seed), 1), data[::-1]
        )


def test_arrivals_reach_another_block() -> None:
    got = result(run(BARRIERS, "remote_arrive", [np.zeros(64, np.uint32)], grid=2, cluster=2), 0)
    assert sorted(set(got)) == [1, 2]


LAST = (
    HOPPER
    + r"""
GLOBAL last_barrier(u32* out) {
  extern __shared__ __align__(16) u64 bars[];
  const int t = threadIdx.x;
  if (t == 0) for (int i = 0; i < 4; ++i) mbar_init(shared_address(&bars[i]), 1);
  __syncthreads();
  uint4* tile = reinterpret_cast<uint4*>(out);
  tile[t] = make_uint4(t, t, t, t);
}
"""
)


def test_an_initialised_barrier_is_shared_memory_in_use() -> None:
    """Its neighbour in the same 16 bytes may be the only one that the run waits on."""
    report = run(LAST, "last_barrier", [np.zeros(128, np.uint32)], shared=32)
    assert report.ok and report.shared_bytes_touched == {"last_barrier": 32}
