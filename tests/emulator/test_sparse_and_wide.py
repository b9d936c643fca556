"""mma.sp against NumPy, its metadata as the PTX ISA's figures show it; 128-bit moves, loads, stores and atomics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import gpu_tune as gt
from gpu_tune import emulator
from gpu_tune.errors import EmulationError
from tests.helpers.emulator.fragments import DTYPES, integers, pack_a, pack_b, pack_c, unpack_c
from tests.helpers.emulator.metadata import chosen, dense, words_of
from tests.helpers.emulator.snippets import PRELUDE, needs_emulator, needs_nvrtc, result, run

pytestmark = needs_emulator


@dataclass(frozen=True)
class Sparse:
    """mma.sp.sync.aligned.m16n8k{k}.row.col.{d}.{a}.{a}.{d} with a selector"""

    k: int
    d: str
    a: str
    selector: int
    ordered: str = ""

    @property
    def name(self) -> str:
        return f"m16n8k{self.k}_{self.d}_{self.a}_{self.selector}{self.ordered[2:]}"

    def kernel(self) -> str:
        per, out = 4 // np.dtype(DTYPES[self.a]).itemsize, np.dtype(DTYPES[self.d]).itemsize
        na, nb, nc = 16 * self.k // 2 // 32 // per, self.k * 8 // 32 // per, 2 if out == 2 else 4
        kind, letter = ("float", "f") if self.d == "f32" else ("u32", "r")
        outs = ", ".join(f'"+{letter}"(d[{i}])' for i in range(nc))
        ins = ", ".join(
            [f'"r"(A[{i}])' for i in range(na)] + [f'"r"(B[{i}])' for i in range(nb)] + ['"r"(meta[threadIdx.x])']
        )
        parts = [f"%{i}" for i in range(nc + na + nb + 1)]
        groups = [", ".join(parts[a:b]) for a, b in ((0, nc), (nc, nc + na), (nc + na, nc + na + nb))]
        opcode = f"mma.sp{self.ordered}.sync.aligned.m16n8k{self.k}.row.col.{self.d}.{self.a}.{self.a}.{self.d}"
        return f"""GLOBAL {self.name}(const u32* a, const u32* b, {kind}* c, const u32* meta) {{
  int l = threadIdx.x; u32 A[{na}], B[{nb}]; {kind} d[{nc}];
  for (int i = 0; i < {na}; ++i) A[i] = a[i * 32 + l];
  for (int i = 0; i < {nb}; ++i) B[i] = b[i * 32 + l];
  for (int i = 0; i < {nc}; ++i) d[i] = c[i * 32 + l];
  asm volatile("{opcode} {{{groups[0]}}}, {{{groups[1]}}}, {{{groups[2]}}}, {{{groups[0]}}}, {parts[-1]}, "
               "{self.selector};"
               : {outs} : {ins});
  for (int i = 0; i < {nc}; ++i) c[i * 32 + l] = d[i];
}}
"""


SPARSE = [
    *(Sparse(16, d, "f16", s) for d in ("f16", "f32") for s in range(4)),
    *(Sparse(32, "f32", a, s, "::ordered_metadata") for a in ("f16", "bf16") for s in range(2)),
    *(Sparse(8, "f32", "tf32", s) for s in range(4)),
    *(Sparse(16, "f32", "tf32", s) for s in range(2)),
    *(Sparse(32, "s32", a, s) for a in ("s8", "u8") for s in range(2)),
    Sparse(64, "s32", "s8", 0),
    Sparse(64, "f32", "e4m3", 0),
]
SOURCE = PRELUDE + "".join(s.kernel() for s in SPARSE)


@needs_nvrtc
@pytest.mark.parametrize("shape", SPARSE, ids=lambda s: s.name)
def test_sparse_products_are_exact_on_small_integers(shape: Sparse) -> None:
    rng = np.random.default_rng(shape.k + shape.selector)
    a, b = integers(rng, shape.a, (16, shape.k // 2)), integers(rng, shape.a, (shape.k, 8))
    c, which = rng.integers(-8, 9, (16, 8)).astype(DTYPES[shape.d]), chosen(rng, shape)
    report = run(SOURCE, shape.name, [pack_a(a), pack_b(b), pack_c(c), words_of(which, shape, rng)])
    assert report.ok, report
    wanted = dense(a, which, shape).astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64)
    assert np.array_equal(unpack_c(result(report, 2), 16, DTYPES[shape.d]).astype(np.float64), wanted)


def test_metadata_as_sparse_libraries_store_it() -> None:
    """A second source: 32 rows of 16-bit units, interleaved as for the loads of published kernels (dest = r % 8 * 4 +
    r / 8, then units of uneven rows and columns change places), are what the two selectors read."""
    rng = np.random.default_rng(3)
    halves = [chosen(rng, SPARSE[8]) for _ in range(2)]
    units = [[sum(int(v) << 2 * i for i, v in enumerate(row[4 * u : 4 * u + 4].ravel())) for u in range(2)]
             for half in halves for row in half]  # fmt: skip
    placed = np.zeros((32, 2), np.uint32)
    for r, u in np.ndindex(32, 2):
        row, column = r % 8 * 4 + r // 8, u
        if row % 2 == 0 and column == 1:
            row, column = row + 1, 0
        elif row % 2 == 1 and column == 0:
            row, column = row - 1, 1
        placed[row, column] = units[r][u]
    lanes = placed[:, 0] | placed[:, 1] << 16
    for selector, half in enumerate(halves):
        words = words_of(half, Sparse(32, "f32", "f16", selector), rng)
        named = np.arange(32) % 4 // 2 == selector
        assert np.array_equal(words[named], lanes[named])


ATOMS = [
    Sparse(32, "f32", "f16", 0),
    Sparse(32, "f32", "f16", 1),
    Sparse(16, "f32", "tf32", 1),
    Sparse(64, "s32", "s8", 0),
]


@pytest.mark.parametrize("shape", ATOMS, ids=lambda s: s.name)
def test_metadata_as_the_atoms_of_sparse_wgmma_name_it(shape: Sparse) -> None:
    """A second source for wgmma: what published layouts of its metadata, (thread, value) -> (row, column), give a warp.

    f16: ((2, 2, 8), (16, 2)):((16 columns, selector, row), (column, 8 rows)); tf32: half of the columns;
    s8: ((2, 2, 8), 32):((8 rows, 32 columns, row), column).
    """
    rng = np.random.default_rng(shape.k + shape.selector)
    which = chosen(rng, shape)
    words, nibbles = words_of(which, shape, rng), which[..., 0] | which[..., 1] << 2
    for lane in range(32):
        low, high, row = lane & 1, lane >> 1 & 1, lane >> 2
        if shape.a == "s8":
            named = [*nibbles[row + 8 * low, 8 * high : 8 * high + 8]]
        elif high == shape.selector:
            named = [*nibbles[row, 4 * low : 4 * low + 4], *nibbles[row + 8, 4 * low : 4 * low + 4]]
        else:
            continue
        assert words[lane] == sum(int(n) << 4 * q for q, n in enumerate(named)), lane


@needs_nvrtc
@pytest.mark.parametrize(("shape", "bits"), [(SPARSE[0], 0b0101), (SPARSE[0], 0b0001), (SPARSE[12], 0b1000)])
def test_metadata_that_names_no_two_elements_in_order_is_found(shape: Sparse, bits: int) -> None:
    rng = np.random.default_rng(1)
    a, b = integers(rng, shape.a, (16, shape.k // 2)), integers(rng, shape.a, (shape.k, 8))
    words = words_of(chosen(rng, shape), shape, rng)
    words[shape.selector] = words[shape.selector] & ~np.uint32(15) | np.uint32(bits)
    report = run(SOURCE, shape.name, [pack_a(a), pack_b(b), pack_c(np.zeros((16, 8), DTYPES[shape.d])), words])
    assert [f.kind for f in report.findings] == ["metadata"]


HEAD = ".version 8.7\n.target sm_90a\n.address_size 64\n"
FRAME = (
    HEAD
    + ".visible .entry k(.param .u64 a) {{ .reg .b64 %p, %x<4>; .reg .b128 %w<3>; ld.param.u64 %p, [a];\n{}\nret; }}"
)


def quad(body: str) -> tuple[np.ndarray, emulator.Report]:
    report = gt.emulate(FRAME.format(body), "k", args=[np.arange(1, 7, dtype=np.uint64)], block=1)
    return report.results[0], report


WIDE = [
    ("ld.global.b128 %w0, [%p]; st.global.b128 [%p+16], %w0;", [1, 2, 1, 2, 5, 6]),
    ("ld.global.v2.b64 {%x0, %x1}, [%p]; mov.b128 %w0, {%x1, %x0}; mov.b128 %w1, %w0; st.global.b128 [%p], %w1;",
         [2, 1, 3, 4, 5, 6]),
    ("ld.global.b128 %w0, [%p]; mov.b128 {%x0, %x1}, %w0; st.global.b64 [%p+32], %x1;", [1, 2, 3, 4, 2, 6]),
    ("ld.global.b128 %w0, [%p]; atom.global.exch.b128 %w1, [%p+16], %w0; st.global.b128 [%p], %w1;",
         [3, 4, 1, 2, 5, 6]),
    ("ld.global.b128 %w0, [%p]; ld.global.b128 %w1, [%p+16]; atom.global.cas.b128 %w2, [%p], %w0, %w1;",
         [3, 4, 3, 4, 5, 6]),
    ("mov.b64 %x0, 1; mov.b64 %x1, 9; mov.b128 %w0, {%x0, %x1}; atom.global.cas.b128 %w2, [%p], %w0, %w0;",
         [1, 2, 3, 4, 5, 6]),
]  # fmt: skip
BODIES = [body for body, _ in WIDE]


@pytest.mark.parametrize(("body", "after"), WIDE)
def test_registers_of_128_bits(body: str, after: list[int]) -> None:
    values, report = quad(body)
    assert report.ok, report
    assert values.tolist() == after


def test_a_misaligned_128_bit_access_is_found_and_other_uses_are_refused() -> None:
    misaligned = quad("ld.global.b128 %w0, [%p+8]; st.global.b128 [%p+8], %w0;")[1]
    assert [f.kind for f in misaligned.findings] == ["alignment"]
    for body in (
        "add.u64 %x0, %w0, %w1;",
        "mov.b64 %x0, %w0;",
        "cvt.u32.u64 %x0, %w0;",
        "atom.global.add.b128 %w0, [%p], %w1;",
    ):
        with pytest.raises(EmulationError):
            emulator.Module.load(FRAME.format(body)).facts("k")
