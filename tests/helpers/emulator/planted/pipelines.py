"""Planted bugs: tiles on their way in through mbarriers and cp.async groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpu_tune.plan import BufferArg
from tests.helpers.emulator.planted.bug import plant, words
from tests.helpers.emulator.snippets import tensor_map

PIPE = r"""
GLOBAL k(const __grid_constant__ TensorMap m, u32* out) {
  SMEM; const int t = threadIdx.x; const u32 base = shared_address(smem), full = base + 4096, empty = base + 4104;
  if (t == 0) { mbar_init(full, 1); mbar_init(empty, ARRIVALS); fence_barrier_init(); }
  fence_proxy_async(); __syncthreads();
  if (t >= 32) {
    if (t == 32)
      for (int i = 0; i < 3; ++i) {
        mbar_wait(empty, START ^ (i & 1));  // EMPTY
        mbar_expect(full, BYTES);
        tma_load_2d(base, &m, full, 0, 8 * i);  // LOAD
      }
  } else {
    u32 sum = 0;
    for (int i = 0; i < 3; ++i) {
      FULL;  // FULL
      sum += ((u32*)smem)[t];  // READ
      RELEASE
    }
    out[t] = sum;
  }
}
"""


def pipe(**changes: str) -> str:
    right = {
        "ARRIVALS": "32",
        "START": "1",
        "BYTES": "1024",
        "FULL": "mbar_wait(full, i & 1)",
        "RELEASE": "mbar_arrive(empty);",
    }
    text = "".join(
        f"#ifdef BUG\n#define {n} {changes.get(n, v)}\n#else\n#define {n} {v}\n#endif\n" for n, v in right.items()
    )
    return text + PIPE


def pipe_arrays() -> dict[str, np.ndarray]:
    return {"a": np.arange(24 * 32, dtype=np.uint32).reshape(24, 32), "b": np.zeros(32, np.uint32)}


def pipe_args(arrays: Mapping[str, np.ndarray]) -> list[Any]:
    return [tensor_map("a", arrays["a"], (32, 8), 0), BufferArg("b")]


def plant_pipe(name: str, report: str, marker: str = "", seeds: int = 6, **changes: str) -> None:
    source = pipe(**changes)
    plant(
        name,
        source.replace("// " + marker, "// HERE") if marker else source,
        report,
        pipe_arrays,
        args=pipe_args,
        launch={"block": 64, "shared": 4352},
        hopper=True,
        named=bool(marker),
        seeds=seeds,
    )


plant_pipe("producer starts with the wrong parity", r"(?i)deadlock", "", START="0")
plant_pipe("expected bytes are too few", r"(?i)mbarrier|race|transaction|bytes|poison|deadlock", BYTES="512")
plant_pipe("expected bytes are too many", r"(?i)deadlock", BYTES="2048")
plant_pipe("consumer never waits for the data", r"(?i)race|async|landed|flight|uninit", "READ", FULL="")
plant_pipe(
    "consumer waits for the wrong phase",
    r"(?i)race|async|landed|flight|deadlock",
    FULL="mbar_wait(full, (i & 1) ^ 1)",
)
plant_pipe("stage is never released", r"(?i)deadlock", RELEASE="")
plant_pipe("barrier expects fewer arrivals than come", r"(?i)mbarrier|arriv|race", ARRIVALS="16")
plant_pipe("parity is neither 0 nor 1", r"(?i)parity", "", FULL="mbar_wait(full, i)")

plant(
    "cp.async read before its wait",
    r"""
GLOBAL k(const u32* a, u32* b) {
  __shared__ u32 s[32]; const int t = threadIdx.x;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\ncp.async.commit_group;"
               :: "r"(shared_address(&s[t])), "l"(__cvta_generic_to_global(a + t)) : "memory");
#ifdef BUG
  asm volatile("cp.async.wait_group 1;" ::: "memory");
#else
  asm volatile("cp.async.wait_group 0;" ::: "memory");
#endif
  b[t] = s[t];  // HERE
}
""",
    r"(?i)flight|async|wait|landed|race",
    words(32, 32),
)

plant(
    "cp.async waited for by one thread, read by another",
    r"""
GLOBAL k(const u32* a, u32* b) {
  __shared__ u32 s[64]; const int t = threadIdx.x;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\ncp.async.wait_all;"
               :: "r"(shared_address(&s[t])), "l"(__cvta_generic_to_global(a + t)) : "memory");
#ifndef BUG
  __syncthreads();
#endif
  b[t] = s[63 - t];  // HERE
}
""",
    r"(?i)race|flight|landed|async",
    words(64, 64),
    launch={"block": 64},
)

plant(
    "barrier init not fenced for the async proxy",
    r"""
GLOBAL k(const __grid_constant__ TensorMap m, u32* out) {
  SMEM; const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 1024;
  if (t == 0) {
    mbar_init(bar, 1);
#ifndef BUG
    fence_barrier_init(); fence_proxy_async();
#endif
  }
  __syncthreads();
  if (t == 0) { mbar_expect(bar, 1024); tma_load_2d(base, &m, bar, 0, 0); }
  mbar_wait(bar, 0);
  out[t] = ((u32*)smem)[t];
}
""",
    r"(?i)fence|proxy|init",
    lambda: {"a": np.zeros((8, 32), np.uint32), "b": np.zeros(32, np.uint32)},
    args=pipe_args,
    launch={"shared": 1088},
    named=False,
    hopper=True,
)
