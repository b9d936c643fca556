"""The vendor library through the caller's own array library: what the dispatchers fall back to.

PyTorch arrays use PyTorch (cuBLAS, cuBLASLt, cuDNN); CuPy arrays use cuBLAS through CuPy. What the caller's library
cannot do is told by :func:`can`, and the dispatchers then use our kernel, tuned or not.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..errors import Unsupported
from ..workload import Conv2d, Matmul, Workload
from .arrays import Seen

_WIDE = ("float32", "float16", "bfloat16")


def can(workload: Workload, library: str) -> bool:
    """Whether ``library`` (``torch`` or ``cupy``) computes ``workload`` with its dtypes as they are."""
    plain = workload.dtype in _WIDE and workload.out_dtype == workload.dtype and workload.scales == "none"
    if library == "torch":
        return plain and sys.modules.get("torch") is not None
    simple = plain and workload.op == "matmul" and workload.dtype in ("float32", "float16")
    return simple and library == "cupy" and sys.modules.get("cupy") is not None


def run(workload: Workload, first: Seen, operands: Mapping[str, Any], scalars: Mapping[str, float], out: Any) -> Any:
    """The result, computed by the library that ``first`` came from; Unsupported when it cannot."""
    if not can(workload, first.library):
        raise Unsupported(f"{workload.key}: {first.library} arrays have no vendor library for this; use gpu_tune.load")
    xp: Any = sys.modules[first.library]
    if isinstance(workload, Matmul):
        y = _matmul(workload, xp, operands, scalars)
    else:
        y = _conv2d(workload, xp, operands)
    y = _epilogue(workload, xp, first.library, y, operands)
    if out is None:
        return y
    out[...] = y
    return out


def _matmul(workload: Matmul, xp: Any, operands: Mapping[str, Any], scalars: Mapping[str, float]) -> Any:
    a = operands["a"] if workload.layout[0] == "n" else operands["a"].swapaxes(-1, -2)
    b = operands["b"] if workload.layout[1] == "n" else operands["b"].swapaxes(-1, -2)
    y = xp.matmul(a, b)
    if "alpha" in scalars:
        y = y * scalars["alpha"]
    if workload.beta != "0":
        y = y + scalars.get("beta", 1.0) * operands["c"]
    return y


def _conv2d(workload: Conv2d, torch: Any, operands: Mapping[str, Any]) -> Any:
    x, w = operands["x"], operands["w"]
    channels_last = workload.layout == "nhwc"
    if channels_last:  # the same memory, described as PyTorch does
        x, w = x.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2)
    functional, (top, bottom, left, right) = torch.nn.functional, workload.padding
    if (top, left) == (bottom, right):
        padding: Any = (top, left)
    else:
        x, padding = functional.pad(x, (left, right, top, bottom)), 0
    # PyTorch's convolutions take TF32 for float32 data unless told otherwise; here it is a permission
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, allow_tf32="tf32" in workload.math):
        y = functional.conv2d(x, w, None, workload.stride, padding, workload.dilation, workload.groups)
    return y.permute(0, 2, 3, 1) if channels_last else y


def _epilogue(workload: Workload, xp: Any, library: str, y: Any, operands: Mapping[str, Any]) -> Any:
    for op in workload.ops:
        if op.name in ("scale", "bias", "row_bias"):
            vector = operands[op.name]
            channels_first = workload.op == "conv2d" and workload.layout == "nchw"
            shape = (-1, 1) if op.name == "row_bias" else (-1, 1, 1) if channels_first else (-1,)
            vector = vector.reshape(shape).astype(y.dtype) if library == "cupy" else vector.reshape(shape).to(y.dtype)
            y = y * vector if op.name == "scale" else y + vector
        elif op.name == "residual":
            y = y + operands["residual"]
        else:
            y = _activation(op, xp, library, y)
    return y


def _activation(op: Any, xp: Any, library: str, y: Any) -> Any:
    if library == "torch":
        functional = xp.nn.functional
        return {
            "relu": functional.relu,
            "silu": functional.silu,
            "gelu": functional.gelu,
            "gelu_tanh": lambda v: functional.gelu(v, approximate="tanh"),
            "clamp": lambda v: v.clamp(op.lo, op.hi),
        }[op.name](y)
    if op.name == "relu":
        return xp.maximum(y, 0)
    if op.name == "clamp":
        return xp.clip(y, op.lo, op.hi)
    wide = y.astype(xp.float32)
    if op.name == "silu":
        return (wide / (1 + xp.exp(-wide))).astype(y.dtype)
    if op.name == "gelu_tanh":
        return (0.5 * wide * (1 + xp.tanh(0.7978845608028654 * (wide + 0.044715 * wide**3)))).astype(y.dtype)
    import importlib

    erf = importlib.import_module("cupyx.scipy.special").erf
    return (0.5 * wide * (1 + erf(wide * 0.7071067811865476))).astype(y.dtype)
