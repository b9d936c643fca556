"""cvt between all number formats, against exact rounding and ml_dtypes."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.helpers.emulator.references import BF16, bits32, f32, f64, rounded, signed
from tests.helpers.emulator.single import Case, check
from tests.helpers.emulator.snippets import needs_emulator, result, run

pytestmark = needs_emulator

E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
KINDS: dict[str, tuple[Any, int]] = {
    "f16": (np.float16, 16),
    "bf16": (BF16, 16),
    "f32": (np.float32, 32),
    "f64": (np.float64, 64),
}
RAW: dict[int, Any] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def value(kind: str, bits: int) -> float:
    dtype, width = KINDS[kind]
    return float(np.asarray(RAW[width](bits & (1 << width) - 1)).view(dtype))


def bits(kind: str, number: Any) -> int:
    dtype, width = KINDS[kind]
    with np.errstate(all="ignore"):
        return int(np.asarray(dtype(number)).view(RAW[width]))


def to_float(target: str, mode: str, read: Callable[[int], float]) -> Callable[[int], int]:
    """Float to float with one rounding."""

    def apply(operand: int) -> int:
        x = read(operand)
        if not math.isfinite(x) or x == 0:
            return bits(target, x) if not math.isnan(x) else bits(target, math.nan)
        return int(np.asarray(rounded(Fraction(x), KINDS[target][0], mode)).view(RAW[KINDS[target][1]]))

    return apply


ROUND: dict[str, Callable[[float], int]] = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


def to_int(width: int, sign: bool, mode: str, read: Callable[[int], float]) -> Callable[[int], int]:
    """Float to integer: rounds, then saturates; NaN becomes 0 up to 32 bits."""
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if sign else (0, (1 << width) - 1)

    def apply(operand: int) -> int:
        x = read(operand)
        if math.isnan(x):
            return 1 << 63 if width == 64 else 0
        n = (high if x > 0 else low) if math.isinf(x) else min(max(ROUND[mode](x), low), high)
        return n & (1 << width) - 1

    return apply


def integer_value(width: int, sign: bool) -> Callable[[int], int]:
    return lambda operand: signed(operand & (1 << width) - 1, width) if sign else operand & (1 << width) - 1


def saturated(width: int, sign: bool, read: Callable[[int], int]) -> Callable[[int], int]:
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if sign else (0, (1 << width) - 1)
    return lambda operand: min(max(read(operand), low), high) & (1 << width) - 1


def cases() -> list[Case]:
    found = []
    for source, target, modes in (
        ("f32", "f16", ("rn", "rz")),
        ("f32", "bf16", ("rn", "rz")),
        ("f64", "f32", ("rn", "rz", "rm", "rp")),
        ("f16", "f32", ("",)),
        ("bf16", "f32", ("",)),
        ("f32", "f64", ("",)),
        ("f64", "f16", ("rn",)),
    ):
        for mode in modes:
            widths = f"{KINDS[target][1]} {KINDS[source][1]}"
            inputs = {"f32": "float32", "f64": "float64"}.get(source, source)

            def read(operand: int, source: str = source) -> float:
                return value(source, operand)

            found.append(
                Case(
                    f"cvt{'.' + mode if mode else ''}.{target}.{source} %d, %a",
                    widths,
                    to_float(target, mode or "rn", read),
                    inputs + " nonan",
                )
            )
    for width in (32, 64):
        for sign in (False, True):
            t = f"{'s' if sign else 'u'}{width}"
            for mode in ROUND:
                for source in ("f32", "f64"):

                    def read(operand: int, source: str = source) -> float:
                        return value(source, operand)

                    inputs = {"f32": "float32", "f64": "float64"}[source] + " nonan"
                    found.append(
                        Case(
                            f"cvt.{mode}.{t}.{source} %d, %a",
                            f"{width} {KINDS[source][1]}",
                            to_int(width, sign, mode, read),
                            inputs,
                        )
                    )
            for target in ("f32", "f64", "f16"):
                for mode in ("rn", "rz", "rm", "rp") if target == "f32" else ("rn",):
                    whole = integer_value(width, sign)

                    def convert(operand: int, target: str = target, mode: str = mode, whole: Any = whole) -> int:
                        n = whole(operand)
                        return (
                            bits(target, 0.0)
                            if n == 0
                            else int(
                                np.asarray(rounded(Fraction(n), KINDS[target][0], mode)).view(RAW[KINDS[target][1]])
                            )
                        )

                    found.append(Case(f"cvt.{mode}.{target}.{t} %d, %a", f"{KINDS[target][1]} {width}", convert))
    for source, w in (("s32", 32), ("u32", 32), ("s64", 64), ("u64", 64)):
        sign = source[0] == "s"
        whole = integer_value(w, sign)
        for target, tw, tsign in (
            ("s16", 16, True),
            ("u16", 16, False),
            ("s64", 64, True),
            ("u32", 32, False),
            ("s32", 32, True),
        ):
            if target != source:
                found.append(
                    Case(
                        f"cvt.{target}.{source} %d, %a",
                        f"{tw} {w}",
                        lambda a, whole=whole, tw=tw: whole(a) & (1 << tw) - 1,
                    )
                )
            if tw < w or sign != tsign:
                found.append(
                    Case(
                        f"cvt.sat.{target}.{source} %d, %a",
                        f"{tw} {w}",
                        saturated(tw, tsign, whole),
                        "close" if w == 32 else "bits",
                    )
                )
        found += [
            Case(f"cvt.s8.{source} %x, %a;\nmov.b32 %d, %x", f"32 {w}", lambda a: signed(a & 255, 8) & 0xFFFFFFFF),
            Case(f"cvt.u8.{source} %x, %a;\nmov.b32 %d, %x", f"32 {w}", lambda a: a & 255),
            Case(
                f"cvt.sat.s8.{source} %x, %a;\nmov.b32 %d, %x",
                f"32 {w}",
                lambda a, whole=whole: min(max(whole(a), -128), 127) & 0xFFFFFFFF,
            ),
        ]
    for mode in ROUND:
        found.append(Case(f"cvt.{mode}.f32.f32 %d, %a", "32 32", lambda a, mode=mode: _whole(a, mode), "float32 nonan"))
    found += [
        Case(
            "cvt.sat.f32.f32 %d, %a",
            "32 32",
            lambda a: bits32(0.0 if not f32(a) > 0 else min(f32(a), 1.0)),
            "float32",
        ),
        Case("cvt.rn.f16x2.f32 %d, %a, %b", "32 32 32", _pair("f16"), "float32 nonan"),
        Case("cvt.rn.bf16x2.f32 %d, %a, %b", "32 32 32", _pair("bf16"), "float32 nonan"),
        Case("cvt.rn.relu.f16x2.f32 %d, %a, %b", "32 32 32", _pair("f16", relu=True), "float32 nonan"),
        Case(
            "cvt.rna.tf32.f32 %d, %a",
            "32 32",
            lambda a: a & 0xFFFFE000 if a & 0x7F800000 == 0x7F800000 else (a + 0x1000) & 0xFFFFE000,
            "float32 nonan",
        ),
        Case("cvt.rzi.s32.f64 %d, %a", "32 64", to_int(32, True, "rzi", f64), "float64 nonan"),
    ]
    return found


def _whole(operand: int, mode: str) -> int:
    x = f32(operand)
    if not math.isfinite(x):
        return operand
    return bits32(math.copysign(float(ROUND[mode](x)), x))


def _pair(kind: str, relu: bool = False) -> Callable[[int, int], int]:
    one = to_float(kind, "rn", f32)

    def half(operand: int) -> int:
        out = one(operand)
        return 0 if relu and out & 0x8000 else out

    return lambda a, b: half(a) << 16 | half(b)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_conversion(case: Case) -> None:
    check(case)


FP8 = """.version 8.0
.target sm_90a
.address_size 64
.visible .entry narrow(.param .u64 k_a, .param .u64 k_d)
{
.reg .b64 %p, %q;
.reg .b32 %t;
.reg .b16 %h;
.reg .f32 %x, %y;
mov.u32 %t, %tid.x;
ld.param.u64 %p, [k_a];
mad.wide.u32 %q, %t, 8, %p;
ld.global.v2.f32 {%x, %y}, [%q];
cvt.rn.satfinite.{kind}x2.f32 %h, %y, %x;
ld.param.u64 %p, [k_d];
mad.wide.u32 %q, %t, 2, %p;
st.global.b16 [%q], %h;
ret;
}
.visible .entry widen(.param .u64 k_a, .param .u64 k_d)
{
.reg .b64 %p, %q;
.reg .b32 %t, %r;
.reg .b16 %h;
mov.u32 %t, %tid.x;
ld.param.u64 %p, [k_a];
mad.wide.u32 %q, %t, 2, %p;
ld.global.b16 %h, [%q];
cvt.rn.f16x2.{kind}x2 %r, %h;
ld.param.u64 %p, [k_d];
mad.wide.u32 %q, %t, 4, %p;
st.global.b32 [%q], %r;
ret;
}
.visible .entry halves(.param .u64 k_a, .param .u64 k_d)
{
.reg .b64 %p, %q;
.reg .b32 %t, %r;
.reg .b16 %h;
mov.u32 %t, %tid.x;
ld.param.u64 %p, [k_a];
mad.wide.u32 %q, %t, 4, %p;
ld.global.b32 %r, [%q];
cvt.rn.satfinite.{kind}x2.f16x2 %h, %r;
ld.param.u64 %p, [k_d];
mad.wide.u32 %q, %t, 2, %p;
st.global.b16 [%q], %h;
ret;
}
"""


def saturate(values: np.ndarray, kind: Any) -> np.ndarray:
    largest = float(ml_dtypes.finfo(kind).max)
    return np.clip(values, -largest, largest).astype(kind)


@pytest.mark.parametrize(("name", "kind"), [("e4m3", E4M3), ("e5m2", E5M2)])
def test_float8_from_float32_and_back(name: str, kind: Any) -> None:
    text = FP8.replace("{kind}", name)
    rng = np.random.default_rng(1)
    values = (rng.standard_normal(512) * 2.0 ** rng.integers(-20, 18, 512)).astype(np.float32)
    values[:12] = [0, -0.0, 448, 464, 465, 1e9, -1e9, 57344, 61440, 2**-9, 2**-10, np.inf]
    out = np.zeros(512, np.uint8)
    got = result(run(text, "narrow", [values, out], block=256), 1)
    assert got.tobytes() == saturate(values, kind).tobytes()
    every = np.arange(256, dtype=np.uint8)
    wide = result(run(text, "widen", [every, np.zeros(256, np.float16)], block=128), 1)
    expected = every.view(kind).astype(np.float16)
    same = (wide.view(np.uint16) == expected.view(np.uint16)) | (np.isnan(wide) & np.isnan(expected))
    assert same.all(), every[~same]


@pytest.mark.parametrize(("name", "kind"), [("e4m3", E4M3), ("e5m2", E5M2)])
def test_float8_from_halves(name: str, kind: Any) -> None:
    values = np.random.default_rng(2).standard_normal(256).astype(np.float16) * np.float16(60)
    got = result(run(FP8.replace("{kind}", name), "halves", [values, np.zeros(256, np.uint8)], block=128), 1)
    assert got.tobytes() == saturate(values.astype(np.float32), kind).tobytes()


def test_float8_nan_is_kept() -> None:
    values = np.full(64, np.nan, np.float32)
    for name, kind in (("e4m3", E4M3), ("e5m2", E5M2)):
        got = result(run(FP8.replace("{kind}", name), "narrow", [values, np.zeros(64, np.uint8)], block=32), 1)
        assert np.isnan(got.view(kind).astype(np.float32)).all()


def _packed_integers(bits: int, sign: bool) -> Any:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if sign else (0, 2**bits - 1)

    def pack(a: int, b: int, c: int = 0) -> int:
        upper, lower = (max(low, min(high, signed(v, 32))) & (2**bits - 1) for v in (a, b))
        return (lower | upper << bits | c << 2 * bits) & 0xFFFFFFFF

    return pack


@pytest.mark.parametrize(
    "case",
    [
        Case(
            f"cvt.pack.sat.{'s' if sign else 'u'}{bits}.s32{'.b32' if bits < 16 else ''} %d, %a, %b"
            + (", %c" if bits < 16 else ""),
            "32 32 32 32" if bits < 16 else "32 32 32",
            _packed_integers(bits, sign),
            inputs,
        )
        for bits in (2, 4, 8, 16)
        for sign in (False, True)
        for inputs in ("bits", "shift")
    ],
    ids=lambda c: f"{c}-{c.inputs}",
)
def test_integers_are_packed_with_saturation(case: Case) -> None:
    check(case)
