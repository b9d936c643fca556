"""The PTX line of each instruction of a cubin, read in C++: what :func:`gpu_tune.cuda.lines.ptx_lines` says, faster.

Nobody needs the lines without the emulator, whose library holds the C++, so there is no other way than this one; the
reader in ``cuda`` is its twin (a test compares them) and says what is wrong with a malformed table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...cuda import lines
from ...emulator import build
from .operations import address


def ptx_lines(cubin: bytes) -> dict[str, NDArray[np.int32]]:
    """By kernel: for each instruction the line of its PTX instruction, 0 where none is known; empty without a table.

    CorruptData where the cubin is none or its table is malformed.
    """
    names, sizes, table = lines.ptx_table(cubin)
    if table is None:
        return {}
    counts = np.array(sizes, np.int64)
    ends = np.maximum(counts, 0).cumsum()
    starts, found, known = ends - np.maximum(counts, 0), np.empty(int(ends[-1]), np.int32), bytearray(len(names))
    known_at = np.frombuffer(known, np.uint8)
    read, wrong = build.library().perf_ptx_lines, 0
    for body in table.bodies:
        wrong |= read(
            body, len(body), table.relocations, len(table.relocations), table.entry, table.symbols, len(table.symbols),
            address(counts), address(starts), len(names), address(found), address(known_at),
        )  # fmt: skip
    of = {names[k]: found[starts[k] : ends[k]] for k, is_known in enumerate(known) if is_known}
    if wrong or len(of) != sum(known):
        return {name: np.array(line, np.int32) for name, line in lines.ptx_lines(cubin).items()}
    return of
