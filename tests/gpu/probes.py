"""Small kernels that each use one thing which the tuned kernels rely on, from a plain store to the copy engine.

Every probe knows its right answer without running anything, so the same probes run on the emulator (which proves the
probes) and on a GPU (which they then prove: driver, argument passing, and the hardware's own semantics). Integers only.
"""

# ruff: noqa: E501  (lines of CUDA)
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from gpu_tune.cuda.device import Device
from gpu_tune.plan import Arg, BufferArg, Im2Col, KernelStep, LaunchPlan, MemsetStep, ScalarArg, Step, TensorMapArg

Array = np.ndarray


@dataclass(frozen=True)
class Probe:
    """``source`` with its ``plan``; ``inputs`` by buffer name; ``out`` must come to be ``expected``, exactly."""

    source: str
    plan: LaunchPlan
    expected: Array
    inputs: Mapping[str, Array] = field(default_factory=dict)

    @property
    def buffers(self) -> dict[str, Array]:
        """All buffers; the output begins as all ones (bits)."""
        return {**self.inputs, "out": np.full(self.expected.shape, -1, self.expected.dtype)}


Make = Callable[[Device], Probe]
PROBES: dict[str, tuple[int, Make]] = {}
"""(least compute capability, maker) by name, simple ones first."""
HOPPER_ONLY = ("registers_change_hands", "warpgroup_product")
"""Beginnings of the names of those that newer chips do not have."""


def probe(least: int) -> Callable[[Make], Make]:
    """Register a maker for chips of compute capability ``least`` and up."""

    def add(make: Make) -> Make:
        PROBES[make.__name__] = (least, make)
        return make

    return add


def simple(body: str, grid: int, block: int, *args: Arg, shared: int = 0, cluster: int = 1, parameters: str = "int* out",
           before: str = "", attributes: str = "") -> tuple[str, KernelStep]:  # fmt: skip
    """One kernel: its source and its step."""
    source = f'{before}\nextern "C" __global__ void {attributes} __launch_bounds__({block})\nprobe({parameters}) {{\n{body}\n}}\n'
    step = KernelStep("probe", (grid, 1, 1), (block, 1, 1), args or (BufferArg("out"),), shared, (cluster, 1, 1))
    return source, step


def plan(*steps: Step) -> LaunchPlan:
    """The steps as a checked plan."""
    return LaunchPlan(tuple(steps)).check()


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


_TMA = """
struct __align__(64) Map { unsigned long long words[16]; };
__device__ void begin(unsigned bar, unsigned bytes) {  // one thread
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(bar) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(bytes) : "memory");
}
__device__ void finish(unsigned bar) {  // all threads
    asm volatile("{\\n.reg .pred done;\\nagain:\\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0;\\n@!done bra again;\\n}"
        :: "r"(bar) : "memory");
}
"""
_LOAD = """
    extern __shared__ __align__(1024) int memory[];
    __shared__ __align__(8) unsigned long long barrier;
    const unsigned to = (unsigned)__cvta_generic_to_shared(memory), bar = (unsigned)__cvta_generic_to_shared(&barrier);
    if (threadIdx.x == 0) {
        begin(bar, %(bytes)d);
        %(copy)s
    }
    __syncthreads();
    finish(bar);
    for (int i = threadIdx.x; i < %(words)d; i += 128) out[i] = memory[i];"""


def _loaded(copy: str, box_words: int, tensor: TensorMapArg, a: Array, expected: Array) -> Probe:
    body = _LOAD % {"bytes": 4 * box_words, "words": box_words, "copy": copy}
    source, step = simple(body, 1, 128, tensor, BufferArg("out"), shared=4 * box_words, before=_TMA,
                          parameters="const __grid_constant__ Map map, int* out")  # fmt: skip
    return Probe(source, plan(step), expected.reshape(-1).astype(np.int32), {"a": a})


