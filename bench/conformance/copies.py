"""Cases of the tensor memory accelerator: tiles, im2col, multicast, reductions."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from bench.conformance.case import HEAD, HOPPER, Case, argument, make, tensor_map, words, zeros
from gpu_tune.plan import BufferArg, Im2Col, KernelStep, LaunchPlan


def tma(rng: np.random.Generator) -> Iterator[Case]:
    """Tensor maps: tiles in 1-5 dimensions and all swizzles, overhanging; im2col; multicast; stores and reductions."""
    for swizzle, corner in itertools.product((0, 32, 64, 128), ((0, 0), (8, 3), (-4, -2), (50, 30))):
        source = rng.integers(1, 65536, (40, 72)).astype(np.uint16)
        yield _tile(
            f"tile swizzle {swizzle} at {corner}",
            source,
            ({0: 64, 32: 16, 64: 32, 128: 64}[swizzle], 24),
            corner,
            swizzle,
        )
    boxes: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = [
        ((80,), (32,), (60,)),
        ((5, 6, 16), (8, 4, 3), (4, 3, 3)),
        ((3, 4, 5, 16), (16, 3, 2, 2), (0, 4, -1, 2)),
        ((2, 3, 4, 5, 8), (8, 2, 3, 2, 2), (0, 1, 2, 2, 1)),
    ]
    for shape, box, at in boxes:
        yield _tile(f"tile of {len(shape)} dimensions", rng.integers(1, 65536, shape).astype(np.uint16), box, at, 0)
    for kind in (np.uint8, np.uint32, np.float32):
        source = rng.integers(1, 200, (16, 64)).astype(kind)
        yield _tile(f"tile of {np.dtype(kind).name}", source, (32, 8), (16, 4), 0)
    image = rng.integers(1, 65536, (2, 5, 6, 16)).astype(np.uint16)
    for tap, first in (((0, 0), (0, 0, 0)), ((2, 1), (0, 1, 1)), ((1, 2), (1, 0, 3))):
        yield _im2col(image, tap, first)
    for mask in (0b11, 0b01, 0b10):
        yield _multicast(rng, mask)
    yield _reduction(rng)


def floating_tiles(rng: np.random.Generator) -> Iterator[Case]:
    """Tiles of the floating types, of any bits: whether the copy engine rounds, or changes a NaN or a denormal."""
    for kind, word in (
        ("float16", np.uint16),
        ("bfloat16", np.uint16),
        ("float32", np.uint32),
        ("tfloat32", np.uint32),
    ):
        bits = rng.integers(0, 2 ** (8 * np.dtype(word).itemsize), (16, 64), dtype=np.uint64).astype(word)
        yield _tile(f"tile of {kind}, any bits", bits, (32, 8), (16, 4), 0, kind)


def _tile(
    name: str, array: np.ndarray, box: tuple[int, ...], at: tuple[int, ...], swizzle: int, kind: str = ""
) -> Case:
    rank = len(box)
    params = ", ".join(f"int c{i}" for i in range(rank))
    regs = ", ".join(f'"r"(c{i})' for i in range(rank))
    load, store = (", ".join(f"%{base + i}" for i in range(rank)) for base in (3, 2))
    source = f"""GLOBAL k(u32* out, const __grid_constant__ TensorMap from, const __grid_constant__ TensorMap to,
                          int bytes, {params}) {{
      const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 32768;
      for (int i = t; i < 8192; i += 32) ((u32*)smem)[i] = 0xABABABABu;
      barrier_ready(bar, 1);
      if (t == 0) {{ expect(bar, bytes);
        asm volatile("cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                     " [%0], [%1, {{{load}}}], [%2];" :: "r"(base), "l"(&from), "r"(bar), {regs} : "memory"); }}
      wait(bar, 0);
      for (int i = t; i < 8192; i += 32) out[i] = ((u32*)smem)[i];
      __syncthreads();
      if (t == 0) {{ asm volatile("cp.async.bulk.tensor.{rank}d.global.shared::cta.tile.bulk_group"
                                  " [%0, {{{store}}}], [%1];" :: "l"(&to), "r"(base), {regs} : "memory");
                     stored(); }} }}"""
    arrays = {"workspace": zeros(8192), "a": array, "out": np.zeros_like(array)}
    nbytes = int(np.prod(box)) * array.itemsize
    maps = (tensor_map(n, array, box, swizzle) for n in ("a", "out"))
    return make(
        f"tma {name}",
        source,
        "k",
        arrays,
        *(dataclasses.replace(m, dtype=kind or m.dtype) for m in maps),
        nbytes,
        *at,
        shared=32768 + 64,
        hopper=True,
    )


def _im2col(image: np.ndarray, tap: tuple[int, int], first: tuple[int, int, int]) -> Case:
    source = """GLOBAL k(u32* out, const __grid_constant__ TensorMap from, int bytes, int x, int y, int n,
                         int s, int r) {
      const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 4096;
      barrier_ready(bar, 1);
      if (t == 0) { expect(bar, bytes);
        asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
                     " [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};"
          :: "r"(base), "l"(&from), "r"(bar), "r"(8), "r"(x), "r"(y), "r"(n), "h"((u16)s), "h"((u16)r) : "memory"); }
      wait(bar, 0);
      for (int i = t; i < bytes / 4; i += 32) out[i] = ((u32*)smem)[i]; }"""
    mapped = tensor_map("a", image, (8, 24), im2col=Im2Col((-1, -1), (-1, -1), 8, 24))
    n, y, x = first
    return make(
        f"tma im2col tap {tap} from {first}",
        source,
        "k",
        {"out": zeros(96), "a": image},
        mapped,
        384,
        x - 1,
        y - 1,
        n,
        tap[1],
        tap[0],
        shared=4096 + 64,
        hopper=True,
    )


def _multicast(rng: np.random.Generator, mask: int) -> Case:
    source = """GLOBAL k(u32* out, const __grid_constant__ TensorMap from, int mask) {
      u32 rank; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
      const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 4096;
      barrier_ready(bar, 1);
      if (t == 0 && mask >> rank & 1) expect(bar, 1024);
      asm volatile("barrier.cluster.arrive.release.aligned;\\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
      if (t == 0 && rank == 0)
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
          " [%0], [%1, {%3, %3}], [%2], %4;" :: "r"(base), "l"(&from), "r"(bar), "r"(0), "h"((u16)mask) : "memory");
      if (mask >> rank & 1) { wait(bar, 0); for (int i = t; i < 256; i += 32) out[rank * 256 + i] = ((u32*)smem)[i]; }
      asm volatile("barrier.cluster.arrive.release.aligned;\\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }"""
    array = rng.integers(1, 65536, (8, 64)).astype(np.uint16)
    return make(
        f"tma multicast mask {mask:b}",
        source,
        "k",
        {"out": zeros(512), "a": array},
        tensor_map("a", array, (64, 8)),
        mask,
        cluster=2,
        shared=4096 + 64,
        hopper=True,
    )


def _reduction(rng: np.random.Generator) -> Case:
    source = """GLOBAL k(const float* a, const __grid_constant__ TensorMap to) {
      const int t = threadIdx.x; const u32 base = shared_address(smem);
      for (int i = t; i < 128; i += 32) ((float*)smem)[i] = a[i];
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); __syncthreads();
      if (t == 0) { asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group"
                                 " [%0, {%2, %3}], [%1];" :: "l"(&to), "r"(base), "r"(4), "r"(6) : "memory");
                    stored(); } }"""
    target = np.ones((10, 16), np.float32)
    values = rng.integers(-9, 10, 128).astype(np.float32)
    return make(
        "tma reduction",
        source,
        "k",
        {"a": values, "out": target},
        tensor_map("out", target, (16, 8)),
        shared=1024,
        hopper=True,
    )


def im2col_store(rng: np.random.Generator) -> Iterator[Case]:
    """Shared memory to the pixels of an image."""
    image, pixels, channels = np.zeros((2, 3, 5, 16), np.uint16), 20, 8
    source = """GLOBAL k(const __grid_constant__ TensorMap to, const u32* a, int bytes) {
      const int l = threadIdx.x; for (int i = l; i < bytes / 4; i += 32) ((u32*)smem)[i] = a[i];
      asm volatile("fence.proxy.async;" ::: "memory"); __syncthreads();
      if (l == 0) { asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.im2col_no_offs.bulk_group [%0, {%2, %3, %4, %5}], [%1];"
        :: "l"(&to), "r"(shared_address(smem)), "r"(8), "r"(-1), "r"(0), "r"(0) : "memory"); stored(); } }"""
    out = tensor_map("out", image, (channels, pixels), im2col=Im2Col((-1, -1), (1, 1), channels, pixels))
    arrays = {"a": words(rng, pixels * channels // 2), "out": image}
    step = KernelStep(
        "k", (1, 1, 1), (32, 1, 1), (out, BufferArg("a"), argument(pixels * channels * 2)), 8192, (1, 1, 1)
    )
    yield Case("im2col store", HEAD + HOPPER + source, LaunchPlan((step,)), arrays, hopper=True)
