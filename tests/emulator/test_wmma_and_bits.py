"""wmma fragments against NumPy, and the instructions for bit fields and pairs of floats against Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpu_tune as gt
from tests.emulator.test_allowed import HEAD
from tests.helpers.emulator.single import Case, check
from tests.helpers.emulator.snippets import needs_emulator

pytestmark = needs_emulator


def wmma(
    shape: str, layouts: tuple[str, str], types: tuple[str, str, str], counts: tuple[int, int, int], space: str
) -> str:
    """C = A B + C, all from memory; ``types``: of A and B, of the operation's suffix, of C."""
    element, suffix, result = types
    width = ".f64" if element == "f64" else ".b32"
    names = [[f"%{letter}{k}" for k in range(n)] for letter, n in zip("xyz", counts)]
    x, y, z = ("{" + ", ".join(group) + "}" for group in names)
    rows, columns = layouts
    return f"""{HEAD}.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c) {{
.reg .b64 %a, %b, %c;
.reg {width} {", ".join(n for group in names for n in group)};
ld.param.u64 %a, [a];
ld.param.u64 %b, [b];
ld.param.u64 %c, [c];
wmma.load.a.sync.aligned.{rows}.{shape}{space}.{element} {x}, [%a];
wmma.load.b.sync.aligned.{columns}.{shape}{space}.{element} {y}, [%b];
wmma.load.c.sync.aligned.row.{shape}{space}.{result} {z}, [%c];
wmma.mma.sync.aligned.{rows}.{columns}.{shape}.{suffix} {z}, {x}, {y}, {z};
wmma.store.d.sync.aligned.row.{shape}{space}.{result} [%c], {z};
ret;
}}
"""


@pytest.mark.parametrize("rows", ["row", "col"])
@pytest.mark.parametrize(
    ("shape", "types", "counts", "dtypes"),
    [
        ("m16n16k16", ("f16", "f32.f32", "f32"), (8, 8, 8), (np.float16, np.float32)),
        ("m32n8k16", ("f16", "f16.f16", "f16"), (8, 8, 4), (np.float16, np.float16)),
        ("m8n32k16", ("s8", "s32.s8.s8.s32", "s32"), (1, 4, 8), (np.int8, np.int32)),
        ("m8n8k4", ("f64", "f64.f64.f64.f64", "f64"), (1, 1, 2), (np.float64, np.float64)),
    ],
)
def test_wmma(shape: str, types: Any, counts: Any, dtypes: Any, rows: str) -> None:
    m, n, k = (int(part) for part in shape.replace("m", "").replace("n", " ").replace("k", " ").split())
    rng = np.random.default_rng(m)
    a, b, c = (rng.integers(-4, 5, s) for s in ((m, k), (k, n), (m, n)))
    given_a = a if rows == "row" else a.T
    given = [np.ascontiguousarray(v).astype(t) for v, t in ((given_a, dtypes[0]), (b.T, dtypes[0]), (c, dtypes[1]))]
    report = gt.emulate(wmma(shape, (rows, "col"), types, counts, ".global"), block=32, args=given)
    assert report.ok, str(report)
    assert np.array_equal(report.results[2], a @ b + c)


def signed(v: int, bits: int = 32) -> int:
    return v - (1 << bits) if v >> (bits - 1) else v


def extended(v: int, n: int) -> int:
    n = min(n, 32)
    low = v & ((1 << n) - 1)
    return (low - (1 << n) if n and low >> (n - 1) else low) & 0xFFFFFFFF


def nth_set(mask: int, base: int, offset: int) -> int:
    base, offset = base & 31, signed(offset)
    if offset == 0:
        return base if mask >> base & 1 else 0xFFFFFFFF
    step, left, at = (1 if offset > 0 else -1), abs(offset), base
    while 0 <= at < 32:
        left -= mask >> at & 1
        if left == 0 and mask >> at & 1:
            return at
        at += step
    return 0xFFFFFFFF


CASES = [
    Case(
        "bmsk.clamp.b32 %d, %a, %b",
        "32 32 32",
        lambda a, b: (((1 << min(b, 32)) - 1) << min(a, 32)) & 0xFFFFFFFF,
        "shift",
    ),
    Case("bmsk.wrap.b32 %d, %a, %b", "32 32 32", lambda a, b: (((1 << b % 32) - 1) << a % 32) & 0xFFFFFFFF),
    Case("szext.clamp.s32 %d, %a, %b", "32 32 32", extended, "shift"),
    Case("szext.wrap.s32 %d, %a, %b", "32 32 32", lambda a, b: extended(a, b % 32)),
    Case("szext.clamp.u32 %d, %a, %b", "32 32 32", lambda a, b: a & ((1 << min(b, 32)) - 1), "shift"),
    Case("and.b32 %b, %b, 31;\nfns.b32 %d, %a, %b, %c", "32 32 32 32", nth_set, "close"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fields_of_bits(case: Case) -> None:
    check(case)


def test_pairs_of_floats() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(-99, 99, (128, 2)).astype(np.float32) for _ in range(3))
    out = np.zeros((128, 2), np.float32)
    text = f"""{HEAD}.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d) {{
.reg .b32 %t; .reg .b64 %p<4>, %x<4>;
mov.u32 %t, %tid.x;
"""
    for k, name in enumerate("abcd"):
        text += f"ld.param.u64 %p{k}, [{name}];\nmad.wide.u32 %p{k}, %t, 8, %p{k};\n"
    text += "".join(f"ld.global.b64 %x{k}, [%p{k}];\n" for k in range(3))
    text += "fma.rn.f32x2 %x3, %x0, %x1, %x2;\nadd.rn.f32x2 %x3, %x3, %x0;\nst.global.b64 [%p3], %x3;\nret;\n}\n"
    report = gt.emulate(text, block=128, args=[a, b, c, out])
    assert report.ok and np.array_equal(report.results[3], a * b + c + a)
