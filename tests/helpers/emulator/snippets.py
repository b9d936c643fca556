"""How the emulator's tests run a small kernel: CUDA or PTX text, arrays by order of the kernel's pointers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from gpu_tune import emulator
from gpu_tune.cuda import nvrtc
from gpu_tune.emulator import Report
from gpu_tune.plan import BUFFERS, BufferArg, KernelStep, LaunchPlan, ScalarArg, TensorMapArg

needs_emulator = pytest.mark.skipif(not emulator.available(), reason="no C++ compiler: the emulator cannot be built")
needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")

PRELUDE = r"""
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
#define DEVICE static __device__ __forceinline__
#define GLOBAL extern "C" __global__ void
#define SMEM extern __shared__ __align__(1024) unsigned char smem[]
struct alignas(64) TensorMap { u64 words[16]; };
DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
"""
HOPPER = (
    PRELUDE
    + r"""
DEVICE void mbar_init(u32 b, u32 n) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(b), "r"(n) : "memory"); }
DEVICE void mbar_expect(u32 b, u32 n) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(b), "r"(n) : "memory"); }
DEVICE void mbar_arrive(u32 b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(b) : "memory"); }
DEVICE void mbar_arrive_remote(u32 b, u32 cta) {
  asm volatile("{\n.reg .b32 r;\nmapa.shared::cluster.u32 r, %0, %1;\n"
               "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [r];\n}"
               :: "r"(b), "r"(cta) : "memory"); }
DEVICE bool mbar_try(u32 b, u32 parity) {
  u32 done;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(done) : "r"(b), "r"(parity) : "memory");
  return done; }
DEVICE void mbar_wait(u32 b, u32 parity) { while (!mbar_try(b, parity)) {} }
DEVICE void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void tma_load_2d(u32 dst, const TensorMap* m, u32 bar, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
               :: "r"(dst), "l"(m), "r"(bar), "r"(x), "r"(y) : "memory"); }
DEVICE void tma_store_2d(const TensorMap* m, u32 src, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];"
               :: "l"(m), "r"(src), "r"(x), "r"(y) : "memory"); }
DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
DEVICE void bulk_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
DEVICE void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEVICE u32 cluster_rank() { u32 r; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
"""
)


@functools.cache
def load(source: str, arch: str) -> Any:
    """A module, kept for the session (``source`` is CUDA or PTX)."""
    return emulator.Module.load(source, arch=arch)


def run(
    source: str,
    kernel: str,
    arrays: Sequence[np.ndarray],
    scalars: Sequence[Any] = (),
    *,
    grid: Any = 1,
    block: Any = 32,
    shared: int = 0,
    cluster: Any = 1,
    arch: str = "sm_90a",
    **options: Any,
) -> Report:
    """Run one kernel whose parameters are the pointers ``arrays``, then ``scalars`` (ints, floats, TensorMapArgs).

    Buffers are named a, b, x, ... in order (``names``); the report's arrays are looked up the same way (``result``).
    """
    args = [BufferArg(name) for name in names(arrays)]
    return run_args(
        source,
        kernel,
        dict(zip(names(arrays), arrays)),
        [*args, *scalars],
        grid=grid,
        block=block,
        shared=shared,
        cluster=cluster,
        arch=arch,
        **options,
    )


def run_args(
    source: str,
    kernel: str,
    arrays: Mapping[str, np.ndarray],
    args: Sequence[Any],
    *,
    grid: Any = 1,
    block: Any = 32,
    shared: int = 0,
    cluster: Any = 1,
    arch: str = "sm_90a",
    **options: Any,
) -> Report:
    """As :func:`run`, with the argument list spelled out."""
    step = KernelStep(kernel, dim3(grid), dim3(block), tuple(map(argument, args)), shared, dim3(cluster))
    return load(source, arch).run(LaunchPlan((step,)), dict(arrays), **options)


def names(arrays: Sequence[np.ndarray]) -> tuple[str, ...]:
    return BUFFERS[: len(arrays)]


def result(report: Report, position: int) -> np.ndarray:
    """The array at ``position`` after the run; the run must have been without findings."""
    assert report.ok, messages(report)
    return report.arrays[BUFFERS[position]]


def messages(report: Report) -> str:
    return "\n".join(f"{f.kind}: {f.message}" for f in report.findings)


def argument(value: Any) -> Any:
    if isinstance(value, (BufferArg, ScalarArg, TensorMapArg)):
        return value
    if isinstance(value, (float, np.floating)):
        return ScalarArg("f", "float32", float(value))
    if isinstance(value, np.uint64):
        return ScalarArg("u", "uint64", int(value))
    return ScalarArg("i", "int32", int(value))


def dim3(value: Any) -> tuple[int, int, int]:
    dims = (value,) if isinstance(value, int) else tuple(value)
    return (*dims, 1, 1, 1)[:3]  # type: ignore[return-value]


def tensor_map(
    buffer: str, array: np.ndarray, box: Sequence[int], swizzle: int = 0, dtype: str = "", **more: Any
) -> TensorMapArg:
    """A map over a contiguous ``array`` (NumPy order); ``box`` is innermost first, as in the driver call."""
    kind = dtype or {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}[array.itemsize]
    return TensorMapArg(
        buffer, kind, tuple(reversed(array.shape)), tuple(reversed(array.strides[:-1])), tuple(box), swizzle, **more
    )


def line_of(source: str, marker: str) -> int:
    """The 1-based line of ``source`` that has ``marker``."""
    found = [i for i, text in enumerate(source.splitlines(), 1) if marker in text]
    assert len(found) == 1, (marker, found)
    return found[0]