def swizzled(box: Array, span: int) -> Array:
    """Rows of int32 as the copy engine lays them out: 16-byte chunks of a ``span``, exchanged by the row's number."""
    flat, moved = box.reshape(-1), np.empty(box.size, np.int32)
    byte = 4 * np.arange(flat.size)
    moved[(byte ^ ((byte >> 7 & span // 16 - 1) << 4)) // 4 if span else byte // 4] = flat
    return moved


def _tile(span: int) -> Probe:
    columns = span // 4 if span else 20
    a = np.arange(70 * 64, dtype=np.int32).reshape(70, 64)
    x, y, rows = 64 - columns + 4, 60, 16  # the box hangs over both edges
    box = np.zeros((rows, columns), np.int32)
    part = a[y:, x:]
    box[: part.shape[0], : part.shape[1]] = part
    copy = (
        'asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes '
        f'[%0], [%1, {{{x}, {y}}}], [%2];" :: "r"(to), "l"(&map), "r"(bar) : "memory");'
    )
    tensor = TensorMapArg("a", "int32", (64, 70), (256,), (columns, rows), swizzle=span)
    return _loaded(copy, rows * columns, tensor, a, swizzled(box, span))


@probe(90)
def a_tensor_map_by_value(device: Device) -> Probe:
    return _tile(0)


@probe(90)
def a_tensor_map_with_swizzle_32(device: Device) -> Probe:
    return _tile(32)


@probe(90)
def a_tensor_map_with_swizzle_64(device: Device) -> Probe:
    return _tile(64)


@probe(90)
def a_tensor_map_with_swizzle_128(device: Device) -> Probe:
    return _tile(128)


@probe(90)
def a_tensor_map_of_three_dimensions(device: Device) -> Probe:
    a = np.arange(5 * 12 * 8, dtype=np.int32).reshape(5, 12, 8)
    box = np.zeros((2, 6, 8), np.int32)
    box[0] = a[4, 3:9]  # the second matrix lies outside
    copy = (
        'asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes '
        '[%0], [%1, {0, 3, 4}], [%2];" :: "r"(to), "l"(&map), "r"(bar) : "memory");'
    )
    tensor = TensorMapArg("a", "int32", (8, 12, 5), (32, 384), (8, 6, 2), swizzle=0)
    return _loaded(copy, 96, tensor, a, box)


@probe(90)
def a_tensor_map_of_image_pixels(device: Device) -> Probe:
    """im2col with other padding, stride and filter offset in each direction: the order of W and H shows."""
    n, h, w, c = 2, 9, 7, 4
    image = np.arange(1, n * h * w * c + 1, dtype=np.int32).reshape(n, h, w, c)
    top, bottom, left, right, r, s, (sh, sw) = 2, 1, 1, 0, 4, 2, (3, 2)
    p, q = (h + top + bottom - r) // sh + 1, (w + left + right - s) // sw + 1
    down, across, first, pixels = 3, 1, 2, n * p * q - 2
    box = np.zeros((pixels, c), np.int32)
    for i in range(pixels):
        at = first + i
        image_of, y, x = at // (p * q), at // q % p * sh - top + down, at % q * sw - left + across
        if 0 <= y < h and 0 <= x < w:
            box[i] = image[image_of, y, x]
    start_x, start_y = first % q * sw - left, first // q % p * sh - top
    copy = (
        'asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes '
        f'[%0], [%1, {{0, {start_x}, {start_y}, 0}}], [%2], {{%3, %4}};" :: "r"(to), "l"(&map), "r"(bar), '
        f'"h"((unsigned short){across}), "h"((unsigned short){down}) : "memory");'
    )
    corners = Im2Col((-left, -top), (right - (s - 1), bottom - (r - 1)), c, pixels)
    tensor = TensorMapArg("a", "int32", (c, w, h, n), (4 * c, 4 * c * w, 4 * c * w * h), (), swizzle=0,
                          element_strides=(1, sw, sh, 1), im2col=corners)  # fmt: skip
    return _loaded(copy, pixels * c, tensor, image, box)


@probe(90)
def a_tile_is_stored_and_clipped(device: Device) -> Probe:
    body = """
    extern __shared__ __align__(1024) int memory[];
    const unsigned from = (unsigned)__cvta_generic_to_shared(memory);
    for (int i = threadIdx.x; i < 128; i += 128) memory[i] = 1000 + i;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {4, 6}], [%1];" :: "l"(&map), "r"(from) : "memory");
        asm volatile("cp.async.bulk.commit_group;\\ncp.async.bulk.wait_group 0;" ::: "memory");
    }"""
    tensor = TensorMapArg("out", "int32", (8, 10), (48,), (8, 16), swizzle=0, l2_promotion=0)
    source, step = simple(body, 1, 128, tensor, shared=512, before=_TMA, parameters="const __grid_constant__ Map map")
    expected = np.full((10, 12), -1, np.int32)  # rows of 12, of which the map shows 8
    expected[6:, 4:8] = (1000 + np.arange(128).reshape(16, 8))[:4, :4]
    return Probe(source, plan(step), expected)


@probe(90)
def a_tile_for_two_blocks_at_once(device: Device) -> Probe:
    body = """
    extern __shared__ __align__(1024) int memory[];
    __shared__ __align__(8) unsigned long long barrier;
    const unsigned to = (unsigned)__cvta_generic_to_shared(memory), bar = (unsigned)__cvta_generic_to_shared(&barrier);
    if (threadIdx.x == 0) begin(bar, 512);
    __syncthreads();
    asm volatile("barrier.cluster.arrive.release.aligned;\\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    if (blockIdx.x == 0 && threadIdx.x == 0)
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
            "[%0], [%1, {0, 8}], [%2], %3;" :: "r"(to), "l"(&map), "r"(bar), "h"((unsigned short)3) : "memory");
    finish(bar);
    out[blockIdx.x * 128 + threadIdx.x] = memory[threadIdx.x] + 10000 * blockIdx.x;
    asm volatile("barrier.cluster.arrive.release.aligned;\\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");"""
    a = np.arange(24 * 8, dtype=np.int32).reshape(24, 8)
    tensor = TensorMapArg("a", "int32", (8, 24), (32,), (8, 16), swizzle=0)
    source, step = simple(body, 2, 128, tensor, BufferArg("out"), shared=512, cluster=2, before=_TMA,
                          parameters="const __grid_constant__ Map map, int* out")  # fmt: skip
    tile = a[8:].reshape(-1)
    return Probe(source, plan(step), np.concatenate([tile, tile + 10000]).astype(np.int32), {"a": a})


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
