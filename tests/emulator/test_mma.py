"""mma.sync in every shape and type, against NumPy; small integers make every sum exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tests.helpers.emulator.fragments import DTYPES, integers, pack_a, pack_b, pack_bits, pack_c, unpack_c
from tests.helpers.emulator.snippets import PRELUDE, messages, needs_emulator, needs_nvrtc, result, run

pytestmark = [needs_emulator, needs_nvrtc]


@dataclass(frozen=True)
class Shape:
    """mma.sync.aligned.m{m}n8k{k}.row.col{extra}.{d}.{a}.{b}.{c}"""

    m: int
    k: int
    d: str
    a: str
    b: str
    extra: str = ""

    @property
    def name(self) -> str:
        return f"m{self.m}n8k{self.k}_{self.d}_{self.a}_{self.b}" + self.extra.replace(".", "_")

    def kernel(self) -> str:
        item, out = np.dtype(DTYPES[self.a]).itemsize, np.dtype(DTYPES[self.d]).itemsize
        per = max(1, 4 // item)
        counts = self.m * self.k // 32 // per, self.k * 8 // 32 // per, self.m * 8 // 32 // (2 if out == 2 else 1)
        na, nb, nc = counts
        constraint, register = ("d", "double") if item == 8 else ("r", "u32")
        dc, dtype = ("d", "double") if out == 8 else ("f", "float") if self.d == "f32" else ("r", "u32")
        outs = ", ".join(f'"+{dc}"(d[{i}])' for i in range(nc))
        ins = ", ".join([f'"{constraint}"(A[{i}])' for i in range(na)] + [f'"{constraint}"(B[{i}])' for i in range(nb)])
        group = [
            ", ".join(f"%{i}" for i in range(lo, hi)) for lo, hi in ((0, nc), (nc, nc + na), (nc + na, nc + na + nb))
        ]
        opcode = f"mma.sync.aligned.m{self.m}n8k{self.k}.row.col{self.extra}.{self.d}.{self.a}.{self.b}.{self.d}"
        return f"""GLOBAL {self.name}(const {register}* a, const {register}* b, {dtype}* c) {{
  int l = threadIdx.x; {register} A[{na}], B[{nb}]; {dtype} d[{nc}];
  for (int i = 0; i < {na}; ++i) A[i] = a[i * 32 + l];
  for (int i = 0; i < {nb}; ++i) B[i] = b[i * 32 + l];
  for (int i = 0; i < {nc}; ++i) d[i] = c[i * 32 + l];
  asm volatile("{opcode} {{{group[0]}}}, {{{group[1]}}}, {{{group[2]}}}, {{{group[0]}}};" : {outs} : {ins});
  for (int i = 0; i < {nc}; ++i) c[i * 32 + l] = d[i];
}}
"""


SHAPES = [
    *(Shape(16, k, d, "f16", "f16") for k in (8, 16) for d in ("f16", "f32")),
    *(Shape(16, k, "f32", "bf16", "bf16") for k in (8, 16)),
    *(Shape(16, k, "f32", "tf32", "tf32") for k in (4, 8)),
    *(
        Shape(m, k, "s32", a, b, sat)
        for m, k in ((8, 16), (16, 16), (16, 32))
        for a in ("s8", "u8")
        for b in ("s8", "u8")
        for sat in ("", ".satfinite")
    ),
    *(Shape(16, 32, "f32", a, b) for a in ("e4m3", "e5m2") for b in ("e4m3", "e5m2")),
    *(Shape(m, k, "f64", "f64", "f64") for m, k in ((8, 4), (16, 4), (16, 8), (16, 16))),
]
SOURCE = PRELUDE + "".join(s.kernel() for s in SHAPES)


def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) @ b.astype(np.float64) + c.astype(np.float64)


def operands(shape: Shape, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        integers(rng, shape.a, (shape.m, shape.k)),
        integers(rng, shape.b, (shape.k, 8)),
        rng.integers(-8, 9, (shape.m, 8)).astype(DTYPES[shape.d]),
    )


def launch(shape: Shape, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    report = run(SOURCE, shape.name, [pack_a(a), pack_b(b), pack_c(c)])
    return unpack_c(result(report, 2), shape.m, DTYPES[shape.d])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.name)
def test_exact_on_small_integers(shape: Shape) -> None:
    a, b, c = operands(shape, seed=shape.k)
    assert np.array_equal(launch(shape, a, b, c).astype(np.float64), product(a, b, c))


@pytest.mark.parametrize("shape", [s for s in SHAPES if s.d == "f32"], ids=lambda s: s.name)
def test_close_on_random_values(shape: Shape) -> None:
    rng = np.random.default_rng(4)
    a, b = (
        rng.standard_normal(s).astype(DTYPES[t]) for s, t in (((shape.m, shape.k), shape.a), ((shape.k, 8), shape.b))
    )
    if shape.a == "tf32":
        a, b = ((x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for x in (a, b))
    c = rng.standard_normal((shape.m, 8)).astype(np.float32)
    bound = 2.0**-20 * (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64) + np.abs(c))
    assert (np.abs(launch(shape, a, b, c) - product(a, b, c)) <= bound).all()


def test_tf32_ignores_the_low_mantissa_bits() -> None:
    shape = Shape(16, 8, "f32", "tf32", "tf32")
    a, b, c = operands(shape, 1)
    dirty = (a.view(np.uint32) | np.uint32(0xFFF)).view(np.float32)
    dirty[a == 0] = 0
    assert np.array_equal(launch(shape, dirty, b, c), launch(shape, a, b, c))


def test_int8_wraps_and_saturates() -> None:
    for extra in ("", ".satfinite"):
        shape = Shape(16, 32, "s32", "s8", "s8", extra)
        a, b = np.full((16, 32), 127, np.int8), np.full((32, 8), 127, np.int8)
        c = np.full((16, 8), 2**31 - 1, np.int32)
        total = 2**31 - 1 + 32 * 127 * 127
        expected = 2**31 - 1 if extra else total - 2**32
        assert (launch(shape, a, b, c) == expected).all()


def test_infinities_and_nan_propagate() -> None:
    shape = Shape(16, 16, "f32", "f16", "f16")
    a, b, c = operands(shape, 2)
    a[3, 5], b[:, 1] = np.inf, 1
    a[7, 2] = np.nan
    out = launch(shape, a, b, c)
    assert out[3, 1] == np.inf and np.isnan(out[7]).all() and np.isfinite(out[0]).all()


SMALL_TYPES = [
    *(
        (m, k, f"s32.{a}.{b}.s32", sat)
        for m, k in ((8, 32), (16, 32), (16, 64))
        for a in ("s4", "u4")
        for b in ("s4", "u4")
        for sat in ("", ".satfinite")
    ),
    *((m, k, "s32.b1.b1.s32", op) for m, k in ((8, 128), (16, 128), (16, 256)) for op in (".xor.popc", ".and.popc")),
]


@pytest.mark.parametrize(("m", "k", "types", "more"), SMALL_TYPES, ids=lambda v: str(v).strip("."))
def test_nibbles_and_bits(m: int, k: int, types: str, more: str) -> None:
    bits, rng = 1 if "b1" in types else 4, np.random.default_rng(k)
    na, nb, nc = m * k * bits // 1024, 8 * k * bits // 1024, m // 4
    ranges = [(-8, 8) if t[0] == "s" else (0, 2**bits) for t in types.split(".")[1:3]]
    a, b = (rng.integers(*r, shape) for r, shape in zip(ranges, ((m, k), (k, 8))))
    c = rng.integers(-1000, 1000, (m, 8)).astype(np.int32)
    c[0, 0], a[0], b[:, 0] = 2**31 - 5, 1, 1  # the first sum leaves the range
    extra, tail = (more, "") if more == ".satfinite" else ("", more)
    groups = [", ".join(f"%{i}" for i in range(lo, lo + n)) for lo, n in ((0, nc), (nc, na), (nc + na, nb))]
    lists = [
        ", ".join(f"{how}({name}[{i}])" for i in range(n))
        for how, name, n in (('"+r"', "d", nc), ('"r"', "A", na), ('"r"', "B", nb))
    ]
    source = (
        PRELUDE
        + f"""
