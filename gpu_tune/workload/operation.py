"""What every workload shares: data types and permissions, arrays, the readable key, and the checks that resolve its
fields."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

from ..errors import InvalidInput
from ..plan.size import Size, allowed, label, whole
from . import epilogue as epilogue_grammar

MAX_DIM = 2**31 - 1
ITEMSIZE = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "float8_e4m3": 1,
    "float8_e5m2": 1,
    "int32": 4,
    "uint8": 1,  # of masks, eight bits a byte
}
DTYPES = ("float32", "float16", "bfloat16", "int8", "float8_e4m3", "float8_e5m2")
FP8 = ("float8_e4m3", "float8_e5m2")
ALIASES = {
    "fp32": "float32",
    "f32": "float32",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "fp8": "float8_e4m3",
    "e4m3": "float8_e4m3",
    "e5m2": "float8_e5m2",
    "float8_e4m3fn": "float8_e4m3",
}
"""Other names, in lower case; see :func:`dtype_name`."""
OUT_DTYPES = {
    "float32": ("float32", "float16", "bfloat16"),
    "float16": ("float16", "float32"),
    "bfloat16": ("bfloat16", "float32"),
    "int8": ("int32", "int8", "float16", "bfloat16", "float32"),
    "float8_e4m3": ("bfloat16", "float16", "float32", "float8_e4m3", "float8_e5m2"),
    "float8_e5m2": ("bfloat16", "float16", "float32", "float8_e4m3", "float8_e5m2"),
}
"""Output dtypes for each input dtype, the default first."""
MATH = {
    "tf32": ("float32",),
    "tf32x3": ("float32",),
    "fp16_accumulate": ("float16",),
    "fast_accumulate": FP8,
    "winograd": ("float32", "float16", "bfloat16"),
}
"""Permissions beyond strict arithmetic and the dtypes they mean something for."""
LIBRARIES = ("torch.", "numpy.", "np.", "ml_dtypes.", "cupy.", "jnp.", "jax.numpy.")
SCALES = ("none", "tensor", "row_col", "block128")
_W = TypeVar("_W", bound="Operation")


def dtype_name(value: Any) -> Any:
    """Our name of a data type that is given in any usual way; ``value`` itself where it is none that we know.

    Texts in either case and with their library's name ("FP16", "torch.float16"), NumPy's and ml_dtypes' types and
    dtypes, PyTorch's dtypes. No library is imported for that: each type's own words are read.
    """
    text = value
    if not isinstance(value, str):
        words = (getattr(value, "name", None), getattr(value, "__name__", None), str(value))
        text = next(word for word in words if isinstance(word, str))
    text = text.strip().lower()
    for library in LIBRARIES:
        text = text.removeprefix(library)
    name = ALIASES.get(text, text)
    return name if name in ITEMSIZE else value


@dataclass(frozen=True)
class ArraySpec:
    """One array of a call: ``shape``, dtype name, ``strides`` in elements (empty: contiguous)."""

    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...] = ()

    @property
    def element_strides(self) -> tuple[int, ...]:
        """Strides in elements, contiguous ones filled in."""
        return self.strides or tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))

    @property
    def span(self) -> int:
        """Elements from the first to the last, gaps included."""
        return 1 + sum((d - 1) * s for d, s in zip(self.shape, self.element_strides))

    @property
    def nbytes(self) -> int:
        """Bytes of the elements themselves, gaps not counted."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


