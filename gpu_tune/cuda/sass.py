"""The instruction mix of a kernel's hottest loop, read from the machine code in its cubin. Pure Python.

An instruction of compute capability 7.0 and newer takes 16 bytes; the low 9 bits of the first word name the operation
(the three above them only the kind of operands), and a relative branch backwards ends a loop. Both were checked
against ``nvdisasm`` (the tests do it again). Only what a prediction needs is told apart.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from dataclasses import dataclass

from ..errors import CorruptData

_OPERATIONS = {
    0x020: "fmul", 0x021: "fadd", 0x023: "ffma", 0x030: "hadd2", 0x031: "hfma2", 0x032: "hmul2", 0x024: "imad",
    0x025: "imad", 0x026: "idp", 0x03C: "mma", 0x037: "mma", 0x07A: "mma", 0x1F0: "wgmma", 0x1F1: "wgmma",
    0x1F3: "wgmma", 0x184: "lds", 0x188: "sts", 0x181: "ldg", 0x186: "stg", 0x1AE: "ldgsts", 0x03B: "ldsm",
    0x183: "local", 0x187: "local", 0x11D: "bar", 0x108: "mufu", 0x1B4: "tma", 0x1B5: "tma", 0x147: "bra",
}  # fmt: skip
_BYTES = (1, 1, 2, 2, 4, 8, 16, 16)
MATH = ("wgmma", "mma", "ffma", "hfma2", "idp", "imad", "fadd", "fmul")
"""Kinds that do a workload's arithmetic, the heaviest first."""


@dataclass(frozen=True)
class Mix:
    """One kernel's hottest loop (the whole code when it has no loop): instructions by kind, ``""`` for the rest.

    ``shared_bytes``, ``global_bytes``: bytes that one thread moves through shared memory and by plain global accesses
    in an iteration. ``loop``: whether one was found.
    ``code_bytes``: of the whole kernel.
    """

    counts: Counter[str]
    shared_bytes: int
    global_bytes: int
    loop: bool
    code_bytes: int

    @property
    def instructions(self) -> int:
        """Instructions of an iteration."""
        return sum(self.counts.values())

    @property
    def math(self) -> tuple[str, int]:
        """The kind that does the arithmetic, and how many of it; ("", 0) when there is none."""
        for kinds in (MATH[:1], MATH[1:2], MATH[2:5], MATH[5:]):  # IMAD also computes addresses: it comes last
            kind = max(kinds, key=lambda k: self.counts[k])
            if self.counts[kind]:
                return kind, self.counts[kind]
        return "", 0


@functools.lru_cache(maxsize=256)
def mixes(cubin: bytes) -> dict[str, Mix]:
    """The mix of every kernel in ``cubin``, by name; CorruptData when it is no cubin."""
    try:
        return {name: _mix(code, cc) for name, code, cc in _texts(cubin)}
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise CorruptData(f"cubin of {len(cubin)} bytes: {error} (damaged; compile it again)") from error


def operations(code: bytes) -> list[str]:
    """The kind of every instruction in ``code``, in order (``""``: none of those told apart)."""
    return [_OPERATIONS.get(word & 0x1FF, "") for word, _ in struct.iter_unpack("<QQ", code)]


def loops(code: bytes, cc: int) -> list[tuple[int, int]]:
    """(first, last) instruction index of every loop: the target and the place of each branch backwards."""
    found = []
    for at, (word, _) in enumerate(struct.iter_unpack("<QQ", code)):
        if word & 0x1FF != 0x147:
            continue
        signed = word - (1 << 64) if word >> 63 else word
        offset = 4 * ((signed >> 34 << 8) | (word >> 16 & 0xFF)) if cc >= 90 else signed >> 32
        target = at + 1 + offset // 16
        if 0 <= target < at:
            found.append((target, at))
    return found


def _mix(code: bytes, cc: int) -> Mix:
    kinds = operations(code)
    widths = [_BYTES[high >> 9 & 7] for _, high in struct.iter_unpack("<QQ", code)]
    ranges = loops(code, cc)
    inner = [r for r in ranges if not any(o != r and r[0] <= o[0] and o[1] <= r[1] for o in ranges)]

    def work(span: tuple[int, int]) -> tuple[int, int]:
        body = Counter(kinds[span[0] : span[1] + 1])
        return 64 * body["wgmma"] + 16 * body["mma"] + body["ffma"] + body["hfma2"] + body["idp"], span[0]

    first, last = max(inner, key=work) if inner else (0, len(kinds) - 1)
    body = list(zip(kinds[first : last + 1], widths[first : last + 1]))
    shared = sum(16 if k == "ldsm" else w for k, w in body if k in ("lds", "sts", "ldsm"))
    plain = sum(w for k, w in body if k in ("ldg", "stg"))
    return Mix(Counter(kinds[first : last + 1]), shared, plain, bool(inner), len(code))


def _texts(cubin: bytes) -> list[tuple[str, bytes, int]]:
    if cubin[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not an ELF64 file")
    (flags,) = struct.unpack_from("<I", cubin, 48)
    cc = (flags >> 8 if cubin[8] >= 8 else flags) & 0xFF
    (table,) = struct.unpack_from("<Q", cubin, 40)
    _, count, names = struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + 64 * i) for i in range(count)]
    strings = cubin[sections[names][4] : sections[names][4] + sections[names][5]]
    found = []
    for name, _, _, _, offset, size in sections:
        text = strings[name : strings.index(b"\0", name)].decode()
        if text.startswith(".text."):
            found.append((text[6:], cubin[offset : offset + size - size % 16], cc))
    return found
