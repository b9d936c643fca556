"""What a compiled kernel takes and does, read from its cubin and ptxas's log in pure Python: no driver, no CUDA tool.

A cubin is an ELF64 file. Facts of a kernel ``K`` lie in ``.nv.info`` (records of all kernels, by symbol),
``.nv.info.K``, ``.text.K`` and ``.nv.shared.K``. A record is ``(format u8, attribute u8, u16)``; with format 4 the u16
is the length of a payload that follows, otherwise it is the value. The attribute numbers are those that NVIDIA's
``cuobjdump -elf`` prints; the tests compare every field with ``cuobjdump``. The bytes may be damaged or hostile: every
offset is checked, nothing is evaluated, and what does not add up is :class:`~gpu_tune.errors.CorruptData`.

Spilled bytes are not in a cubin; NVRTC's log has them when it was compiled with ``--ptxas-options=-v``
(``nvrtc.to_cubin`` does). The log's ``C75xx`` notes say that ptxas repaired or serialised a wgmma pipeline (a missing
fence or wait, ``setmaxnreg`` ignored): the kernel is right but slow, so a variant that has one is not fit to be
published.

The machine code itself is read by :mod:`~gpu_tune.cuda.sass`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from ..errors import CorruptData
from . import sass
from .sass import Program

MACHINE_CUDA = 190
RESERVED_SHARED = 1024
"""Bytes at the start of shared memory that the system keeps from compute capability 9.0 on; ELF sizes include them."""

_MAX_THREADS, _REGCOUNT, _FRAME_SIZE, _KPARAM, _PARAM_BYTES = 0x05, 0x2F, 0x11, 0x17, 0x19
_NUM_BARRIERS, _REG_RECONFIG, _REQNTID = 0x4C, 0x54, 0x10
_MAX_SECTIONS, _MAX_NAME = 65536, 65536
_RECORD = struct.Struct("<BBH")
_RUNS = (".text", ".nv.constant", ".nv.shared", ".nv.global")


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
    ``param_bytes`` and ``params``: the parameter block. ``setmaxnreg``: whether the kernel moves registers between its
    warps.
    """

    name: str
    registers: int = 0
    stack_bytes: int = 0
    static_shared_bytes: int = 0
    max_threads: int = 0
    barriers: int = 0
    param_bytes: int = 0
    params: tuple[Param, ...] = ()
    setmaxnreg: bool = False


@dataclass(frozen=True)
class Cubin:
    """``cc``: the compute capability as one number (80, 90, 120). ``kernels`` by name, in the file's order."""

    cc: int
    kernels: dict[str, KernelFacts] = field(default_factory=dict)


_T = TypeVar("_T")


def read(data: bytes) -> Cubin:
    """The facts of every kernel in the cubin ``data``; CorruptData when it is no cubin or does not add up."""
    return _reading(data, _facts)


def identity(data: bytes) -> bytes:
    """A digest of what of the cubin ``data`` runs: code, constants, memory and resources. Line tables, names of files
    and the compiler's own notes are not in it. Bytes that are no cubin stand for themselves."""
    try:
        elf = Elf(data)
        facts = repr(_facts(elf))
        parts = sorted((s.name, s.size, elf.bytes_of(s)) for s in elf.sections if s.name.startswith(_RUNS))
    except (struct.error, ValueError, IndexError, OverflowError):
        return hashlib.sha256(data).digest()
    found = hashlib.sha256(facts.encode())
    for name, size, body in parts:
        found.update(f"{name} {size} ".encode() + body)
    return found.digest()


def _reading(data: bytes, what: Callable[[Elf], _T]) -> _T:
    try:
        return what(_elf(bytes(data)))
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise CorruptData(f"cubin of {len(data)} bytes: {error} (damaged; compile it again)") from error


class Section(NamedTuple):
    """A section of an ELF file; ``kind`` 8 takes no bytes in it: its size is a number, not a range."""

    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int


class Elf:
    """Sections and symbols of an ELF64 file; every read is bounds-checked (ValueError)."""

    def __init__(self, data: bytes) -> None:
        self.data = bytes(data)
        _expect(len(self.data) >= 64 and self.data[:6] == b"\x7fELF\x02\x01", "not a little-endian ELF64 file")
        (machine,) = struct.unpack_from("<H", self.data, 18)
        _expect(machine == MACHINE_CUDA, f"ELF machine {machine} is not CUDA ({MACHINE_CUDA})")
        (flags,) = struct.unpack_from("<I", self.data, 48)
        self.cc = (flags >> 8 if self.data[8] >= 8 else flags) & 0xFF
        (table,) = struct.unpack_from("<Q", self.data, 40)
        entry, count, names = struct.unpack_from("<HHH", self.data, 58)
        sound = entry == 64 and names < count <= _MAX_SECTIONS
        _expect(sound, f"section table is malformed ({count} entries of {entry} bytes)")
        raw = list(struct.iter_unpack("<IIQQQQIIQQ", self.slice(table, 64 * count)))
        strings = self.slice(raw[names][4], raw[names][5])
        self.sections = [Section(_string(strings, s[0]), s[1], s[2], s[4], s[5], s[6]) for s in raw]

    def slice(self, offset: int, size: int) -> bytes:
        inside = offset >= 0 and size >= 0 and offset + size <= len(self.data)
        _expect(inside, f"bytes {offset}..{offset + size} lie outside the file")
        return self.data[offset : offset + size]

    def bytes_of(self, section: Section) -> bytes:
        return b"" if section.kind == 8 else self.slice(section.offset, section.size)

    def texts(self) -> list[tuple[str, Section]]:
        """Name and section of each function's machine code."""
        return [(s.name[6:], s) for s in self.sections if s.name.startswith(".text.")]

    def symbol(self, index: int) -> str:
        """The name of a symbol."""
        body, strings = self._symbols
        _expect(24 * index < len(body), f"record names symbol {index} of {len(body) // 24}")
        return _string(strings, struct.unpack_from("<I", body, 24 * index)[0])

    @functools.cached_property
    def _symbols(self) -> tuple[bytes, bytes]:
        """The table and its names."""
        for section in self.sections:
            if section.kind == 2:
                body = self.bytes_of(section)
                _expect(section.link < len(self.sections) and len(body) % 24 == 0, "symbol table is malformed")
                return body, self.bytes_of(self.sections[section.link])
        return b"", b""


