"""Registers against shape:stride tables: where each thread's values belong in a matrix, one value at a time.

The other tests of mma, ldmatrix, stmatrix and wgmma place values by the formulas of the PTX ISA's figures
(``fragments``). Here the same places are said a second time, in the notation in which libraries of matrix kernels
publish them: (thread, value) -> m + M * k, as a mixed-radix number times strides. The two were written apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from tests.helpers.emulator.fragments import DTYPES
from tests.helpers.emulator.snippets import HOPPER, PRELUDE, needs_emulator, needs_nvrtc, result, run

pytestmark = [needs_emulator, needs_nvrtc]

Mode = tuple[tuple[int, int], ...]
"""(size, stride) from the fastest digit on."""


def offsets(mode: Mode) -> np.ndarray:
    """The offset of each number that the digits of ``mode`` count."""
    out = np.zeros(1, int)
    for size, stride in mode:
        out = (stride * np.arange(size)[:, None] + out).reshape(-1)
    return out


@dataclass(frozen=True)
class Layout:
    """(thread, value) -> row + rows * column."""

    threads: Mode
    values: Mode

    def places(self) -> np.ndarray:
        """(threads, values) offsets."""
        return np.asarray(offsets(self.threads)[:, None] + offsets(self.values))


def across(quad: int, *values: tuple[int, int]) -> Layout:
    """A warp whose quads of lanes hold one row (stride 1) and whose lanes in a quad are ``quad`` apart."""
    return Layout(((4, quad), (8, 1)), values)


SUMS = {8: across(16, (2, 8)), 16: across(32, (2, 16), (2, 8))}  # by m


@dataclass(frozen=True)
class Product:
    """mma.sync m{m}n8k{k}; ``a`` and ``b``: layouts of the operands (b: n + 8 * k)."""

    m: int
    k: int
    kinds: tuple[str, str]
    a: Layout
    b: Layout
    sums: str
    tail: str = ""

    @property
    def name(self) -> str:
        return f"m{self.m}n8k{self.k}_{self.sums}_{'_'.join(self.kinds)}"


INT8 = across(64, (4, 16), (2, 8), (2, 256)), across(32, (4, 8), (2, 128))
PRODUCTS = [
    *(
        Product(16, 8, (t, t), across(32, (2, 16), (2, 8)), across(16, (2, 8)), d)
        for t, d in (("f16", "f16"), ("f16", "f32"), ("bf16", "f32"))
    ),
    *(
        Product(16, 16, (t, t), across(32, (2, 16), (2, 8), (2, 128)), across(16, (2, 8), (2, 64)), d)
        for t, d in (("f16", "f16"), ("f16", "f32"), ("bf16", "f32"))
    ),
    Product(16, 4, ("tf32", "tf32"), across(16, (2, 8)), across(8), "f32"),
    Product(16, 8, ("tf32", "tf32"), across(16, (2, 8), (2, 64)), across(8, (2, 32)), "f32"),
    Product(8, 4, ("f64", "f64"), across(8), across(8), "f64"),
    Product(16, 4, ("f64", "f64"), across(16, (2, 8)), across(8), "f64"),
    Product(16, 8, ("f64", "f64"), across(16, (2, 8), (2, 64)), across(8, (2, 32)), "f64"),
    Product(16, 16, ("f64", "f64"), across(16, (2, 8), (4, 64)), across(8, (4, 32)), "f64"),
    Product(8, 16, ("s8", "s8"), across(32, (4, 8)), across(32, (4, 8)), "s32"),
    Product(16, 16, ("s8", "u8"), across(64, (4, 16), (2, 8)), across(32, (4, 8)), "s32"),
    Product(16, 32, ("u8", "s8"), *INT8, "s32"),
    Product(16, 32, ("e4m3", "e5m2"), *INT8, "f32"),
    Product(16, 32, ("e5m2", "e4m3"), *INT8, "f32"),
    Product(8, 32, ("s4", "s4"), across(64, (8, 8)), across(64, (8, 8)), "s32"),
    Product(16, 32, ("s4", "u4"), across(128, (8, 16), (2, 8)), across(64, (8, 8)), "s32"),
    Product(16, 64, ("u4", "s4"), across(128, (8, 16), (2, 8), (2, 512)), across(64, (8, 8), (2, 256)), "s32"),
    Product(8, 128, ("b1", "b1"), across(256, (32, 8)), across(256, (32, 8)), "s32", ".and.popc"),
    Product(16, 128, ("b1", "b1"), across(512, (32, 16), (2, 8)), across(256, (32, 8)), "s32", ".and.popc"),
    Product(16, 256, ("b1", "b1"), across(512, (32, 16), (2, 8), (2, 2048)), across(256, (32, 8), (2, 1024)), "s32",
            ".and.popc"),
]  # fmt: skip
BITS = {"s4": 4, "u4": 4, "b1": 1}


def bits(kind: str) -> int:
    return BITS[kind] if kind in BITS else 8 * np.dtype(DTYPES[kind]).itemsize


def numbers(rng: np.random.Generator, kind: str, count: int) -> np.ndarray:
    """Small integers of ``kind``, none of them zero."""
    return np.ones(count, int) if kind == "b1" else rng.integers(1, 4, count)


def registers(values: np.ndarray, kind: str) -> np.ndarray:
    """(sets, threads, values) as (sets, registers, threads), the first value in the lowest bits."""
    if kind in BITS:
        per = 32 // BITS[kind]
        fields = values.astype(np.uint32).reshape(*values.shape[:2], -1, per) << (
            BITS[kind] * np.arange(per, dtype=np.uint32)
        )
        words = np.bitwise_or.reduce(fields, axis=-1).astype(np.uint32)
    else:
        word = np.uint64 if kind == "f64" else np.uint32
        words = np.ascontiguousarray(values.astype(DTYPES[kind])).view(word)
    return np.ascontiguousarray(words.transpose(0, 2, 1))


def unpacked(words: np.ndarray, kind: str) -> np.ndarray:
    """(sets, registers, threads) as float64 (sets, threads, values)."""
    return np.ascontiguousarray(words.transpose(0, 2, 1)).view(DTYPES[kind]).astype(np.float64)


def matrix(values: np.ndarray, layout: Layout, rows: int) -> np.ndarray:
    """(sets, threads, values) placed by ``layout``: (sets, rows, columns). Each place is taken once."""
    places = layout.places()
    assert sorted(places.reshape(-1)) == list(range(places.size))
    flat = np.zeros((len(values), places.size))
    flat[:, places] = values
    return flat.reshape(len(values), -1, rows).transpose(0, 2, 1)


def one_at_a_time(rng: np.random.Generator, kind: str, layout: Layout, most: int = 64) -> np.ndarray:
    """(sets, threads, values): in each set one value alone is not zero; ``most`` of all places, drawn at random."""
    shape = layout.places().shape
    chosen = rng.permutation(math.prod(shape))[:most]
    out = np.zeros((len(chosen), math.prod(shape)), int)
    out[np.arange(len(chosen)), chosen] = numbers(rng, kind, len(chosen))
    return out.reshape(-1, *shape)


def dense(rng: np.random.Generator, kind: str, layout: Layout) -> np.ndarray:
    """(1, threads, values)"""
    shape = layout.places().shape
    if kind == "b1":
        return rng.integers(0, 2, (1, *shape))
    return numbers(rng, kind, math.prod(shape)).reshape(1, *shape)


def mma_kernel(p: Product) -> str:
    na, nb = (m.places().shape[1] * bits(t) // (64 if t == "f64" else 32) for m, t in zip((p.a, p.b), p.kinds))
    nc = SUMS[p.m].places().shape[1] // (2 if p.sums == "f16" else 1)
    word, how = ("u64", "l") if p.sums == "f64" else ("u32", "r")
    groups = (0, nc), (nc, nc + na), (nc + na, nc + na + nb)
    lists = [", ".join(f"%{i}" for i in range(lo, hi)) for lo, hi in groups]
    if p.sums == "f64":  # operands are doubles in 64-bit registers
        how, word = "d", "double"
    elif p.sums == "f32":
        how = "r"
    out, sum_how = ("float", "f") if p.sums == "f32" else (word, how)
    return f"""GLOBAL {p.name}(const {word}* a, const {word}* b, {out}* c, int sets) {{
  const int l = threadIdx.x % 32;
  for (int s = blockIdx.x; s < sets; s += gridDim.x) {{
    {word} A[{na}], B[{nb}]; {out} d[{nc}] = {{}};
    for (int i = 0; i < {na}; ++i) A[i] = a[(s * {na} + i) * 32 + l];
    for (int i = 0; i < {nb}; ++i) B[i] = b[(s * {nb} + i) * 32 + l];
    asm volatile("mma.sync.aligned.m{p.m}n8k{p.k}.row.col.{p.sums}.{p.kinds[0]}.{p.kinds[1]}.{p.sums}{p.tail} "
      "{{{lists[0]}}}, {{{lists[1]}}}, {{{lists[2]}}}, {{{lists[0]}}};"
      : {", ".join(f'"+{sum_how}"(d[{i}])' for i in range(nc))}
      : {", ".join([f'"{how}"(A[{i}])' for i in range(na)] + [f'"{how}"(B[{i}])' for i in range(nb)])});
    for (int i = 0; i < {nc}; ++i) c[(s * {nc} + i) * 32 + l] = d[i];
  }}
}}
"""


MMA_SOURCE = PRELUDE + "".join(map(mma_kernel, PRODUCTS))


@pytest.mark.parametrize("p", PRODUCTS, ids=lambda p: p.name)
def test_mma_reads_and_writes_the_published_places(p: Product) -> None:
    rng = np.random.default_rng(p.k)
    alone_a, alone_b = one_at_a_time(rng, p.kinds[0], p.a), one_at_a_time(rng, p.kinds[1], p.b)
    full_a, full_b = dense(rng, p.kinds[0], p.a), dense(rng, p.kinds[1], p.b)
    a = np.concatenate([alone_a, np.repeat(full_a, len(alone_b), 0), full_a])
    b = np.concatenate([np.repeat(full_b, len(alone_a), 0), alone_b, full_b])
    sums = SUMS[p.m]
    item = {"f64": np.float64, "f32": np.float32}.get(p.sums, np.uint32)
    c = np.zeros((len(a), sums.places().shape[1] // (2 if p.sums == "f16" else 1), 32), item)
    ra, rb = registers(a, p.kinds[0]), registers(b, p.kinds[1])
    got = result(run(MMA_SOURCE, p.name, [ra, rb, c], [len(a)]), 2)
    wanted = matrix(a, p.a, p.m) @ matrix(b, p.b, 8).transpose(0, 2, 1)
    assert np.array_equal(matrix(unpacked(got, p.sums), sums, p.m), wanted)


# ldmatrix and stmatrix: (lane, bit of its registers) -> bit of the 8x8 matrices that lie one after the other
def moved(count: int, transposed: bool) -> Layout:
    if transposed:
        return Layout(((4, 256), (8, 16)), ((16, 1), (2, 128), (count, 1024)))
    return Layout(((32, 32),), ((32, 1), (count, 1024)))


def matrix_kernel(count: int, transposed: bool, store: bool) -> str:
    places = ", ".join(f"%{i + store}" for i in range(count))
    trans = ".trans" if transposed else ""
    name = f"{'store' if store else 'load'}_x{count}{'_t' if transposed else ''}"
    row = f"(u32)rows[threadIdx.x % {8 * count}] * 16"  # the other lanes' addresses are not used
    if store:
        ins = ", ".join(f'"r"(r[{i}])' for i in range(count))
        move = (
            f"for (int i = 0; i < {count}; ++i) r[i] = in[i * 32 + threadIdx.x];\n"
            f'asm volatile("stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%0], {{{places}}};" '
            f':: "r"(at), {ins} : "memory");\n__syncthreads();\n'
            f"for (int i = threadIdx.x; i < {32 * count}; i += 32) out[i] = ((u32*)smem)[i];"
        )
    else:
        outs = ", ".join(f'"=r"(r[{i}])' for i in range(count))
        move = (
            f"for (int i = threadIdx.x; i < {32 * count}; i += 32) ((u32*)smem)[i] = in[i];\n__syncthreads();\n"
            f'asm volatile("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{places}}}, [%{count}];" '
            f': {outs} : "r"(at) : "memory");\n'
            f"for (int i = 0; i < {count}; ++i) out[i * 32 + threadIdx.x] = r[i];"
        )
    return f"""GLOBAL {name}(const u32* in, const u32* rows, u32* out) {{
  SMEM; u32 r[{count}]; const u32 at = shared_address(smem) + {row};
  {move}
}}
"""


MOVES = [(count, transposed, store) for count in (1, 2, 4) for transposed in (False, True) for store in (False, True)]
MOVE_SOURCE = PRELUDE + "".join(matrix_kernel(*m) for m in MOVES)


@pytest.mark.parametrize(("count", "transposed", "store"), MOVES)
def test_matrices_move_between_the_published_places(count: int, transposed: bool, store: bool) -> None:
    rng = np.random.default_rng(count)
    given = rng.integers(0, 2**32, 32 * count, dtype=np.uint32)
    rows = rng.permutation(8 * count).astype(np.uint32)  # where row i of the matrices lies
    name = f"{'store' if store else 'load'}_x{count}{'_t' if transposed else ''}"
    got = result(run(MOVE_SOURCE, name, [given, rows, np.zeros(32 * count, np.uint32)], shared=1024), 2)
    lanes, shared = (given, got) if store else (got, given)
    memory = np.unpackbits(shared.view(np.uint8), bitorder="little").reshape(-1, 128)[rows].reshape(-1)
    held = lanes.reshape(count, 32).T.copy()  # (lane, register)
    assert np.array_equal(
        np.unpackbits(held.view(np.uint8), bitorder="little").reshape(32, -1), memory[moved(count, transposed).places()]
    )


# wgmma: four warps, each with its 16 rows
def warpgroup(quad: int, *values: tuple[int, int]) -> Layout:
    return Layout(((4, quad), (8, 1), (4, 16)), values)


def wgmma_sums(n: int) -> Layout:
    return warpgroup(128, (2, 64), (2, 8), (n // 8, 512))


WGMMA_A = {
    8: warpgroup(64, (2, 8), (2, 256)),
    16: warpgroup(128, (2, 64), (2, 8), (2, 512)),
    32: warpgroup(256, (4, 64), (2, 8), (2, 1024)),
}  # by k
WGMMA = [
    (64, 16, "f32", "f16"), (24, 16, "f32", "bf16"), (256, 16, "f16", "f16"), (40, 8, "f32", "tf32"),
    (64, 32, "s32", "s8"), (48, 32, "s32", "u8"), (104, 32, "f32", "e4m3"), (16, 32, "f16", "e5m2"),
]  # fmt: skip


def wgmma_kernel(n: int, k: int, d: str, kind: str) -> str:
    """A from registers, B (n x k, K-major, 8 rows x 16 bytes a piece, no swizzle) from shared memory."""
    count = n // (4 if d == "f16" else 2)
    dc, out = ("f", "float") if d == "f32" else ("r", "u32")
    tail = ", 1, 1" * (d != "s32") + ", 0" * (k == 16)
    places = ", ".join(f"%{i}" for i in range(count))
    return f"""GLOBAL __launch_bounds__(128, 1) k_{n}_{d}_{kind}(const u32* a, const u32* b, {out}* c, int sets) {{
  SMEM; const int t = threadIdx.x;
  for (int i = t; i < {8 * n}; i += 128) ((u32*)smem)[i] = b[i];
  fence_proxy_async(); __syncthreads();
  const u64 at = (u64)(128 >> 4) << 16 | (u64)(256 >> 4) << 32 | (shared_address(smem) & 0x3FFFF) >> 4;
  for (int s = 0; s < sets; ++s) {{
    u32 A[4]; {out} d[{count}];
    for (int i = 0; i < 4; ++i) A[i] = a[(s * 4 + i) * 128 + t];
    for (int i = 0; i < {count}; ++i) d[i] = 0;
    wgmma_fence();
    asm volatile("wgmma.mma_async.sync.aligned.m64n{n}k{k}.{d}.{kind}.{kind} "
      "{{{places}}}, {{%{count}, %{count + 1}, %{count + 2}, %{count + 3}}}, %{count + 4}, 0{tail};"
      : {", ".join(f'"+{dc}"(d[{i}])' for i in range(count))}
      : "r"(A[0]), "r"(A[1]), "r"(A[2]), "r"(A[3]), "l"(at));
    wgmma_commit(); wgmma_wait();
    for (int i = 0; i < {count}; ++i) c[(s * {count} + i) * 128 + t] = d[i];
  }}
}}
"""


WGMMA_SOURCE = HOPPER + "".join(wgmma_kernel(*w) for w in WGMMA)


@pytest.mark.parametrize(("n", "k", "d", "kind"), WGMMA)
def test_wgmma_reads_and_writes_the_published_places(n: int, k: int, d: str, kind: str) -> None:
    rng = np.random.default_rng(n)
    a = np.concatenate([one_at_a_time(rng, kind, WGMMA_A[k], most=12), dense(rng, kind, WGMMA_A[k])])
    b = numbers(rng, kind, n * k).reshape(n, k)
    pieces = b.astype(DTYPES[kind]).reshape(n // 8, 8, 2, k // 2).transpose(0, 2, 1, 3)  # two of 16 bytes a row
    c = np.zeros((len(a), n // (4 if d == "f16" else 2), 128), np.float32 if d == "f32" else np.uint32)
    image = np.ascontiguousarray(pieces).view(np.uint32).reshape(-1)
    arrays = [registers(a, kind), image, c]
    got = result(run(WGMMA_SOURCE, f"k_{n}_{d}_{kind}", arrays, [len(a)], block=128, shared=32 * n), 2)
    assert np.array_equal(matrix(unpacked(got, d), wgmma_sums(n), 64), matrix(a, WGMMA_A[k], 64) @ b.T)
