"""The files themselves: bounded reading of strangers' JSON, torn ends mended, and writing by one rename."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import CorruptData, InvalidInput

MAX_BYTES = 1 << 28
"""Most bytes of JSON (after decompression) that are read."""


def read(name: str) -> str:
    """The text of a ``.json`` or ``.json.gz`` file; InvalidInput or CorruptData when there is none in it."""
    try:
        with open(name, "rb") as raw:
            head = raw.read(2)
            raw.seek(0)
            if head == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=raw) as stream:
                    body = stream.read(MAX_BYTES + 1)
            else:
                body = raw.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptData(f"{name}: the gzip stream is damaged ({error}); fetch the file again") from error
    except OSError as error:
        raise InvalidInput(
            "recorded space", name, f"cannot be read ({error.strerror or error})", "give a .json or .json.gz file"
        ) from error
    if len(body) > MAX_BYTES:
        raise CorruptData(f"{name}: holds more than {MAX_BYTES} bytes of JSON; split it")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptData(f"{name}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def parse(text: str, name: str) -> Any:
    """The JSON value in ``text``, where need be with a Kernel Tuner cache's open end closed; CorruptData otherwise."""
    first: Exception | None = None
    for attempt in _attempts(text):
        try:
            return json.loads(attempt, object_pairs_hook=_distinct)
        except RecursionError as error:
            raise CorruptData(f"{name}: is nested too deeply to be a recorded space") from error
        except _Duplicate as error:
            raise CorruptData(f"{name}: the key {error.key[:80]!r} stands twice in one object; keep one") from error
        except ValueError as error:
            first = first or error
    raise CorruptData(f"{name}: is not JSON ({first})")


def _attempts(text: str) -> Iterator[str]:
    """The text itself, then what a Kernel Tuner cache left open (or torn in its last entry) would be when closed."""
    yield text
    if '"cache"' in text:
        open_end = text.rstrip().rstrip(",")
        yield open_end + "}}"
        yield open_end + "}"
        yield open_end.rstrip("{ \n") + "{}}"
        torn = open_end[: open_end.rfind("},") + 1]
        if torn:
            yield torn + "}}"


class _Duplicate(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        raise _Duplicate(next(k for k, _ in pairs if k in seen or seen.add(k)))  # type: ignore[func-returns-value]
    return found


def write(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` (compressed where the name ends in ``.gz``) by one rename; InvalidInput when it cannot be."""
    target = Path(path)
    body = text.encode()
    if target.suffix == ".gz":
        body = gzip.compress(body, mtime=0)
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, delete=False) as out:
            out.write(body)
        os.chmod(out.name, 0o644)
        os.replace(out.name, target)
    except OSError as error:
        raise InvalidInput(
            "output file", str(target), f"cannot be written ({error.strerror or error})", "choose another place"
        ) from error
