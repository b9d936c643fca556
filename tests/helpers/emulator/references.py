"""What PTX instructions compute, in Python: operands and results are raw bits as ints, rounding is exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

BF16 = ml_dtypes.bfloat16


NAN = {np.float32: 0x7FFFFFFF, np.float16: 0x7FFF, BF16: 0x7FFF, np.float64: 0x7FF8000000000000}


def signed(bits: int, width: int) -> int:
    return bits - (1 << width) if bits >> (width - 1) & 1 else bits


def wrap(width: int, sign: bool, function: Callable[..., int]) -> Callable[..., int]:
    """An integer function on ``width``-bit operands."""
    mask = (1 << width) - 1

    def apply(*operands: int) -> int:
        values = [signed(o & mask, width) if sign else o & mask for o in operands]
        return function(*values) & mask

    return apply


def on_integers(function: Callable[..., int], width: int, sign: bool) -> Callable[..., int]:
    mask = (1 << width) - 1

    def apply(*operands: int) -> int:
        return function(*(signed(o & mask, width) if sign else o & mask for o in operands))

    return apply


def trunc_div(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def f32(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))


def bits32(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def f64(bits: int) -> float:
    return float(np.uint64(bits).view(np.float64))


def rounded(exact: Fraction, kind: type[Any], mode: str, zero: float = 0.0) -> Any:
    """``exact`` rounded to ``kind`` (np.float32, np.float64, np.float16, bfloat16) in PTX mode rn, rz, rm or rp."""
    if exact == 0:
        return kind(zero)
    with np.errstate(all="ignore"):
        near = kind(_to_double(exact)) if kind is not np.float64 else np.float64(_to_double(exact))
        candidates = sorted({near, np.nextafter(near, kind(-np.inf)), np.nextafter(near, kind(np.inf))}, key=float)
    below = max(
        (c for c in candidates if math.isfinite(float(c)) and Fraction(float(c)) <= exact), key=float, default=None
    )
    above = min(
        (c for c in candidates if math.isfinite(float(c)) and Fraction(float(c)) >= exact), key=float, default=None
    )
    below = kind(-np.inf) if below is None else below
    above = kind(np.inf) if above is None else above
    if mode == "rz":
        return below if exact > 0 else above
    if mode in ("rm", "rp"):
        return below if mode == "rm" else above
    if below == above:
        return below
    return _nearest(exact, below, above, kind)


def _nearest(exact: Fraction, below: Any, above: Any, kind: type[Any]) -> Any:
    if not math.isfinite(float(below)) or not math.isfinite(float(above)):
        largest = above if math.isfinite(float(above)) else below
        step = Fraction(float(largest)) - Fraction(float(np.nextafter(largest, kind(0))))
        beyond = abs(exact) >= abs(Fraction(float(largest))) + abs(step) / 2
        return (below if largest is above else above) if beyond else largest
    low, high = exact - Fraction(float(below)), Fraction(float(above)) - exact
    if low != high:
        return below if low < high else above
    width = {2: np.uint16, 4: np.uint32, 8: np.uint64}[np.dtype(kind).itemsize]
    return below if int(np.asarray(below).view(width)) % 2 == 0 else above


def _to_double(exact: Fraction) -> float:
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


OPERATIONS: dict[str, tuple[Callable[..., Any], Callable[..., list[float]]]] = {
    "add": (lambda x, y: x + y, lambda x, y: [x, y]),
    "sub": (lambda x, y: x - y, lambda x, y: [x, -y]),
    "mul": (lambda x, y: x * y, lambda x, y: [math.copysign(1, x) * math.copysign(1, y)]),
    "fma": (lambda x, y, z: x * y + z, lambda x, y, z: [math.copysign(1, x) * math.copysign(1, y), z]),
    "div": (lambda x, y: x / y, lambda x, y: [math.copysign(1, x) * math.copysign(1, y)]),
    "rcp": (lambda x: type(x)(1) / x, lambda x: [x]),
}
"""The operation (on fractions and on doubles alike) and the terms whose signs decide the sign of a zero result."""


def ieee(kind: type[Any], name: str, mode: str = "rn", ftz: bool = False, sat: bool = False) -> Callable[..., int]:
    """An IEEE 754 operation with one rounding: exact on fractions, the host's doubles for infinities and NaN."""
    width: Any = {2: np.uint16, 4: np.uint32, 8: np.uint64}[np.dtype(kind).itemsize]
    mask = (1 << 8 * np.dtype(kind).itemsize) - 1
    tiny = float(ml_dtypes.finfo(kind).tiny)
    function, terms = OPERATIONS[name]

    def flush(value: float) -> float:
        return math.copysign(0.0, value) if ftz and abs(value) < tiny else value

    def apply(*operands: int) -> int:
        values = [flush(float(np.asarray(width(o & mask)).view(kind))) for o in operands]
        divided_by_zero = name in ("div", "rcp") and values[-1] == 0
        with np.errstate(all="ignore"):
            if not all(map(math.isfinite, values)) or divided_by_zero:
                value = kind(function(*map(np.float64, values)))
            elif exact := function(*map(Fraction, values)):
                value = rounded(exact, kind, mode)
            else:
                signs = {math.copysign(1, t) for t in terms(*values)}
                value = kind(math.copysign(0.0, signs.pop() if len(signs) == 1 else -1 if mode == "rm" else 1))
        if sat:
            value = kind(0.0) if not float(value) > 0 else kind(min(float(value), 1.0))
        if math.isnan(float(value)):
            return NAN[kind]
        return int(np.asarray(kind(flush(float(value)))).view(width))

    return apply


