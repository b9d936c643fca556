"""Data types in NumPy, the cast to them as kernels do it, and how exactly a kernel computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

NUMPY: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "int32": np.dtype(np.int32),
    "float8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
"""NumPy dtype of each dtype name."""
EPS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "int32": 2.0**-24}
"""Unit roundoff of each compute type (int32 sums are exact; their float32 epilogue is not)."""
_FP8_MAX = {"float8_e4m3": 448.0, "float8_e5m2": 57344.0}


def cast(values: np.ndarray, out_dtype: str) -> np.ndarray:
    """float64 to ``out_dtype`` as the kernels do it: round to nearest even; int8, int32 and float8 saturate."""
    if out_dtype in ("int8", "int32"):
        info = np.iinfo(out_dtype)
        return np.clip(np.rint(np.nan_to_num(values, nan=0.0)), info.min, info.max).astype(NUMPY[out_dtype])
    if out_dtype in _FP8_MAX:
        values = np.clip(values, -_FP8_MAX[out_dtype], _FP8_MAX[out_dtype])
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(NUMPY[out_dtype])


@dataclass(frozen=True)
class Numerics:
    """How far a result may be from the float64 reference.

    ``|sum - reference| <= (k_eps * sqrt(K) * eps(compute) + input_eps) * |A|.|B|`` (element-wise), then through the
    epilogue: see ``gpu_tune.reference.compare``. ``input_eps``: relative error of one product where inputs are rounded
    (tf32: 2**-10). ``winograd``: output tile of a Winograd algorithm; the 2-norm of
    its transformed products then stands for ``|A|.|B|``. ``exact_integers``: small-integer
    inputs give exact results. ``propagates_nonfinite``: inf and nan come out where IEEE arithmetic puts them.
    """

    compute: str = "float32"
    k_eps: float = 4.0
    input_eps: float = 0.0
    winograd: int = 0
    exact_integers: bool = True
    propagates_nonfinite: bool = True
