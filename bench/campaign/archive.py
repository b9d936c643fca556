"""A campaign's slice as a few archives that can leave the machine: each complete in itself, none above its size."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

SLACK = 0.97
"""Share of an archive's size that files are packed into; the rest is tar headers and the error of the estimate."""


def pack(
    out: Path, first: Sequence[Path], more: Sequence[Path], target: Path, megabytes: float, files: int
) -> list[str]:
    """Write ``target``-1.tar.gz .. at most ``files`` of them, each at most ``megabytes``; names of what stayed out.

    ``first`` goes into the first one whatever else does; ``more`` fills up in its order. Records too large for one
    archive are cut between lines. Archives of that name are replaced, each in one step, and those left over removed.
    """
    limit = megabytes * 1e6
    stem = target.name.removesuffix(".tar.gz")
    target.parent.mkdir(parents=True, exist_ok=True)
    bins: list[list[tuple[str, bytes]]] = [[]]
    room = [SLACK * limit]
    left: list[str] = []
    for path in (*first, *more):
        for name, data in _pieces(path, str(path.relative_to(out)), SLACK * limit):
            size = len(zlib.compress(data, 6)) + 1024
            place = next((i for i, r in enumerate(room) if size <= r), None)
            if place is None and len(bins) < files and size <= SLACK * limit:
                bins.append([])
                room.append(SLACK * limit)
                place = len(bins) - 1
            if place is None:
                left.append(name)
                continue
            bins[place].append((name, data))
            room[place] -= size
    for i, content in enumerate(bins, 1):
        while True:
            raw = _tar(content)
            if len(raw) <= limit or not content:
                break
            left.append(content.pop()[0])
        fresh = target.parent / f"{stem}-{i}.new"
        fresh.write_bytes(raw)
        os.replace(fresh, target.parent / f"{stem}-{i}.tar.gz")
    for old in target.parent.glob(f"{stem}-*.tar.gz"):
        number = old.name.removeprefix(f"{stem}-").removesuffix(".tar.gz")
        if number.isdigit() and int(number) > len(bins):
            old.unlink()
    return left


def restore(paths: Sequence[Path], out: Path) -> None:
    """Unpack earlier archives into ``out``; nothing in them is trusted but plain files below ``out``."""
    for path in paths:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar.getmembers():
                target = (out / member.name).resolve()
                if not member.isfile() or not target.is_relative_to(out.resolve()):
                    raise SystemExit(f"{path}: {member.name} is no plain file below the folder; not unpacked")
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                source = tar.extractfile(member)
                assert source is not None
                target.write_bytes(source.read())
                target.chmod(0o600)


def _pieces(path: Path, name: str, limit: float) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of a file; of records in several pieces where one would be too large."""
    data = path.read_bytes()
    if path.suffix != ".jsonl" or len(zlib.compress(data, 6)) + 1024 <= limit:
        yield name, data
        return
    lines = data.splitlines(keepends=True)
    parts = 2
    while any(len(zlib.compress(b"".join(lines[i::parts]), 6)) + 1024 > limit for i in range(parts)):
        if parts > len(lines):
            break
        parts *= 2
    for i in range(parts):
        yield f"{name.removesuffix('.jsonl')}.{i}.jsonl", b"".join(lines[i::parts])


def _tar(content: Sequence[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o600
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
