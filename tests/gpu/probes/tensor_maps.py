"""Probes of the copy engine: tiles, swizzles, image pixels, multicast."""

# ruff: noqa: E501  (lines of CUDA)
from __future__ import annotations

import numpy as np

from gpu_tune.cuda.device import Device
from gpu_tune.plan import BufferArg, Im2Col, TensorMapArg
from tests.gpu.probes.probe import Array, Probe, plan, probe, simple

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
