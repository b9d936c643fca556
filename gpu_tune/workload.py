"""Workloads: what to compute. Frozen, validated, hashable, with a readable ``key``. Plain data."""

from __future__ import annotations

import math as _math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from . import epilogue as _epilogue
from .errors import InvalidInput

ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float8_e4m3": 1, "float8_e5m2": 1, "int32": 4}
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
SCALES = ("none", "tensor", "row_col", "block128")
MAX_DIM = 2**31 - 1


@dataclass(frozen=True)
class Matmul:
    """``out = epilogue(alpha * scales * A @ B + beta * C)``, cast to ``out_dtype``; arrays are row-major.

    ``layout`` names A then B: ``nn`` A(m,k) B(k,n); ``nt`` A(m,k) B(n,k); ``tn`` A(k,m) B(k,n); ``tt`` A(k,m) B(n,k).
    C and out are (m,n). With ``batch`` > 1 every array but the epilogue's vectors has a leading batch dimension, and a
    batch is ``rows * ld`` elements. ``lda/ldb/ldc`` are elements between rows (default: contiguous); ``ldc`` serves
    C, out and residual. ``alignment`` is what every base pointer keeps, in bytes. Accumulation is float32 or int32.
    Scales are float32: ``tensor`` (1,) and (1,); ``row_col`` (m,) and (n,); ``block128`` (m, ceil(k/128)) and
    (ceil(n/128), ceil(k/128)). ``math`` lists what is permitted beyond strict arithmetic. InvalidInput on bad values.
    """

    m: int
    n: int
    k: int
    batch: int = 1
    dtype: str = "float16"
    out_dtype: str = ""
    layout: str = "nn"
    lda: int = 0
    ldb: int = 0
    ldc: int = 0
    alignment: int = 16
    alpha: str = "1"
    beta: str = "0"
    epilogue: str = ""
    scales: str = "none"
    math: tuple[str, ...] = ()
    deterministic: bool = True

    op: ClassVar[str] = "matmul"
    inputs: ClassVar[tuple[str, str]] = ("a", "b")

    def __post_init__(self) -> None:
        for name in ("m", "n", "k", "batch"):
            _positive(self, name)
        _set_dtypes(self)
        _choice(self, "layout", ("nn", "nt", "tn", "tt"))
        _choice(self, "alpha", ("1", "any"))
        _choice(self, "beta", ("0", "1", "any"))
        _choice(self, "scales", SCALES)
        _set_common(self)
        for name, columns in (("lda", self.a_shape[-1]), ("ldb", self.b_shape[-1]), ("ldc", self.n)):
            _leading(self, name, columns)
        if self.out_dtype == "int32" and (
            self.epilogue or self.alpha != "1" or self.scales != "none" or self.beta == "any"
        ):
            raise InvalidInput(
                "Matmul out_dtype",
                "int32",
                "is the exact integer result: no epilogue, scales, alpha or general beta",
                "use out_dtype='float32' (or float16, bfloat16, int8) with them",
            )

    @property
    def a_shape(self) -> tuple[int, int]:
        """Shape of one A: (m, k), or (k, m) when A is transposed."""
        return (self.m, self.k) if self.layout[0] == "n" else (self.k, self.m)

    @property
    def b_shape(self) -> tuple[int, int]:
        """Shape of one B: (k, n), or (n, k) when B is transposed."""
        return (self.k, self.n) if self.layout[1] == "n" else (self.n, self.k)

    @property
    def ops(self) -> tuple[_epilogue.Op, ...]:
        """The epilogue's operations, in order."""
        return _epilogue.parse(self.epilogue)

    @property
    def flops(self) -> int:
        """2 m n k batch; the epilogue is not counted."""
        return 2 * self.m * self.n * self.k * self.batch

    @property
    def bytes(self) -> int:
        """Bytes that must cross memory once: every operand read, out written."""
        return sum(s.nbytes for s in self.arrays().values())

    @property
    def key(self) -> str:
        """A readable name, equal exactly for equal workloads, fit for a file name."""
        dims = f"{self.m}x{self.n}x{self.k}" + (f"x{self.batch}b" if self.batch > 1 else "")
        return _key(
            self,
            f"matmul-{dims}-{self.dtype}-{self.layout}",
            skip={"m", "n", "k", "batch", "dtype", "layout"},
            defaults={"lda": self.a_shape[-1], "ldb": self.b_shape[-1], "ldc": self.n},
        )

    def arrays(self) -> dict[str, ArraySpec]:
        """Every array of a call, by buffer name: the inputs in argument order, then ``out``."""
        lead = (self.batch,) if self.batch > 1 else ()

        def matrix(shape: tuple[int, int], ld: int, dtype: str) -> ArraySpec:
            strides = ((shape[0] * ld,) if lead else ()) + (ld, 1)
            return ArraySpec(lead + shape, dtype, strides)

        out = matrix((self.m, self.n), self.ldc, self.out_dtype)
        specs = {"a": matrix(self.a_shape, self.lda, self.dtype), "b": matrix(self.b_shape, self.ldb, self.dtype)}
        if self.beta != "0":
            specs["c"] = out
        vectors = {
            "scale": (self.n, "float32"),
            "bias": (self.n, self.vector_dtype),
            "row_bias": (self.m, self.vector_dtype),
        }
        for op in self.ops:
            if op.name in vectors:
                specs[op.name] = ArraySpec((vectors[op.name][0],), vectors[op.name][1])
            elif op.name == "residual":
                specs["residual"] = out
        blocks = _ceil(self.k, 128)
        shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
            "tensor": ((1,), (1,)),
            "row_col": ((self.m,), (self.n,)),
            "block128": ((self.m, blocks), (_ceil(self.n, 128), blocks)),
        }
        if self.scales != "none":
            specs["scale_a"], specs["scale_b"] = (ArraySpec(s, "float32") for s in shapes[self.scales])
        return {**specs, "out": out}

    @property
    def vector_dtype(self) -> str:
        """dtype of bias and row_bias: out_dtype where that is a wide float, else float32."""
        return _vector_dtype(self.out_dtype)

    def scalars(self) -> tuple[str, ...]:
        """Run-time scalars of a call: ``alpha`` and ``beta`` where they are general."""
        return tuple(n for n in ("alpha", "beta") if getattr(self, n) == "any")

    def views(self) -> tuple[View, ...]:
        """Other workloads that compute the same on the same memory (none for a matmul)."""
        return ()


