"""Example inputs of a call."""

from __future__ import annotations

import math

import numpy as np

from ..errors import InvalidInput
from ..workload import ArraySpec, Workload
from .dtypes import NUMPY
from .exact import reduction_length


def allocate(spec: ArraySpec, fill: float = 0) -> np.ndarray:
    """An array of ``spec``'s shape, dtype and strides, all ``fill``; its memory ends with its last element."""
    dtype = NUMPY[spec.dtype]
    flat = np.full(spec.span, fill, dtype)
    return np.ndarray(spec.shape, dtype, flat, 0, tuple(s * dtype.itemsize for s in spec.element_strides))


def example_inputs(workload: Workload, seed: int = 0, kind: str = "normal") -> dict[str, np.ndarray]:
    """Every input array of a call by buffer name (``out`` is not among them), gaps between rows poisoned.

    ``normal``: standard normal (int8: uniform -127..127; scales uniform 0.5..1.5, for int8 sized so that an int8 result
    neither vanishes nor saturates). ``integer``: integers -2..2 and
    powers of two as scales, so that results are exact whatever the order of summation.
    """
    if kind not in ("normal", "integer"):
        raise InvalidInput("example inputs", kind, "is not 'normal' or 'integer'")
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, spec in workload.arrays().items():
        if name == "out":
            continue
        if kind == "integer":
            scaling = name in ("scale", "scale_a", "scale_b")
            values = rng.choice([0.5, 1.0, 2.0], spec.shape) if scaling else rng.integers(-2, 3, spec.shape)
        elif name in ("scale", "scale_a", "scale_b"):
            values = rng.uniform(0.5, 1.5, spec.shape) * (1.0 if name == "scale" else _typical_scale(workload))
        elif spec.dtype in ("int8", "int32"):
            values = rng.integers(-127, 128, spec.shape)
        else:
            values = rng.standard_normal(spec.shape, dtype=np.float32)
        arrays[name] = allocate(spec, 77 if spec.dtype in ("int8", "int32") else np.nan)
        arrays[name][...] = values.astype(NUMPY[spec.dtype])
    return arrays


def example_scalars(workload: Workload, kind: str = "normal") -> dict[str, float]:
    """Run-time scalars of a call: values that change the result, exact for ``integer``."""
    values = {"alpha": 2.0, "beta": -1.0} if kind == "integer" else {"alpha": 0.75, "beta": -1.25}
    return {name: values[name] for name in workload.scalars()}


def _typical_scale(workload: Workload) -> float:
    deviation = 127.0**2 / 3 * math.sqrt(reduction_length(workload))  # of a sum of products of uniform int8
    return math.sqrt(50.0 / deviation) if workload.dtype == "int8" else 1.0
