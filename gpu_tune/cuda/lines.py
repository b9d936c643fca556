"""The line that each machine instruction of a cubin comes from: of the PTX, and of the source with its inlined calls.

NVRTC and ptxas write both tables when they are asked for line information (``-lineinfo``), which leaves the machine
code as it is. ``.nv_debug_line_sass`` gives an instruction the line of the PTX instruction that it was made of (in
``.nv_debug_ptx_txt``, the PTX with its lines kept and ``.loc`` left out), ``.debug_line`` the line of the source. Both
are DWARF line-number programs of versions 2 to 4 (DWARF 4, section 6.2) with two extended opcodes of NVIDIA's (0x90,
0x91; LLVM's ``Dwarf.def`` names them): 0x90 says in which row of the table the call stands that inlined what follows.
The tests compare every instruction with ``nvdisasm``. The bytes may be damaged or hostile: every offset is checked,
and what does not add up is :class:`~gpu_tune.errors.CorruptData`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .cubin import Elf, Section, _expect, _reading

INSTRUCTION_BYTES = 16
PTX_TABLE, PTX_TEXT, SOURCE_TABLE = ".nv_debug_line_sass", ".nv_debug_ptx_txt", ".debug_line"

Place = tuple[tuple[str, int], ...]
"""File and line, then those of the calls that inlined it, outermost last; empty where nothing is known."""

_MAX_ROWS, _MAX_DEPTH = 4_000_000, 64
_FIXED = (0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1)  # operands of the standard opcodes 1 to 12
_COPY, _ADVANCE_PC, _ADVANCE_LINE, _SET_FILE, _CONST_ADD_PC, _FIXED_ADVANCE_PC = 1, 2, 3, 4, 8, 9
_END, _SET_ADDRESS, _DEFINE_FILE, _INLINED = 1, 2, 3, 0x90


_Row = tuple[int, int, int, int, int]
"""A row of a line table: section, address, file, line, and the row of the call that inlined it, 0 for none (rows count
from 1). A plain tuple: a kernel has thousands."""


def ptx_lines(cubin: bytes) -> dict[str, tuple[int, ...]]:
    """By kernel: for each instruction the line of its PTX instruction in :func:`ptx_text`, 0 where none is known.

    Empty where the cubin has no such table (compiled without line information).
    """
    return _reading(cubin, _ptx_lines)


def source_lines(cubin: bytes) -> dict[str, tuple[Place, ...]]:
    """By kernel: the place of each instruction in the source. Empty where the cubin has no line table."""
    return _reading(cubin, _source_lines)


def ptx_text(cubin: bytes) -> str:
    """The PTX that the cubin was assembled from, as its line table counts lines; empty where it has none."""
    return _reading(cubin, _ptx_text)


def _ptx_text(elf: Elf) -> str:
    body = b"".join(elf.bytes_of(s) for s in elf.sections if s.name == PTX_TEXT)
    return body.replace(b"\0", b"\n").decode(errors="replace")


def _ptx_lines(elf: Elf) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for _, rows in _tables(elf, PTX_TABLE):
        for name, of in _by_instruction(elf, rows).items():
            found[name] = tuple([row[3] if row else 0 for row in of])
    return found


def _source_lines(elf: Elf) -> dict[str, tuple[Place, ...]]:
    found: dict[str, tuple[Place, ...]] = {}
    for files, rows in _tables(elf, SOURCE_TABLE):
        known: dict[_Row, Place] = {}

        def place(
            row: _Row | None, files: list[str] = files, rows: list[_Row] = rows, known: dict[_Row, Place] = known
        ) -> Place:
            if row is None:
                return ()
            if row not in known:
                known[row] = tuple(_chain(row, files, rows))
            return known[row]

        for name, of in _by_instruction(elf, rows).items():
            found[name] = tuple(map(place, of))
    return found


def _chain(row: _Row, files: list[str], rows: list[_Row]) -> Iterator[tuple[str, int]]:
    for _ in range(_MAX_DEPTH):
        _, _, file, line, call = row
        _expect(0 < file <= len(files), f"line table names file {file} of {len(files)}")
        yield files[file - 1], line
        if not call:
            return
        _expect(call <= len(rows), f"line table names row {call} of {len(rows)}")
        row = rows[call - 1]
    raise ValueError(f"line table has calls more than {_MAX_DEPTH} deep")


def _by_instruction(elf: Elf, rows: list[_Row]) -> dict[str, list[_Row | None]]:
    """By kernel, the row of each instruction: the last one at or below its address."""
    texts = {index: s for index, s in enumerate(elf.sections) if s.name.startswith(".text.")}
    ordered: dict[int, dict[int, _Row]] = {}
    known, starts = -1, dict[int, _Row]()
    for row in rows:
        if row[0] != known:
            known = row[0]
            _expect(known in texts, f"line table is about section {known}, which is no code")
            starts = ordered.setdefault(known, {})
        starts[row[1] // INSTRUCTION_BYTES] = row  # a call stands before what it inlines
    found: dict[str, list[_Row | None]] = {}
    for section, starts in ordered.items():
        here: _Row | None = None
        out, count = list[_Row | None](), texts[section].size // INSTRUCTION_BYTES
        for index in sorted(starts):
            if index >= count:
                break
            out += [here] * (index - len(out))
            here = starts[index]
        out += [here] * (count - len(out))
        found.setdefault(texts[section].name[6:], []).extend(out)
    return found


def _tables(elf: Elf, name: str) -> Iterator[tuple[list[str], list[_Row]]]:
    """The files and rows of each table in the section ``name``."""
    for program in _programs(elf, name):
        yield program.run()


def _programs(elf: Elf, name: str) -> Iterator[LineProgram]:
    """The tables in the section ``name``."""
    for section in elf.sections:
        if section.name == name:
            body, targets, at = elf.bytes_of(section), _relocations(elf, name), 0
            while at < len(body):
                (size,) = struct.unpack_from("<I", body, at)
                _expect(0 < size <= len(body) - at - 4, f"line table at {at} reaches past its section")
                yield LineProgram(body, at, at + 4 + size, targets)
                at += 4 + size


def _relocations(elf: Elf, name: str) -> dict[int, tuple[int, int]]:
    """For each relocated place in section ``name``: the section and address that it refers to."""
    symbols: list[tuple[int, int]] = []
    for section in elf.sections:
        if section.kind == 2:
            symbols = [(s[3], s[4]) for s in struct.iter_unpack("<IBBHQQ", _whole(elf, section, 24))]
            break
    found: dict[int, tuple[int, int]] = {}
    for section in elf.sections:
        if section.name in (f".rel{name}", f".rela{name}"):
            wide = section.name.startswith(".rela")
            for offset, info, *addend in struct.iter_unpack(
                "<QQq" if wide else "<QQ", _whole(elf, section, 24 if wide else 16)
            ):
                _expect(info >> 32 < len(symbols), f"relocation names symbol {info >> 32} of {len(symbols)}")
                index, value = symbols[info >> 32]
                found[offset] = (index, value + sum(addend))
    return found


def _whole(elf: Elf, section: Section, entry: int) -> bytes:
    body = elf.bytes_of(section)
    _expect(len(body) % entry == 0, f"{section.name} is no whole number of entries")
    return body


class LineProgram:
    """One line-number program, from ``start`` to ``end`` in ``body``; its instructions begin at ``at``.

    ``targets``: see ``_relocations``. ``step``, ``line_base``, ``line_range``, ``opcode_base``, ``operands``: what its
    header says, as DWARF names it (``step``: the least length of an instruction).
    """

    def __init__(self, body: bytes, start: int, end: int, targets: dict[int, tuple[int, int]]) -> None:
        self.body, self.at, self.end, self.targets = body, start + 4, end, targets
        version, length = self._take("<HI")
        _expect(2 <= version <= 4, f"line table of DWARF version {version}; 2 to 4 are read")
        program = self.at + length
        _expect(program <= end, "header of a line table reaches past it")
        self.step = self._take("<B")[0]
        if version == 4:
            self._take("<B")  # operations an instruction: 1
        _, self.line_base, self.line_range, self.opcode_base = self._take("<BbBB")
        _expect(self.line_range > 0 and self.opcode_base > 0, "line table's header is malformed")
        self.operands = [self._take("<B")[0] for _ in range(self.opcode_base - 1)]
        _expect(
            tuple(self.operands[:12]) == _FIXED[: len(self.operands)], "line table's opcodes are not the standard's"
        )
        folders, self.files = [""], list[str]()
        while name := self._text():
            folders.append(name)
        while name := self._text():
            self._file(name, folders)
        self.folders, self.at = folders, program

    def _file(self, name: str, folders: list[str]) -> None:
        folder, _, _ = self._next(), self._next(), self._next()
        _expect(folder < len(folders), f"file {name!r} lies in folder {folder} of {len(folders)}")
        self.files.append(f"{folders[folder]}/{name}" if folders[folder] and not name.startswith("/") else name)

    def run(self) -> tuple[list[str], list[_Row]]:
        # the loop over the bytes is what reading line tables costs, hence the local names
        body, at, end, base, number = self.body, self.at, self.end, self.opcode_base, self._number
        moves = [divmod(n, self.line_range) for n in range(256 - base)]
        special = [(lines * self.step, self.line_base + rest) for lines, rest in moves]
        rows: list[_Row] = []
        section, address, file, line, call, first = 0, 0, 1, 1, 0, 0
        while at < end:
            opcode = body[at]
            at += 1
            if opcode >= base:
                further, down = special[opcode - base]
                address += further
                line += down
            elif opcode == _ADVANCE_PC:
                value = body[at] if at < end else 0x80
                if value < 0x80:
                    at += 1
                else:
                    value, at = number(at)
                address += value * self.step
                continue
            elif opcode == _ADVANCE_LINE:
                value = body[at] if at < end else 0x80
                if value < 0x80:  # one byte, as most are
                    at += 1
                    line += value - 0x80 if value & 0x40 else value
                else:
                    value, at = number(at, signed=True)
                    line += value
                continue
            elif opcode == _SET_FILE:
                file, at = number(at)
                continue
            elif opcode == _CONST_ADD_PC:
                address += (255 - base) // self.line_range * self.step
                continue
            elif opcode == _FIXED_ADVANCE_PC:
                self.at = at
                address += self._take("<H")[0]
                at = self.at
                continue
            elif opcode == 0:
                size, start = number(at)
                _expect(0 < size <= end - start, "an extended opcode reaches past its line table")
                extended, at = body[start], start + 1
                if extended == _SET_ADDRESS:
                    _expect(size == 9, "an address in a line table has no 8 bytes")
                    section, address = self.targets.get(at, (0, 0))
                    address += struct.unpack_from("<Q", body, at)[0]
                elif extended == _INLINED:
                    call, _ = number(at)
                    call += first if call else 0
                elif extended == _DEFINE_FILE:
                    self.at = at
                    self._file(self._text(), self.folders)
                at = start + size
                if extended == _END:
                    section, address, file, line, call, first = 0, 0, 1, 1, 0, len(rows)
                continue
            elif opcode != _COPY:
                for _ in range(self.operands[opcode - 1]):
                    _, at = number(at)
                continue
            if address < 0 or len(rows) >= _MAX_ROWS:
                raise ValueError("line table is too long")
            rows.append((section, address, file, line, call))
        return self.files, rows

    def _take(self, form: str) -> tuple[int, ...]:
        size = struct.calcsize(form)
        _expect(self.at + size <= self.end, "line table ends too early")
        values = struct.unpack_from(form, self.body, self.at)
        self.at += size
        return values

    def _number(self, at: int, *, signed: bool = False) -> tuple[int, int]:
        """The LEB128 number at ``at``, and where it ends."""
        value = shift = 0
        while True:
            if at >= self.end:
                raise ValueError("line table ends too early")
            byte = self.body[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 70:
                raise ValueError("a number in a line table is too long")
            if byte < 0x80:
                return (value - (1 << shift) if signed and byte & 0x40 else value), at

    def _next(self) -> int:
        value, self.at = self._number(self.at)
        return value

    def _text(self) -> str:
        end = self.body.find(b"\0", self.at, self.end)
        _expect(end >= 0, "a name in a line table has no end")
        text, self.at = self.body[self.at : end].decode(errors="replace"), end + 1
        return text
