"""Processes that tests start, stop and wait for.

No test may depend on how fast the machine is or on how the run was started: what must come is waited for with a limit
that only a hang reaches, and a child takes Ctrl-C even where the tests' own process ignores it (as background jobs do).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from gpu_tune.measure.compile import CompilePool

HANG = 300.0
"""Seconds after which something that has not come will never come."""


def wait_until(condition: Callable[[], bool], seconds: float = HANG) -> bool:
    """Poll ``condition`` for at most ``seconds``; whether it came true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def worker_pids(pool: CompilePool) -> list[int]:
    """Process ids of the live workers of ``pool``."""
    return [pid for child in pool.workers if (pid := child.pid) is not None]


def gone(pid: int) -> bool:
    """Whether process ``pid`` has ended (a zombie has)."""
    return _state(pid) in ("", "Z")


def stopped(pid: int) -> bool:
    """Whether process ``pid`` is stopped by a signal."""
    return _state(pid) == "T"


def _state(pid: int) -> str:
    """The letter of /proc; "" for a process that is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


class Process:
    """A process in a group of its own, whose lines are read while it runs."""

    def __init__(self, command: list[str], env: Mapping[str, str] | None = None) -> None:
        with _interruptible():
            self._popen = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, start_new_session=True,
            )  # fmt: skip
        self._lines: dict[str, list[str]] = {"out": [], "err": []}
        self._open = set(self._lines)
        self._news = threading.Condition()
        assert self._popen.stdout is not None and self._popen.stderr is not None
        pipes = {"out": self._popen.stdout, "err": self._popen.stderr}
        self._readers = [threading.Thread(target=self._read, args=p, daemon=True) for p in pipes.items()]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, pipe: IO[str]) -> None:
        for line in pipe:
            with self._news:
                self._lines[name].append(line)
                self._news.notify_all()
        with self._news:
            self._open.discard(name)
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def out(self) -> str:
        """What it has written to its standard output so far."""
        return "".join(self._lines["out"])

    @property
    def err(self) -> str:
        """What it has written to its standard error so far."""
        return "".join(self._lines["err"])

    def line(self, matches: Callable[[str], bool], stream: str = "out") -> str:
        """The first line that ``matches``, waited for; it must come before the process ends."""

        def found() -> str | None:
            return next((line for line in self._lines[stream] if matches(line)), None)

        with self._news:
            came = self._news.wait_for(lambda: found() is not None or stream not in self._open, HANG)
            line = found()
        if line is None:
            raise AssertionError(
                f"the line never came{'' if came else ' and the process hangs'}:\n{self.out}{self.err}"
            )
        return line

    def interrupt(self) -> None:
        """What a terminal does at Ctrl-C: every process of the group gets SIGINT."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to every process of the group, and wait for the first one's end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(HANG)

    def end(self) -> int:
        """Wait for its own end and that of its output; its exit code."""
        try:
            code = self._popen.wait(HANG)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the process hangs:\n{self.out}{self.err}") from None
        for reader in self._readers:
            reader.join(HANG)
        return code


@contextlib.contextmanager
def started(command: list[str], env: Mapping[str, str] | None = None) -> Iterator[Process]:
    """A process that runs ``command``; nothing of its group is left afterwards."""
    process = Process(command, env)
    try:
        yield process
    finally:
        process.kill()


def python(code: str, *arguments: str) -> list[str]:
    """The command that runs ``code`` in a Python like this one."""
    return [sys.executable, "-c", code, *arguments]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Children that start meanwhile do not inherit that SIGINT is ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
