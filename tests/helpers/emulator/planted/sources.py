"""Planted bugs: global memory that an asynchronous copy in flight still reads."""

from __future__ import annotations

import numpy as np

from gpu_tune.plan import BufferArg
from tests.helpers.emulator.planted.bug import plant, words
from tests.helpers.emulator.snippets import tensor_map

plant(
    "source of a cp.async overwritten by the thread that copies",
    r"""
GLOBAL k(u32* a, u32* b) {
  __shared__ __align__(16) u32 s[128];
  const u32 t = threadIdx.x, to = shared_address(s) + 16 * t;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" :: "r"(to), "l"(a + 4 * t) : "memory");
#ifndef BUG
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
  a[4 * t] = 7;  // HERE
  asm volatile("cp.async.wait_all;" ::: "memory");
  b[t] = s[4 * t];
}
""",
    r"asynchronous.*still reads",
    words(128, 32),
)

plant(
    "source of a cp.async overwritten behind a barrier that does not wait for the copy",
    r"""
GLOBAL k(u32* a, u32* b) {
  __shared__ __align__(16) u32 s[64];
  const u32 t = threadIdx.x, to = shared_address(s) + 4 * t;
  if (t < 32) asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(to), "l"(a + t) : "memory");
#ifndef BUG
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
  __syncthreads();
  if (t >= 32) a[t - 32] = 7;  // HERE
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
  b[t] = s[t & 31];
}
""",
    r"asynchronous.*still reads|global_race.*may still read",  # the copy may be late or early
    words(64, 64),
    launch={"block": 64},
)

plant(
    "cp.async issued before the barrier that puts it after a write of its source",
    r"""
GLOBAL k(u32* a, u32* b) {
  __shared__ __align__(16) u32 s[64];
  const u32 t = threadIdx.x, to = shared_address(s) + 4 * t;
  if (t >= 32) a[t - 32] = 7;
#ifndef BUG
  __syncthreads();
#endif
  if (t < 32) asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(to), "l"(a + t) : "memory");
  __syncthreads();
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
  b[t] = s[t & 31];
}
""",
    r"global_race|asynchronous.*still reads",
    words(64, 64),
    launch={"block": 64},
    named=False,
)

BULK = r"""
GLOBAL k(ARGUMENT, u32* a, u32* b) {
  SMEM; const u32 t = threadIdx.x, to = shared_address(smem), bar = to + 1024;
  if (t == 0) { mbar_init(bar, 1); fence_barrier_init(); fence_proxy_async(); }
  __syncthreads();
  if (t == 0) {
    mbar_expect(bar, 1024);
    COPY;
  }
#ifdef BUG
  __syncthreads();
#else
  mbar_wait(bar, 0);
#endif
  a[8 * t] = 7;  // HERE
  mbar_wait(bar, 0);
  b[t] = ((u32*)smem)[8 * t];
}
"""
COPY = r"""asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 1024, [%2];"
                 :: "r"(to), "l"(a), "r"(bar) : "memory")"""

for name, argument, copy in (
    ("bulk copy", "u32", COPY),
    ("tensor load", "const __grid_constant__ TensorMap m", "tma_load_2d(to, &m, bar, 0, 0)"),
):
    plant(
        f"source of a {name} overwritten before it has landed",
        BULK.replace("ARGUMENT", argument).replace("COPY", copy),
        r"asynchronous.*still reads|global_race",
        lambda: {"a": np.arange(256, dtype=np.uint32).reshape(8, 32), "b": np.zeros(32, np.uint32)},
        args=lambda arrays, first=copy is COPY: [
            0 if first else tensor_map("a", arrays["a"], (32, 8)),
            BufferArg("a"),
            BufferArg("b"),
        ],
        launch={"shared": 1088},
        hopper=True,
        seeds=3,  # where the copy lands at a random moment it may be early enough
    )

plant(
    "source of a copy between blocks of a cluster overwritten before it has landed",
    r"""
GLOBAL k(u32* b) {
  SMEM; const u32 t = threadIdx.x, from = shared_address(smem), bar = from + 1024;
  ((u32*)smem)[t] = t;
  if (t == 0) { mbar_init(bar, 1); fence_barrier_init(); }
  fence_proxy_async();
  __syncthreads();
  if (t == 0) {
    mbar_expect(bar, 128);
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], 128, [%2];"
                 :: "r"(from + 512), "r"(from), "r"(bar) : "memory");  // COPY
#ifdef BUG
    *(u32*)smem = 7;
#endif
  }
  mbar_wait(bar, 0);
  b[t] = ((u32*)smem)[128 + t];
}
""",
    r"asynchronous.*source of a bulk copy",
    words(32),
    launch={"shared": 1088},
    hopper=True,
    named=False,
    seeds=3,
)
