"""TMA tiles in all dimensions and swizzles, im2col, multicast."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu_tune.plan import BufferArg, Im2Col
from tests.helpers.emulator.snippets import (
    HOPPER,
    messages,
    needs_emulator,
    needs_nvrtc,
    result,
    run,
    run_args,
    tensor_map,
)

pytestmark = [needs_emulator, needs_nvrtc]


def tma_source(rank: int, extra: str = "", mode: str = "tile") -> str:
    """A kernel that loads one box, copies the raw shared memory to ``out``, and stores the box through a second map."""
    coordinates = ", ".join(f"%{3 + i}" for i in range(rank))
    stored = ", ".join(f"%{2 + i}" for i in range(rank))
    registers = ", ".join(f'"r"(c{i})' for i in range(rank))
    params = ", ".join(f"int c{i}" for i in range(rank))
    load = f"cp.async.bulk.tensor.{rank}d.shared::cluster.global.{mode}.mbarrier::complete_tx::bytes{extra}"
    store = f"cp.async.bulk.tensor.{rank}d.global.shared::cta.bulk_group"
    hint, policy = (f", %{3 + rank}", ', "l"(0x12F0000000000000ull)') if extra else ("", "")
    return (
        HOPPER
        + f"""
GLOBAL k(u32* out, const __grid_constant__ TensorMap from, const __grid_constant__ TensorMap to, int bytes, int stored,
         {params}) {{
  SMEM; const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 32768;
  for (int i = t; i < 8192; i += 32) ((u32*)smem)[i] = 0xABABABABu;
  if (t == 0) {{ mbar_init(bar, 1); fence_barrier_init(); }}
  fence_proxy_async(); __syncthreads();
  if (t == 0) {{
    mbar_expect(bar, bytes);
    asm volatile("{load} [%0], [%1, {{{coordinates}}}], [%2]{hint};"
                 :: "r"(base), "l"(&from), "r"(bar), {registers}{policy} : "memory");
  }}
  mbar_wait(bar, 0);
  for (int i = t; i < 8192; i += 32) out[i] = ((u32*)smem)[i];
  __syncthreads();
  if (t == 0 && stored) {{
    asm volatile("{store} [%0, {{{stored}}}], [%1];" :: "l"(&to), "r"(base), {registers} : "memory");
    bulk_commit(); bulk_wait();
  }}
}}
"""
    )


def expected_box(source: np.ndarray, box: tuple[int, ...], at: tuple[int, ...]) -> np.ndarray:
    """The box (NumPy order) at ``at`` (innermost first), zero outside the array."""
    out = np.zeros(tuple(reversed(box)), source.dtype)
    start = tuple(reversed(at))
    for index in np.ndindex(out.shape):
        place = tuple(s + i for s, i in zip(start, index))
        if all(0 <= p < d for p, d in zip(place, source.shape)):
            out[index] = source[place]
    return out


def swizzled(box: np.ndarray, swizzle: int) -> np.ndarray:
    """The bytes of a box as TMA lays them out from a 1024-byte boundary."""
    raw, out = np.ascontiguousarray(box).view(np.uint8).reshape(-1), np.full(32768, 0xAB, np.uint8)
    chunk = {0: 0, 32: 1, 64: 3, 128: 7}[swizzle]
    address = np.arange(raw.size)
    out[address ^ (((address >> 7) & chunk) << 4)] = raw
    return out


def tma(
    source: np.ndarray,
    box: tuple[int, ...],
    at: tuple[int, ...],
    swizzle: int = 0,
    extra: str = "",
    dtype: str = "",
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    rank, into = len(box), np.zeros_like(source)
    maps = [tensor_map("b", source, box, swizzle, dtype), tensor_map("x", into, box, swizzle, dtype)]
    arrays = {"a": np.zeros(8192, np.uint32), "b": source, "x": into}
    nbytes = int(np.prod(box)) * source.itemsize
    report = run_args(
        tma_source(rank, extra), "k", arrays, [BufferArg("a"), *maps, nbytes, 1, *at], shared=32768 + 64, **options
    )
    assert report.ok, messages(report)
    return report.arrays["a"].view(np.uint8), report.arrays["x"]


@pytest.mark.parametrize("swizzle", [0, 32, 64, 128])
@pytest.mark.parametrize("at", [(0, 0), (8, 3), (-4, -2), (50, 30)])
def test_tiles_in_two_dimensions(swizzle: int, at: tuple[int, int]) -> None:
    source = np.random.default_rng(1).integers(1, 65536, (40, 72)).astype(np.uint16)
    box = ({0: 64, 32: 16, 64: 32, 128: 64}[swizzle], 24)
    loaded, stored = tma(source, box, at, swizzle)
    tile = expected_box(source, box, at)
    assert np.array_equal(loaded, swizzled(tile, swizzle))
    again = np.zeros_like(source)
    for index in np.ndindex(tile.shape):
        place = (at[1] + index[0], at[0] + index[1])
        if 0 <= place[0] < 40 and 0 <= place[1] < 72:
            again[place] = source[place]
    assert np.array_equal(stored, again)


@pytest.mark.parametrize(
    ("shape", "box", "at"),
    [
        ((80,), (32,), (60,)),
        ((5, 6, 16), (8, 4, 3), (4, 3, 3)),
        ((3, 4, 5, 16), (16, 3, 2, 2), (0, 4, -1, 2)),
        ((2, 3, 4, 5, 8), (8, 2, 3, 2, 2), (0, 1, 2, 2, 1)),
    ],
    ids=["1d", "3d", "4d", "5d"],
)
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_tiles_in_other_dimensions(
    shape: tuple[int, ...], box: tuple[int, ...], at: tuple[int, ...], kind: str
) -> None:
    dtype = np.dtype(kind)
    scale = 16 // (min(box[0], 16) * dtype.itemsize) or 1
    shape = (*shape[:-1], max(shape[-1] * scale, 16))
    box = (box[0] * scale, *box[1:])
    source = np.random.default_rng(2).integers(1, 100, shape).astype(dtype)
    loaded, stored = tma(source, box, at, dtype=kind)
    assert np.array_equal(loaded, swizzled(expected_box(source, box, at), 0))
    assert np.count_nonzero(stored) == np.count_nonzero(expected_box(source, box, at))


def test_maps_of_tf32_round_what_they_load() -> None:
    """To nearest, ties to even, as was seen on GPUs; infinities and NaN keep their bits, other types all of theirs."""
    words = np.random.default_rng(3).integers(0, 2**32, (16, 64), dtype=np.uint64).astype(np.uint32)
    words[0, :8] = [0x3F801000, 0x3F803000, 0x3F801001, 0x3FFFF000, 0x7F7FFFFF, 0x7F800000, 0xFF800001, 0x00001000]
    source, special = words.view(np.float32), (words & 0x7F800000) == 0x7F800000
    rounded = np.where(
        special, words, (words.astype(np.uint64) + 0xFFF + (words >> 13 & 1) & 0xFFFFE000).astype(np.uint32)
    )
    assert [hex(w) for w in rounded[0, :8]] == [
        *("0x3f800000", "0x3f804000", "0x3f802000", "0x40000000", "0x7f800000", "0x7f800000", "0xff800001", "0x0")
    ]
    for kind, wanted in (("tfloat32", rounded), ("float32", words), ("uint32", words)):
        loaded, _ = tma(source, (32, 16), (0, 0), 128, dtype=kind)
        assert np.array_equal(loaded, swizzled(wanted[:, :32], 128)), kind


def test_cache_hint_operand_changes_nothing() -> None:
    source = np.random.default_rng(1).integers(1, 65536, (40, 64)).astype(np.uint16)
    plain, hinted = tma(source, (64, 8), (0, 5), 128), tma(source, (64, 8), (0, 5), 128, extra=".L2::cache_hint")
    assert np.array_equal(plain[0], hinted[0])


@pytest.mark.parametrize("late", [False, True])
def test_landing_times_do_not_matter_when_waited_for(late: bool) -> None:
    source = np.random.default_rng(1).integers(1, 65536, (40, 64)).astype(np.uint16)
    results = [tma(source, (64, 8), (0, 5), 128, seed=seed, late=late)[0] for seed in range(3)]
    assert all(np.array_equal(results[0], r) for r in results)


def test_im2col_loads_pixels_of_a_filter_tap() -> None:
    """Corners shrink the image by the filter; the offsets pick the tap; pixels outside read zero."""
    n, h, w, c, r, pad = 2, 5, 6, 16, 3, 1
    image = np.random.default_rng(3).integers(1, 1000, (n, h, w, c)).astype(np.uint16)
    source = (
        HOPPER
        + r"""
