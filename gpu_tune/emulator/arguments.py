"""What a kernel may be given besides arrays and numbers: tensor maps, structs by value, pointers to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import require
from ..plan import Im2Col, TensorMapArg

_MAP_DTYPES = {
    **{name: name for name in ("uint8", "uint16", "uint32", "int32", "uint64", "int64", "float16", "float32")},
    **{"float64": "float64", "bfloat16": "bfloat16", "int8": "uint8", "bool": "uint8", "int16": "uint16"},
    **{"float8_e4m3fn": "uint8", "float8_e5m2": "uint8"},
}
"""Data type of a tensor map by that of the array."""


@dataclass(frozen=True)
class TensorMap:
    """A CUtensorMap on ``array``, for a ``__grid_constant__`` parameter, a field of a :class:`Struct` or a symbol.

    All tuples have the innermost dimension first, as cuTensorMapEncodeTiled takes them; ``shape`` and ``strides``
    (bytes, without the innermost) are those of the array unless given. ``swizzle`` is the span in bytes, 0 for none.
    ``dtype``: a name such as ``tfloat32`` where the array's own is not meant.
    """

    array: np.ndarray
    box: tuple[int, ...]
    swizzle: int = 128
    shape: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    dtype: str = ""
    element_strides: tuple[int, ...] = ()
    l2_promotion: int = 128
    oob_nan: bool = False
    im2col: Im2Col | None = None

    def argument(self, name: str) -> TensorMapArg:
        """The map as launch plans have it, of a buffer called ``name``."""
        kind = str(self.array.dtype)
        dtype = self.dtype or _MAP_DTYPES.get(kind, "")
        require(dtype, "tensor map of an array of", kind, "has no data type of that name", "pass dtype=")
        shape = self.shape or tuple(reversed(self.array.shape))
        strides = tuple(reversed(self.array.strides[:-1])) if self.strides is None else self.strides
        return TensorMapArg(
            name, dtype, tuple(shape), tuple(strides), tuple(self.box), self.swizzle, self.element_strides,
            self.l2_promotion, self.oob_nan, 0, self.im2col,
        )  # fmt: skip


class Struct:
    """A C struct by value. Fields: arrays (pointers to them), NumPy scalars, bytes, TensorMap, Struct, None (null).

    A sequence is laid out as C does; a mapping names each field's byte offset. ``size``: of the whole, where padding at
    its end matters. ``alignment`` of the struct and of nested ones: that of its widest field, 64 for tensor maps.
    """

    def __init__(self, fields: Sequence[Any] | Mapping[int, Any], size: int = 0) -> None:
        self.fields: list[tuple[int, Any]] = []
        end, self.alignment = 0, 1
        for k, value in fields.items() if isinstance(fields, Mapping) else enumerate(fields):
            width, align = size_of(value)
            at = k if isinstance(fields, Mapping) else -(-end // align) * align
            self.fields.append((at, value))
            end, self.alignment = max(end, at + width), max(self.alignment, align)
        padded = end if isinstance(fields, Mapping) else -(-end // self.alignment) * self.alignment
        require(size == 0 or size >= end, "struct size", size, f"is smaller than its fields ({end} bytes)")
        self.size = size or padded


@dataclass(frozen=True)
class Pointer:
    """A pointer to device memory that holds ``value``: a Struct, a TensorMap, bytes or a NumPy scalar."""

    value: Any


def size_of(value: Any) -> tuple[int, int]:
    """Bytes and alignment of a field."""
    if isinstance(value, Struct):
        return value.size, value.alignment
    if isinstance(value, TensorMap):
        return 128, 64
    if isinstance(value, np.generic):
        return value.dtype.itemsize, min(value.dtype.itemsize, 16)
    if isinstance(value, bytes):
        return len(value), 1
    known = value is None or isinstance(value, (Pointer, np.ndarray))
    require(
        known, "struct field", type(value).__name__, "has no size of its own", "pass a NumPy scalar such as np.int32(3)"
    )
    return 8, 8


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    """The arrays that an argument points to."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, TensorMap):
        yield value.array
    elif isinstance(value, Pointer):
        yield from arrays_in(value.value)
    elif isinstance(value, Struct):
        for _, field in value.fields:
            yield from arrays_in(field)
