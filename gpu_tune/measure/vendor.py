"""The vendor library through the caller's own array library: what the dispatchers fall back to.

PyTorch arrays use PyTorch (cuBLAS, cuBLASLt, cuDNN); CuPy arrays use cuBLAS through CuPy. What the caller's library
cannot do is told by :func:`can`, and the dispatchers then use our kernel, tuned or not.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import Unsupported
from ..reference import activation, derivative, factors, mask, packed, passes, summed_axes
from ..workload import Conv2d, Matmul, Workload
from ..workload.epilogue import DERIVATIVES, Op

_TORCH_ACTIVATIONS: dict[str, Callable[[Any, Op, Any], Any]] = {
    "relu": lambda functional, op, y: functional.relu(y),
    "silu": lambda functional, op, y: functional.silu(y),
    "gelu": lambda functional, op, y: functional.gelu(y),
    "gelu_tanh": lambda functional, op, y: functional.gelu(y, approximate="tanh"),
    "clamp": lambda functional, op, y: y.clamp(op.lo, op.hi),
}
_TORCH_DERIVATIVES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "drelu(out)": lambda aten, y, aux: aten.threshold_backward(y, aux, 0.0),
    "dgelu": lambda aten, y, aux: aten.gelu_backward(y, aux),
    "dgelu_tanh": lambda aten, y, aux: aten.gelu_backward(y, aux, approximate="tanh"),
    "dsilu": lambda aten, y, aux: aten.silu_backward(y, aux),
}
"""Gradients that PyTorch has: of what an activation gave, and what it was given (of a ReLU: what it gave)."""
_WIDE = ("float32", "float16", "bfloat16")


def can(workload: Workload, library: str) -> bool:
    """Whether ``library`` (``torch`` or ``cupy``) computes ``workload`` with its dtypes as they are."""
    plain = workload.dtype in _WIDE and workload.out_dtype == workload.dtype and workload.scales == "none"
    if library == "torch":
        return plain and sys.modules.get("torch") is not None
    simple = plain and workload.op == "matmul" and workload.dtype in ("float32", "float16")
    return simple and library == "cupy" and sys.modules.get("cupy") is not None


def run(workload: Workload, library: str, operands: Mapping[str, Any], scalars: Mapping[str, float], out: Any) -> Any:
    """The result, computed by the arrays' own ``library``; Unsupported when it cannot."""
    if not can(workload, library):
        raise Unsupported(f"{workload.key}: {library} arrays have no vendor library for this; use gpu_tune.load")
    xp: Any = sys.modules[library]
    if isinstance(workload, Matmul):
        y = _matmul(workload, xp, operands, scalars)
    else:
        y = _conv2d(workload, xp, operands)
        if workload.beta != "0":
            y = y + scalars.get("beta", 1.0) * operands["c"]
    y, saved = _epilogue(workload, xp, library, y, operands)
    returned = {"out": y, **saved}
    for name, into in {"out": out, **{name: operands.get(name) for name in saved}}.items():
        if into is not None:
            into[...] = returned[name]
            returned[name] = into
    return tuple(returned.values()) if saved else returned["out"]


def _matmul(workload: Matmul, xp: Any, operands: Mapping[str, Any], scalars: Mapping[str, float]) -> Any:
    y = xp.matmul(*factors(workload, operands))
    if "alpha" in scalars:
        y = y * scalars["alpha"]
    if workload.beta != "0":
        y = y + scalars.get("beta", 1.0) * operands["c"]
    return y


