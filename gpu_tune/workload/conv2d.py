"""The 2-D convolution, forward."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from ..plan.size import label, whole
from .matmul import Matmul, View
from .operation import SCALES, ArraySpec, Operation


@dataclass(frozen=True)
class Conv2d(Operation):
    """A 2-D convolution (cross-correlation), forward.

    ``n`` images of ``c`` channels, ``h`` x ``w``; ``k`` filters of ``r`` x ``s``. ``layout`` nchw: x (n,c,h,w),
    filters (k, c/groups, r, s), out (n,k,p,q); nhwc: x (n,h,w,c), filters (k, r, s, c/groups), out (n,p,q,k). All
    contiguous. ``stride``, ``dilation``: an int or (rows, columns). ``padding``: an int, (rows, columns), or
    (top, bottom, left, right). ``scales``: ``tensor`` (1,) and (1,); ``row_col`` (1,) for x and (k,) for the filters.
    ``weights='pretransformed'``: w holds the Winograd transform ``G g G^T`` of every filter, (alpha^2, k, c) with
    ``alpha = winograd_tile + 2``, made ahead by ``gpu_tune.reference.winograd.transform_filters``. ``n`` may be
    open, as the m of a matmul; no kernel family takes that yet.
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
    openable: ClassVar[str] = "n"
    batch: ClassVar[int] = 1
    alpha: ClassVar[str] = "1"
    beta: ClassVar[str] = "0"

    def __post_init__(self) -> None:
        self._positive("n", "c", "h", "w", "k", "r", "s", "groups")
        self._check_dtypes()
        self._choice("layout", ("nchw", "nhwc"))
        self._choice("scales", SCALES[:3])
        self._choice("weights", ("plain", "pretransformed"))
        self._choice("direction", ("fprop", "dgrad", "wgrad"))
        self._require(
            self.direction == "fprop",
            "direction",
            self.direction,
            "is not built",
            "use direction='fprop' (a unit-stride "
            "dgrad is an fprop with the filter flipped in r and s and transposed in k and c)",
        )
        for name in ("stride", "dilation"):
            self._spread(name, 2, 1, "is not an integer or a pair (rows, columns) of at least 1")
        rule = "is not an integer, (rows, columns) or (top, bottom, left, right) of at least 0"
        self._spread("padding", 4, 0, rule)
        self._check_common()
        for name in ("c", "k"):
            size, remedy = getattr(self, name), f"use groups that divide both c={self.c} and k={self.k}"
            self._require(size % self.groups == 0, name, size, f"is not a multiple of groups={self.groups}", remedy)
        self._require(
            all(op.name != "row_bias" for op in self.ops),
            "epilogue",
            self.epilogue,
            "has row_bias, which only a matmul has",
            "use bias (per output channel)",
        )
        plain, winograd = self.weights == "plain", "winograd" in self.math
        rule = "needs the permission 'winograd'"
        self._require(plain or winograd, "weights", self.weights, rule, "add 'winograd' to math")
        transformable = (self.r, self.s, self.stride, self.dilation, self.groups) == (3, 3, (1, 1), (1, 1), 1)
        rule = "needs a 3x3 filter, stride 1, dilation 1 and one group"
        self._require(plain or transformable, "weights", self.weights, rule, "use weights='plain'")
        for name, size in (("p", self.p), ("q", self.q)):
            self._require(
                size >= 1,
                f"output {name}",
                size,
                "is not positive: the filter does not fit into the padded image",
                "enlarge padding or the image, or shrink the filter or dilation",
            )
        self._require(
            self.out_dtype != "int32" or not (self.epilogue or self.scales != "none"),
            "out_dtype",
            "int32",
            "is the exact integer result: no epilogue or scales",
            "use out_dtype='float32' (or float16, bfloat16, int8) with them",
        )

    def _spread(self, name: str, count: int, least: int, rule: str) -> None:
        """Resolve a field that is ``count`` integers, given as one, a pair or all."""
        given = getattr(self, name)
        one = whole(given)
        value = (one,) * count if isinstance(one, int) else ()
        if isinstance(given, (tuple, list)):
            value = tuple(map(whole, given))
        if len(value) == 2 and count == 4:
            value = (value[0], value[0], value[1], value[1])
        valid = len(value) == count and all(type(v) is int and least <= v <= 65535 for v in value)
        self._require(valid, name, given, rule)
        object.__setattr__(self, name, value)

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
    def winograd_tile(self) -> int:
        """m of the F(m x m, 3x3) that pretransformed filters are made for: 4, or 2 for small outputs and bfloat16."""
        return 4 if min(self.p, self.q) > 4 and self.dtype != "bfloat16" else 2

    @property
    def flops(self) -> int:
        """2 n k p q (c/groups) r s: what a direct convolution does, padding included."""
        return 2 * self.n * self.k * self.p * self.q * (self.c // self.groups) * self.r * self.s

    @property
    def key(self) -> str:
        """A readable name, equal exactly for equal workloads, fit for a file name."""
        dims = f"{label(self.n)}x{self.c}x{self.h}x{self.w}-k{self.k}-{self.r}x{self.s}"
        dims += f"-s{_short(self.stride)}-p{_short(self.padding)}-d{_short(self.dilation)}" + (
            f"-g{self.groups}" if self.groups > 1 else ""
        )
        return self._readable_key(
            f"conv2d-{dims}-{self.dtype}-{self.layout}",
            skip={"n", "c", "h", "w", "k", "r", "s", "stride", "padding", "dilation", "groups", "dtype", "layout"},
            defaults={},
        )

    def arrays(self) -> dict[str, ArraySpec]:
        cg, nhwc = self.c // self.groups, self.layout == "nhwc"
        out = ArraySpec((self.n, self.p, self.q, self.k) if nhwc else (self.n, self.k, self.p, self.q), self.out_dtype)
        specs = {
            "x": ArraySpec((self.n, self.h, self.w, self.c) if nhwc else (self.n, self.c, self.h, self.w), self.dtype),
            "w": ArraySpec((self.k, self.r, self.s, cg) if nhwc else (self.k, cg, self.r, self.s), self.dtype),
        }
        if self.weights == "pretransformed":
            specs["w"] = ArraySpec(((self.winograd_tile + 2) ** 2, self.k, self.c), self.dtype)
        scales: dict[str, tuple[tuple[int, ...], ...]] = {
            "none": (),
            "tensor": ((1,), (1,)),
            "row_col": ((1,), (self.k,)),
        }
        return {**specs, **self._operands(1, self.k, out, scales[self.scales]), "out": out}

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
        if not plain or self.scales == "row_col" or self.weights != "plain" or self.open is not None:
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


def _short(values: tuple[int, ...]) -> str:
    """One number where all are equal, else all: 1, 1x2."""
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))
