"""The PTX line of each instruction of a cubin, read in C++: what :func:`gpu_tune.cuda.lines.ptx_lines` says, faster.

Nobody needs the lines without the emulator, whose library holds the C++, so there is no other way than this one; the
reader in ``cuda`` is its twin (a test compares them) and says what is wrong with a malformed table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...cuda import lines
from ...cuda.lines import LineProgram
from ...emulator import build


def ptx_lines(cubin: bytes) -> dict[str, NDArray[np.int32]]:
    """By kernel: for each instruction the line of its PTX instruction, 0 where none is known; empty without a table.

    CorruptData where the cubin is none or its table is malformed.
    """
    texts, programs = lines.ptx_tables(cubin)
    found: dict[str, NDArray[np.int32]] = {}
    for program in programs:
        rows = _rows(program)
        if rows is not None:
            changes = np.flatnonzero(rows[1:, 0] != rows[:-1, 0]) + 1
            sections = list(dict.fromkeys(rows[[0, *changes.tolist()] if len(rows) else [], 0].tolist()))
        if rows is None or any(s >= len(texts) or not texts[s][0] for s in sections):
            return {name: np.array(of, np.int32) for name, of in lines.ptx_lines(cubin).items()}
        parts: dict[str, list[NDArray[np.int32]]] = {}
        for section in sections:
            name, count = texts[section]
            parts.setdefault(name, []).append(_filled(rows[rows[:, 0] == section], count))
        found |= {name: np.concatenate(of) for name, of in parts.items()}
    return found


def _rows(program: LineProgram) -> NDArray[np.int32] | None:
    """Section, instruction and line of every row of a table; None where it is malformed."""
    at, end = program.at, program.end
    header = np.array([program.step, program.line_base, program.line_range, program.opcode_base], np.int64)
    targets = np.array([(at, *to) for at, to in sorted(program.targets.items())], np.int64).reshape(-1, 3)
    rows = np.empty((max(0, end - at), 3), np.int32)
    count = build.library().perf_line_table(
        program.body, at, end, header.ctypes.data, bytes(program.operands), targets.ctypes.data, len(targets),
        rows.ctypes.data,
    )  # fmt: skip
    return rows[:count] if count >= 0 else None


def _filled(rows: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """The line of each of ``count`` instructions: that of the last row at or below it, 0 before the first."""
    rows = rows[rows[:, 1] < count]
    if not len(rows):
        return np.zeros(count, np.int32)
    last = np.full(count, -1)
    last[rows[:, 1]] = np.arange(len(rows))  # of rows of one instruction the last counts
    known = last >= 0
    place = np.maximum.accumulate(np.where(known, np.arange(count), -1))
    return np.where(place >= 0, rows[last[place], 2], 0).astype(np.int32)
