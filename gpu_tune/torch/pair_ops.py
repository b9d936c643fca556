"""The operators with two results, ``torch.ops.gpu_tune.*_pair``: the result, and what its epilogue writes beside it.

===================== =========================================================================================
``matmul_pair``       a product that saves what its activation was given (``bias+gelu(aux)``), or one with a backward
                      operation and the gradient of a bias (``dgelu+dbias``)
``conv2d_pair``       the same for convolutions
``conv2d_dgrad_pair`` a convolution's gradient for its images with a backward operation, and ``dbias``
===================== =========================================================================================

Otherwise as the operators of ``ops.py``, whose gradients and chains of layers (``layers.py``) call these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .. import dispatch
from ..kernel.kernel import TunedKernel
from . import layouts, ops, routes
from .pair_routes import PairTable, Two
from .pairs import NCHW, NHWC, ConvolutionPair, GradientPair, ProductPair, second_spec

PRODUCT = (*ops.PRODUCT, "aux")
CONVOLUTION = (*ops.CONVOLUTION, "aux")
DGRAD = (*ops.DGRAD, "aux")
ops.TENSORS.update(matmul_pair=PRODUCT, conv2d_pair=CONVOLUTION, conv2d_dgrad_pair=DGRAD)

matmul_pair = ops.define("matmul_pair", PRODUCT, f"str layout, float alpha, float beta, {ops.LAST}", 2)
conv2d_pair = ops.define("conv2d_pair", CONVOLUTION, f"{ops.GEOMETRY}, {ops.LAST}", 2)
conv2d_dgrad_pair = ops.define(
    "conv2d_dgrad_pair", DGRAD, f"SymInt h, SymInt width, {ops.GEOMETRY}, str epilogue, str math", 2
)


def product(
    layout: str, alpha: float, beta: float, epilogue: str, out_dtype: torch.dtype | None, math: str
) -> ProductPair:
    return ProductPair(layout, epilogue, alpha, beta, out_dtype, math)


def convolution(*options: Any) -> ConvolutionPair:
    return ConvolutionPair(*options)


def gradient(h: int, width: int, *options: Any) -> GradientPair:
    stride, padding, dilation, groups, epilogue, math = options
    return GradientPair("dgrad", (h, width), stride, padding, dilation, groups, math, epilogue=epilogue)


products, convolutions = PairTable(PRODUCT, product), PairTable(CONVOLUTION, convolution)
gradients = PairTable(DGRAD, gradient)
Call = Callable[..., ProductPair | ConvolutionPair | GradientPair]
KINDS: dict[str, tuple[Any, PairTable, tuple[str, ...], Call]] = {
    "matmul_pair": (matmul_pair, products, PRODUCT, product),
    "conv2d_pair": (conv2d_pair, convolutions, CONVOLUTION, convolution),
    "conv2d_dgrad_pair": (conv2d_dgrad_pair, gradients, DGRAD, gradient),
}
"""Each operator with the table of its calls, its tensors' names, and what describes a call by its options."""


def _fake_pair(y: Tensor, epilogue: str, images: bool) -> Two:
    """The results, of which ``y`` is the first."""
    order = (NHWC if _last(y) else NCHW) if images else None
    shape, strides, dtype = second_spec(epilogue, y.shape, y.stride(), y.dtype, order)
    return y, torch.empty_strided(shape, strides, dtype=dtype, device=y.device)


def _last(y: Tensor) -> bool:
    from torch.fx.experimental.symbolic_shapes import guard_or_false  # slow to import, and only tracing needs it

    return layouts.channels_last(y, y, guard_or_false)


def _fake_matmul(a: Any, b: Any, *args: Any) -> Two:
    layout, _, _, epilogue, out_dtype, _ = args[6:]
    return _fake_pair(ops.fake_product(a, b, layout, out_dtype), epilogue, False)


def _fake_conv2d(x: Any, w: Any, *args: Any) -> Two:
    stride, padding, dilation, _, epilogue, out_dtype, _ = args[4:]
    return _fake_pair(ops.fake_convolution(x, w, stride, padding, dilation, out_dtype), epilogue, True)


def _fake_dgrad(dy: Any, w: Any, aux: Any, h: Any, width: Any, *args: Any) -> Two:
    *_, groups, epilogue, _ = args
    return _fake_pair(ops.fake_gradient("dgrad", dy, w, (h, width), groups), epilogue, True)


def by_torch(name: str, args: Sequence[Any]) -> Two:
    """A call by PyTorch's operators alone, which every transform knows."""
    _, _, names, call = KINDS[name]
    given = {n: t for n, t in zip(names, args) if t is not None}
    asked, lead = call(*args[len(names) :]), args[0]
    return asked.pair_by_torch(given, layouts.result_dtype(lead.dtype, asked.out_dtype), lead.is_cuda)


def in_steps(name: str, args: Sequence[Any]) -> Two:
    """A call by our operators with one result, which have gradients, and PyTorch's elementwise ones."""
    _, _, names, call = KINDS[name]
    given = {n: t for n, t in zip(names, args) if t is not None}
    asked = call(*args[len(names) :])
    return asked.in_steps(given, layouts.result_dtype(args[0].dtype, asked.out_dtype))


def traced(name: str, args: Sequence[Any]) -> Two:
    """A call without gradients in a graph: the operator, or its steps where no kernel of ours is to serve it on a GPU,
    so that the compiler fuses what is elementwise. Asked for the sizes that are traced."""
    op, _, names, call = KINDS[name]
    given = {n: t for n, t in zip(names, args) if t is not None}
    gpu = routes.gpu_of(args[0])
    if gpu is None or ours(call(*args[len(names) :]), given, gpu):
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)
    return in_steps(name, args)


def ours(call: ProductPair | ConvolutionPair | GradientPair, tensors: dict[str, Tensor], gpu: int) -> bool:
    """Whether our kernel is to serve such a call on that GPU; no where a size is not known yet."""
    with _disable_current_modes():
        try:
            like = {n: _sized(t) for n, t in tensors.items()}
        except ValueError:
            return False
        fitted, arrays = call.fitted(like)
        return isinstance(dispatch.server(fitted.workload(arrays), gpu, "torch"), TunedKernel)


def _sized(tensor: Tensor) -> Tensor:
    """A tensor of that kind without memory; ValueError where a size is a symbol of which nothing is known."""
    hints = [[n.node.hint if isinstance(n, torch.SymInt) else n for n in of] for of in (tensor.shape, tensor.stride())]
    if any(n is None for of in hints for n in of):
        raise ValueError("a size without a hint")
    return torch.empty_strided(*hints, dtype=tensor.dtype, device="meta")


def _register() -> None:
    fakes = {"matmul_pair": _fake_matmul, "conv2d_pair": _fake_conv2d, "conv2d_dgrad_pair": _fake_dgrad}
    for name, (_, table, names, _) in KINDS.items():

        def body(*args: Any, table: PairTable = table, count: int = len(names)) -> Any:
            return table.serve(args[:count], args[count:])

        for place in ("CPU", "CUDA"):
            ops.library.impl(name, body, place)
        torch.library.register_fake(f"gpu_tune::{name}", ops.in_one_place(name, fakes[name]), lib=ops.library)
    for kind in ("cpu", "cuda"):
        for name, names in (("matmul_pair", PRODUCT), ("conv2d_pair", CONVOLUTION)):
            ops.library.impl(name, ops.autocast(kind, KINDS[name][0], names), f"Autocast{kind.upper()}")


_register()
