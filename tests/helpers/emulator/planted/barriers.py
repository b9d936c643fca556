"""Planted bugs: barriers of a block that some threads do not reach, and mbarriers that nobody made."""

from __future__ import annotations

from tests.helpers.emulator.planted.bug import plant, words

plant(
    "barrier in a branch that not all threads take",
    r"""
GLOBAL k(const u32* a, u32* b) {
#ifdef BUG
  if (threadIdx.x < 40) asm volatile("bar.sync 0;" ::: "memory");  // HERE
#else
  __syncthreads();
#endif
  b[threadIdx.x] = a[threadIdx.x];
}
""",
    r"(?i)diverg|deadlock|barrier",
    words(64, 64),
    launch={"block": 64},
)

plant(
    "warps wait at different barriers",
    r"""
GLOBAL k(u32* b) {
#ifdef BUG
  if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;" ::: "memory");  // HERE
  else asm volatile("bar.sync 2, 64;" ::: "memory");
#else
  asm volatile("bar.sync 1, 64;" ::: "memory");
#endif
  b[threadIdx.x] = 1;
}
""",
    r"(?is)deadlock.*barrier",
    words(64),
    launch={"block": 64},
)

plant(
    "named barrier expects a warp that never comes",
    r"""
GLOBAL k(u32* b) {
#ifdef BUG
  if (threadIdx.x < 64) asm volatile("bar.sync 3, 96;" ::: "memory");  // HERE
#else
  if (threadIdx.x < 64) asm volatile("bar.sync 3, 64;" ::: "memory");
#endif
  b[threadIdx.x] = 1;
}
""",
    r"(?i)deadlock",
    words(96),
    launch={"block": 96},
)

plant(
    "wait on a barrier that was never initialised",
    r"""
GLOBAL k(u32* out) {
  __shared__ __align__(8) u64 bar; const u32 b = shared_address(&bar);
#ifdef BUG
  if (threadIdx.x == 0) bar = 0;
#else
  if (threadIdx.x == 0) { mbar_init(b, 32); }
#endif
  __syncthreads();
  mbar_arrive(b);  // HERE
  mbar_wait(b, 0);
  out[threadIdx.x] = 1;
}
""",
    r"(?i)init",
    words(32),
    hopper=True,
)
