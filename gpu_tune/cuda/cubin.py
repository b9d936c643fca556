"""What a compiled kernel takes, read out of its cubin in pure Python: no driver, no CUDA tool.

A cubin is an ELF64 file. Facts of a kernel ``K`` lie in ``.nv.info`` (records of all kernels, by symbol),
``.nv.info.K``, ``.text.K`` and ``.nv.shared.K``. A record is ``(format u8, attribute u8, u16)``; with format 4 the u16
is the length of a payload that follows, otherwise it is the value. The attribute numbers are those that NVIDIA's
``cuobjdump -elf`` prints; the tests compare every field with ``cuobjdump``. The bytes may be damaged or hostile: every
offset is checked, nothing is evaluated, and what does not add up is :class:`~gpu_tune.errors.CorruptData`.

Spilled bytes are not in a cubin; ptxas's log has them (:mod:`gpu_tune.cuda.ptxas`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import CorruptData

MACHINE_CUDA = 190
RESERVED_SHARED = 1024
"""Bytes at the start of shared memory that the system keeps from compute capability 9.0 on; ELF sizes include them."""

_MAX_THREADS, _REGCOUNT, _FRAME_SIZE, _MIN_STACK, _KPARAM, _PARAM_BYTES = 0x05, 0x2F, 0x11, 0x12, 0x17, 0x19
_NUM_MBARRIERS, _NUM_BARRIERS, _REG_RECONFIG, _REQNTID = 0x38, 0x4C, 0x54, 0x10
_MAX_SECTIONS, _MAX_NAME = 65536, 65536


@dataclass(frozen=True)
class Param:
    """One kernel parameter: ``offset`` in the parameter block and ``size``, bytes (a tensor map has 128)."""

    index: int
    offset: int
    size: int


@dataclass(frozen=True)
class KernelFacts:
    """What one kernel takes; bytes throughout.

    ``registers`` per thread. ``stack_bytes``: the frame of the kernel (above 0 means a local array or spills).
    ``static_shared_bytes``: what the kernel declares, the system's reserve left out. ``max_threads``: from
    ``__launch_bounds__`` (0: none given). ``barriers``: named barriers used (16 when the number is not a constant).
    ``mbarriers``: as ptxas counts them. ``param_bytes`` and ``params``: the parameter block. ``setmaxnreg``: whether
    the kernel moves registers between its warps. ``code_bytes``: machine code.
    """

    name: str
    registers: int = 0
    stack_bytes: int = 0
    static_shared_bytes: int = 0
    max_threads: int = 0
    barriers: int = 0
    mbarriers: int = 0
    param_bytes: int = 0
    params: tuple[Param, ...] = ()
    setmaxnreg: bool = False
    code_bytes: int = 0


@dataclass(frozen=True)
class Cubin:
    """``cc``: the compute capability as one number (80, 90, 120). ``kernels`` by name, in the file's order."""

    cc: int
    kernels: dict[str, KernelFacts] = field(default_factory=dict)


def read(data: bytes) -> Cubin:
    """The facts of every kernel in the cubin ``data``; CorruptData when it is no cubin or does not add up."""
    try:
        return _read(_Elf(data))
    except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise CorruptData(f"cubin of {len(data)} bytes: {error} (damaged; compile it again)") from error


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    offset: int
    size: int
    link: int


