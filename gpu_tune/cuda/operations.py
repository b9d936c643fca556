"""Operations of machine code by number: what they are called, and which pipe executes them.

An operation that is not listed has the name ``?`` and its number. The tests hold names and pipes to ``nvdisasm``.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

_NAMES = {
    0x002: "MOV", 0x003: "P2R", 0x004: "R2P", 0x005: "CS2R", 0x006: "VOTE", 0x007: "SEL", 0x008: "FSEL",
    0x009: "FMNMX", 0x00A: "FSET", 0x00B: "FSETP", 0x00C: "ISETP", 0x00F: "ISET", 0x010: "IADD3", 0x011: "LEA",
    0x012: "LOP3", 0x013: "IABS", 0x014: "BMSK", 0x016: "PRMT", 0x017: "IMNMX", 0x019: "SHF", 0x01A: "SGXT",
    0x01C: "PLOP3", 0x020: "FMUL", 0x021: "FADD", 0x022: "FSWZADD", 0x023: "FFMA", 0x024: "IMAD", 0x025: "IMAD.WIDE",
    0x026: "IDP", 0x027: "IMAD.HI", 0x028: "DMUL", 0x029: "DADD", 0x02A: "DSETP", 0x02B: "DFMA", 0x02F: "ELECT",
    0x030: "HADD2", 0x031: "HFMA2", 0x032: "HMUL2", 0x033: "HSET2", 0x034: "HSETP2", 0x035: "HFMA2.MMA",
    0x036: "VIADD", 0x037: "IMMA", 0x038: "BMMA", 0x03A: "DMMA", 0x03B: "LDSM", 0x03C: "HMMA", 0x03E: "F2FP",
    0x03F: "MOVM", 0x040: "HMNMX2", 0x044: "STSM", 0x045: "I2FP", 0x048: "VIMNMX", 0x049: "VIADDMNMX",
    0x07A: "QMMA", 0x07F: "OMMA", 0x100: "FLO", 0x101: "BREV", 0x102: "FCHK", 0x104: "F2F", 0x105: "F2I",
    0x106: "I2F", 0x107: "FRND", 0x108: "MUFU",
    0x109: "POPC", 0x110: "F2F", 0x111: "F2I", 0x112: "I2F", 0x118: "NOP",
    0x119: "S2R", 0x11A: "DEPBAR", 0x11C: "B2R", 0x11D: "BAR", 0x141: "BSYNC", 0x142: "BREAK", 0x143: "BRX",
    0x144: "CALL", 0x145: "BSSY", 0x146: "YIELD", 0x147: "BRA", 0x148: "WARPSYNC", 0x149: "JMP", 0x14D: "EXIT",
    0x150: "RET", 0x155: "BMOV", 0x156: "BMOV", 0x15D: "NANOSLEEP", 0x180: "LD", 0x181: "LDG", 0x182: "LDC",
    0x183: "LDL", 0x184: "LDS", 0x185: "ST", 0x186: "STG", 0x187: "STL", 0x188: "STS", 0x189: "SHFL", 0x18A: "ATOM",
    0x18B: "ATOM", 0x18C: "ATOMS", 0x18D: "ATOMS", 0x18E: "RED", 0x18F: "CCTL", 0x192: "MEMBAR", 0x1A7: "SYNCS",
    0x1A8: "ATOMG", 0x1A9: "ATOMG", 0x1AA: "REDG", 0x1AB: "ERRBAR", 0x1AC: "LDCU", 0x1AE: "LDGSTS",
    0x1AF: "LDGDEPBAR", 0x1B2: "SYNCS.EXCH", 0x1B4: "UTMALDG", 0x1B5: "UTMASTG", 0x1B6: "UTMAREDG",
    0x1B7: "UTMACMDFLUSH", 0x1B9: "UTMACCTL", 0x1BA: "UBLKCP", 0x1C3: "S2UR", 0x1C5: "WARPGROUP", 0x1C6: "FENCE",
    0x1C7: "UCGABAR", 0x1C8: "USETMAXREG", 0x1F0: "HGMMA", 0x1F1: "IGMMA", 0x1F3: "QGMMA",
}  # fmt: skip
_FROM_100 = {0x035: "IADD"}
"""Numbers that mean something else from compute capability 10.0 on."""

_PIPES = {
    "fma": "FMUL FADD FSWZADD FFMA",
    "imad": "IMAD IMAD.WIDE IMAD.HI IDP",
    "half": "HADD2 HFMA2 HMUL2 HFMA2.MMA HSET2 HSETP2 HMNMX2",
    "alu": "SEL FSEL FMNMX FSET FSETP ISETP ISET IADD3 IADD LEA LOP3 IABS BMSK PRMT IMNMX SHF SGXT PLOP3 VIADD VIMNMX "
    "VIADDMNMX MOV F2FP I2FP CS2R P2R R2P VOTE",
    "fp64": "DMUL DADD DSETP DFMA DMMA",
    "xu": "F2F F2I I2F FRND MUFU POPC FLO BREV FCHK MOVM",
    "mma": "HMMA IMMA BMMA QMMA OMMA",
    "gmma": "HGMMA IGMMA QGMMA",
    "memory": "LDG STG LDS STS LDSM STSM LDGSTS LDL STL LD ST ATOM ATOMS ATOMG RED REDG LDC SHFL",
    "tma": "UTMALDG UTMASTG UTMAREDG UBLKCP",
}
PIPES = ("none", *_PIPES, "uniform")
"""What executes an instruction; ``none``: it takes an issue slot and nothing else."""
_PIPE_OF = {name: pipe for pipe, names in _PIPES.items() for name in names.split()}
MATRIX = "HMMA IMMA QMMA HGMMA IGMMA QGMMA"


@functools.cache
def named(names: str, cc: int) -> NDArray[np.bool_]:
    """For each number, whether its operation is one of ``names``, which are separated by blanks."""
    wanted = frozenset(names.split())
    return np.array([name in wanted for name in operations(cc)])


def operation(number: int, cc: int) -> str:
    """The name of operation ``number`` (0-511) on a compute capability."""
    found = _FROM_100.get(number) if cc >= 100 else None
    unlisted = "U" if 0x80 <= number < 0xD0 else f"?{number:03x}"
    return found or _NAMES.get(number, unlisted)


@functools.cache
def operations(cc: int) -> list[str]:
    """The name of every number."""
    return [operation(number, cc) for number in range(512)]


@functools.cache
def pipes(cc: int) -> NDArray[np.int8]:
    """The index in PIPES of every operation."""
    names = operations(cc)
    return np.array([PIPES.index("uniform" if n == "U" else _PIPE_OF.get(n, "none")) for n in names], np.int8)
