"""Planted bugs: wgmma and the registers of warpgroups."""

from __future__ import annotations

import numpy as np

from tests.helpers.emulator.planted.bug import plant, pointers, words

WGMMA = r"""
GLOBAL __launch_bounds__(128, 1) k(const u32* a, float* out, u64 descriptor) {
  SMEM; const int t = threadIdx.x; float d[4] = {0, 0, 0, 0};
  for (int i = t; i < 1024; i += 128) ((u32*)smem)[i] = a[i];
  PROXY;
  __syncthreads();
  const u64 at = descriptor | (shared_address(smem) >> 4);
  FENCE;
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0, %1, %2, %3}, %4, %4, 1, 1, 1, 0, 0;"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(at));  // MMA
  wgmma_commit();
  BEFORE
  WAIT;
  for (int i = 0; i < 4; ++i) out[i * 128 + t] = d[i];  // READ
}
"""


def plant_wgmma(name: str, report: str, marker: str = "", **changes: str) -> None:
    right = {"PROXY": "fence_proxy_async()", "FENCE": "wgmma_fence()", "WAIT": "wgmma_wait()", "BEFORE": ""}
    text = "".join(
        f"#ifdef BUG\n#define {n} {changes.get(n, v)}\n#else\n#define {n} {v}\n#endif\n" for n, v in right.items()
    )
    descriptor = np.uint64((128 >> 4) << 16 | (256 >> 4) << 32)
    plant(
        name,
        text + (WGMMA.replace("// " + marker, "// HERE") if marker else WGMMA),
        report,
        lambda: {"a": np.zeros(1024, np.uint32), "b": np.zeros(512, np.float32)},
        args=pointers(descriptor),
        launch={"block": 128, "shared": 4096},
        hopper=True,
        named=bool(marker),
    )


plant_wgmma("no wgmma.fence before the first wgmma", r"(?i)wgmma.*fence|fence.*wgmma", "", FENCE="")
plant_wgmma("accumulators read while a wgmma is in flight", r"(?i)wgmma|flight", "", WAIT="")
plant_wgmma(
    "operand overwritten while a wgmma reads it", r"(?i)wgmma|race|flight|operand", "", BEFORE="((u32*)smem)[t] = 7;"
)
plant_wgmma("operands written without a proxy fence", r"(?i)proxy", "", PROXY="")

plant(
    "setmaxnreg asks for more than was given up",
    r"""
GLOBAL __launch_bounds__(384, 1) k(u32* out) {
#ifdef BUG
  if (threadIdx.x < 128) asm volatile("setmaxnreg.dec.sync.aligned.u32 120;");
#else
  if (threadIdx.x < 128) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
#endif
  else asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");  // HERE
  __syncthreads();
  out[threadIdx.x] = 1;
}
""",
    r"(?i)setmaxnreg|register",
    words(384),
    launch={"block": 384},
    hopper=True,
    named=False,
)
