"""Planted bugs: blocks of a cluster that are not there, or not ready."""

from __future__ import annotations

from tests.helpers.emulator.planted.bug import plant, words

plant(
    "block of the cluster has exited",
    r"""
GLOBAL k(u32* out) {
  __shared__ __align__(8) u64 bar; const u32 b = shared_address(&bar), rank = cluster_rank();
  if (threadIdx.x == 0) { mbar_init(b, 1); fence_barrier_init(); }
  cluster_sync();
  out[blockIdx.x * 32 + threadIdx.x] = 1;
  if (rank == 0 && threadIdx.x == 0) mbar_arrive_remote(b, 1);
#ifndef BUG
  cluster_sync();
#endif
}
""",
    r"(?i)exit",
    words(64),
    launch={"grid": 2, "cluster": 2},
    named=False,
    seeds=1,
    hopper=True,
)

plant(
    "other blocks' shared memory before the cluster has started",
    r"""
GLOBAL k(u32* out) {
  __shared__ __align__(8) u64 bar; const u32 b = shared_address(&bar), rank = cluster_rank();
  if (threadIdx.x == 0) { mbar_init(b, 1); fence_barrier_init(); }
#ifndef BUG
  cluster_sync();
#else
  __syncthreads();
#endif
  if (threadIdx.x == 0) mbar_arrive_remote(b, rank ^ 1);
  mbar_wait(b, 0);
  out[blockIdx.x * 32 + threadIdx.x] = 1;
  cluster_sync();
}
""",
    r"(?i)init|start|race|cluster",
    words(64),
    launch={"grid": 2, "cluster": 2},
    named=False,
    seeds=1,
    hopper=True,
)
