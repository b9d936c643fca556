"""Compiling many sources at once: a pool of killable NVRTC workers in front of a content-addressed store.

A compile's identity is the source, the full option list and the NVRTC release. A compile that fails is kept as well
(the same source fails again); one that runs into its time limit or loses its worker is not: that may be the machine.
A worker that is lost (to an out-of-memory killer, say) is the environment's fault: its compile is tried again, then
once more with no other beside it, and if that is lost as well the future fails with EnvironmentFault.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import resource
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from .. import paths, text
from ..cuda import nvrtc
from ..errors import CompileError, EnvironmentFault, InvalidInput
from .worker import Worker, WorkerLost, WorkerPool

log = logging.getLogger("gpu_tune.compile")
TIMEOUT = 60.0
ATTEMPTS = 3
"""How often a compile is tried whose worker is lost; the last time no other compile runs."""
MAGIC = b"gpu_tune compiled 1\n"
_MEMORY_LIMIT = 16 * 2**30


@dataclass(frozen=True)
class CompileResult:
    """One compile's end. ``status``: ok, compile_error or compile_timeout; ``reason`` for people, ``log`` from NVRTC.

    ``seconds`` is what the compiler took (as recorded, when ``cached``).
    """

    status: str
    cubin: bytes = b""
    log: str = ""
    reason: str = ""
    seconds: float = 0.0
    cached: bool = False

    @property
    def cost(self) -> float:
        """Seconds that were spent on it now."""
        return 0.0 if self.cached else self.seconds


LINES = ("-lineinfo",)
"""Options of a compile whose cubin also holds its PTX and line tables: the same code, and what lanes are read from."""


def compile_key(source: str, arch: str, options: Sequence[str] = ()) -> str:
    """Identity of a compile: 32 hex digits over source, options and NVRTC release."""
    parts = [source, *nvrtc.all_options(arch, options), nvrtc.identity()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class CompileStore:
    """Compiled sources in a folder, one file each: a JSON line, then the cubin. Damaged or foreign files are misses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._complained = False

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.bin"

    def get(self, key: str) -> CompileResult | None:
        try:
            data = self.path(key).read_bytes()
            if not data.startswith(MAGIC):
                raise ValueError("unknown start")
            head, _, cubin = data[len(MAGIC) :].partition(b"\n")
            facts = json.loads(head)
            if facts.pop("key") != key or facts.pop("sha256") != hashlib.sha256(cubin).hexdigest():
                raise ValueError("digest differs")
            result: CompileResult = text.from_json(CompileResult, {**facts, "cubin": cubin, "cached": True})
            if result.status not in ("ok", "compile_error") or (result.status == "ok") != bool(cubin):
                raise ValueError("status and content differ")
            return result
        except OSError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("compiled file %s is damaged (%s): compiling again", self.path(key), error)
            return None

    def put(self, key: str, result: CompileResult) -> None:
        """Keep ``result`` (ok or compile_error) by one rename; a folder that cannot be written is logged once."""
        if result.status not in ("ok", "compile_error"):
            return
        facts = {"key": key, "status": result.status, "log": result.log, "reason": result.reason,
                 "seconds": round(result.seconds, 4), "sha256": hashlib.sha256(result.cubin).hexdigest()}  # fmt: skip
        try:
            self.path(key).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with paths.replacing(self.path(key)) as new:
                new.write_bytes(MAGIC + json.dumps(facts).encode() + b"\n" + result.cubin)
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning("compiled kernels cannot be kept in %s (%s): going on without", self.folder, error)


def default_jobs() -> int:
    """``GPU_TUNE_COMPILE_JOBS``, else the CPUs this process may use; InvalidInput when it is no count."""
    named = os.environ.get("GPU_TUNE_COMPILE_JOBS", "").strip()
    if not named:
        return max(1, len(os.sched_getaffinity(0)))
    if not (named.isascii() and named.isdigit() and 1 <= int(named) <= 1024):
        raise InvalidInput("GPU_TUNE_COMPILE_JOBS", named, "is not a count from 1 to 1024", "set one, or unset it")
    return int(named)