def minmax(kind: type[Any], pick: Callable[[float, float], float], nan: bool = False) -> Callable[..., int]:
    width = {2: np.uint16, 4: np.uint32, 8: np.uint64}[np.dtype(kind).itemsize]
    mask = (1 << 8 * np.dtype(kind).itemsize) - 1

    def apply(*operands: int) -> int:
        x, y = (float(np.asarray(width(o & mask)).view(kind)) for o in operands)
        if math.isnan(x) or math.isnan(y):
            both = math.isnan(x) and math.isnan(y)
            value = math.nan if nan or both else (y if math.isnan(x) else x)
        elif x == y == 0:
            value = pick(math.copysign(1, x), math.copysign(1, y)) * 0.0
        else:
            value = pick(x, y)
        return NAN[kind] if math.isnan(value) else int(np.asarray(kind(value)).view(width))

    return apply


def square_root(kind: type[Any]) -> Callable[[int], int]:
    width = {4: np.uint32, 8: np.uint64}[np.dtype(kind).itemsize]

    def apply(a: int) -> int:
        value = np.asarray(width(a)).view(kind)
        with np.errstate(all="ignore"):
            root = np.sqrt(value)  # correctly rounded by IEEE 754
        return NAN[kind] if np.isnan(root) else int(root.view(width))

    return apply


def relu(function: Callable[..., int]) -> Callable[..., int]:
    """Negative results become +0; NaN stays."""

    def apply(*operands: int) -> int:
        bits = function(*operands)
        return 0 if bits & 0x8000 and bits != 0xFFFF else bits

    return apply


def packed(one: Callable[..., int]) -> Callable[..., int]:
    def apply(*operands: int) -> int:
        return one(*(o & 0xFFFF for o in operands)) | one(*(o >> 16 for o in operands)) << 16

    return apply


def on_floats(function: Callable[..., float]) -> Callable[..., int]:
    return lambda *operands: bits32(function(*map(f32, operands)))


def lop3(table: int) -> Callable[[int, int, int], int]:
    def apply(a: int, b: int, c: int) -> int:
        out = 0
        for i in range(8):
            if table >> i & 1:
                out |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
        return out & 0xFFFFFFFF

    return apply


def prmt(a: int, b: int, selector: int) -> int:
    pool, out = (a | b << 32).to_bytes(8, "little"), 0
    for i in range(4):
        pick = selector >> 4 * i & 15
        byte = pool[pick & 7]
        out |= ((0xFF if byte & 0x80 else 0) if pick & 8 else byte) << 8 * i
    return out


def bfe(sign: bool, width: int) -> Callable[[int, int, int], int]:
    def apply(a: int, position: int, length: int) -> int:
        position, length, a = position & 0xFF, length & 0xFF, a & ((1 << width) - 1)
        top = min(position + length - 1, width - 1)
        fill = a >> top & 1 if sign and length else 0
        out = 0
        for i in range(width):
            out |= (a >> (position + i) & 1 if i < length and position + i < width else fill) << i
        return out

    return apply


def bfi(f: int, a: int, position: int) -> int:
    position &= 0xFF
    length = 9
    for i in range(length):
        if position + i < 32:
            a = a & ~(1 << position + i) | (f >> i & 1) << position + i
    return a & 0xFFFFFFFF


def shifted(width: int, function: Callable[[int, int], int], sign: bool = False) -> Callable[[int, int], int]:
    def apply(a: int, amount: int) -> int:
        mask = (1 << width) - 1
        return function(signed(a & mask, width) if sign else a & mask, min(amount & 0xFFFFFFFF, width)) & mask

    return apply


def funnel(left: bool, clamp: bool) -> Callable[[int, int, int], int]:
    def apply(low: int, high: int, amount: int) -> int:
        n = min(amount, 32) if clamp else amount & 31
        whole = high << 32 | low
        return (whole << n >> 32 if left else whole >> n) & 0xFFFFFFFF

    return apply


def dp4a(sign_a: bool, sign_b: bool) -> Callable[[int, int, int], int]:
    def apply(a: int, b: int, c: int) -> int:
        parts = [((a >> 8 * i) & 255, (b >> 8 * i) & 255) for i in range(4)]
        total = sum((signed(x, 8) if sign_a else x) * (signed(y, 8) if sign_b else y) for x, y in parts)
        return (c + total) & 0xFFFFFFFF

    return apply


def compare(kind: str, name: str) -> Callable[[int, int], int]:
    relation: dict[str, Callable[[float, float], bool]] = {
        "eq": lambda a, b: a == b,
        "ne": lambda a, b: a != b,
        "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b,
        "gt": lambda a, b: a > b,
        "ge": lambda a, b: a >= b,
    }

    def apply(a: int, b: int) -> int:
        x: float
        y: float
        if kind == "f32":
            x, y = f32(a), f32(b)
            unordered = math.isnan(x) or math.isnan(y)
            if name in ("num", "nan"):
                return int(unordered == (name == "nan"))
            if unordered:
                return int(len(name) == 3)
            return int(relation[name[:2]](x, y))
        x, y = (signed(a, 32), signed(b, 32)) if kind == "s32" else (a, b)
        names = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
        return int(relation[names.get(name, name)](x, y))

    return apply