GLOBAL k(u32* out, const __grid_constant__ TensorMap from, int bytes, int c, int x, int y, int n, int s, int r) {
  SMEM; const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 32768;
  if (t == 0) { mbar_init(bar, 1); fence_barrier_init(); }
  fence_proxy_async(); __syncthreads();
  if (t == 0) {
    mbar_expect(bar, bytes);
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};"
                 :: "r"(base), "l"(&from), "r"(bar), "r"(c), "r"(x), "r"(y), "r"(n), "h"((u16)s), "h"((u16)r)
                 : "memory");
  }
  mbar_wait(bar, 0);
  for (int i = t; i < bytes / 4; i += 32) out[i] = ((u32*)smem)[i];
}
"""
    )
    pixels, channels = 24, 8
    corner = pad - (r - 1)
    box = Im2Col((-pad, -pad), (corner, corner), channels, pixels)
    mapped = tensor_map("b", image, (channels, pixels), im2col=box)
    nbytes = pixels * channels * 2
    outputs = [(b, y, x) for b in range(n) for y in range(h) for x in range(w)]
    for first, tap, c0 in ((0, (0, 0), 0), (7, (2, 1), 8), (33, (1, 2), 0)):
        b, y, x = outputs[first]
        args = [BufferArg("a"), mapped, nbytes, c0, x - pad, y - pad, b, tap[1], tap[0]]
        report = run_args(source, "k", {"a": np.zeros(nbytes // 4, np.uint32), "b": image}, args, shared=32768 + 64)
        assert report.ok, messages(report)
        got = report.arrays["a"].view(np.uint16).reshape(pixels, channels)
        for i in range(pixels):
            if first + i >= len(outputs):
                assert not got[i].any()
                continue
            ob, oy, ox = outputs[first + i]
            iy, ix = oy - pad + tap[0], ox - pad + tap[1]
            inside = 0 <= iy < h and 0 <= ix < w
            assert np.array_equal(
                got[i], image[ob, iy, ix, c0 : c0 + channels] if inside else np.zeros(channels, np.uint16)
            ), (first, i)


def test_im2col_store_is_the_load_turned_round() -> None:
    """Pixels of the bounding box in walking order; those outside the image are dropped."""
    n, h, w, c, pad = 2, 3, 5, 16, 1
    source = (
        HOPPER
        + r"""