class CompilePool(WorkerPool):
    """Compiles sources in ``jobs`` killable processes; a crash or a hang costs the one compile it happened in.

    ``entry`` names the handler that workers run (tests put a faulty one there).
    """

    def __init__(
        self,
        store: CompileStore | None = None,
        jobs: int | None = None,
        timeout: float = TIMEOUT,
        entry: str = "gpu_tune.measure.compile:compile_request",
    ) -> None:
        super().__init__(entry, jobs or default_jobs())
        self.store, self.timeout = store, timeout
        self._in_flight: weakref.WeakValueDictionary[str, Future[CompileResult]] = weakref.WeakValueDictionary()
        self._submitting, self._complained, self._room = threading.Lock(), False, _Room()

    def submit(self, source: str, arch: str, options: Sequence[str] = LINES) -> Future[CompileResult]:
        """A future of the result; equal compiles in flight share one. CompilerMissing when there is no NVRTC."""
        request = source, arch, tuple(options)
        key = compile_key(*request)
        with self._submitting:
            future = self._in_flight.get(key)
            if future is None or future.done():
                future = self._in_flight[key] = self.run(lambda worker: self._result(worker, key, request))
            return future

    def _result(self, worker: Worker, key: str, request: tuple[str, str, tuple[str, ...]]) -> CompileResult:
        """The stored result, else the compiler's, which is stored; EnvironmentFault where the machine lets none be."""
        kept = self.store.get(key) if self.store else None
        if kept is not None:
            return kept
        start, why, crashes = time.perf_counter(), "", 0
        for attempt in range(ATTEMPTS):
            try:
                with self._room.all() if attempt == ATTEMPTS - 1 else self._room.one():
                    result: CompileResult = worker.ask(request, self.timeout)
                if self.store:
                    self.store.put(key, result)
                return result
            except WorkerLost as lost:
                if self.closed:
                    raise
                why, took, last = str(lost), time.perf_counter() - start, attempt == ATTEMPTS - 1
                if lost.timed_out and lost.stage.name != "start" and (last or not lost.starved):
                    return CompileResult("compile_timeout", reason=f"no cubin after {self.timeout:g} s", seconds=took)
                crashes += lost.crashed
                if crashes == 2:  # once may be chance; twice is the source
                    return CompileResult("compile_error", reason=f"the compiler crashed twice: {why}", seconds=took)
            except Exception as error:  # no process, no file left for its pipe, no NVRTC any more
                if self.closed:
                    raise
                why = str(error)
            self._say(why)
        raise EnvironmentFault(f"a compile was lost {ATTEMPTS} times, the last time alone: {why}")

    def _say(self, why: str) -> None:
        """Warn once in the life of a pool: what is lost to the machine is tried again."""
        with self._submitting:
            said, self._complained = self._complained, True
        if not said:
            log.warning("a compile worker was lost (%s): its compile is tried again, at last alone", why)


class _Room:
    """Where compiles run: many at once, or one alone, which waits until the others have ended."""

    def __init__(self) -> None:
        self._changed, self._running, self._alone = threading.Condition(), 0, 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def all(self) -> Iterator[None]:
        """Alone: compiles that come meanwhile wait."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = 1
            self._changed.wait_for(lambda: not self._running)
        try:
            yield
        finally:
            with self._changed:
                self._alone = 0
                self._changed.notify_all()


def compile_request(request: tuple[str, str, tuple[str, ...]], note: Callable[[str], None]) -> CompileResult:
    """In the worker: what comes of compiling (source, arch, options)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        limit = _MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _MEMORY_LIMIT)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    start = time.perf_counter()
    try:
        source, arch, options = request
        compiled = nvrtc.to_cubin(source, arch, options=options)
        return CompileResult("ok", compiled.data, compiled.log, seconds=time.perf_counter() - start)
    except CompileError as error:
        words, took = str(error), time.perf_counter() - start
        return CompileResult("compile_error", log=words, reason=_first_error(words), seconds=took)


def _first_error(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    return (telling or lines or [""])[0][:300]
