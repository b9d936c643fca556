"""Hashes of what lies in a cubin."""

from __future__ import annotations

import hashlib

from gpu_tune.cuda.cubin import Elf


def code_hashes(data: bytes) -> dict[str, str]:
    """``text``: of all ``.text*`` sections by name; ``data``: of constants, and names and sizes of shared memory."""
    text, rest, elf = hashlib.sha256(), hashlib.sha256(), Elf(data)
    for name, length, body in sorted((s.name, s.size, elf.bytes_of(s)) for s in elf.sections):
        if name.startswith(".text"):
            text.update(body)
        elif name.startswith((".nv.constant", ".nv.shared", ".nv.global")):
            rest.update(f"{name} {length} ".encode() + body)
    return {"text": text.hexdigest()[:32], "data": rest.hexdigest()[:32]}
