"""Machine code out of a cubin, without the product's own reader."""

from __future__ import annotations

import hashlib
import struct


def sections(data: bytes) -> list[tuple[str, int, bytes]]:
    """Name, size and bytes of each section of an ELF64 file."""
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    raw = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
    strings = data[raw[names][4] : raw[names][4] + raw[names][5]]
    found = []
    for name, kind, _, _, offset, length, *_ in raw:
        text = strings[name : strings.index(b"\0", name)].decode()
        found.append((text, length, b"" if kind == 8 else data[offset : offset + length]))
    return found


def code_hashes(data: bytes) -> dict[str, str]:
    """``text``: of all ``.text*`` sections by name; ``data``: of constants, and names and sizes of shared memory."""
    text, rest = hashlib.sha256(), hashlib.sha256()
    for name, length, body in sorted(sections(data)):
        if name.startswith(".text"):
            text.update(body)
        elif name.startswith((".nv.constant", ".nv.shared", ".nv.global")):
            rest.update(f"{name} {length} ".encode() + body)
    return {"text": text.hexdigest()[:32], "data": rest.hexdigest()[:32]}
