"""The PTX line of each instruction of a cubin, read in C++: what :func:`gpu_tune.cuda.lines.ptx_lines` says, faster.

Nobody needs the lines without the emulator, whose library holds the C++, so there is no other way than this one; the
reader in ``cuda`` is its twin (a test compares them) and says what is wrong with a malformed table.
"""

from __future__ import annotations

import itertools

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
    ends = list(itertools.accumulate(max(0, size) for size in sizes))
    starts = [0, *ends[:-1]]
    where, found = np.array((sizes, starts), np.int64), np.empty(ends[-1], np.int32)
    known = np.zeros(len(names), np.uint8)
    read, wrong = build.library().perf_ptx_lines, 0
    for body in table.bodies:
        wrong |= read(
            body, len(body), table.relocations, len(table.relocations), table.entry, table.symbols, len(table.symbols),
            address(where), address(where) + where.strides[0], len(names), address(found), address(known),
        )  # fmt: skip
    sections = known.nonzero()[0].tolist()
    of = {names[k]: found[starts[k] : ends[k]] for k in sections}
    if wrong or len(of) != len(sections):
        return {name: np.array(line, np.int32) for name, line in lines.ptx_lines(cubin).items()}
    return of
