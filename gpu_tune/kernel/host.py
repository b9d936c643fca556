"""What the dispatchers compute on the CPU: the reference, in float64, cast once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import require
from ..reference import cast, reference
from ..workload import Workload
from . import arrays


def compute(
    workload: Workload, operands: Mapping[str, Any], scalars: Mapping[str, float], out: Any, like: arrays.ArrayView
) -> Any:
    """The result in ``out``, or in a new array of the library that ``like`` is of; float8 and integers saturate."""
    host = {n: arrays.on_host(n, v) for n, v in operands.items()}
    result = cast(reference(workload, host, scalars), workload.out_dtype)
    if out is None:
        return arrays.from_host(np.ascontiguousarray(result), like)
    arrays.check("out", arrays.view("out", out), workload.arrays()["out"], 1, compiled=False)
    target = arrays.on_host("out", out)
    require(target.flags.writeable, "out", None, "cannot be written", "pass a writable array, or leave it out")
    target[...] = result
    return out
