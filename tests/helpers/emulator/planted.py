"""Kernels with a planted bug (``BUG`` defined) and without it. ``// HERE`` marks the line that a report must name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu_tune.plan import BufferArg
from tests.helpers.emulator.snippets import HOPPER, PRELUDE, tensor_map


@dataclass(frozen=True)
class Planted:
    """``report``: a regular expression that some finding's kind and message must match when the bug is in.

    ``named``: whether that finding names the line marked ``// HERE``. ``arrays`` and ``args`` make the launch.
    ``seeds``: how many of 6 seeds must report it at least.
    """

    name: str
    source: str
    report: str
    arrays: Callable[[], Mapping[str, np.ndarray]]
    args: Callable[[Mapping[str, np.ndarray]], list[Any]] = lambda arrays: [BufferArg(n) for n in arrays]
    launch: Mapping[str, Any] = field(default_factory=dict)
    named: bool = True
    seeds: int = 6
    hopper: bool = False

    def text(self, bug: bool) -> str:
        return ("#define BUG 1\n" if bug else "\n") + (HOPPER if self.hopper else PRELUDE) + self.source

    def __str__(self) -> str:
        return self.name


def words(*sizes: int, fill: int = 0) -> Callable[[], Mapping[str, np.ndarray]]:
    return lambda: {
        n: np.arange(s, dtype=np.uint32) * np.uint32(1 - (fill > 0)) + np.uint32(fill) for n, s in zip("abxw", sizes)
    }


def pointers(*more: Any) -> Callable[[Mapping[str, np.ndarray]], list[Any]]:
    return lambda arrays: [*(BufferArg(n) for n in arrays), *more]


PLANTED: list[Planted] = []


def plant(name: str, source: str, report: str, arrays: Callable[[], Mapping[str, np.ndarray]], **more: Any) -> None:
    PLANTED.append(Planted(name, source, report, arrays, **more))


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
