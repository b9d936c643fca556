"""Probes of launches, arguments, shared memory, atomics, mma, cp.async and clusters."""

# ruff: noqa: E501  (lines of CUDA)
from __future__ import annotations

import numpy as np

from gpu_tune.cuda.device import Device
from gpu_tune.plan import BufferArg, KernelStep, MemsetStep, ScalarArg
from tests.gpu.probes.probe import Probe, plan, probe, simple


@probe(75)
def a_store(device: Device) -> Probe:
    source, step = simple("out[blockIdx.x * 64 + threadIdx.x] = blockIdx.x * 1000 + threadIdx.x;", 4, 64)
    i = np.arange(256)
    return Probe(source, plan(step), (i // 64 * 1000 + i % 64).astype(np.int32))


@probe(75)
def scalars_by_value(device: Device) -> Probe:
    body = """
    out[0] = a; out[1] = (int)b; out[2] = (int)(c >> 32); out[3] = (int)c; out[4] = (int)(d >> 32); out[5] = (int)d;
    out[6] = __float_as_int(e); out[7] = a + 1;"""
    parameters = "int a, int* out, long long c, unsigned b, unsigned long long d, float e"
    values = (("int32", -7), ("int64", -(2**40) - 5), ("uint32", 2**32 - 3), ("uint64", 2**63 + 9), ("float32", 1.5))
    a, c, b, d, e = (ScalarArg("value", kind, v) for kind, v in values)
    source, step = simple(body, 1, 1, a, BufferArg("out"), c, b, d, e, parameters=parameters)
    words = [-7, -3, (-(2**40) - 5) >> 32, -5, -(2**31), 9, int(np.float32(1.5).view(np.int32)), -6]
    return Probe(source, plan(step), np.array(words, np.int64).astype(np.int32))


@probe(75)
def a_three_dimensional_grid(device: Device) -> Probe:
    body = """
    const int b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    out[b * 24 + (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x] = b;"""
    source, step = simple(body, 1, 24)
    step = KernelStep("probe", (3, 5, 2), (4, 3, 2), step.args)
    return Probe(source, plan(step), np.repeat(np.arange(30, dtype=np.int32), 24))


@probe(75)
def memsets_and_kernels_in_order(device: Device) -> Probe:
    source, step = simple("out[threadIdx.x] = out[threadIdx.x] * 2 + 1;", 1, 64)
    steps = (MemsetStep("out", 256, 1), step, MemsetStep("out", 16, 0, 64), step)
    expected = np.full(64, (0x01010101 * 2 + 1) * 2 + 1, np.int32)
    expected[16:20] = 1
    return Probe(source, plan(*steps), expected)


@probe(75)
def pointers_with_offsets(device: Device) -> Probe:
    source, step = simple("out[threadIdx.x] = a[threadIdx.x];", 1, 32, BufferArg("a", 64), BufferArg("out", 128),
                          parameters="const int* a, int* out")  # fmt: skip
    expected = np.full(64, -1, np.int32)
    expected[32:] = np.arange(16, 48)
    return Probe(source, plan(step), expected, {"a": np.arange(64, dtype=np.int32)})


@probe(75)
def all_dynamic_shared_memory(device: Device) -> Probe:
    words = device.shared_bytes_per_block // 4
    body = f"""
    extern __shared__ int memory[];
    for (int i = threadIdx.x; i < {words}; i += 256) memory[i] = i;
    __syncthreads();
    for (int i = threadIdx.x; i < {words}; i += 256) out[i] = memory[{words - 1} - i];"""
    source, step = simple(body, 1, 256, shared=4 * words)
    return Probe(source, plan(step), np.arange(words, dtype=np.int32)[::-1].copy())


@probe(75)
def atomics_across_blocks(device: Device) -> Probe:
    source, step = simple("atomicAdd(out + threadIdx.x % 4, blockIdx.x);", 300, 128)
    return Probe(source, plan(MemsetStep("out", 16), step), np.full(4, 32 * 300 * 299 // 2, np.int32))


@probe(75)
def tensor_cores_fp16(device: Device) -> Probe:
    """mma.m16n8k8 with one instruction; A(16, 8) and B(8, 8) of small integers."""
    body = """
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    const unsigned* x = (const unsigned*)a;
    const unsigned a0 = x[g * 4 + t], a1 = x[(g + 8) * 4 + t];
    const unsigned b0 = b[2 * t * 8 + g] | (unsigned)b[(2 * t + 1) * 8 + g] << 16;
    float c0 = 0, c1 = 0, c2 = 0, c3 = 0;
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3) : "r"(a0), "r"(a1), "r"(b0));
    out[g * 8 + 2 * t] = (int)c0; out[g * 8 + 2 * t + 1] = (int)c1;
    out[(g + 8) * 8 + 2 * t] = (int)c2; out[(g + 8) * 8 + 2 * t + 1] = (int)c3;"""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-8, 9, (16, 8)).astype(np.float16), rng.integers(-8, 9, (8, 8)).astype(np.float16)
    source, step = simple(body, 1, 32, BufferArg("a"), BufferArg("b"), BufferArg("out"),
                          parameters="const unsigned short* a, const unsigned short* b, int* out")  # fmt: skip
    return Probe(source, plan(step), (a.astype(int) @ b.astype(int)).astype(np.int32), {"a": a, "b": b})


@probe(80)
def asynchronous_copies(device: Device) -> Probe:
    body = """
    __shared__ __align__(16) int memory[256];
    const unsigned to = (unsigned)__cvta_generic_to_shared(memory + 4 * threadIdx.x);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(a + 4 * threadIdx.x), "r"(threadIdx.x < 60 ? 16 : 8) : "memory");
    asm volatile("cp.async.commit_group;\\ncp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += 64) out[i] = memory[255 - i];"""
    source, step = simple(body, 1, 64, BufferArg("a"), BufferArg("out"), parameters="const int* a, int* out")
    a = np.arange(256, dtype=np.int32)
    arrived = np.where((a >= 240) & (a % 4 >= 2), 0, a)  # the last four copies bring 8 bytes and 8 of zeros
    return Probe(source, plan(step), arrived[::-1].astype(np.int32).copy(), {"a": a})


def _cluster(size: int) -> Probe:
    body = f"""
    __shared__ int mine;
    unsigned rank, blocks, remote;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    mine = 100 * blockIdx.x + (int)blocks;
    asm volatile("barrier.cluster.arrive.release.aligned;\\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"((unsigned)__cvta_generic_to_shared(&mine)), "r"((rank + 1) % {size}));
    int got;
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(got) : "r"(remote) : "memory");
    out[blockIdx.x] = got;
    asm volatile("barrier.cluster.arrive.release.aligned;\\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");"""
    source, step = simple(body, 2 * size, 1, cluster=size)
    blocks = np.arange(2 * size)
    return Probe(source, plan(step), (100 * (blocks // size * size + (blocks + 1) % size) + size).astype(np.int32))


@probe(90)
def a_cluster_of_2(device: Device) -> Probe:
    return _cluster(2)


@probe(90)
def a_cluster_of_8(device: Device) -> Probe:
    return _cluster(8)


@probe(90)
def a_cluster_of_16_which_must_be_allowed(device: Device) -> Probe:
    return _cluster(16)


@probe(90)
def a_cluster_that_is_compiled_in_as_well(device: Device) -> Probe:
    made = _cluster(2)
    source = made.source.replace("__global__ void", "__global__ void __cluster_dims__(2, 1, 1)")
    return Probe(source, made.plan, made.expected)
