"""Scalar and packed arithmetic, one instruction at a time, against Python integers and exact fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers.emulator.references import (
    BF16,
    bfe,
    bfi,
    compare,
    dp4a,
    funnel,
    ieee,
    lop3,
    minmax,
    on_floats,
    on_integers,
    packed,
    prmt,
    relu,
    shifted,
    signed,
    square_root,
    trunc_div,
    wrap,
)
from tests.helpers.emulator.single import Case, check
from tests.helpers.emulator.snippets import needs_emulator

pytestmark = needs_emulator


def sized_cases(width: int, sign: bool) -> list[Case]:
    """Integer instructions that exist for every width, as ``u`` or ``s``."""
    t, w, cases = f"{'s' if sign else 'u'}{width}", str(width), []

    def add(text: str, count: int, function: Callable[..., int], *, out: str = w, inputs: str = "bits") -> None:
        expected = wrap(int(out), False, on_integers(function, width, sign))
        cases.append(Case(text, " ".join([out] + [w] * count), expected, inputs))

    add(f"add.{t} %d, %a, %b", 2, lambda a, b: a + b)
    add(f"sub.{t} %d, %a, %b", 2, lambda a, b: a - b)
    add(f"mul.lo.{t} %d, %a, %b", 2, lambda a, b: a * b)
    add(f"mul.hi.{t} %d, %a, %b", 2, lambda a, b: a * b >> width)
    add(f"mad.lo.{t} %d, %a, %b, %c", 3, lambda a, b, c: a * b + c)
    if width >= 32:
        add(f"mad.hi.{t} %d, %a, %b, %c", 3, lambda a, b, c: (a * b >> width) + c)
    if width <= 32:
        add(f"mul.wide.{t} %d, %a, %b", 2, lambda a, b: a * b, out=str(2 * width))
    add(f"div.{t} %d, %a, %b", 2, trunc_div, inputs="nonzero")
    add(f"rem.{t} %d, %a, %b", 2, lambda a, b: a - trunc_div(a, b) * b, inputs="nonzero")
    add(f"min.{t} %d, %a, %b", 2, min)
    add(f"max.{t} %d, %a, %b", 2, max)
    if sign and width >= 32:
        add(f"abs.{t} %d, %a", 1, abs)
    if sign:
        add(f"neg.{t} %d, %a", 1, lambda a: -a)
    return cases


def bit_cases(width: int) -> list[Case]:
    """Bitwise instructions and shifts."""
    b, m, two = f"b{width}", (1 << width) - 1, f"{width} {width}"
    cases = [
        Case(f"and.{b} %d, %a, %b", f"{two} {width}", lambda x, y: x & y),
        Case(f"or.{b} %d, %a, %b", f"{two} {width}", lambda x, y: x | y),
        Case(f"xor.{b} %d, %a, %b", f"{two} {width}", lambda x, y: x ^ y),
        Case(f"not.{b} %d, %a", two, lambda x: ~x & m),
        Case(f"shl.{b} %d, %a, %b", f"{two} 32", shifted(width, lambda x, n: x << n), "shift"),
        Case(f"shr.u{width} %d, %a, %b", f"{two} 32", shifted(width, lambda x, n: x >> n), "shift"),
        Case(f"shr.s{width} %d, %a, %b", f"{two} 32", shifted(width, lambda x, n: x >> n, True), "shift"),
    ]
    if width >= 32:
        cases += [
            Case(f"popc.{b} %d, %a", f"32 {width}", lambda x: x.bit_count()),
            Case(f"clz.{b} %d, %a", f"32 {width}", lambda x: width - x.bit_length()),
            Case(f"brev.{b} %d, %a", two, lambda x: int(f"{x:0{width}b}"[::-1], 2)),
            Case(f"bfind.u{width} %d, %a", f"32 {width}", lambda x: (x.bit_length() - 1) & 0xFFFFFFFF),
            Case(f"bfe.u{width} %d, %a, %b, %c", f"{two} 32 32", bfe(False, width), "shift"),
            Case(f"bfe.s{width} %d, %a, %b, %c", f"{two} 32 32", bfe(True, width), "shift"),
        ]
    return cases


def integer_cases() -> list[Case]:
    """Integer instructions, predicates and register moves."""
    cases = [c for width in (16, 32, 64) for sign in (False, True) for c in sized_cases(width, sign)]
    cases += [c for width in (16, 32, 64) for c in bit_cases(width)]
    cases += [
        Case(
            "mad.wide.s32 %d, %a, %b, %c",
            "64 32 32 64",
            lambda a, b, c: (signed(a, 32) * signed(b, 32) + c) & (2**64 - 1),
        ),
        Case("mad.wide.u32 %d, %a, %b, %c", "64 32 32 64", lambda a, b, c: (a * b + c) & (2**64 - 1)),
        Case("bfi.b32 %d, %a, %b, %c, 9", "32 32 32 32", bfi, "shift"),
        Case("prmt.b32 %d, %a, %b, %c", "32 32 32 32", prmt),
        Case("lop3.b32 %d, %a, %b, %c, 0xE8", "32 32 32 32", lop3(0xE8)),
        Case("lop3.b32 %d, %a, %b, %c, 0x1D", "32 32 32 32", lop3(0x1D)),
        Case("shf.l.wrap.b32 %d, %a, %b, %c", "32 32 32 32", funnel(True, False), "shift"),
        Case("shf.l.clamp.b32 %d, %a, %b, %c", "32 32 32 32", funnel(True, True), "shift"),
        Case("shf.r.wrap.b32 %d, %a, %b, %c", "32 32 32 32", funnel(False, False), "shift"),
        Case("shf.r.clamp.b32 %d, %a, %b, %c", "32 32 32 32", funnel(False, True), "shift"),
        Case("dp4a.s32.s32 %d, %a, %b, %c", "32 32 32 32", dp4a(True, True)),
        Case("dp4a.u32.u32 %d, %a, %b, %c", "32 32 32 32", dp4a(False, False)),
        Case("dp4a.s32.u32 %d, %a, %b, %c", "32 32 32 32", dp4a(True, False)),
        Case(
            "setp.gt.s32 %p, %c, 0;\nselp.b32 %d, %a, %b, %p",
            "32 32 32 32",
            lambda a, b, c: a if signed(c, 32) > 0 else b,
        ),
        Case("slct.s32.s32 %d, %a, %b, %c", "32 32 32 32", lambda a, b, c: a if signed(c, 32) >= 0 else b),
        Case(
            ".reg .b16 %lo, %hi;\nmov.b32 {%lo, %hi}, %a;\nmov.b32 %d, {%hi, %lo}",
            "32 32",
            lambda a: (a >> 16 | a << 16) & 0xFFFFFFFF,
        ),
        Case("mov.b64 {%x, %y}, %a;\nmov.b64 %d, {%y, %x}", "64 64", lambda a: (a >> 32 | a << 32) & (2**64 - 1)),
        Case(
            "setp.lt.u32 %p, %a, %b;\n@%p add.u32 %d, %a, 1;\n@!%p mov.u32 %d, %b",
            "32 32 32",
            lambda a, b: (a + 1 if a < b else b) & 0xFFFFFFFF,
        ),
        Case(
            "setp.ne.u32 %p, %c, 0;\nsetp.lt.and.u32 %p, %a, %b, %p;\nselp.u32 %d, 1, 0, %p",
            "32 32 32 32",
            lambda a, b, c: int(a < b and c != 0),
        ),
        Case(
            "setp.lt.u32 %p|%q, %a, %b;\nselp.u32 %x, 2, 0, %q;\nselp.u32 %d, 1, %x, %p",
            "32 32 32",
            lambda a, b: 1 if a < b else 2,
        ),
        Case(
            "setp.lt.u32 %p, %a, %b;\nsetp.lt.u32 %q, %b, %c;\nxor.pred %p, %p, %q;\nselp.u32 %d, 1, 0, %p",
            "32 32 32 32",
            lambda a, b, c: int((a < b) != (b < c)),
        ),
        Case(
            "setp.lt.u32 %p, %a, %b;\nnot.pred %q, %p;\nand.pred %p, %p, %q;\nor.pred %p, %p, %q;\n"
            "selp.u32 %d, 1, 0, %p",
            "32 32 32",
            lambda a, b: int(a >= b),
        ),
    ]
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        cases.append(
            Case(f"setp.{name}.s32 %p, %a, %b;\nselp.u32 %d, 1, 0, %p", "32 32 32", compare("s32", name), "close")
        )
    for name in ("eq", "ne", "lo", "ls", "hi", "hs", "lt", "le", "gt", "ge"):
        cases.append(
            Case(f"setp.{name}.u32 %p, %a, %b;\nselp.u32 %d, 1, 0, %p", "32 32 32", compare("u32", name), "close")
        )
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"):
        cases.append(
            Case(f"setp.{name}.f32 %p, %a, %b;\nselp.u32 %d, 1, 0, %p", "32 32 32", compare("f32", name), "float32")
        )
    return cases


def float_cases() -> list[Case]:
    cases = []
    kinds: list[tuple[str, str, type[Any]]] = [("f32", "32", np.float32), ("f64", "64", np.float64)]
    for t, w, kind in kinds:
        inputs = f"float{w}"
        for mode in ("rn", "rz", "rm", "rp"):
            for name in ("add", "sub", "mul", "div"):
                cases.append(Case(f"{name}.{mode}.{t} %d, %a, %b", f"{w} {w} {w}", ieee(kind, name, mode), inputs))
            cases += [
                Case(f"fma.{mode}.{t} %d, %a, %b, %c", f"{w} {w} {w} {w}", ieee(kind, "fma", mode), inputs),
                Case(f"rcp.{mode}.{t} %d, %a", f"{w} {w}", ieee(kind, "rcp", mode), inputs),
            ]
        cases += [
            Case(f"sqrt.rn.{t} %d, %a", f"{w} {w}", square_root(kind), inputs),
            Case(f"min.{t} %d, %a, %b", f"{w} {w} {w}", minmax(kind, min), inputs),
            Case(f"max.{t} %d, %a, %b", f"{w} {w} {w}", minmax(kind, max), inputs),
        ]
    f32s = np.float32
    cases += [
        Case("max.NaN.f32 %d, %a, %b", "32 32 32", minmax(f32s, max, nan=True), "float32"),
        Case("min.NaN.f32 %d, %a, %b", "32 32 32", minmax(f32s, min, nan=True), "float32"),
        Case("neg.f32 %d, %a", "32 32", lambda a: a ^ 0x80000000, "float32 nonan"),
        Case("abs.f32 %d, %a", "32 32", lambda a: a & 0x7FFFFFFF, "float32 nonan"),
        Case("copysign.f32 %d, %a, %b", "32 32 32", lambda a, b: a & 0x80000000 | b & 0x7FFFFFFF, "float32 nonan"),
        Case("add.ftz.f32 %d, %a, %b", "32 32 32", ieee(f32s, "add", ftz=True), "float32 tiny"),
        Case("mul.ftz.f32 %d, %a, %b", "32 32 32", ieee(f32s, "mul", ftz=True), "float32 tiny"),
        Case("fma.rn.ftz.f32 %d, %a, %b, %c", "32 32 32 32", ieee(f32s, "fma", ftz=True), "float32 tiny"),
        Case("add.sat.f32 %d, %a, %b", "32 32 32", ieee(f32s, "add", sat=True), "float32"),
        Case("mul.rn.sat.f32 %d, %a, %b", "32 32 32", ieee(f32s, "mul", sat=True), "float32"),
    ]
    approximate: list[tuple[str, Callable[..., float], str, float]] = [
        ("ex2.approx.ftz.f32 %d, %a", lambda x: 2.0**x, "small", 2**-21),
        ("lg2.approx.f32 %d, %a", math.log2, "positive", 2**-20),
        ("sin.approx.f32 %d, %a", math.sin, "small", 2**-17),
        ("cos.approx.f32 %d, %a", math.cos, "small", 2**-17),
        ("tanh.approx.f32 %d, %a", math.tanh, "small", 2**-10),
        ("rsqrt.approx.f32 %d, %a", lambda x: 1 / math.sqrt(x), "positive", 2**-21),
        ("sqrt.approx.f32 %d, %a", math.sqrt, "positive", 2**-21),
        ("rcp.approx.ftz.f32 %d, %a", lambda x: 1 / x, "positive", 2**-22),
        ("div.full.f32 %d, %a, %b", lambda x, y: x / y, "positive", 2**-21),
        ("div.approx.f32 %d, %a, %b", lambda x, y: x / y, "positive", 2**-21),
    ]
    for text, function, inputs, tolerance in approximate:
        widths = "32 32 32" if "%b" in text else "32 32"
        cases.append(Case(text, widths, on_floats(function), f"float32 {inputs}", tolerance))
    halves: list[tuple[str, type[Any]]] = [("f16", np.float16), ("bf16", BF16)]
    for t, kind in halves:
        for name in ("add", "sub", "mul"):
            cases += [
                Case(f"{name}.rn.{t} %d, %a, %b", "16 16 16", ieee(kind, name), t),
                Case(f"{name}.rn.{t}x2 %d, %a, %b", "32 32 32", packed(ieee(kind, name)), t),
            ]
        for name, pick in (("min", min), ("max", max)):
            cases += [
                Case(f"{name}.{t} %d, %a, %b", "16 16 16", minmax(kind, pick), t),
                Case(f"{name}.{t}x2 %d, %a, %b", "32 32 32", packed(minmax(kind, pick)), t),
                Case(f"{name}.NaN.{t}x2 %d, %a, %b", "32 32 32", packed(minmax(kind, pick, nan=True)), t),
            ]
        cases += [
            Case(f"fma.rn.{t} %d, %a, %b, %c", "16 16 16 16", ieee(kind, "fma"), t),
            Case(f"fma.rn.{t}x2 %d, %a, %b, %c", "32 32 32 32", packed(ieee(kind, "fma")), t),
            Case(f"fma.rn.relu.{t}x2 %d, %a, %b, %c", "32 32 32 32", packed(relu(ieee(kind, "fma"))), t),
            Case(f"neg.{t}x2 %d, %a", "32 32", lambda a: a ^ 0x80008000, t + " nonan"),
            Case(f"abs.{t}x2 %d, %a", "32 32", lambda a: a & 0x7FFF7FFF, t + " nonan"),
        ]
    return cases


@pytest.mark.parametrize("case", [*integer_cases(), *float_cases()], ids=str)
def test_instruction(case: Case) -> None:
    check(case)


def _signed24(v: int) -> int:
    v &= 0xFFFFFF
    return v - 2**24 if v >= 2**23 else v


def _mul24(high: bool, sign: bool, saturate: bool = False) -> Callable[..., int]:
    def f(a: int, b: int, c: int = 0) -> int:
        x, y = (_signed24(v) if sign else v & 0xFFFFFF for v in (a, b))
        part = x * y >> 16 if high else x * y
        part, c = (signed(v & 0xFFFFFFFF, 32) if sign else v & 0xFFFFFFFF for v in (part, c))
        total = part + c
        return (max(-(2**31), min(2**31 - 1, total)) if saturate else total) & 0xFFFFFFFF

    return f


@pytest.mark.parametrize(
    "case",
    [
        *(
            Case(
                f"{name}24.{part}.{t} %d, %a, %b{', %c' if name == 'mad' else ''}",
                widths,
                _mul24(part == "hi", t == "s32"),
            )
            for name, widths in (("mul", "32 32 32"), ("mad", "32 32 32 32"))
            for part in ("lo", "hi")
            for t in ("u32", "s32")
        ),
        Case("mad24.hi.sat.s32 %d, %a, %b, %c", "32 32 32 32", _mul24(True, True, True)),
    ],
    ids=str,
)
def test_24_bit_products(case: Case) -> None:
    check(case)


def carry_cases(width: int, sign: bool) -> list[Case]:
    """Sums and products of more words than one: each step takes the carry of the one before."""
    t, w, mod = f"{'s' if sign else 'u'}{width}", str(width), 2**width

    def high(a: int, b: int) -> int:
        return (signed(a, width) * signed(b, width) if sign else a * b) >> width

    def steps(a: int, b: int, c: int) -> int:
        first = a + b
        second = first % mod + c + first // mod
        return a + second // mod

    chains: list[tuple[str, Callable[..., int]]] = [
        (f"add.cc.{t} %d, %a, %b; addc.{t} %d, %c, 0", lambda a, b, c: c + (a + b) // mod),
        (f"sub.cc.{t} %d, %a, %b; subc.{t} %d, %c, 0", lambda a, b, c: c - (a < b)),
        (
            f"sub.cc.{t} %d, %a, %b; subc.cc.{t} %d, %d, %c; addc.{t} %d, 0, 0",
            lambda a, b, c: (a - b) % mod - c - (a < b) < 0,
        ),
        (f"add.cc.{t} %d, %a, %b; addc.cc.{t} %d, %d, %c; addc.{t} %d, %a, 0", steps),
        (
            f"mad.lo.cc.{t} %d, %a, %b, %c; madc.hi.{t} %d, %a, %b, 0",
            lambda a, b, c: high(a, b) + (a * b % mod + c) // mod,
        ),
        (
            f"mad.hi.cc.{t} %d, %a, %b, %c; madc.lo.{t} %d, %a, %c, 1",
            lambda a, b, c: a * c + 1 + (high(a, b) % mod + c) // mod,
        ),
    ]
    return [Case(text, " ".join([w] * 4), lambda *x, f=f: int(f(*x)) % mod) for text, f in chains]


@pytest.mark.parametrize("case", [c for w in (32, 64) for sign in (False, True) for c in carry_cases(w, sign)], ids=str)
def test_carries(case: Case) -> None:
    check(case)
