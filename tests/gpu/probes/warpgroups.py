"""Probes of wgmma and of registers that change hands."""

# ruff: noqa: E501  (lines of CUDA)
from __future__ import annotations

import numpy as np

from gpu_tune.cuda.device import Device
from gpu_tune.plan import BufferArg
from tests.gpu.probes.probe import Probe, plan, probe, simple


@probe(90)
def registers_change_hands(device: Device) -> Probe:
    """setmaxnreg in two warpgroups: too many registers asked for would hang."""
    body = """
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        out[threadIdx.x] = 1;
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        out[threadIdx.x] = 2;
    }"""
    source, step = simple(body, 1, 256)
    return Probe(source, plan(step), np.repeat(np.array([1, 2], np.int32), 128))


def _warpgroup(span: int) -> Probe:
    """wgmma.m64n16k16 over rows of ``span`` bytes of bfloat16, both operands K-major and swizzled by ordinary stores."""
    k = span // 2
    layout = {128: 1, 64: 2, 32: 3}[span]
    registers = ", ".join(f"%{i}" for i in range(8))
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(8))
    body = f"""
    extern __shared__ __align__(1024) char memory[];
    for (int e = threadIdx.x; e < 80 * {k}; e += 128) {{  // 64 rows of A, then 16 of B, which begins at 8192
        const bool second = e >= 64 * {k};
        const int byte = 2 * (second ? e - 64 * {k} : e);
        *(unsigned short*)(memory + 8192 * second + (byte ^ ((byte >> 7 & {span // 16 - 1}) << 4))) = second ? b[e - 64 * {k}] : a[e];
    }}
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    const unsigned long long base = (unsigned)__cvta_generic_to_shared(memory) >> 4 & 0x3fff;
    const unsigned long long rest = {layout}ull << 62 | {8 * span // 16}ull << 32 | 1ull << 16;
    float d[8] = {{}};
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    #pragma unroll
    for (int step = 0; step < {k // 16}; ++step)
        asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {{{registers}}}, %8, %9, 1, 1, 1, 0, 0;"
            : {outputs} : "l"(rest | (base + 2 * step)), "l"(rest | (base + 512 + 2 * step)));
    asm volatile("wgmma.commit_group.sync.aligned;\\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
    #pragma unroll
    for (int i = 0; i < 8; ++i) {{
        const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8, column = threadIdx.x % 4 * 2 + i % 2 + i / 4 * 8;
        out[row * 16 + column] = (int)d[i];
    }}"""
    rng = np.random.default_rng(span)
    a, b = rng.integers(-8, 9, (64, k)), rng.integers(-8, 9, (16, k))
    words = [(x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) for x in (a, b)]  # bfloat16, exactly
    source, step = simple(body, 1, 128, BufferArg("a"), BufferArg("b"), BufferArg("out"), shared=8192 + 2048,
                          parameters="const unsigned short* a, const unsigned short* b, int* out")  # fmt: skip
    return Probe(source, plan(step), (a @ b.T).astype(np.int32), {"a": words[0], "b": words[1]})


@probe(90)
def warpgroup_product_with_swizzle_128(device: Device) -> Probe:
    return _warpgroup(128)


@probe(90)
def warpgroup_product_with_swizzle_64(device: Device) -> Probe:
    return _warpgroup(64)


@probe(90)
def warpgroup_product_with_swizzle_32(device: Device) -> Probe:
    return _warpgroup(32)


@probe(90)
def warpgroup_product_with_the_other_major(device: Device) -> Probe:
    """wgmma.m64n64k16 with B(16, 64) as it lies in a row-major matrix: N contiguous, K in groups of 8 rows."""
    registers = ", ".join(f"%{i}" for i in range(32))
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(32))
    body = f"""
    extern __shared__ __align__(1024) char memory[];
    for (int e = threadIdx.x; e < 1024; e += 128) {{
        const int x = 2 * e;  // rows of 32 bytes of A, of 128 bytes of B, which begins at 2048
        *(unsigned short*)(memory + (x ^ ((x >> 7 & 1) << 4))) = a[e];
        *(unsigned short*)(memory + 2048 + (x ^ ((x >> 7 & 7) << 4))) = b[e];
    }}
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    const unsigned long long base = (unsigned)__cvta_generic_to_shared(memory) >> 4 & 0x3fff;
    const unsigned long long first = 3ull << 62 | 16ull << 32 | 1ull << 16 | base;
    const unsigned long long second = 1ull << 62 | 64ull << 32 | 64ull << 16 | (base + 128);
    float d[32] = {{}};
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{{registers}}}, %32, %33, 1, 1, 1, 0, 1;"
        : {outputs} : "l"(first), "l"(second));
    asm volatile("wgmma.commit_group.sync.aligned;\\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
    #pragma unroll
    for (int i = 0; i < 32; ++i) {{
        const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8, column = threadIdx.x % 4 * 2 + i % 2 + i / 4 * 8;
        out[row * 64 + column] = (int)d[i];
    }}"""
    rng = np.random.default_rng(9)
    a, b = rng.integers(-8, 9, (64, 16)), rng.integers(-8, 9, (16, 64))
    words = [(x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) for x in (a, b)]
    source, step = simple(body, 1, 128, BufferArg("a"), BufferArg("b"), BufferArg("out"), shared=4096,
                          parameters="const unsigned short* a, const unsigned short* b, int* out")  # fmt: skip
    return Probe(source, plan(step), (a @ b).astype(np.int32), {"a": words[0], "b": words[1]})