def _facts(elf: Elf) -> Cubin:
    # up to CUDA 12 the number of barriers is in the flags of the code's section, later in a record
    kernels: dict[str, dict[str, object]] = {n: {"barriers": s.flags >> 20 & 0x7F} for n, s in elf.texts()}
    by_name = {section.name: section for section in elf.sections}
    for name, facts in kernels.items():
        if shared := by_name.get(f".nv.shared.{name}"):
            # the ELF size includes the reserve on 9.0 and newer; sh_info of .text no longer holds the registers there
            facts["static_shared_bytes"] = max(0, shared.size - RESERVED_SHARED) if elf.cc >= 90 else shared.size
        if own := by_name.get(f".nv.info.{name}"):
            facts.update(_own_facts(elf.bytes_of(own)))
    if common := by_name.get(".nv.info"):
        for symbol, fact, value in _shared_facts(elf, common):
            if symbol in kernels:
                kernels[symbol][fact] = value
    # device functions have .text sections too; only a kernel has records of its own
    own_records = {n: facts for n, facts in kernels.items() if f".nv.info.{n}" in by_name}
    return Cubin(elf.cc, {n: KernelFacts(n, **facts) for n, facts in own_records.items()})  # type: ignore[arg-type]


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
        elif attribute == _REG_RECONFIG:
            facts["setmaxnreg"] = True
    facts["params"] = tuple(sorted(params, key=lambda p: p.index))
    return facts


def _shared_facts(elf: Elf, section: Section) -> Iterator[tuple[str, str, int]]:
    facts = {_REGCOUNT: "registers", _FRAME_SIZE: "stack_bytes"}
    for attribute, _, payload in _records(elf.bytes_of(section)):
        if attribute in facts and len(payload) == 8:
            index, value = struct.unpack("<II", payload)
            yield elf.symbol(index), facts[attribute], value


def _records(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    at, head = 0, _RECORD.unpack_from
    while at + 4 <= len(body):
        form, attribute, value = head(body, at)
        at += 4
        size = value if form == 4 else 0
        if at + size > len(body):
            raise ValueError(f"record 0x{attribute:02x} reaches past its section")
        yield attribute, value, body[at : at + size]
        at += size


@functools.lru_cache(maxsize=4)
def _elf(data: bytes) -> Elf:
    return Elf(data)


def _expect(valid: bool, problem: str) -> None:
    if not valid:
        raise ValueError(problem)


def _string(table: bytes, offset: int) -> str:
    end = table.find(b"\0", offset, offset + _MAX_NAME)
    if offset > len(table) or (end < 0 and table):
        raise ValueError(f"name at {offset} has no end")
    return table[offset : max(end, offset)].decode()


@dataclass(frozen=True)
class PtxasReport:
    """What ptxas alone says of one kernel, in bytes; ``notes``: its ``C75xx`` notes, as ``C7510: text``."""

    stack_bytes: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def spill_bytes(self) -> int:
        """Spill stores plus loads, the bytes that ptxas counted in the code (not what a run moves)."""
        return self.spill_store_bytes + self.spill_load_bytes


_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_FUNCTION = re.compile(r"Function properties for (\S+)")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_NOTE = re.compile(r"\((C7\d{3})\)\s*(.*)")
_IN_FUNCTION = re.compile(r"in(?: the)? function '?([A-Za-z_$][\w$]*)'?")


def read_log(log: str) -> Mapping[str, PtxasReport]:
    """The reports in NVRTC's ``log`` by kernel name, empty when it has none.

    A note that names no kernel belongs to every kernel of the log (to the name ``""`` when the log names none).
    """
    frames: dict[str, tuple[int, int, int]] = {}
    notes: dict[str, list[str]] = defaultdict(list)
    kernel = function = ""
    for line in log.replace("\0", "\n").splitlines():
        if match := _ENTRY.search(line):
            kernel = function = match[1]
            frames.setdefault(kernel, (0, 0, 0))
        elif match := _FUNCTION.search(line):
            function = match[1]
        elif (match := _FRAME.search(line)) and function == kernel and kernel:
            frames[kernel] = (int(match[1]), int(match[2]), int(match[3]))
        elif match := _NOTE.search(line):
            place = _IN_FUNCTION.search(line)
            notes[place[1] if place else ""].append(f"{match[1]}: {match[2].strip()}")
    everywhere = notes.pop("", [])
    names = [*frames, *(name for name in notes if name not in frames)] or [""] * bool(everywhere)
    return {n: PtxasReport(*frames.get(n, (0, 0, 0)), (*notes.get(n, ()), *everywhere)) for n in names}


def programs(cubin: bytes) -> dict[str, Program]:
    """The machine code of every kernel in ``cubin``, by name; CorruptData when it is no cubin."""
    return dict(_programs(cubin))


@functools.lru_cache(maxsize=8)
def _programs(cubin: bytes) -> dict[str, Program]:
    return _reading(cubin, lambda elf: {n: sass.decode(elf.bytes_of(s), elf.cc) for n, s in elf.texts()})
