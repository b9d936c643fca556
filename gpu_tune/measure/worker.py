"""One killable process that answers one request at a time, and a pool of them.

A :class:`Worker` is a fresh interpreter (no fork: CUDA contexts, locks and threads of the parent stay behind) that
imports only its handler, so a plain script without an ``if __name__ == "__main__"`` guard can own one, unlike with
multiprocessing's spawn. Requests and replies are pickled over a socket pair between a process and its own child.
A child ends when its parent does, however the parent dies: a thread of it waits for the end of a lifeline pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple

from ..errors import GpuTuneError, MeasureError

# Isolated (-I): without the working directory on the path, whose json.py, say, must not be run in its place.
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from gpu_tune.measure.worker import serve; serve(*map(int, sys.argv[2:4]), sys.argv[4], sys.argv[5])"
)
START_SECONDS = 60.0
KILL_SECONDS = 60.0
"""How long a killed process may take to end: a driver that stops a running kernel takes seconds."""
RENEW_AFTER = 500
"""Jobs that a worker of a pool does: its successor has all the memory that libraries do not give back."""
log = logging.getLogger("gpu_tune.measure")


class Stage(NamedTuple):
    """What a child is at: ``name``, and the ``subject`` (of several in one request) that it is busy with."""

    name: str = ""
    subject: str = ""

    def __str__(self) -> str:
        return f"{self.name} of {self.subject}" if self.subject else self.name


def _search_path() -> list[str]:
    """Where this process looks for modules, the working directory last: it shadows nothing."""
    try:
        here = [p for p in sys.path if not p or os.path.abspath(p) == os.getcwd()]
    except FileNotFoundError:  # it has been removed
        here = [p for p in sys.path if not os.path.isabs(p)]
    return [p for p in sys.path if p not in here] + here


def _cpu_seconds(pid: int) -> float:
    """What process ``pid`` has computed, seconds; 0 where that is not known."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


CRASHES = tuple(
    -s for s in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)
)
"""Exit codes of a process that did it itself; others were ended from outside, by an out-of-memory killer say."""
Note = Callable[..., None]
"""``note(stage, subject="")``: what a handler tells its parent of where it is."""


def no_note(stage: str, subject: str = "") -> None:
    """Tells nobody."""


class WorkerLost(MeasureError):
    """A child ended before it answered: ``reason`` says how, ``stage`` what it had last said it was doing.

    ``crashed``: by a fault of its own; ``killed``: from outside, by an out-of-memory killer say. ``starved``: it had
    computed for less than half of the time that it had.
    """

    def __init__(
        self,
        reason: str,
        stage: Stage | None = None,
        timed_out: bool = False,
        crashed: bool = False,
        starved: bool = False,
        killed: bool = False,
    ) -> None:
        super().__init__(reason, stage, timed_out, crashed, starved, killed)
        self.reason, self.stage, self.timed_out = reason, stage or Stage(), timed_out
        self.crashed, self.starved, self.killed = crashed, starved, killed

    def __str__(self) -> str:
        return self.reason + (f" (while: {self.stage})" if self.stage.name else "")


