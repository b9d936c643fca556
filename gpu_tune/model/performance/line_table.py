"""The PTX line of each instruction of a kernel, read in C++: what :func:`gpu_tune.cuda.lines.ptx_lines` says, faster.

Nobody needs the lines without the emulator, whose library holds the C++, so there is no other way than this one; the
reader in ``cuda`` is its twin (a test compares them) and says what is wrong with a malformed table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...cuda import lines
from ...emulator import build
from .operations import address


def ptx_lines(cubin: bytes, kernel: str, count: int) -> NDArray[np.int32] | None:
    """For each of the ``count`` instructions of ``kernel`` the line of its PTX instruction, 0 where none is known; None
    without a table of the kernel.

    CorruptData where the cubin is none or its table is malformed.
    """
    found = np.empty(count, np.int32)
    known = build.library().perf_ptx_lines(cubin, len(cubin), kernel.encode(), count, address(found))
    if known < 0:
        other = lines.ptx_lines(cubin).get(kernel)
        return None if other is None else np.array(other, np.int32)
    return None if known else found
