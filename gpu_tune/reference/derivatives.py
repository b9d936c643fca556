"""Derivatives of activations, as the epilogue's backward operations take them from what the forward pass saved, and the
bits of ReLUs as it saves them."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from ..workload import Workload
from ..workload.epilogue import Op


def derivative(workload: Workload, op: Op, aux: Any, xp: Any = np) -> Any:
    """What ``op`` multiplies by, in the shape of ``out``; of ReLUs True where the gradient passes.

    ``aux`` is the call's array: floating-point of NumPy or CuPy (``xp``), or the bytes of a mask. A ReLU passes where
    its result is not <= 0, NaN included, as PyTorch's does. GELU is x times the normal distribution function.
    """
    if op.name == "drelu":
        return mask(workload, aux, xp)
    if op.name == "drelu(out)":
        return passes(aux)
    if op.name == "dsilu":
        s = logistic(aux, xp)
        return s * (1.0 + aux * (1.0 - s))
    if op.name == "dgelu_tanh":
        slope = 2.0 * math.sqrt(2.0 / math.pi)  # (1 + tanh(u)) / 2 = logistic(2 u)
        s = logistic(slope * (aux + 0.044715 * aux**3), xp)
        return s + aux * s * (1.0 - s) * slope * (1.0 + 3 * 0.044715 * aux**2)
    special = importlib.import_module("cupyx.scipy.special" if xp.__name__ == "cupy" else "scipy.special")
    density = xp.exp(-0.5 * aux**2) / math.sqrt(2.0 * math.pi)
    return 0.5 * (1.0 + special.erf(aux / math.sqrt(2.0))) + aux * density


def logistic(x: Any, xp: Any = np) -> Any:
    """1 / (1 + exp(-x)) without overflow."""
    small = xp.exp(-abs(x))
    return xp.where(x < 0, small, 1.0) / (1.0 + small)


def laid(workload: Workload, where: Any, xp: Any = np) -> Any:
    """``where`` (booleans in the shape of ``out``, or of some of a matmul's rows) as the bits of a mask lie, unpacked:
    rows of a matmul, and a convolution as a whole, up to a multiple of 128; False beyond."""
    where = where.reshape(-1) if workload.op == "conv2d" else where
    room = xp.zeros((*where.shape[:-1], -(-where.shape[-1] // 128) * 128), bool)
    room[..., : where.shape[-1]] = where
    return room


def packed(workload: Workload, where: Any, xp: Any = np) -> Any:
    """``where`` (see :func:`laid`) as the bytes of a mask: what ``relu(aux)`` saves."""
    room = laid(workload, where, xp)
    return xp.packbits(room.reshape(-1), bitorder="little").reshape(*room.shape[:-1], -1)


def passes(given: Any) -> Any:
    """Where a ReLU that is ``given`` this lets a gradient pass: not <= 0, NaN included."""
    return ~(given <= 0)


def mask(workload: Workload, packed: Any, xp: Any = np) -> Any:
    """The bits ``packed`` (an array of the workload's ``aux``) as booleans in the shape of ``out``."""
    shape = workload.arrays()["out"].shape
    bits = xp.unpackbits(packed.reshape(-1), bitorder="little").astype(bool)
    if workload.op == "conv2d":
        return bits[: math.prod(shape)].reshape(shape)
    return bits.reshape(*packed.shape[:-1], -1)[..., : shape[-1]]


def observed(array: np.ndarray) -> np.ndarray:
    """What is compared of a result: the elements, of a mask its bits (0 and 1, the first dimensions as they are)."""
    return np.unpackbits(array, axis=-1, bitorder="little") if array.dtype == np.uint8 else array
