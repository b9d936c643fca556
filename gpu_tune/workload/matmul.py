"""The matrix product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ..plan.size import Size, ceil_div, label, whole
from .operation import MAX_DIM, SCALES, ArraySpec, Operation


@dataclass(frozen=True)
class Matmul(Operation):
    """``out = epilogue(alpha * scales * A @ B + beta * C)``, cast to ``out_dtype``; arrays are row-major.

    ``layout`` names A then B: ``nn`` A(m,k) B(k,n); ``nt`` A(m,k) B(n,k); ``tn`` A(k,m) B(k,n); ``tt`` A(k,m) B(n,k).
    C and out are (m,n). With ``batch`` > 1 every array but the epilogue's vectors has a leading batch dimension, and a
    batch is ``rows * ld`` elements. ``lda/ldb/ldc`` are elements between rows (default: contiguous); ``ldc`` serves
    C, out and residual. ``alignment`` is what every base pointer keeps, in bytes. Accumulation is float32 or int32.
    Scales are float32: ``tensor`` (1,) and (1,); ``row_col`` (m,) and (n,); ``block128`` (m, ceil(k/128)) and
    (ceil(n/128), ceil(k/128)). ``math`` lists what is permitted beyond strict arithmetic. InvalidInput on bad values.
    A mask of bits (``drelu``, ``relu(aux)``) is (m, 16 ceil(n/128)) bytes: element (i, j) is bit j % 8 of byte j // 8
    of row i, as cuBLASLt has it for the column-major product, with a leading dimension of n rounded up to 128.

    ``m`` may be ``any_of(1, 8192)``: known only when the kernel is called. Then ``flops(512)`` and ``bytes(512)`` tell
    of one size, ``at(512)`` is the workload of that size, and shapes in ``arrays()`` are expressions. Rows of A (k,m)
    are then contiguous, of a length that is open.
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
    openable: ClassVar[str] = "m"

    def __post_init__(self) -> None:
        self._positive("m", "n", "k", "batch")
        self._check_dtypes()
        self._choice("layout", ("nn", "nt", "tn", "tt"))
        self._choice("alpha", ("1", "any"))
        self._choice("beta", ("0", "1", "any"))
        self._choice("scales", SCALES)
        self._check_common()
        for name, columns in (("lda", self.a_shape[-1]), ("ldb", self.b_shape[-1]), ("ldc", self.n)):
            value = whole(getattr(self, name))
            value = columns if value in (0, None) or isinstance(value, Size) else value
            if isinstance(columns, Size):
                rule = f"is given for rows of A (k,m), whose length m is open ({label(columns)})"
                self._require(value == columns, name, value, rule, "leave it out: they are contiguous")
            valid = value == columns or (type(value) is int and columns <= value <= MAX_DIM)
            rule = f"is not an integer from the row length {columns} to {MAX_DIM}"
            self._resolve(name, value, valid, rule, "leave it out for contiguous rows")
        changed = self.epilogue or self.alpha != "1" or self.scales != "none" or self.beta == "any"
        self._require(
            self.out_dtype != "int32" or not changed,
            "out_dtype",
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

    def resized(self, size: int | Size) -> Matmul:
        """The workload with another ``m``; contiguous rows of A (k,m) stay contiguous."""
        changed: dict[str, Any] = {"m": size}
        if self.layout[0] == "t" and self.lda == self.m:
            changed["lda"] = 0
        return replace(self, **changed)

    def unaligned(self) -> Matmul:
        """With A (k,m) one whose rows are an odd number of elements apart."""
        return replace(self, lda=self.m | 1) if self.layout[0] == "t" else self

    @property
    def flops(self) -> int:
        """2 m n k batch; the epilogue is not counted."""
        return 2 * self.m * self.n * self.k * self.batch

    @property
    def key(self) -> str:
        """A readable name, equal exactly for equal workloads, fit for a file name."""
        dims = f"{label(self.m)}x{self.n}x{self.k}" + (f"x{self.batch}b" if self.batch > 1 else "")
        return self._readable_key(
            f"matmul-{dims}-{self.dtype}-{self.layout}",
            skip={"m", "n", "k", "batch", "dtype", "layout"},
            defaults={"lda": self.a_shape[-1], "ldb": self.b_shape[-1], "ldc": self.n},
        )

    def arrays(self) -> dict[str, ArraySpec]:
        lead = (self.batch,) if self.batch > 1 else ()

        def matrix(shape: tuple[int, int], ld: int, dtype: str) -> ArraySpec:
            strides = ((shape[0] * ld,) if lead else ()) + (ld, 1)
            return ArraySpec(lead + shape, dtype, strides)

        out = matrix((self.m, self.n), self.ldc, self.out_dtype)
        specs = {"a": matrix(self.a_shape, self.lda, self.dtype), "b": matrix(self.b_shape, self.ldb, self.dtype)}
        if self.beta != "0":
            specs["c"] = out
        blocks = -(-self.k // 128)
        scales: dict[str, tuple[tuple[int, ...], ...]] = {
            "none": (),
            "tensor": ((1,), (1,)),
            "row_col": ((self.m,), (self.n,)),
            "block128": ((self.m, blocks), (-(-self.n // 128), blocks)),
        }
        bits = (*lead, self.m, 16 * ceil_div(self.n, 128))
        return {**specs, **self._operands(self.m, self.n, out, bits, scales[self.scales]), "out": out}

    def views(self) -> tuple[View, ...]:
        """Other workloads that compute the same on the same memory (none for a matmul)."""
        return ()


@dataclass(frozen=True)
class View:
    """``workload`` computes the same on the same memory; ``buffers`` maps its buffer names to the origin's."""

    workload: Matmul
    buffers: Mapping[str, str] = field(hash=False)

    def origin(self, buffer: str) -> str:
        """The origin's name of ``buffer``."""
        return self.buffers.get(buffer, buffer)