def _conv2d(workload: Conv2d, torch: Any, operands: Mapping[str, Any]) -> Any:
    from .baselines.torch import convolved  # much to load, and only this needs them
    from .baselines.torch_gradients import gradient

    if workload.direction != "fprop":
        cudnn, strict = torch.backends.cudnn, workload.deterministic
        fixed = dict(enabled=cudnn.enabled, benchmark=cudnn.benchmark, allow_tf32="tf32" in workload.math)
        with cudnn.flags(deterministic=strict or cudnn.deterministic, **fixed):
            y = gradient(torch, workload, operands)
        return y.permute(0, 2, 3, 1) if workload.layout == "nhwc" else y
    x, filters, padding = convolved(torch, workload, operands)
    # PyTorch's convolutions take TF32 for float32 data unless told otherwise; here it is a permission
    cudnn, conv2d = torch.backends.cudnn, torch.nn.functional.conv2d
    with cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, allow_tf32="tf32" in workload.math):
        y = conv2d(x, filters, None, workload.stride, padding, workload.dilation, workload.groups)
    return y.permute(0, 2, 3, 1) if workload.layout == "nhwc" else y


def _epilogue(
    workload: Workload, xp: Any, library: str, y: Any, operands: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The result, and by name what is saved beside it."""
    saved = {}
    for op in workload.ops:
        if op.name == "dbias":
            axes = summed_axes(workload, len(y.shape))
            wide = y.float() if library == "torch" else y.astype(xp.float32)
            total = wide.sum(axes)
            saved["dbias"] = total.to(y.dtype) if library == "torch" else total.astype(y.dtype)
            continue
        if op.saves:
            saved[op.writes] = packed_bits(workload, xp, library, passes(y)) if op.bits else y
        if op.name in ("scale", "bias", "row_bias"):
            channels_first = workload.op == "conv2d" and workload.layout == "nchw"
            shape = (-1, 1) if op.name == "row_bias" else (-1, 1, 1) if channels_first else (-1,)
            vector = operands[op.name].reshape(shape)
            vector = vector.astype(y.dtype) if library == "cupy" else vector.to(y.dtype)
            y = y * vector if op.name == "scale" else y + vector
        elif op.name == "residual":
            y = y + operands["residual"]
        elif op.name == "drelu":
            y = xp.where(bits(workload, xp, library, operands["aux"], y.shape), y, xp.zeros((), dtype=y.dtype))
        elif op.name in DERIVATIVES and library == "torch":
            y = _TORCH_DERIVATIVES[op.name](xp.ops.aten, y, operands["aux"])
        elif op.name in DERIVATIVES:
            slope = derivative(workload, op, operands["aux"].astype(xp.float32), xp)
            y = (xp.where(slope, y, 0) if op.name == "drelu(out)" else y * slope).astype(y.dtype)
        elif library == "cupy":
            y = activation(op, y.astype(xp.float32), xp).astype(y.dtype)
        else:
            y = _TORCH_ACTIVATIONS[op.name](xp.nn.functional, op, y)
    return y, saved


def packed_bits(workload: Workload, xp: Any, library: str, where: Any) -> Any:
    """Booleans in the shape of the result as a mask is saved, on their device."""
    if library == "cupy":
        return packed(workload, where, xp)
    return packed_tensor(xp, where.reshape(-1) if workload.op == "conv2d" else where)


def packed_tensor(torch: Any, where: Any) -> Any:
    """Booleans as bits of bytes; each row (the last dimension) is padded to 128 bits."""
    room = torch.nn.functional.pad(where.to(torch.uint8), (0, -where.shape[-1] % 128))
    room = room.unflatten(-1, (-1, 8)) << torch.arange(8, device=where.device, dtype=torch.uint8)
    return room.sum(-1, dtype=torch.uint8)


def bits(workload: Workload, xp: Any, library: str, packed: Any, shape: tuple[int, ...]) -> Any:
    """A saved mask as booleans in the shape of the result, on the arrays' device."""
    if library == "cupy":
        return mask(workload, packed, xp)
    if workload.op == "conv2d":
        return unpacked_tensor(xp, packed, math.prod(shape)).reshape(shape)
    return unpacked_tensor(xp, packed, shape[-1])


def unpacked_tensor(torch: Any, packed: Any, columns: int) -> Any:
    """What :func:`packed_tensor` packed, of rows of so many elements."""
    bits = (packed.unsqueeze(-1) >> torch.arange(8, device=packed.device, dtype=torch.uint8) & 1).bool()
    return bits.flatten(-2)[..., :columns]