@dataclass(frozen=True)
class Conv2d:
    """A 2-D convolution (cross-correlation), forward.

    ``n`` images of ``c`` channels, ``h`` x ``w``; ``k`` filters of ``r`` x ``s``. ``layout`` nchw: x (n,c,h,w),
    filters (k, c/groups, r, s), out (n,k,p,q); nhwc: x (n,h,w,c), filters (k, r, s, c/groups), out (n,p,q,k). All
    contiguous. ``stride``, ``dilation``: an int or (rows, columns). ``padding``: an int, (rows, columns), or
    (top, bottom, left, right). ``scales``: ``tensor`` (1,) and (1,); ``row_col`` (1,) for x and (k,) for the filters.
    ``weights='pretransformed'``: a Winograd template may ask for filters that were transformed ahead.
    """

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    layout: str = "nhwc"
    dtype: str = "float16"
    out_dtype: str = ""
    alignment: int = 16
    epilogue: str = ""
    scales: str = "none"
    math: tuple[str, ...] = ()
    deterministic: bool = True
    direction: str = "fprop"
    weights: str = "plain"

    op: ClassVar[str] = "conv2d"
    inputs: ClassVar[tuple[str, str]] = ("x", "w")
    batch: ClassVar[int] = 1
    alpha: ClassVar[str] = "1"
    beta: ClassVar[str] = "0"

    def __post_init__(self) -> None:
        for name in ("n", "c", "h", "w", "k", "r", "s", "groups"):
            _positive(self, name)
        _set_dtypes(self)
        _choice(self, "layout", ("nchw", "nhwc"))
        _choice(self, "scales", SCALES[:3])
        _choice(self, "weights", ("plain", "pretransformed"))
        if self.direction != "fprop":
            _choice(self, "direction", ("fprop", "dgrad", "wgrad"))
            raise InvalidInput(
                "Conv2d direction",
                self.direction,
                "is not built",
                "use direction='fprop' (a unit-stride "
                "dgrad is an fprop with the filter flipped in r and s and transposed in k and c)",
            )
        object.__setattr__(self, "stride", _pair("stride", self.stride, 1))
        object.__setattr__(self, "dilation", _pair("dilation", self.dilation, 1))
        object.__setattr__(self, "padding", _sides(self.padding))
        _set_common(self)
        for name in ("c", "k"):
            if getattr(self, name) % self.groups:
                raise InvalidInput(
                    f"Conv2d {name}",
                    getattr(self, name),
                    f"is not a multiple of groups={self.groups}",
                    f"use groups that divide both c={self.c} and k={self.k}",
                )
        if any(op.name == "row_bias" for op in self.ops):
            raise InvalidInput(
                "Conv2d epilogue",
                self.epilogue,
                "has row_bias, which only a matmul has",
                "use bias (per output channel)",
            )
        if self.weights == "pretransformed" and "winograd" not in self.math:
            raise InvalidInput(
                "Conv2d weights", self.weights, "needs the permission 'winograd'", "add 'winograd' to math"
            )
        for name, size in (("p", self.p), ("q", self.q)):
            if size < 1:
                raise InvalidInput(
                    f"Conv2d output {name}",
                    size,
                    "is not positive: the filter does not fit into the padded image",
                    "enlarge padding or the image, or shrink the filter or dilation",
                )
        if self.out_dtype == "int32" and (self.epilogue or self.scales != "none"):
            raise InvalidInput(
                "Conv2d out_dtype",
                "int32",
                "is the exact integer result: no epilogue or scales",
                "use out_dtype='float32' (or float16, bfloat16, int8) with them",
            )

    @property
    def p(self) -> int:
        """Output rows."""
        top, bottom, _, _ = self.padding
        return (self.h + top + bottom - self.dilation[0] * (self.r - 1) - 1) // self.stride[0] + 1

    @property
    def q(self) -> int:
        """Output columns."""
        _, _, left, right = self.padding
        return (self.w + left + right - self.dilation[1] * (self.s - 1) - 1) // self.stride[1] + 1

    @property
    def ops(self) -> tuple[_epilogue.Op, ...]:
        """The epilogue's operations, in order."""
        return _epilogue.parse(self.epilogue)

    @property
    def flops(self) -> int:
        """2 n k p q (c/groups) r s: what a direct convolution does, padding included."""
        return 2 * self.n * self.k * self.p * self.q * (self.c // self.groups) * self.r * self.s

    @property
    def bytes(self) -> int:
        """Bytes that must cross memory once: every operand read, out written."""
        return sum(s.nbytes for s in self.arrays().values())

    @property
    def key(self) -> str:
        """A readable name, equal exactly for equal workloads, fit for a file name."""
        dims = f"{self.n}x{self.c}x{self.h}x{self.w}-k{self.k}-{self.r}x{self.s}"
        dims += f"-s{_join(self.stride)}-p{_join(self.padding)}-d{_join(self.dilation)}" + (
            f"-g{self.groups}" if self.groups > 1 else ""
        )
        return _key(
            self,
            f"conv2d-{dims}-{self.dtype}-{self.layout}",
            skip={"n", "c", "h", "w", "k", "r", "s", "stride", "padding", "dilation", "groups", "dtype", "layout"},
            defaults={},
        )

    def arrays(self) -> dict[str, ArraySpec]:
        """Every array of a call, by buffer name: the inputs in argument order, then ``out``."""
        cg, nhwc = self.c // self.groups, self.layout == "nhwc"
        out = ArraySpec((self.n, self.p, self.q, self.k) if nhwc else (self.n, self.k, self.p, self.q), self.out_dtype)
        specs = {
            "x": ArraySpec((self.n, self.h, self.w, self.c) if nhwc else (self.n, self.c, self.h, self.w), self.dtype),
            "w": ArraySpec((self.k, self.r, self.s, cg) if nhwc else (self.k, cg, self.r, self.s), self.dtype),
        }
        for op in self.ops:
            if op.name == "scale":
                specs["scale"] = ArraySpec((self.k,), "float32")
            elif op.name == "bias":
                specs["bias"] = ArraySpec((self.k,), self.vector_dtype)
            elif op.name == "residual":
                specs["residual"] = out
        if self.scales != "none":
            specs["scale_a"] = ArraySpec((1,), "float32")
            specs["scale_b"] = ArraySpec((1,) if self.scales == "tensor" else (self.k,), "float32")
        return {**specs, "out": out}

    @property
    def vector_dtype(self) -> str:
        """dtype of bias: out_dtype where that is a wide float, else float32."""
        return _vector_dtype(self.out_dtype)

    def scalars(self) -> tuple[str, ...]:
        """Run-time scalars of a call (none)."""
        return ()

    def views(self) -> tuple[View, ...]:
        """A 1x1 stride-1 unpadded ungrouped conv is a matmul: nhwc as ``x @ w.T``; nchw with n = 1 as ``w @ x``."""
        plain = (self.r, self.s, self.stride, self.groups) == (1, 1, (1, 1), 1) and not any(self.padding)
        common: dict[str, Any] = dict(
            k=self.c,
            dtype=self.dtype,
            out_dtype=self.out_dtype,
            alignment=self.alignment,
            math=tuple(p for p in self.math if p != "winograd"),
            deterministic=self.deterministic,
        )
        if not plain or self.scales == "row_col" or self.weights != "plain":
            return ()
        if self.layout == "nhwc":
            matmul = Matmul(
                self.n * self.h * self.w, self.k, layout="nt", epilogue=self.epilogue, scales=self.scales, **common
            )
            return (View(matmul, {"a": "x", "b": "w"}),)
        if self.n == 1 and not any(op.name == "scale" for op in self.ops):
            matmul = Matmul(
                self.k,
                self.h * self.w,
                layout="nn",
                scales=self.scales,
                epilogue=re.sub(r"\bbias\b", "row_bias", self.epilogue),
                **common,
            )
            swapped = {"scale_a": "scale_b", "scale_b": "scale_a"} if self.scales == "tensor" else {}
            return (View(matmul, {"a": "w", "b": "x", "row_bias": "bias", **swapped}),)
        return ()


Workload = Matmul | Conv2d


@dataclass(frozen=True)
class ArraySpec:
    """One array of a call: ``shape``, dtype name, ``strides`` in elements (empty: contiguous)."""

    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...] = ()

    @property
    def element_strides(self) -> tuple[int, ...]:
        """Strides in elements, contiguous ones filled in."""
        return self.strides or tuple(_math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))

    @property
    def span(self) -> int:
        """Elements from the first to the last, gaps included."""
        return 1 + sum((d - 1) * s for d, s in zip(self.shape, self.element_strides))

    @property
    def nbytes(self) -> int:
        """Bytes of the elements themselves, gaps not counted."""
        return _math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class View:
    """``workload`` computes the same on the same memory; ``buffers`` maps its buffer names to the origin's."""

    workload: Workload
    buffers: Mapping[str, str]

    def origin(self, buffer: str) -> str:
        """The origin's name of ``buffer``."""
        return self.buffers.get(buffer, buffer)


