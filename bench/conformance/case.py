"""One case of conformance: a small kernel, its launch and its inputs; what every family of cases is made with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan, ScalarArg, TensorMapArg

DTYPES: dict[str, Any] = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "tf32": np.float32,
    "s8": np.int8,
    "u8": np.uint8,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
HEAD = r"""
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
#define DEVICE static __device__ __forceinline__
#define GLOBAL extern "C" __global__ void
struct alignas(64) TensorMap { u64 words[16]; };
DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
extern __shared__ __align__(1024) unsigned char smem[];
"""
HOPPER = r"""
DEVICE void barrier_ready(u32 bar, u32 count) {
  if (threadIdx.x == 0) asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\nfence.mbarrier_init.release.cluster;"
                                     :: "r"(bar), "r"(count) : "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); __syncthreads(); }
DEVICE void expect(u32 bar, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(bytes) : "memory"); }
DEVICE void wait(u32 bar, u32 parity) {
  u32 done = 0;
  while (!done) asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                             "selp.u32 %0, 1, 0, p;\n}" : "=r"(done) : "r"(bar), "r"(parity) : "memory"); }
DEVICE void stored() { asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory"); }
"""


@dataclass(frozen=True)
class Case:
    """``tolerance`` 0: every bit has to agree; else the largest relative difference of float32 words."""

    name: str
    source: str
    plan: LaunchPlan
    arrays: dict[str, np.ndarray]
    min_cc: int = 80
    hopper: bool = False
    tolerance: float = 0.0

    def runs_on(self, cc: int) -> bool:
        """Whether a device of compute capability ``cc`` has the instruction."""
        return cc == 90 if self.hopper else cc >= self.min_cc


def make(
    name: str,
    source: str,
    kernel: str,
    arrays: dict[str, np.ndarray],
    *more: Any,
    block: int = 32,
    shared: int = 0,
    cluster: int = 1,
    **options: Any,
) -> Case:
    """The case of one launch; ``more`` are tensor maps and scalars, which follow the arrays."""
    args = [BufferArg(n) for n in arrays if not any(isinstance(m, TensorMapArg) and m.buffer == n for m in more)]
    step = KernelStep(kernel, (cluster, 1, 1), (block, 1, 1), (*args, *map(argument, more)), shared, (cluster, 1, 1))
    return Case(name, HEAD + (HOPPER if options.get("hopper") else "") + source, LaunchPlan((step,)), arrays, **options)


def argument(value: Any) -> Any:
    """A launch argument: tensor maps as they are, numbers as int32 or uint64."""
    if isinstance(value, TensorMapArg):
        return value
    return ScalarArg("n", "uint64" if isinstance(value, np.uint64) else "int32", int(value))


def words(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random bits."""
    return rng.integers(0, 2**32, count, dtype=np.uint32)


def integers(rng: np.random.Generator, kind: str, count: int) -> np.ndarray:
    """Small integers, exact in every type."""
    return rng.integers(0 if kind == "u8" else -3, 4, count).astype(DTYPES[kind])


def zeros(count: int) -> np.ndarray:
    """Where results go."""
    return np.zeros(count, np.uint32)


def tensor_map(buffer: str, array: np.ndarray, box: tuple[int, ...], swizzle: int = 0, **more: Any) -> TensorMapArg:
    """The tensor map of ``array``, innermost dimension first."""
    kind = {"uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "float32": "float32"}[array.dtype.name]
    return TensorMapArg(buffer, kind, array.shape[::-1], array.strides[:-1][::-1], box, swizzle, **more)
