"""How long a kernel may run, and when the failures of a template have cost enough: time on a rented GPU is short."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import paths, text
from ..errors import StoreError
from ..workload import Workload

log = logging.getLogger("gpu_tune.journal")
LOST = {"run_timeout": "hung", "run_error": "crashed its process or the context"}
"""Ends that count as a killer's when the process was lost with them, and what is said of it."""


@dataclass(frozen=True)
class Killer:
    """A quarantined binary: its build ``hash``, ``what`` it was (workload and candidate) and ``why``."""

    hash: str
    what: str
    why: str


class Journal:
    """The journal in ``folder``; each instance appends to a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = paths.LineFile(folder)
        self._complained = False

    def started(self, build_hash: str, what: str) -> None:
        """Note, on disk before this returns, that ``build_hash`` is about to run."""
        self._note(True, event="started", hash=build_hash, what=what)

    def ended(self, build_hash: str, status: str, lost: bool = False) -> None:
        """Note how it ended; ``lost``: it took its process with it."""
        self._note(False, event="ended", hash=build_hash, status=status, lost=lost)

    def _note(self, sync: bool, **event: Any) -> None:
        pid, host = os.getpid(), socket.gethostname()
        event.update(time=round(time.time(), 3), pid=pid, host=host, boot=_boot(), birth=_birth(pid))
        try:
            self._file.append(json.dumps(event) + "\n", sync=sync)
        except (OSError, StoreError) as error:  # a full disk must not end a tuning; only the protection is lost
            if not self._complained:
                self._complained = True
                log.warning("started trials cannot be noted in %s (%s): killers will not be known", self.folder, error)

    def killers(self) -> dict[str, Killer]:
        """The quarantined binaries, by hash."""
        unfinished: Counter[str] = Counter()
        found: dict[str, Killer] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            running: dict[str, dict[str, Any]] = {}
            try:
                content = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            blamed: list[tuple[dict[str, Any], str]] = []
            for line in text.read_lines(content, str(path), _event):
                if line["event"] == "started":
                    running[line["hash"]] = line
                elif line["event"] == "ended":
                    begun = running.pop(line["hash"], line)
                    if line.get("lost") and line.get("status") in LOST:
                        blamed.append((begun, LOST[line["status"]]))
            for line in running.values():
                if line.get("host") == socket.gethostname() and line.get("boot") != _boot():
                    blamed.append((line, "was running when the machine went down"))
                elif not _alive(line):
                    unfinished[line["hash"]] += 1
                    if unfinished[line["hash"]] >= 2:
                        blamed.append((line, "was running at two violent ends of its tuner"))
            found |= {line["hash"]: Killer(line["hash"], str(line.get("what", "")), why) for line, why in blamed}
        return found

    def close(self) -> None:
        self._file.close()


def _event(line: str) -> dict[str, Any]:
    with text.refused("event"):
        event = json.loads(line)
        if not isinstance(event["hash"], str) or not isinstance(event["event"], str):
            raise TypeError("hash or event is not text")
        return dict(event)


def _alive(line: dict[str, Any]) -> bool:
    """Whether the writer still runs (on another host: assumed to)."""
    if line.get("host") != socket.gethostname():
        return True
    return _birth(int(line.get("pid", 0))) == line.get("birth", "")


def _birth(pid: int) -> str:
    """Start time of process ``pid`` in clock ticks since boot, empty when there is none: tells a recycled pid apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


HANGS, LOSSES = 3, 8
"""A template is given up for a workload when so many of its configs hung, or took the child down, and a quarter did."""


def run_seconds(workload: Workload) -> float:
    """Seconds after which a kernel hangs: ten runs at 1 TFLOP/s, and 6 for all else; 20 at most."""
    return min(20.0, 6.0 + workload.flops / 1e11)


class CircuitBreaker:
    """How the configs of each template ended, and whether any more of it are worth running."""

    def __init__(self) -> None:
        self._ran, self._hung, self._lost = Counter[str](), Counter[str](), Counter[str]()
        self._lock = threading.Lock()

    def note(self, template: str, *, lost: bool = False, hung: bool = False, count: int = 1) -> None:
        """``count`` configs of ``template`` were run; ``lost``: they took the child down, by hanging or otherwise."""
        with self._lock:
            self._ran[template] += count
            self._lost[template] += count * lost
            self._hung[template] += count * hung

    def tripped(self, template: str) -> str:
        """Why no more of ``template`` is run: one that hangs costs seconds, and it may be broken here. Else empty."""
        ran, hung, lost = self._ran[template], self._hung[template], self._lost[template]
        if (hung < HANGS and lost < LOSSES) or 4 * lost < ran:
            return ""
        return f"{lost} of {ran} configs of {template} hung or took their process down: no more of it are run here"
