"""Planted bugs: bulk and tensor copies out of shared memory, and back in."""

from __future__ import annotations

import numpy as np

from gpu_tune.plan import BufferArg
from tests.helpers.emulator.planted.bug import plant, words
from tests.helpers.emulator.snippets import tensor_map

STORE = r"""
GLOBAL k(const u32* a, const __grid_constant__ TensorMap m) {
  SMEM; const int t = threadIdx.x; const u32 base = shared_address(smem);
  for (int i = 0; i < 2; ++i) {
    for (int j = t; j < 256; j += 32) ((u32*)smem)[j] = a[j] + i;  // REUSE
    FENCE;
    __syncthreads();
    if (t == 0) { tma_store_2d(&m, base, 0, 8 * i); bulk_commit(); WAIT; }  // STORE
    __syncthreads();
  }
  LAST
}
"""


def plant_store(name: str, report: str, marker: str, **changes: str) -> None:
    right = {"FENCE": "fence_proxy_async()", "WAIT": "bulk_wait_read()", "LAST": "if (t == 0) bulk_wait();"}
    text = "".join(
        f"#ifdef BUG\n#define {n} {changes.get(n, v)}\n#else\n#define {n} {v}\n#endif\n" for n, v in right.items()
    )
    plant(
        name,
        text + (STORE.replace("// " + marker, "// HERE") if marker else STORE),
        report,
        lambda: {"a": np.arange(256, dtype=np.uint32), "b": np.zeros((16, 32), np.uint32)},
        args=lambda arrays: [BufferArg("a"), tensor_map("b", arrays["b"], (32, 8), 0)],
        launch={"shared": 1024},
        hopper=True,
        named=bool(marker),
    )


plant_store("no proxy fence before a TMA store", r"(?i)proxy", "STORE", FENCE="")
plant_store("tile overwritten while a TMA store reads it", r"(?i)race|flight|overwrit|read|changed|bulk", "", WAIT="")
plant_store("kernel ends with a TMA store still reading", r"(?i)bulk|exit|store|flight", "", WAIT="", LAST="")

plant(
    "bulk load of what ordinary stores wrote, without fence.proxy.async",
    r"""
GLOBAL k(u32* a, u32* b) {
  __shared__ __align__(128) u32 s[64]; __shared__ __align__(8) u64 bar;
  const u32 t = threadIdx.x, to = shared_address(s), m = shared_address(&bar);
  if (t == 0) { mbar_init(m, 1); fence_barrier_init(); }
  a[t] = t + 5;
#ifndef BUG
  asm volatile("fence.proxy.async.global;" ::: "memory");
#endif
  __syncthreads();
  if (t == 0) {
    mbar_expect(m, 256);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 256, [%2];"
                 :: "r"(to), "l"(a), "r"(m) : "memory");  // HERE
  }
  mbar_wait(m, 0);
  b[t] = s[t];
}
""",
    r"proxy.*bulk copy",
    words(64, 64),
    launch={"block": 64},
    hopper=True,
    named=False,
)

plant(
    "bulk store read back before it was waited for",
    r"""
GLOBAL k(u32* a, u32* b) {
  __shared__ __align__(128) u32 s[64];
  const u32 t = threadIdx.x, from = shared_address(s);
  s[t] = t + 5;
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
  if (t == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 256;" :: "l"(a), "r"(from) : "memory");
    bulk_commit();
#ifdef BUG
    bulk_wait_read();
#else
    bulk_wait();
#endif
  }
  __syncthreads();
  b[t] = a[t];  // HERE
  if (t == 0) bulk_wait();
}
""",
    r"asynchronous.*bulk store in flight",
    words(64, 64),
    launch={"block": 64},
    hopper=True,
)
