"""st.async and red.async into another block of the cluster, movmatrix, and flags in shared memory."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.emulator.snippets import HOPPER, messages, needs_emulator, needs_nvrtc, result, run

pytestmark = [needs_emulator, needs_nvrtc]

SOURCE = (
    HOPPER
    + r"""
GLOBAL send(u32* out) {    // each block fills the other's box and adds to its sum
  __shared__ __align__(8) u64 bar; __shared__ __align__(16) u32 box[64]; __shared__ u32 sum;
  const int t = threadIdx.x; const u32 b = shared_address(&bar), peer = cluster_rank() ^ 1;
  if (t == 0) { mbar_init(b, 1); fence_barrier_init(); sum = 100; mbar_expect(b, 32 * 8 + 32 * 4); }
  __syncthreads(); cluster_sync();
  asm volatile("{\n.reg .b32 d, m, s;\nmapa.shared::cluster.u32 d, %0, %2;\nmapa.shared::cluster.u32 m, %1, %2;\n"
    "mapa.shared::cluster.u32 s, %5, %2;\n"
    "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [d], {%3, %4}, [m];\n"
    "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [s], %3, [m];\n}"
    :: "r"(shared_address(&box[t * 2])), "r"(b), "r"(peer), "r"(t), "r"(t * 10 + peer), "r"(shared_address(&sum))
    : "memory");
  WAIT
  u32* mine = out + cluster_rank() * 65;
  mine[t * 2] = box[t * 2]; mine[t * 2 + 1] = box[t * 2 + 1]; if (t == 0) mine[64] = sum;
  cluster_sync();
}
GLOBAL transpose(const u32* a, u32* b) {
  u32 d; asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(a[threadIdx.x]));
  b[threadIdx.x] = d;
}
GLOBAL flag(u32* out) {
  __shared__ u32 value; __shared__ volatile u32 ready;
  if (threadIdx.x == 0) ready = 0;
  __syncthreads();
  if (threadIdx.x == 0) { value = out[1]; FENCE; ready = 1; }
  if (threadIdx.x == 32) { while (!ready); FENCE; out[0] = value; }
}
"""
)
GOOD = SOURCE.replace("WAIT", "mbar_wait(b, 0);").replace("FENCE", "__threadfence_block()")


@pytest.mark.parametrize("seed", range(4))
def test_asynchronous_stores_reach_the_other_block(seed: int) -> None:
    got = result(run(GOOD, "send", [np.zeros(130, np.uint32)], grid=2, cluster=2, seed=seed), 0).reshape(2, 65)
    t = np.arange(32)
    for rank in range(2):
        assert np.array_equal(got[rank, :64:2], t) and np.array_equal(got[rank, 1:64:2], t * 10 + rank)
        assert got[rank, 64] == 100 + t.sum()


def test_reading_before_they_arrive_is_reported() -> None:
    early = SOURCE.replace("WAIT", "").replace("FENCE", "")
    assert not any(run(early, "send", [np.zeros(130, np.uint32)], grid=2, cluster=2, seed=s).ok for s in range(4))


def test_movmatrix_transposes() -> None:
    x = np.arange(64, dtype=np.uint16).reshape(8, 8)
    got = result(run(GOOD, "transpose", [x.view(np.uint32).ravel().copy(), np.zeros(32, np.uint32)]), 1)
    assert np.array_equal(got.view(np.uint16).reshape(8, 8), x.T)


@pytest.mark.parametrize("seed", range(4))
def test_a_fenced_flag_in_shared_memory_hands_a_value_over(seed: int) -> None:
    assert result(run(GOOD, "flag", [np.full(2, 7, np.uint32)], block=64, seed=seed), 0)[0] == 7


def test_a_flag_without_fences_is_a_race() -> None:
    bad = SOURCE.replace("WAIT", "").replace("FENCE", "")
    reports = [run(bad, "flag", [np.full(2, 7, np.uint32)], block=64, seed=s) for s in range(4)]
    assert all(any(f.kind == "race" for f in r.findings) for r in reports), messages(reports[0])