class Worker:
    """A process running ``entry`` (``module:function``); ``function(request, note)`` makes each reply.

    ``note(stage, subject="")`` tells the parent where it is; :class:`WorkerLost` carries the last one. With ``setup``
    (JSON-ready), ``module:function`` is called once as ``function(setup)`` and must return the handler.
    """

    def __init__(self, entry: str, setup: Any = None) -> None:
        self.entry, self.setup = entry, setup
        self.restarts = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._owned = contextlib.ExitStack()
        self._ready = False

    @property
    def pid(self) -> int | None:
        """Process id while it lives."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process unless it lives; returns at once (a failure to start shows at the first ``ask``)."""
        if self.pid is not None:
            return
        self.kill()
        self.restarts += 1
        self._ready = False
        passed = contextlib.ExitStack()
        try:
            self._connection, theirs = Pipe()
            self._owned.callback(self._connection.close)
            passed.callback(theirs.close)
            read_end, lifeline = os.pipe()
            self._owned.callback(os.close, lifeline)
            passed.callback(os.close, read_end)
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
            self._owned.callback(self._errors.close)
            arguments = [
                json.dumps(_search_path()),
                str(theirs.fileno()),
                str(read_end),
                self.entry,
                json.dumps(self.setup),
            ]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, *arguments],
                stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors,
                pass_fds=(theirs.fileno(), read_end), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self.kill()
            remedy = "free memory, processes, open files or space in the folder for temporary files"
            raise MeasureError(f"a worker process cannot be started: {error}; {remedy}") from error
        finally:
            passed.close()

    def ask(self, request: Any, timeout: float | Callable[[Stage], float]) -> Any:
        """The child's reply to ``request``; WorkerLost when it dies or a stage takes over ``timeout`` seconds.

        ``timeout`` may be a function of the stage (nameless before the first note). A GpuTuneError that the
        handler raises is raised here again. A lost child is killed at once and started anew at the next ``ask``.
        """
        self.start()
        connection, stage = self._connection, Stage()
        try:
            if not self._ready:  # starting takes a while on a busy machine, and is not the request's fault
                if not connection.poll(START_SECONDS):
                    self.kill()
                    raise WorkerLost(f"did not start within {START_SECONDS:g} s", Stage("start"), timed_out=True)
                connection.recv()
                self._ready = True
            connection.send(request)
            while True:
                limit = timeout(stage) if callable(timeout) else timeout
                before = _cpu_seconds(self.pid or 0)
                if not connection.poll(limit):
                    starved = _cpu_seconds(self.pid or 0) - before < limit / 2
                    self.kill()
                    reason = f"killed after {limit:g} s without an answer"
                    raise WorkerLost(reason, stage, timed_out=True, starved=starved)
                kind, value = connection.recv()
                if kind == "note":
                    stage = Stage(*value)
                elif kind == "unusable":
                    self.kill()  # else the next request might still meet the process that is about to end
                    raise value
                elif kind == "error":
                    raise value
                else:
                    return value
        except (EOFError, ConnectionError, BrokenPipeError) as error:
            process = self._process
            reason = self._post_mortem()
            code = (process.returncode or 0) if process is not None else 0
            raise WorkerLost(reason, stage, crashed=code in CRASHES, killed=code < 0 and code not in CRASHES) from error
        except BaseException as error:
            if not isinstance(error, GpuTuneError):
                self.kill()  # interrupted in mid-reply: what is in the pipe belongs to nobody
            raise

    def kill(self) -> None:
        """End the process and everything it started, and wait for it. Harmless when there is none."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            try:
                process.wait(KILL_SECONDS)
            except subprocess.TimeoutExpired:  # stuck in the kernel: only the machine can end it
                log.error(
                    "process %d does not end: its GPU hangs; see dmesg for an Xid, and restart the machine", process.pid
                )
        self._owned.close()

    def _post_mortem(self) -> str:
        """How the process ended, in words; the last of its own words when it had any."""
        code, how, words = None, "closed its connection", ""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(5.0)
                how = f"exited with code {code}"
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                how = f"was killed by {signal.Signals(-code).name}"
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 2000))
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            telling = [line for line in lines if not line.startswith("Extension modules")]
            words = next((t for t in telling if t.startswith("Fatal")), telling[-1] if telling else "")[:200]
        self.kill()
        return f"the worker process {how}" + (f": {words}" if words else "")


class WorkerPool:
    """At most ``size`` workers of ``entry``, each with a thread that hands it one job after another.

    Workers start when first needed. The threads are daemons: jobs that wait at the interpreter's exit are not begun.
    """

    def __init__(self, entry: str, size: int) -> None:
        self.entry, self.size, self.closed = entry, size, False
        self.workers: list[Worker] = []
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[Worker], Any]] | None] = queue.SimpleQueue()
        self._lock, self._unfinished = threading.Lock(), 0
        atexit.register(self.close)

    def run(self, job: Callable[[Worker], Any]) -> Future[Any]:
        """A future of ``job(worker)``, which begins when a worker is idle; RuntimeError when the pool is closed."""
        future: Future[Any] = Future()
        with self._lock:
            if self.closed:
                raise RuntimeError("the pool of workers is closed")
            self._unfinished += 1
            if len(self.workers) < min(self.size, self._unfinished):
                self.workers.append(Worker(self.entry))
                thread = threading.Thread(target=self._serve, args=(self.workers[-1],), daemon=True)
                self._threads.append(thread)
                thread.start()
            self._jobs.put((future, job))
        return future

    def close(self) -> None:
        """Cancel the jobs that wait and end the workers; a job in progress fails."""
        with self._lock:
            self.closed = True
            with contextlib.suppress(queue.Empty):
                while waiting := self._jobs.get_nowait():
                    waiting[0].cancel()
        atexit.unregister(self.close)
        for _ in self._threads:
            self._jobs.put(None)
        for worker in self.workers:
            worker.kill()
        for thread in self._threads:
            thread.join(5.0)
        for worker in self.workers:  # of a job that was about to ask
            worker.kill()

    def _serve(self, worker: Worker) -> None:
        done = 0
        while (item := self._jobs.get()) is not None:
            future, job = item
            result, failure = None, None
            wanted = future.set_running_or_notify_cancel()
            try:
                result = job(worker) if wanted else None
            except BaseException as error:
                failure = RuntimeError("the pool of workers was closed") if self.closed else error
            with self._lock:  # before it is answered: the next job then finds this worker idle
                self._unfinished -= 1
            if failure is not None:
                future.set_exception(failure)
            elif wanted:
                future.set_result(result)
            done += 1
            if done % RENEW_AFTER == 0:
                worker.kill()


def serve(connection_fd: int, lifeline_fd: int, entry: str, setup: str) -> None:
    """The child's main loop: answer requests until the parent closes the connection or ends."""
    threading.Thread(target=_die_with_parent, args=(lifeline_fd,), daemon=True).start()
    import faulthandler

    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(connection_fd)
    module, function = entry.split(":")
    handler = getattr(importlib.import_module(module), function)
    connection.send(("ready", None))
    failure: GpuTuneError | None = None

    def note(stage: str, subject: str = "") -> None:
        connection.send(("note", (stage, subject)))

    try:
        options = json.loads(setup)
        handler = handler if options is None else handler(options)
    except GpuTuneError as error:
        failure = error
    while True:
        try:
            request = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            if failure is not None:  # and end: what is asked next gets a new process, and it may fare better
                connection.send(("unusable", failure))
                return
            connection.send(("ok", handler(request, note)))
        except GpuTuneError as error:
            connection.send(("error", error))
        except Exception as error:  # a defect of the handler, not of the process: say so and live on
            traceback.print_exc()
            connection.send(("error", MeasureError(f"{type(error).__name__} in the measuring process: {error}")))


def _die_with_parent(lifeline: int) -> None:
    """End this process when the parent's end of the lifeline closes."""
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    os._exit(0)