def from_dict(data: Mapping[str, Any]) -> Workload:
    """The workload that ``to_dict`` wrote; InvalidInput on anything else."""
    classes: dict[str, Any] = {"matmul": Matmul, "conv2d": Conv2d}
    cls = classes.get(data.get("op", "")) if isinstance(data, Mapping) else None
    if cls is None:
        raise InvalidInput(
            "workload op", data.get("op") if isinstance(data, Mapping) else data, f"is not one of {tuple(classes)}"
        )
    known = {f.name for f in fields(cls)}
    for name in data:
        if name != "op" and name not in known:
            raise InvalidInput(f"{cls.__name__} field", name, "is unknown", f"use {', '.join(sorted(known))}")
    body = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k != "op"}
    try:
        return cls(**body)
    except TypeError as error:
        raise InvalidInput(cls.__name__, dict(data), f"cannot be built: {error}") from None


def to_dict(workload: Workload) -> dict[str, Any]:
    """A plain dict (JSON-ready) of every field, with ``op``."""
    body = {f.name: getattr(workload, f.name) for f in fields(workload)}
    return {"op": workload.op, **{k: list(v) if isinstance(v, tuple) else v for k, v in body.items()}}


def _set_common(w: Any) -> None:
    name = type(w).__name__
    object.__setattr__(w, "epilogue", _epilogue.canonical(w.epilogue))
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


