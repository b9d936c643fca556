"""The 2-D convolution: forward, and its gradients for the image and for the filters."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from ..plan.size import ceil_div, label, whole
from .matmul import Matmul, View
from .operation import SCALES, ArraySpec, Operation

INPUTS = {"fprop": ("x", "w"), "dgrad": ("dy", "w"), "wgrad": ("dy", "x")}
"""The operands of a call in each direction, in order."""


@dataclass(frozen=True)
class Conv2d(Operation):
    """A 2-D convolution (cross-correlation), or one of its gradients.

    ``n`` images of ``c`` channels, ``h`` x ``w``; ``k`` filters of ``r`` x ``s``. ``layout`` nchw: x (n,c,h,w),
    filters (k, c/groups, r, s), out (n,k,p,q); nhwc: x (n,h,w,c), filters (k, r, s, c/groups), out (n,p,q,k). All
    contiguous. ``stride``, ``dilation``: an int or (rows, columns). ``padding``: an int, (rows, columns), or
    (top, bottom, left, right). ``scales``: ``tensor`` (1,) and (1,); ``row_col`` (1,) for x and (k,) for the filters.
    ``weights='pretransformed'``: w holds the Winograd transform ``G g G^T`` of every filter, (alpha^2, k, c) with
    ``alpha = winograd_tile + 2``, made ahead by ``gpu_tune.reference.winograd.transform_filters``. ``n`` may be
    open, as the m of a matmul, in the forward convolutions other than Winograd's.

    ``direction``, with every size that of the forward convolution: ``fprop`` computes y from x and w. ``dgrad``, the
    gradient for the image (a transposed convolution): called with dy (as y) and w, the result is like x, and the
    epilogue's vectors have c elements. ``wgrad``, the gradient for the filters: called with dy and x, the result is
    like w; it takes no epilogue, but ``beta`` ("0", "1" or "any"): beta * C is added, C an existing gradient.
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
    beta: str = "0"

    op: ClassVar[str] = "conv2d"
    openable: ClassVar[str] = "n"
    batch: ClassVar[int] = 1
    alpha: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        self._positive("n", "c", "h", "w", "k", "r", "s", "groups")
        self._check_dtypes()
        self._choice("layout", ("nchw", "nhwc"))
        self._choice("scales", SCALES[:3])
        self._choice("weights", ("plain", "pretransformed"))
        self._choice("direction", tuple(INPUTS))
        self._choice("beta", ("0", "1", "any"))
        for name in ("stride", "dilation"):
            self._spread(name, 2, 1, "is not an integer or a pair (rows, columns) of 1 to 65535")
        rule = "is not an integer, (rows, columns) or (top, bottom, left, right) of 0 to 65535"
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
            self.out_dtype != "int32" or not (self.epilogue or self.scales != "none" or self.beta == "any"),
            "out_dtype",
            "int32",
            "is the exact integer result: no epilogue or scales" + (" or general beta" if self.beta == "any" else ""),
            "use out_dtype='float32' (or float16, bfloat16, int8) with them",
        )
        self._check_direction()

    def _check_direction(self) -> None:
        """What the gradients do not have, and what only the gradient of the filters has."""
        rule, remedy = f"is for direction='wgrad', not {self.direction}", "use beta='0', and epilogue='residual' to add"
        self._require(self.beta == "0" or self.direction == "wgrad", "beta", self.beta, rule, remedy)
        rule, remedy = "belongs to results with channels, not to direction='wgrad'", "use beta='1' to accumulate"
        self._require(not self.epilogue or self.direction != "wgrad", "epilogue", self.epilogue, rule, remedy)
        forward, rule = self.direction == "fprop", f"is for direction='fprop', not {self.direction}"
        self._require(forward or self.scales != "row_col", "scales", self.scales, rule, "use none or tensor")
        self._require(forward or "winograd" not in self.math, "math", self.math, rule, "leave winograd out")

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
        remedy = "give an integer, or several as a tuple"
        self._require(valid, name, given, rule, remedy)
        object.__setattr__(self, name, value)

    @property
    def inputs(self) -> tuple[str, str]:
        """The operands of a call, in order."""
        return INPUTS[self.direction]

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
        """2 n k p q (c/groups) r s: what a direct convolution and each gradient do, padding included."""
        return 2 * self.n * self.k * self.p * self.q * (self.c // self.groups) * self.r * self.s

    @property
    def product(self) -> tuple[int, int, int]:
        """Rows, columns and depth of each group's implicit matrix product.

        fprop: n p q, k, c r s. wgrad: k, c r s, n p q. dgrad: n h w, c, k times the filter taps that meet a pixel: of
        rows ``stride`` apart every ``stride / gcd(stride, dilation)``-th one.
        """
        c, k, pixels = self.c // self.groups, self.k // self.groups, self.n * self.p * self.q
        if self.direction == "wgrad":
            return k, c * self.r * self.s, pixels
        if self.direction == "fprop":
            return pixels, k, c * self.r * self.s
        taps = (-(-f // (s // math.gcd(s, d))) for f, s, d in zip((self.r, self.s), self.stride, self.dilation))
        return self.n * self.h * self.w, c, k * math.prod(taps)

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
        """As declared in :class:`Operation`. A mask of bits (``drelu``, ``relu(aux)``) is flat: bit i % 8 of
        byte i // 8 is element i of ``out`` in the order of its memory; bytes up to a multiple of 16."""
        cg, nhwc = self.c // self.groups, self.layout == "nhwc"
        image = (self.n, self.h, self.w, self.c) if nhwc else (self.n, self.c, self.h, self.w)
        filters: tuple[int, ...] = (self.k, self.r, self.s, cg) if nhwc else (self.k, cg, self.r, self.s)
        if self.weights == "pretransformed":
            filters = ((self.winograd_tile + 2) ** 2, self.k, self.c)
        result = (self.n, self.p, self.q, self.k) if nhwc else (self.n, self.k, self.p, self.q)
        shapes = {"x": image, "w": filters, "dy": result}
        wanted, channels = {"fprop": (result, self.k), "dgrad": (image, self.c), "wgrad": (filters, 1)}[self.direction]
        out = ArraySpec(wanted, self.out_dtype)
        specs = {name: ArraySpec(shapes[name], self.dtype) for name in self.inputs}
        specs.update({"c": out} if self.beta != "0" else {})
        scales: dict[str, tuple[tuple[int, ...], ...]] = {
            "none": (),
            "tensor": ((1,), (1,)),
            "row_col": ((1,), (self.k,)),
        }
        bits = (16 * ceil_div(math.prod(wanted), 128),)
        return {**specs, **self._operands(1, channels, out, bits, scales[self.scales]), "out": out}

    def views(self) -> tuple[View, ...]:
        """A 1x1 stride-1 unpadded ungrouped conv is a matmul: nhwc as ``x @ w.T``; nchw with n = 1 as ``w @ x``.

        Its gradients are ``dy @ w`` and ``dy.T @ x``, of nchw with n = 1 ``w.T @ dy`` and ``dy @ x.T``.
        """
        plain = (self.r, self.s, self.stride, self.groups) == (1, 1, (1, 1), 1) and not any(self.padding)
        common: dict[str, Any] = dict(
            dtype=self.dtype,
            out_dtype=self.out_dtype,
            alignment=self.alignment,
            math=tuple(p for p in self.math if p != "winograd"),
            deterministic=self.deterministic,
        )
        if not plain or self.scales == "row_col" or self.weights != "plain" or self.open is not None:
            return ()
        pixels, nhwc = self.n * self.h * self.w, self.layout == "nhwc"
        columns = pixels if not nhwc else self.k if self.direction == "fprop" else self.c
        if any(op.bits for op in self.ops) and columns % 128:
            return ()  # a matmul pads the bits of each row
        if self.direction == "wgrad" and (nhwc or self.n == 1):
            layout = "tn" if nhwc else "nt"
            matmul = Matmul(self.k, self.c, pixels, layout=layout, scales=self.scales, beta=self.beta, **common)
            return (View(matmul, {"a": "dy", "b": "x"}),)
        image, filters = self.inputs
        channels, depth = (self.k, self.c) if self.direction == "fprop" else (self.c, self.k)
        if nhwc:
            layout = "nt" if self.direction == "fprop" else "nn"
            matmul = Matmul(
                pixels, channels, depth, layout=layout, epilogue=self.epilogue, scales=self.scales, **common
            )
            return (View(matmul, {"a": image, "b": filters}),)
        if self.n == 1 and not any(op.name in ("scale", "dbias") for op in self.ops):
            matmul = Matmul(
                channels,
                pixels,
                depth,
                layout="nn" if self.direction == "fprop" else "tn",
                scales=self.scales,
                epilogue=re.sub(r"\bbias\b", "row_bias", self.epilogue),
                **common,
            )
            swapped = {"scale_a": "scale_b", "scale_b": "scale_a"} if self.scales == "tensor" else {}
            return (View(matmul, {"a": filters, "b": image, "row_bias": "bias", **swapped}),)
        return ()


def _short(values: tuple[int, ...]) -> str:
    """One number where all are equal, else all: 1, 1x2."""
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))