class _Elf:
    """Sections and symbols of an ELF64 file; every read is bounds-checked (ValueError)."""

    def __init__(self, data: bytes) -> None:
        self.data = bytes(data)
        if len(self.data) < 64 or self.data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a little-endian ELF64 file")
        (machine,) = struct.unpack_from("<H", self.data, 18)
        if machine != MACHINE_CUDA:
            raise ValueError(f"ELF machine {machine} is not CUDA ({MACHINE_CUDA})")
        self.abi = self.data[8]
        (self.flags,) = struct.unpack_from("<I", self.data, 48)
        (table,) = struct.unpack_from("<Q", self.data, 40)
        entry, count, names = struct.unpack_from("<HHH", self.data, 58)
        if entry != 64 or not 0 < count <= _MAX_SECTIONS or names >= count:
            raise ValueError(f"section table is malformed ({count} entries of {entry} bytes)")
        raw = [struct.unpack("<IIQQQQIIQQ", self.slice(table + i * 64, 64)) for i in range(count)]
        strings = self.slice(raw[names][4], raw[names][5])
        # SHT_NOBITS (8) takes no bytes in the file: its size is a number, not a range
        self.sections = [_Section(_string(strings, s[0]), s[1], s[4], s[5], s[6]) for s in raw]

    def slice(self, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise ValueError(f"bytes {offset}..{offset + size} lie outside the file")
        return self.data[offset : offset + size]

    def bytes_of(self, section: _Section) -> bytes:
        return b"" if section.kind == 8 else self.slice(section.offset, section.size)

    def symbols(self) -> list[str]:
        for section in self.sections:
            if section.kind == 2:
                body = self.bytes_of(section)
                if section.link >= len(self.sections) or len(body) % 24:
                    raise ValueError("symbol table is malformed")
                strings = self.bytes_of(self.sections[section.link])
                return [_string(strings, struct.unpack_from("<I", body, at)[0]) for at in range(0, len(body), 24)]
        return []


def _read(elf: _Elf) -> Cubin:
    cc = (elf.flags >> 8 if elf.abi >= 8 else elf.flags) & 0xFF
    kernels: dict[str, dict[str, object]] = {}
    for section in elf.sections:
        if section.name.startswith(".text."):
            kernels[section.name[6:]] = {"code_bytes": section.size}
    for section in elf.sections:
        prefix, _, name = section.name.partition(".nv.info.")
        if section.name.startswith(".nv.shared.") and section.name[11:] in kernels:
            # the ELF size includes the reserve on 9.0 and newer; sh_info of .text no longer holds the registers there
            size = max(0, section.size - RESERVED_SHARED) if cc >= 90 else section.size
            kernels[section.name[11:]]["static_shared_bytes"] = size
        elif not prefix and name in kernels:
            kernels[name].update(_own_facts(elf.bytes_of(section)))
        elif section.name == ".nv.info":
            for attribute, symbol, value in _shared_facts(elf, section):
                if symbol in kernels and attribute in (_REGCOUNT, _FRAME_SIZE):
                    kernels[symbol]["registers" if attribute == _REGCOUNT else "stack_bytes"] = value
    # device functions have .text sections too; only a kernel has records of its own
    infos = {s.name[9:] for s in elf.sections if s.name.startswith(".nv.info.")}
    return Cubin(cc, {n: KernelFacts(n, **facts) for n, facts in kernels.items() if n in infos})  # type: ignore[arg-type]


def _own_facts(body: bytes) -> dict[str, object]:
    facts: dict[str, object] = {}
    params: list[Param] = []
    for attribute, value, payload in _records(body):
        if attribute in (_MAX_THREADS, _REQNTID) and len(payload) == 12:
            x, y, z = struct.unpack("<III", payload)
            facts["max_threads"] = x * y * z
        elif attribute == _KPARAM and len(payload) == 12:
            _, index, offset, flags = struct.unpack("<IHHI", payload)
            params.append(Param(index, offset, flags >> 18))
        elif attribute == _PARAM_BYTES:
            facts["param_bytes"] = value
        elif attribute == _NUM_BARRIERS:
            facts["barriers"] = value & 0xFF
        elif attribute == _NUM_MBARRIERS:
            facts["mbarriers"] = value
        elif attribute == _REG_RECONFIG:
            facts["setmaxnreg"] = True
    facts["params"] = tuple(sorted(params, key=lambda p: p.index))
    return facts


def _shared_facts(elf: _Elf, section: _Section) -> Iterator[tuple[int, str, int]]:
    symbols = elf.symbols()
    for attribute, _, payload in _records(elf.bytes_of(section)):
        if attribute in (_REGCOUNT, _FRAME_SIZE, _MIN_STACK) and len(payload) == 8:
            index, value = struct.unpack("<II", payload)
            if index >= len(symbols):
                raise ValueError(f"record names symbol {index} of {len(symbols)}")
            yield attribute, symbols[index], value


def _records(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + 4 <= len(body):
        form, attribute, value = struct.unpack_from("<BBH", body, at)
        at += 4
        size = value if form == 4 else 0
        if at + size > len(body):
            raise ValueError(f"record 0x{attribute:02x} reaches past its section")
        yield attribute, value, body[at : at + size]
        at += size


def _string(table: bytes, offset: int) -> str:
    end = table.find(b"\0", offset, offset + _MAX_NAME)
    if offset > len(table) or (end < 0 and table):
        raise ValueError(f"name at {offset} has no end")
    return table[offset : max(end, offset)].decode()