GLOBAL k(const u32* in, const __grid_constant__ TensorMap to, int bytes, int c, int x, int y, int n) {
  SMEM; const int t = threadIdx.x; const u32 base = shared_address(smem);
  for (int i = t; i < bytes / 4; i += 32) ((u32*)smem)[i] = in[i];
  fence_proxy_async(); __syncthreads();
  if (t == 0) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.im2col_no_offs.bulk_group [%0, {%2, %3, %4, %5}], [%1];"
                 :: "l"(&to), "r"(base), "r"(c), "r"(x), "r"(y), "r"(n) : "memory");
    bulk_commit(); bulk_wait();
  }
}
"""
    )
    pixels, channels = 20, 8
    image = np.zeros((n, h, w, c), np.uint16)
    values = np.arange(1, pixels * channels + 1, dtype=np.uint16).reshape(pixels, channels)
    mapped = tensor_map("b", image, (channels, pixels), im2col=Im2Col((-pad, -pad), (pad, pad), channels, pixels))
    args = [BufferArg("a"), mapped, values.nbytes, 8, -pad, 0, 0]
    report = run_args(source, "k", {"a": values.view(np.uint32).reshape(-1), "b": image}, args, shared=4096)
    assert report.ok, messages(report)
    wanted, walk = np.zeros_like(image), [(y, x) for y in range(0, h + pad) for x in range(-pad, w + pad)]
    for value, (y, x) in zip(values, walk):
        if 0 <= y < h and 0 <= x < w:
            wanted[0, y, x, 8:] = value
    assert np.array_equal(report.arrays["b"], wanted)


MULTICAST = (
    HOPPER
    + r"""
