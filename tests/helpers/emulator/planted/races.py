"""Planted bugs: threads and blocks that meet in memory without an order between them."""

from __future__ import annotations

import numpy as np

from tests.helpers.emulator.planted.bug import plant, words

plant(
    "missing __syncthreads",
    r"""
GLOBAL k(const u32* a, u32* b) {
  __shared__ u32 s[128]; const int t = threadIdx.x;
  s[t] = a[t];
#ifndef BUG
  __syncthreads();
#endif
  b[t] = s[127 - t];  // HERE
}
""",
    r"(?i)race|uninit",
    words(128, 128),
    launch={"block": 128},
)

plant(
    "buffer reused without a second barrier",
    r"""
GLOBAL k(const u32* a, u32* b) {
  __shared__ u32 s[128]; const int t = threadIdx.x; u32 sum = 0;
  for (int i = 0; i < 3; ++i) {
    s[t] = a[t] + i;  // HERE
    __syncthreads();
    sum += s[127 - t];
#ifndef BUG
    __syncthreads();
#endif
  }
  b[t] = sum;
}
""",
    r"(?i)race",
    words(128, 128),
    launch={"block": 128},
    named=False,
)

plant(
    "missing __syncwarp between lanes",
    r"""
GLOBAL k(const u32* a, u32* b) {
  __shared__ u32 s[32]; const int t = threadIdx.x;
  s[t] = a[t];
#ifndef BUG
  __syncwarp();
#endif
  b[t] = s[31 - t];  // HERE
}
""",
    r"(?i)race",
    words(32, 32),
)

plant(
    "two blocks write one element",
    r"""
GLOBAL k(u32* a) {
#ifdef BUG
  a[threadIdx.x + 31 * blockIdx.x] = blockIdx.x;  // HERE
#else
  a[threadIdx.x + 32 * blockIdx.x] = blockIdx.x;
#endif
}
""",
    r"(?i)race|twice|double|written",
    words(64),
    launch={"grid": 2},
)

FLAG = r"""
GLOBAL k(u32* a, u32* flag, u32* b) {
  if (blockIdx.x == 0) {
    a[threadIdx.x] = threadIdx.x + 1;
    __syncthreads();
    if (threadIdx.x == 0) { %s }
  } else {
    if (threadIdx.x == 0) {
      u32 seen;
      do { %s } while (!seen);
    }
    __syncthreads();
    b[threadIdx.x] = a[threadIdx.x];  // HERE
  }
}
"""
RELEASE = r'asm volatile("st.release.gpu.global.u32 [%0], 1;" :: "l"(flag) : "memory");'
RELAXED_STORE = r'asm volatile("st.relaxed.gpu.global.u32 [%0], 1;" :: "l"(flag) : "memory");'
ACQUIRE = r'asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");'
RELAXED_LOAD = r'asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");'


def flag_kernel(store: str, load: str) -> str:
    head, middle, tail = FLAG.split("%s")
    choose = "\n#ifdef BUG\n{}\n#else\n{}\n#endif\n"
    return head + choose.format(store, RELEASE) + middle + choose.format(load, ACQUIRE) + tail


FLAGS = {
    "arrays": lambda: {"a": np.zeros(32, np.uint32), "b": np.zeros(1, np.uint32), "x": np.zeros(32, np.uint32)},
    "launch": {"grid": 2},
}
plant(
    "flag between blocks stored without release",
    flag_kernel(RELAXED_STORE, ACQUIRE),
    r"(?i)race|release|acquire|order",
    **FLAGS,
)
plant(
    "flag between blocks read without acquire",
    flag_kernel(RELEASE, RELAXED_LOAD),
    r"(?i)race|release|acquire|order",
    **FLAGS,
)
plant(
    "flag between blocks of block scope only",
    flag_kernel(RELEASE.replace(".gpu", ".cta"), ACQUIRE),
    r"(?i)race|release|acquire|order|scope",
    **FLAGS,
)

plant(
    "last block adds up without a fence",
    r"""
GLOBAL k(u32* parts, u32* counter, u32* out) {
  __shared__ bool last;
  parts[blockIdx.x * 32 + threadIdx.x] = threadIdx.x + blockIdx.x;
#ifndef BUG
  __threadfence();
#endif
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(counter, 1u) == gridDim.x - 1;
  __syncthreads();
  if (last) {
#ifndef BUG
    __threadfence();
#endif
    u32 sum = 0;
    for (int i = 0; i < gridDim.x; ++i) sum += parts[i * 32 + threadIdx.x];  // HERE
    out[threadIdx.x] = sum;
    if (threadIdx.x == 0) *counter = 0;
  }
}
""",
    r"(?i)race|release|acquire|order",
    lambda: {"a": np.zeros(128, np.uint32), "b": np.zeros(1, np.uint32), "x": np.zeros(32, np.uint32)},
    launch={"grid": 4},
)

plant(
    "a block waits for one that is not scheduled yet",
    r"""
GLOBAL k(u32* flag, u32* out) {
  SMEM; const u32 t = threadIdx.x;
#ifdef BUG
  const u32 first = gridDim.x - 1;
#else
  const u32 first = 0;
#endif
  if (t == 0 && blockIdx.x == first) atomicExch(flag, 1u);
  if (t == 0) while (atomicAdd(flag, 0u) == 0) { }  // HERE
  __syncthreads();
  out[blockIdx.x * 32 + t] = 1;
}
""",
    r"(?i)deadlock|resident|scheduled|progress",
    lambda: {"a": np.zeros(1, np.uint32), "b": np.zeros(600 * 32, np.uint32)},
    launch={"grid": 600, "shared": 200 * 1024},
    named=False,
)

plant(
    "a write that one of several earlier readers may still precede",
    r"""
GLOBAL k(const u32* a, u32* b) {  // warps 0 to 3 read, warps 0, 1 and 2 tell warp 3, which writes
  __shared__ u32 s[32]; const int t = threadIdx.x, lane = t % 32, warp = t / 32;
  if (warp == 4) s[lane] = a[lane];
  __syncthreads();
  u32 x = warp < 4 ? s[lane] : 0;
#ifndef BUG
  if (warp == 0) asm volatile("bar.arrive 2, 64;" ::: "memory");
  if (warp == 4) asm volatile("bar.sync 2, 64;" ::: "memory");
#endif
  for (int other = 1; other < 4; ++other) {
    if (warp == other) asm volatile("bar.arrive %0, 64;" :: "r"(2 + other) : "memory");
    if (warp == 4) asm volatile("bar.sync %0, 64;" :: "r"(2 + other) : "memory");
  }
  if (warp == 4) s[lane] = x + 1;  // HERE
  b[t] = x;
}
""",
    r"race.*may still read",
    words(160, 160),
    launch={"block": 160},
    seeds=3,  # where the reader comes late, its read is the finding
)
