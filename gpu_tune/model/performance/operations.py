"""What machine operations are, as one table that the C++ of the model reads: ``Operations`` of code.hpp."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cuda.operations import MATRIX, PIPES, operation, pipes
from ...cuda.sass import arithmetic, widths
from ...emulator.lanes import KINDS
from .trace import LANE_WORK

_FLAGS = {
    "EXIT RET": 1, "ATOMG ATOM": 2, "LDGSTS LDG": 4, "UTMALDG UBLKCP": 8, "LDGSTS": 16,
    "LDG LD STG ST ATOM ATOMG RED REDG": 32, MATRIX: 64,
}  # fmt: skip
"""What code.hpp calls ENDS, COUNTS, FETCHES, BULK, COPIES, GLOBAL and MATRIX."""
_ACCESSES = {
    "LDS": "load", "STS": "store", "LDSM": "ldmatrix", "STSM": "stmatrix", "LDG": "load", "STG": "store",
    "LDGSTS": "copy", "LD": "load", "ST": "store", "ATOM": "atomic", "ATOMS": "atomic", "ATOMG": "atomic",
    "RED": "atomic", "REDG": "atomic",
}  # fmt: skip
"""For each operation of the machine code, the kind of PTX instruction that becomes it."""
_LAYOUT = np.dtype(
    [("ints", np.int32, (512, 8)), ("reals", float, (512, 5)), ("scalars", float, 14), ("widths", np.int16, 512 * 16),
     ("cc", np.int32)], align=True,
)  # fmt: skip


def address(array: NDArray[Any]) -> int:
    """Of its first element; takes half the time of ``array.ctypes.data``."""
    found: int = array.__array_interface__["data"][0]
    return found


@functools.cache
def table_address(cc: int) -> int:
    """Of :func:`table`, which lives as long as the process."""
    return address(table(cc))


@functools.cache
def table(cc: int) -> NDArray[Any]:
    """One record: for each number of an operation, what it is on ``cc``. Costs are left at 0."""
    found = np.zeros(1, _LAYOUT)
    ints, reals = found["ints"][0], found["reals"][0]
    names, pipe = np.array([operation(number, cc) for number in range(512)]), pipes(cc)
    ints[:, 0] = (pipe == PIPES.index("mma")) + 2 * (pipe == PIPES.index("gmma"))
    ints[:, 5] = sum(flag * np.isin(names, wanted.split()) for wanted, flag in _FLAGS.items())
    ints[:, 6] = arithmetic(cc)
    ints[:, 7] = [KINDS.index(_ACCESSES[name]) if name in _ACCESSES else -1 for name in names.tolist()]
    for wanted, work in LANE_WORK.items():
        reals[np.isin(names, wanted.split()), 4] = work
    found["widths"][0], found["cc"][0] = widths(cc), cc
    return found