def _set_dtypes(w: Any) -> None:
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


def _vector_dtype(out_dtype: str) -> str:
    return out_dtype if out_dtype in ("float32", "float16", "bfloat16") else "float32"


def _positive(w: Any, name: str) -> None:
    value = getattr(w, name)
    if hasattr(value, "__index__") and not isinstance(value, bool):
        value = value.__index__()
        object.__setattr__(w, name, value)
    if type(value) is not int or not 1 <= value <= MAX_DIM:
        raise InvalidInput(
            f"{type(w).__name__} {name}", value, f"is not an integer from 1 to {MAX_DIM}", "give a positive size"
        )


def _choice(w: Any, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(w, name)
    if name in ("alpha", "beta") and type(value) in (int, float) and str(int(value)) in allowed and value == int(value):
        value = str(int(value))
        object.__setattr__(w, name, value)
    if isinstance(value, str) and name == "layout":
        value = value.lower()
        object.__setattr__(w, name, value)
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInput(f"{type(w).__name__} {name}", value, "is unknown", f"use one of {', '.join(allowed)}")


def _leading(w: Any, name: str, columns: int) -> None:
    value = getattr(w, name)
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


def _pair(name: str, value: Any, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or any(type(v) is not int or not least <= v <= 65535 for v in pair):
        raise InvalidInput(f"Conv2d {name}", value, f"is not an integer or a pair (rows, columns) of at least {least}")
    return pair


def _sides(value: Any) -> tuple[int, int, int, int]:
    sides = (value,) * 4 if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(sides) == 2:
        sides = (sides[0], sides[0], sides[1], sides[1])
    if len(sides) != 4 or any(type(v) is not int or not 0 <= v <= 65535 for v in sides):
        raise InvalidInput(
            "Conv2d padding", value, "is not an integer, (rows, columns) or (top, bottom, left, right) of at least 0"
        )
    return sides


def _key(w: Any, start: str, skip: set[str], defaults: dict[str, Any]) -> str:
    parts = [start]
    for f in fields(w):
        value = getattr(w, f.name)
        default = defaults.get(f.name, f.default)
        default = OUT_DTYPES[w.dtype][0] if f.name == "out_dtype" else default
        if f.name not in skip and value != default:
            text = "+".join(value) if isinstance(value, tuple) else str(value)
            parts.append(f"{f.name}={text}")
    return re.sub(r"[^A-Za-z0-9.+=_\-]", "_", "-".join(parts))


def _join(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