class Operation(ABC):
    """The fields and methods that matmul and conv2d share. Checks raise InvalidInput that says what to do."""

    op: ClassVar[str]
    openable: ClassVar[str]
    """The field that may be open (see :func:`gpu_tune.any_of`)."""
    dtype: str
    out_dtype: str
    epilogue: str

    @abstractmethod
    def arrays(self) -> dict[str, ArraySpec]:
        """Every array of a call, by buffer name, in argument order; the result ``out`` is the last."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The arrays that a call writes: ``out``, then second results of the epilogue."""
        return ("out", *(op.writes for op in self.ops if op.writes))

    @property
    def open(self) -> Size | None:
        """The size that is left open until a call; None where all are numbers."""
        value = getattr(self, self.openable)
        return value if isinstance(value, Size) else None

    def at(self: _W, size: int) -> _W:
        """The workload with ``size`` in place of the open one; InvalidInput where that is not allowed."""
        rule = "is asked of a workload whose sizes are numbers"
        self._require(self.open is not None, self.openable, size, rule, "give it any_of(1, 8192)")
        return self.resized(allowed(self.open, size)) if self.open is not None else self

    def resized(self: _W, size: int | Size) -> _W:
        """The workload with another size, a number or an open one, in the field that may be open."""
        changed: dict[str, Any] = {self.openable: size}
        return replace(self, **changed)  # type: ignore[type-var]

    def unaligned(self: _W) -> _W:
        """The workload as a kernel of every size must take this one: rows of open length begin anywhere."""
        return self

    def unsummed(self: _W) -> _W:
        """The workload without ``dbias``, whose sums are of its result."""
        changed: dict[str, Any] = {"epilogue": "+".join(str(op) for op in self.ops if op.name != "dbias")}
        return replace(self, **changed) if "dbias" in self.outputs else self  # type: ignore[type-var]

    def scalars(self) -> tuple[str, ...]:
        """Run-time scalars of a call: ``alpha`` and ``beta`` where they are general."""
        return tuple(name for name in ("alpha", "beta") if getattr(self, name) == "any")

    @property
    def ops(self) -> tuple[epilogue_grammar.Op, ...]:
        """The epilogue's operations, in order."""
        return epilogue_grammar.parse(self.epilogue)

    @property
    def bytes(self) -> int:
        """Bytes that must cross memory once: every operand read, out written."""
        return sum(s.nbytes for s in self.arrays().values())

    @property
    def vector_dtype(self) -> str:
        """dtype of bias and row_bias: out_dtype where that is a wide float, else float32."""
        return self.out_dtype if self.out_dtype in ("float32", "float16", "bfloat16") else "float32"

    def _operands(
        self, rows: int, columns: int, out: ArraySpec, bits: tuple[int, ...], scales: tuple[tuple[int, ...], ...]
    ) -> dict[str, ArraySpec]:
        """The arrays of the epilogue in its order, then the scales; ``bits``: shape of a mask of one bit an element."""
        specs = {
            "scale": ArraySpec((columns,), "float32"),
            "bias": ArraySpec((columns,), self.vector_dtype),
            "row_bias": ArraySpec((rows,), self.vector_dtype),
            "residual": out,
            "dbias": ArraySpec((columns,), self.vector_dtype),
        }
        mask = ArraySpec(bits, "uint8")
        used = [(op.operand or op.writes, op) for op in self.ops]
        found = {array: mask if op.bits else specs.get(op.name, out) for array, op in used if array}
        return {**found, **{name: ArraySpec(s, "float32") for name, s in zip(("scale_a", "scale_b"), scales)}}

    def _readable_key(self, start: str, skip: set[str], defaults: dict[str, Any]) -> str:
        """``start`` and every field but ``skip`` that differs from its default, fit for a file name."""
        parts = [start]
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            default = OUT_DTYPES[self.dtype][0] if f.name == "out_dtype" else defaults.get(f.name, f.default)
            if f.name not in skip and value != default:
                text = "+".join(value) if isinstance(value, tuple) else str(value)
                parts.append(f"{f.name}={text}")
        return re.sub(r"[^A-Za-z0-9.+=_\-]", "_", "-".join(parts))

    def _require(self, valid: object, field: str, value: object, rule: str, remedy: str = "") -> None:
        if not valid:
            raise InvalidInput(f"{type(self).__name__} {field}", value, rule, remedy)

    def _resolve(self, field: str, value: Any, valid: object, rule: str, remedy: str = "") -> None:
        """Give the field its resolved value, if that is ``valid``."""
        self._require(valid, field, value, rule, remedy)
        object.__setattr__(self, field, value)

    def _positive(self, *names: str) -> None:
        for name in names:
            value = whole(getattr(self, name))
            if isinstance(value, Size):
                rule = f"is open, which only {self.openable} can be"
                plain = name == self.openable and value.variable == value
                self._require(plain, name, label(value), rule, "give a number")
                object.__setattr__(self, name, Size(name, value.bounds))
                continue
            valid = type(value) is int and 1 <= value <= MAX_DIM
            self._resolve(name, value, valid, f"is not an integer from 1 to {MAX_DIM}", "give a positive size")

    def _choice(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if name in ("alpha", "beta") and type(value) in (int, float) and value in (0, 1):
            value = str(int(value))
        if isinstance(value, str) and name == "layout":
            value = value.lower()
        valid = isinstance(value, str) and value in allowed
        self._resolve(name, value, valid, "is unknown", f"use one of {', '.join(allowed)}")

    def _check_dtypes(self) -> None:
        for name in ("dtype", "out_dtype"):
            value = getattr(self, name)
            options = DTYPES if name == "dtype" else OUT_DTYPES[self.dtype]
            rule = "is not a known dtype" if name == "dtype" else f"is not an output of {self.dtype}"
            unsaid = name == "out_dtype" and (value is None or (isinstance(value, str) and not value))
            value = options[0] if unsaid else dtype_name(value)
            valid = isinstance(value, str) and value in options
            self._resolve(name, value, valid, rule, f"use one of {', '.join(options)}")

    def _check_common(self) -> None:
        """Epilogue, determinism, alignment, permissions and scales; after the dtypes."""
        w: Any = self
        object.__setattr__(self, "epilogue", epilogue_grammar.canonical(self.epilogue))
        saved = [str(op) for op in self.ops if op.operand == "aux" and not op.bits]
        rule = f"has {', '.join(saved)}, whose aux has the out_dtype {self.out_dtype}, an eight-bit type or an integer"
        remedy = "use an out_dtype of float32, float16 or bfloat16, or a ReLU, which saves bits"
        self._require(not saved or self.out_dtype == self.vector_dtype, "epilogue", self.epilogue, rule, remedy)
        rule = f"sums the result, whose out_dtype {self.out_dtype} is an eight-bit type or an integer"
        summed = "dbias" in self.outputs and self.out_dtype != self.vector_dtype
        self._require(not summed, "epilogue", self.epilogue, rule, "use float32, float16 or bfloat16")
        self._resolve(
            "deterministic", w.deterministic, isinstance(w.deterministic, bool), "is not True or False", "give one"
        )
        valid = type(w.alignment) is int and w.alignment in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        valid = valid and w.alignment >= ITEMSIZE[self.dtype]
        rule = "is not a power of two from the item size to 256 bytes"
        self._resolve("alignment", w.alignment, valid, rule, "use 16")
        bits = any(op.bits and op.writes for op in self.ops)
        rule = "is less than the 4 bytes of a word of bits, which relu(aux) writes"
        self._require(not bits or w.alignment >= 4, "alignment", w.alignment, rule, "use 4 or more")
        permissions = (w.math,) if isinstance(w.math, str) else w.math
        valid = isinstance(permissions, (tuple, list)) and all(isinstance(p, str) for p in permissions)
        self._require(valid, "math", w.math, "is not a tuple of permissions", f"use some of {tuple(MATH)}")
        known = tuple(p for p in MATH if p != "winograd" or self.op == "conv2d")
        for p in permissions:
            self._require(p in known, "math", p, "is no permission of this operation", f"use some of {known}")
            rule = f"means nothing for dtype {self.dtype}"
            self._require(self.dtype in MATH[p], "math", p, rule, f"it is for {', '.join(MATH[p])}")
        object.__setattr__(self, "math", tuple(sorted(set(permissions))))
        scalable, rule = self.dtype in ("int8", *FP8), f"mean nothing for dtype {self.dtype}"
        self._require(w.scales == "none" or scalable, "scales", w.scales, rule, "they are for int8 and float8 data")
        valid = w.scales != "block128" or self.dtype != "int8"
        self._require(valid, "scales", w.scales, "is for float8 data", "use tensor or row_col for int8")