GLOBAL k(u32* out, const __grid_constant__ TensorMap from, int bytes, int mask) {
  SMEM; const int t = threadIdx.x; const u32 base = shared_address(smem), bar = base + 4096, rank = cluster_rank();
  if (t == 0) { mbar_init(bar, 1); fence_barrier_init(); }
  fence_proxy_async(); cluster_sync();
  if (t == 0) mbar_expect(bar, bytes);
  cluster_sync();
  if (t == 0 && rank == 0)
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
                 " [%0], [%1, {%3, %4}], [%2], %5;"
                 :: "r"(base), "l"(&from), "r"(bar), "r"(0), "r"(0), "h"((u16)mask) : "memory");
  if (mask >> rank & 1) {
    mbar_wait(bar, 0);
    for (int i = t; i < bytes / 4; i += 32) out[rank * 256 + i] = ((u32*)smem)[i];
  }
  cluster_sync();
}
GLOBAL remote(u32* out) {
  __shared__ u32 s[32]; const u32 t = threadIdx.x, rank = cluster_rank();
  s[t] = rank * 100 + t; cluster_sync();
  u32 v; asm volatile("{\n.reg .b32 r;\nmapa.shared::cluster.u32 r, %1, %2;\nld.shared::cluster.u32 %0, [r];\n}"
                      : "=r"(v) : "r"(shared_address(&s[t])), "r"(rank ^ 1) : "memory");
  out[blockIdx.x * 32 + t] = v;
  asm volatile("{\n.reg .b32 r;\nmapa.shared::cluster.u32 r, %0, %1;\natom.shared::cluster.add.u32 r, [r], 1000;\n}"
               :: "r"(shared_address(&s[t])), "r"(rank ^ 1) : "memory");
  cluster_sync(); out[64 + blockIdx.x * 32 + t] = s[t];
}
"""
)


@pytest.mark.parametrize("late", [False, True])
def test_multicast_reaches_exactly_the_masked_blocks(late: bool) -> None:
    source = np.random.default_rng(1).integers(1, 65536, (8, 64)).astype(np.uint16)
    for mask in (0b1111, 0b0101, 0b0001):
        arrays = {"a": np.zeros(1024, np.uint32), "b": source}
        args = [BufferArg("a"), tensor_map("b", source, (64, 8), 0), 1024, mask]
        source_text = MULTICAST.replace(
            "if (t == 0) mbar_expect(bar, bytes);", "if (t == 0 && (mask >> rank & 1)) mbar_expect(bar, bytes);"
        )
        report = run_args(source_text, "k", arrays, args, grid=4, cluster=4, shared=8192, late=late)
        assert report.ok, messages(report)
        got = report.arrays["a"].reshape(4, 256)
        for rank in range(4):
            expected = source.view(np.uint32).reshape(-1) if mask >> rank & 1 else np.zeros(256, np.uint32)
            assert np.array_equal(got[rank], expected), (mask, rank)


def test_distributed_shared_memory() -> None:
    got = result(run(MULTICAST, "remote", [np.zeros(128, np.uint32)], grid=2, cluster=2), 0).reshape(4, 32)
    t = np.arange(32)
    assert np.array_equal(got[:2], [100 + t, t]) and np.array_equal(got[2:], [1000 + t, 1100 + t])
