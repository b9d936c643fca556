"""What the parts of the golden outputs share."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing about a key: ``kind`` is what was compared; ``text`` how it differs ('' means equal).

    ``note``: worth saying, but no failure.
    """

    key: str
    kind: str
    text: str = ""
    note: bool = False


@dataclass(frozen=True)
class Options:
    """What a check was asked for."""

    family: str = ""
    compile: bool = False
    same_source: bool = False


def digest(value: Any) -> str:
    """128 bits of the SHA-256 of a text, or of a value's canonical JSON."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def plain(value: Any) -> Any:
    """``value`` as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def say(text: str) -> None:
    """A line of the log."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
