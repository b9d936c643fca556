"""Sizes that are open until a kernel is called, and what is computed from them.

A :class:`Size` is an expression over one open size: plain data of a closed grammar, which JSON holds, Python evaluates
(:meth:`Size.at`) and C prints (``str``). Arithmetic with integers makes larger ones, so that code written for numbers
computes with an open size as well. It never guesses: a comparison answers where it has one answer for every size that
is allowed, and raises InvalidInput elsewhere. ``==`` compares expressions, as it does with any plain data.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from ..errors import InvalidInput, require

INT = 2**31 - 1
"""What a C int holds; larger values are computed as long long."""
MOST = 2**30
"""The largest size that may be open: rounded up to tiles it still fits into an int."""
OPERATIONS = ("+", "-", "*", "//", "%", "ceil_div", "min", "max")
NAMES = ("m", "n")
"""Fields of a workload that may be open."""
_SYMBOL = {"//": "/", "ceil_div": "/"}
T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """An open size or an expression over it.

    ``op`` is a name (``args``: the least and the largest size allowed) or one of ``OPERATIONS`` (``args``: two
    operands, integers or expressions). Quotients and remainders have nothing negative on the left and nothing but
    positive numbers on the right, so that Python and C agree about them; ``ceil_div`` rounds up. InvalidInput for
    anything else.
    """

    type: ClassVar[str] = "size"
    op: str
    args: tuple[int | Size, ...]

    def __post_init__(self) -> None:
        require(self.op in (*NAMES, *OPERATIONS), "size expression", self.op, f"is not one of {NAMES + OPERATIONS}")
        valid = len(self.args) == 2 and all(type(a) is int or isinstance(a, Size) for a in self.args)
        require(valid, f"size expression {self.op}", self.args, "are not two integers or expressions")
        left, right = self.args
        if self.op in NAMES:
            valid = type(left) is int and type(right) is int and 1 <= left <= right <= INT
            require(valid, f"open size {self.op}", self.args, f"are not a least and a largest size in 1..{INT}")
        elif self.op in ("//", "%", "ceil_div"):
            valid = lower(right) > 0 and lower(left) >= 0 and (self.op != "%" or type(right) is int)
            require(valid, f"size expression {self.op}", self.args, "divides a negative size, or by what may be zero")
        names = {a.variable for a in self.args if isinstance(a, Size)}
        require(len(names) <= 1, f"size expression {self.op}", self.args, "has more than one open size")

    @cached_property
    def variable(self) -> Size:
        """The open size itself."""
        return self if self.op in NAMES else next(a for a in self.args if isinstance(a, Size)).variable

    @property
    def name(self) -> str:
        """The workload's field that is open."""
        return self.variable.op

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """A least and a largest value, for all sizes allowed (true of every value, but some may not be reached)."""
        (a, b), (c, d) = ((lower(x), upper(x)) for x in self.args)
        if self.op in NAMES:
            return a, d
        if self.op == "%":
            return (a, b) if b < c else (0, c - 1)
        ends = [_apply(self.op, x, y) for x in (a, b) for y in (c, d)]
        return min(ends), max(ends)

    def at(self, size: int) -> int:
        """The value for one ``size``; InvalidInput where that is not allowed."""
        allowed(self, size)
        return self._at(size)

    def _at(self, size: int) -> int:
        if self.op in NAMES:
            return size
        left, right = (a._at(size) if isinstance(a, Size) else a for a in self.args)
        return _apply(self.op, left, right)

    __call__ = at

    def __str__(self) -> str:
        """The expression in C; long long where a value of it does not fit into an int."""
        if self.op in NAMES:
            return self.op
        left, right = map(str, self.args)
        wide = any(not -INT <= end <= INT for end in self.bounds) and all(upper(a) <= INT for a in self.args)
        cast = "(long long)" if wide else ""
        if self.op in ("min", "max"):
            return f"{self.op}({left}, {right})"
        if self.op == "ceil_div":
            left = f"({left} + {self.args[1] - 1})"
        return f"({cast}{left} {_SYMBOL.get(self.op, self.op)} {right})"

    def python(self) -> str:
        """The expression in Python."""
        return str(self).replace("(long long)", "").replace(" / ", " // ")

    def __add__(self, other: int | Size) -> Any:
        if type(other) is int and self.op == "+" and type(self.args[1]) is int:
            return self.args[0] + (self.args[1] + other)
        return self if other == 0 else _made("+", (self, other))

    def __radd__(self, other: int) -> Any:
        return self + other

    def __sub__(self, other: int | Size) -> Any:
        return self + -other if type(other) is int else _made("-", (self, other))

    def __rsub__(self, other: int) -> Any:
        return _made("-", (other, self))

    def __mul__(self, other: int | Size) -> Any:
        if type(other) is int:
            if other in (0, 1):
                return self if other else 0
            if self.op == "*" and type(self.args[1]) is int:
                return self.args[0] * (self.args[1] * other)
        return _made("*", (self, other))

    def __rmul__(self, other: int) -> Any:
        return self * other

    def __neg__(self) -> Any:
        return self * -1

    def __floordiv__(self, other: int) -> Any:
        if other == 1:
            return self
        if self.op == "*" and type(self.args[1]) is int:
            factor = self.args[1]
            if factor % other == 0:
                return self.args[0] * (factor // other)
            if factor < 0:  # floor(-x / y) = -ceil(x / y)
                return ceil_div(self.args[0] * -factor, other) * -1
        return _made("//", (self, other))

    def __mod__(self, other: int) -> Any:
        if other == 1 or (self.op == "*" and type(self.args[1]) is int and self.args[1] % other == 0):
            return 0
        return _made("%", (self, other))

    def _less(self, other: int | Size, equal: bool) -> bool:
        (low, high), least, most = self.bounds, lower(other), upper(other)
        if high < least or (equal and high == least):
            return True
        if low > most or (not equal and low == most):
            return False
        raise InvalidInput(
            f"{self} compared with {other}",
            ...,
            f"has no one answer for {label(self.variable)}",
            "a kernel with an open size must not depend on it",
        )

    def __lt__(self, other: int | Size) -> bool:
        return self._less(other, False)

    def __le__(self, other: int | Size) -> bool:
        return self._less(other, True)

    def __gt__(self, other: int | Size) -> bool:
        return not self._less(other, True)

    def __ge__(self, other: int | Size) -> bool:
        return not self._less(other, False)

    def __bool__(self) -> bool:
        return not self._less(0, True)


def any_of(least: int, most: int) -> Any:
    """A size that is known only when the kernel is called: from ``least`` to ``most``, both allowed.

    For the ``m`` of a :class:`~gpu_tune.workload.Matmul` or the ``n`` of a :class:`~gpu_tune.workload.Conv2d`.
    InvalidInput where the two are no such bounds.
    """
    least, most = whole(least), whole(most)
    integers = all(type(x) is int for x in (least, most))
    rule = f"are not a least and a larger size in 1..{MOST}"
    require(integers and 1 <= least < most <= MOST, "any_of", (least, most), rule, "give two, as in any_of(1, 8192)")
    return Size("m", (least, most))


def whole(value: Any) -> Any:
    """NumPy's and others' integers as Python's; anything else as it is."""
    return value.__index__() if hasattr(value, "__index__") and not isinstance(value, bool) else value


def parse(text: str, subject: str = "size") -> Any:
    """What ``1..8192`` says, as :func:`any_of`; None where ``text`` is not written so. InvalidInput about ``subject``
    where it is, and the two are no such bounds."""
    found = re.fullmatch(r"(\d+)\.\.(\d+)", text.strip())
    if found is None:
        return None
    low, high = (int(x[:11]) for x in found.groups())
    rule, remedy = f"is no range from a least to a larger size in 1..{MOST}", "write it as in 1..8192"
    if low > high >= 1:
        remedy = f"write {high}..{low}"
    require(1 <= low < high <= MOST, subject, text.strip(), rule, remedy)
    return any_of(low, high)


def allowed(size: Size, value: int) -> int:
    """``value`` where the open size of ``size`` may have it; InvalidInput elsewhere."""
    (low, high), value = size.variable.bounds, whole(value)
    if type(value) is int and low <= value <= high:
        return value
    if value == 0 and type(value) is int:
        raise InvalidInput(size.name, value, "is no size of a kernel", "leave the call out where nothing is to do")
    remedy = "tune a wider range" if type(value) is int and value > 0 else f"give one of {low}..{high}"
    raise InvalidInput(size.name, value, f"is not in {low}..{high}, for which the kernel was made", remedy)


def label(size: int | Size) -> str:
    """A size as people write it: ``512``, or ``1..8192`` where it is open."""
    return "..".join(map(str, size.variable.bounds)) if isinstance(size, Size) else str(size)


def upper(x: Any) -> Any:
    """The largest value of ``x``: itself, where it is a number."""
    return x.bounds[1] if isinstance(x, Size) else x


def lower(x: Any) -> Any:
    """The least value of ``x``: itself, where it is a number."""
    return x.bounds[0] if isinstance(x, Size) else x


def divisor(x: Any) -> int:
    """The largest number that is known to divide ``x``, whatever its size: itself, where it is a number."""
    if not isinstance(x, Size):
        return int(x)
    factors = [divisor(a) for a in x.args]
    if x.op == "*":
        return factors[0] * factors[1]
    return math.gcd(*factors) if x.op in ("+", "-", "min", "max") else 1


def least(a: Any, b: Any) -> Any:
    """The smaller of two sizes, open ones included."""
    if not isinstance(a, Size) and not isinstance(b, Size):
        return min(a, b)
    if upper(a) <= lower(b) or upper(b) <= lower(a):
        return a if upper(a) <= lower(b) else b
    return _made("min", (a, b))


def greatest(a: Any, b: Any) -> Any:
    """The larger of two sizes, open ones included."""
    if not isinstance(a, Size) and not isinstance(b, Size):
        return max(a, b)
    if a == b or lower(a) >= upper(b) or lower(b) >= upper(a):
        return a if a == b or lower(a) >= upper(b) else b
    return _made("max", (a, b))


def ceil_div(a: Any, b: Any) -> Any:
    """a / b, rounded up."""
    if isinstance(b, Size):
        return _made("ceil_div", (a, b))
    if not isinstance(a, Size):
        return -(-a // b)
    if b == 1:
        return a
    divisible = a.op == "*" and type(a.args[1]) is int and a.args[1] % b == 0
    return a // b if divisible else _made("ceil_div", (a, b))


def fixed(value: T, size: int) -> T:
    """``value``, plain data that may hold expressions, with every expression evaluated at ``size``."""
    if isinstance(value, Size):
        return value.at(size)  # type: ignore[return-value]
    if isinstance(value, tuple):
        made = tuple(fixed(v, size) for v in value)
        return made if any(a is not b for a, b in zip(made, value)) else value  # type: ignore[return-value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    before = {f.name: getattr(value, f.name) for f in fields(value)}
    after = {name: fixed(v, size) for name, v in before.items()}
    return replace(value, **after) if any(after[name] is not v for name, v in before.items()) else value


def open_size(value: Any) -> Size | None:
    """The open size that plain data depends on; None where it holds no expression."""
    if isinstance(value, Size):
        return value.variable
    if is_dataclass(value) and not isinstance(value, type):
        value = tuple(getattr(value, f.name) for f in fields(value))
    if not isinstance(value, tuple):
        return None
    return next((size for size in map(open_size, value) if size is not None), None)


def _made(op: str, args: tuple[int | Size, int | Size]) -> Any:
    """The expression, or the number that it is for every size."""
    found = Size(op, args)
    low, high = found.bounds
    return low if low == high else found


def _apply(op: str, a: int, b: int) -> int:
    if op == "+":
        return a + b
    if op == "-":
        return a - b
    if op == "*":
        return a * b
    if op == "//":
        return a // b
    if op == "%":
        return a % b
    if op == "ceil_div":
        return -(-a // b)
    return min(a, b) if op == "min" else max(a, b)
