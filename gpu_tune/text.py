"""Text files that users name: UTF-8 whatever the locale says, and never more than fits."""

from __future__ import annotations

from pathlib import Path

from .errors import CorruptData

MOST = 1 << 29
"""Bytes of a text file that are read."""


def read(path: Path | str, most: int = MOST) -> str:
    """The text in ``path``, bytes that are no UTF-8 replaced; OSError, or CorruptData beyond ``most`` bytes."""
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise CorruptData(f"{path}: holds more than {most} bytes; split it")
    return data.decode(errors="replace")


def write(path: Path | str, text: str) -> None:
    """Write ``text`` into ``path``; OSError when that fails."""
    Path(path).write_bytes(text.encode())
