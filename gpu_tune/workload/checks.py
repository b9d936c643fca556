"""Checks of workload fields: each sets the resolved value or raises InvalidInput that says what to do."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidInput
from . import epilogue
from .dtypes import ALIASES, DTYPES, FP8, ITEMSIZE, MATH, OUT_DTYPES

MAX_DIM = 2**31 - 1


def check_common(w: Any) -> None:
    name = type(w).__name__
    object.__setattr__(w, "epilogue", epilogue.canonical(w.epilogue))
    if not isinstance(w.deterministic, bool):
        raise InvalidInput(f"{name} deterministic", w.deterministic, "is not True or False")
    if (
        type(w.alignment) is not int
        or w.alignment not in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        or w.alignment < ITEMSIZE[w.dtype]
    ):
        raise InvalidInput(
            f"{name} alignment", w.alignment, "is not a power of two from the item size to 256 bytes", "use 16"
        )
    permissions = (w.math,) if isinstance(w.math, str) else w.math
    if not isinstance(permissions, (tuple, list)) or any(not isinstance(p, str) for p in permissions):
        raise InvalidInput(f"{name} math", w.math, "is not a tuple of permissions", f"use some of {tuple(MATH)}")
    for p in permissions:
        if p not in MATH or (p == "winograd" and w.op != "conv2d"):
            raise InvalidInput(
                f"{name} math",
                p,
                "is no permission of this operation",
                f"use some of {tuple(q for q in MATH if q != 'winograd' or w.op == 'conv2d')}",
            )
        if w.dtype not in MATH[p]:
            raise InvalidInput(
                f"{name} math", p, f"means nothing for dtype {w.dtype}", f"it is for {', '.join(MATH[p])}"
            )
    object.__setattr__(w, "math", tuple(sorted(set(permissions))))
    if w.scales != "none" and w.dtype not in ("int8", *FP8):
        raise InvalidInput(
            f"{name} scales", w.scales, f"mean nothing for dtype {w.dtype}", "they are for int8 and float8 data"
        )
    if w.scales == "block128" and w.dtype == "int8":
        raise InvalidInput(f"{name} scales", w.scales, "is for float8 data", "use tensor or row_col for int8")


def resolve_dtypes(w: Any) -> None:
    name = type(w).__name__
    for field, allowed in (("dtype", DTYPES), ("out_dtype", None)):
        value = getattr(w, field)
        value = ALIASES.get(value, value) if isinstance(value, str) else value
        options = OUT_DTYPES[w.dtype] if allowed is None else allowed
        value = options[0] if allowed is None and value == "" else value
        if not isinstance(value, str) or value not in options:
            what = f"is not an output of {w.dtype}" if allowed is None else "is not a known dtype"
            raise InvalidInput(f"{name} {field}", value, what, f"use one of {', '.join(options)}")
        object.__setattr__(w, field, value)


def vector_dtype(out_dtype: str) -> str:
    return out_dtype if out_dtype in ("float32", "float16", "bfloat16") else "float32"


def _whole(value: Any) -> Any:
    """NumPy's and others' integers as Python's; anything else as it is."""
    return value.__index__() if hasattr(value, "__index__") and not isinstance(value, bool) else value


def positive(w: Any, name: str) -> None:
    value = _whole(getattr(w, name))
    object.__setattr__(w, name, value)
    if type(value) is not int or not 1 <= value <= MAX_DIM:
        raise InvalidInput(
            f"{type(w).__name__} {name}", value, f"is not an integer from 1 to {MAX_DIM}", "give a positive size"
        )


def choice(w: Any, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(w, name)
    if name in ("alpha", "beta") and type(value) in (int, float) and value in (0, 1):
        value = str(int(value))
        object.__setattr__(w, name, value)
    if isinstance(value, str) and name == "layout":
        value = value.lower()
        object.__setattr__(w, name, value)
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInput(f"{type(w).__name__} {name}", value, "is unknown", f"use one of {', '.join(allowed)}")


def leading_dimension(w: Any, name: str, columns: int) -> None:
    value = _whole(getattr(w, name))
    if value in (0, None):
        value = columns
    if type(value) is not int or not columns <= value <= MAX_DIM:
        raise InvalidInput(
            f"Matmul {name}",
            value,
            f"is not an integer of at least the row length {columns}",
            "leave it out for contiguous rows",
        )
    object.__setattr__(w, name, value)


def pair(name: str, value: Any, least: int) -> tuple[int, int]:
    one = _whole(value)
    pair = (one, one) if isinstance(one, int) else tuple(map(_whole, value)) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or any(type(v) is not int or not least <= v <= 65535 for v in pair):
        raise InvalidInput(f"Conv2d {name}", value, f"is not an integer or a pair (rows, columns) of at least {least}")
    return pair


def sides(value: Any) -> tuple[int, int, int, int]:
    one = _whole(value)
    sides = (
        (one,) * 4 if isinstance(one, int) else tuple(map(_whole, value)) if isinstance(value, (tuple, list)) else ()
    )
    if len(sides) == 2:
        sides = (sides[0], sides[0], sides[1], sides[1])
    if len(sides) != 4 or any(type(v) is not int or not 0 <= v <= 65535 for v in sides):
        raise InvalidInput(
            "Conv2d padding", value, "is not an integer, (rows, columns) or (top, bottom, left, right) of at least 0"
        )
    return sides
