"""What the dispatchers compute on the CPU: the reference, in float64, cast once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import require
from ..reference import results
from ..workload import Workload
from . import arrays
from .arguments import check_apart


def compute(
    workload: Workload, operands: Mapping[str, Any], scalars: Mapping[str, float], out: Any, like: arrays.ArrayView
) -> Any:
    """The result in ``out``, or in a new array of the library that ``like`` is of; float8 and integers saturate.

    Of several results a tuple; second ones are written into ``operands`` of their name, where there are such.
    """
    host = {n: arrays.on_host(n, v) for n, v in operands.items() if n not in workload.outputs}
    given, specs, returned = {**operands, "out": out}, workload.arrays(), []
    written = {n: arrays.on_host(n, given[n]) for n in workload.outputs if given.get(n) is not None}
    check_apart([n for n in written if n != "out"], {**host, **written})
    for name, result in results(workload, host, scalars).items():
        into = given.get(name)
        returned.append(arrays.from_host(np.ascontiguousarray(result), like) if into is None else into)
        if into is not None:
            arrays.check(name, arrays.view(name, into), specs[name], 1, compiled=False)
            target = arrays.on_host(name, into)
            require(target.flags.writeable, name, ..., "cannot be written", "pass a writable array, or leave it out")
            target[...] = result
    return returned[0] if len(returned) == 1 else tuple(returned)
