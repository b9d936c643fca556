"""Planted bugs: accesses out of bounds, misaligned, or of what nobody wrote."""

from __future__ import annotations

import numpy as np

from tests.helpers.emulator.planted.bug import plant, pointers, words

plant(
    "read past the end of an array",
    r"""
GLOBAL k(const float* a, float* b, int n) {
#ifdef BUG
  float next = threadIdx.x <= n - 1 ? a[threadIdx.x + 1] : 0;  // HERE
#else
  float next = threadIdx.x < n - 1 ? a[threadIdx.x + 1] : 0;
#endif
  b[threadIdx.x] = next;
}
""",
    r"(?i)bound|outside|past",
    lambda: {"a": np.zeros(32, np.float32), "b": np.zeros(32, np.float32)},
    args=pointers(32),
)

plant(
    "write past the end of an array",
    r"""
GLOBAL k(u32* a, int n) {
#ifdef BUG
  a[threadIdx.x * 2] = 1;  // HERE
#else
  if (threadIdx.x * 2 < n) a[threadIdx.x * 2] = 1;
#endif
}
""",
    r"(?i)bound|outside|past",
    words(63),
    args=pointers(63),
    launch={"block": 33},
)

plant(
    "read before the start of an array",
    r"""
GLOBAL k(const u32* a, u32* b) {
#ifdef BUG
  b[threadIdx.x] = a[(int)threadIdx.x - 1];  // HERE
#else
  b[threadIdx.x] = threadIdx.x ? a[(int)threadIdx.x - 1] : 0;
#endif
}
""",
    r"(?i)bound|outside|past|before",
    words(32, 32),
)

plant(
    "shared memory beyond what was launched",
    r"""
GLOBAL k(u32* a) {
  SMEM; u32* s = (u32*)smem;
#ifdef BUG
  s[threadIdx.x + 1] = 3;  // HERE
#else
  s[threadIdx.x] = 3;
#endif
  __syncthreads(); a[threadIdx.x] = s[threadIdx.x] * 0 + 1;
}
""",
    r"(?i)bound|outside|past|shared",
    words(32),
    launch={"shared": 128},
)

plant(
    "misaligned vector load",
    r"""
GLOBAL k(const float* a, float* b) {
#ifdef BUG
  float4 v = *(const float4*)(a + 4 * threadIdx.x + 1);  // HERE
#else
  float4 v = *(const float4*)(a + 4 * threadIdx.x);
#endif
  b[threadIdx.x] = v.x + v.y + v.z + v.w;
}
""",
    r"(?i)align",
    lambda: {"a": np.zeros(256, np.float32), "b": np.zeros(32, np.float32)},
)

plant(
    "uninitialised shared memory",
    r"""
GLOBAL k(u32* a) {
  __shared__ u32 s[64];
#ifdef BUG
  s[threadIdx.x] = threadIdx.x;
#else
  s[threadIdx.x] = s[threadIdx.x + 32] = threadIdx.x;
#endif
  __syncthreads();
  a[threadIdx.x] = s[63 - threadIdx.x];  // HERE
}
""",
    r"(?i)uninit",
    words(32),
)

plant(
    "local array overrun",
    r"""
GLOBAL k(const u32* a, u32* b, int n) {
  volatile u32 l[8];
  for (int i = 0; i < 8; ++i) l[i] = a[i];
#ifdef BUG
  b[threadIdx.x] = l[(threadIdx.x & 7) + n];  // HERE
#else
  b[threadIdx.x] = l[(threadIdx.x + n) & 7];
#endif
}
""",
    r"(?i)bound|outside|past|local",
    words(32, 32),
    args=pointers(5),
)