GLOBAL k(const u32* a, const u32* b, int* c) {{
  int l = threadIdx.x; u32 A[{na}], B[{nb}]; int d[{nc}];
  for (int i = 0; i < {na}; ++i) A[i] = a[i * 32 + l];
  for (int i = 0; i < {nb}; ++i) B[i] = b[i * 32 + l];
  for (int i = 0; i < {nc}; ++i) d[i] = c[i * 32 + l];
  asm volatile("mma.sync.aligned.m{m}n8k{k}.row.col{extra}.{types}{tail} "
    "{{{groups[0]}}}, {{{groups[1]}}}, {{{groups[2]}}}, {{{groups[0]}}};"
    : {lists[0]} : {lists[1]}, {lists[2]});
  for (int i = 0; i < {nc}; ++i) c[i * 32 + l] = d[i];
}}
"""
    )
    out = unpack_c(result(run(source, "k", [pack_bits(a, bits), pack_bits(b.T, bits), pack_c(c)]), 2), m, np.int32)
    if bits == 4:
        sums = a.astype(np.int64) @ b
    else:
        combine = np.bitwise_and if "and" in more else np.bitwise_xor
        sums = np.array([[combine(a[i], b[:, j]).sum() for j in range(8)] for i in range(m)])
    sums = sums + c
    wanted = np.clip(sums, -(2**31), 2**31 - 1) if "sat" in more else (sums + 2**31) % 2**32 - 2**31
    assert np.array_equal(out, wanted)


def test_a_diverged_warp_is_reported() -> None:
    source = (
        PRELUDE
        + r"""
GLOBAL diverged(float* c) {
  float d[4] = {0, 0, 0, 0}; u32 z = 0;
  if (threadIdx.x < 20)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%4}, {%4}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(z));
  c[threadIdx.x] = d[0];
}
"""
    )
    report = run(source, "diverged", [np.zeros(32, np.float32)])
    assert not report.ok and "diverge" in messages(report), messages(report)
