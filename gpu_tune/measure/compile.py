"""Compiling many sources at once: a pool of killable NVRTC workers in front of a content-addressed store.

A compile's identity is the source, the full option list and the NVRTC release. A compile that fails is kept as well
(the same source fails again); one that runs into its time limit or loses its worker is not: that may be the machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import resource
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from .. import paths, text
from ..cuda import nvrtc
from ..errors import CompileError, InvalidInput
from .worker import Worker, WorkerLost

log = logging.getLogger("gpu_tune.compile")
TIMEOUT = 60.0
MAGIC = b"gpu_tune compiled 1\n"
_MEMORY_LIMIT = 16 * 2**30
_RENEW_AFTER = 500  # compiles per worker: bounds whatever NVRTC does not give back


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


def compile_key(source: str, arch: str) -> str:
    """Identity of a compile: 32 hex digits over source, options and NVRTC release."""
    parts = [source, *nvrtc.all_options(arch), nvrtc.identity()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class CompileStore:
    """Compiled sources in a folder, one file each: a JSON line, then the cubin. Damaged or foreign files are misses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._complained = False

    def path(self, key: str) -> Path:
        """Where ``key`` lies."""
        return self.folder / key[:2] / f"{key}.bin"

    def get(self, key: str) -> CompileResult | None:
        """The stored result, or None."""
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


class CompilePool:
    """Compiles sources in ``jobs`` killable processes; a crash or a hang costs the one compile it happened in.

    Workers start when first needed. ``entry`` names the handler that workers run (tests put a faulty one there).
    """

    def __init__(
        self,
        store: CompileStore | None = None,
        jobs: int | None = None,
        timeout: float = TIMEOUT,
        entry: str = "gpu_tune.measure.compile:compile_request",
    ) -> None:
        self.store, self.timeout, self.entry = store, timeout, entry
        self.jobs = jobs or default_jobs()
        self.busy_seconds = 0.0
        self._queue: queue.SimpleQueue[tuple[str, str, str, Future[CompileResult]] | None] = queue.SimpleQueue()
        self._running: dict[str, Future[CompileResult]] = {}
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._children: list[Worker] = []
        self._closed = False
        self._finalizer = weakref.finalize(self, _kill_all, self._children)

    def submit(self, source: str, arch: str) -> Future[CompileResult]:
        """A future of the result; equal compiles in flight share one. CompilerMissing when there is no NVRTC."""
        key = compile_key(source, arch)
        with self._lock:
            if self._closed:
                raise RuntimeError("the compile pool is closed")
            if key in self._running and not self._running[key].cancelled():
                return self._running[key]
            future: Future[CompileResult] = Future()
            self._running[key] = future
            if len(self._threads) < self.jobs and len(self._running) > len(self._threads):
                child = Worker(self.entry)
                self._children.append(child)
                thread = threading.Thread(target=self._work, args=(child,), daemon=True, name="gpu_tune-compile")
                self._threads.append(thread)
                thread.start()
        self._queue.put((key, source, arch, future))
        return future

    def close(self) -> None:
        """Cancel what waits, end the workers. A compile in flight ends as a cancelled future."""
        with self._lock:
            self._closed = True
            waiting = list(self._running.values())
        for future in waiting:
            future.cancel()
        for _ in self._threads:
            self._queue.put(None)
        for child in self._children:
            child.kill()
        for thread in self._threads:
            thread.join(5.0)

    def _work(self, child: Worker) -> None:
        done = 0
        while (job := self._queue.get()) is not None:
            key, source, arch, future = job
            wanted, result = future.set_running_or_notify_cancel(), None
            try:
                result = self.store.get(key) if wanted and self.store else None
                if wanted and result is None:
                    result = self._compile(child, source, arch)
                    done += 1
                    if self.store and not self._closed:
                        self.store.put(key, result)
            except BaseException as error:
                if self._closed:
                    return future.set_exception(RuntimeError("the compile pool was closed"))
                result = CompileResult("compile_error", reason=f"the compile could not be run: {error}")
            with self._lock:
                if self._running.get(key) is future:
                    del self._running[key]
            if result is not None:
                future.set_result(result)
            if done >= _RENEW_AFTER:
                child.kill()
                done = 0

    def _compile(self, child: Worker, source: str, arch: str) -> CompileResult:
        start, why = time.perf_counter(), ""
        for _ in range(2):  # once may be a stray kill; twice is the source
            try:
                result: CompileResult = child.ask((source, arch), self.timeout)
                self.busy_seconds += time.perf_counter() - start
                return result
            except WorkerLost as lost:
                if self._closed:
                    raise
                why, took = str(lost), time.perf_counter() - start
                if lost.timed_out:
                    return CompileResult("compile_timeout", reason=f"no cubin after {self.timeout:g} s", seconds=took)
        return CompileResult("compile_error", reason=f"the compiler was lost twice: {why}", seconds=took)


def compile_request(request: tuple[str, str], note: Callable[[str], None]) -> CompileResult:
    """In the worker: what comes of compiling (source, arch)."""
    _limit_memory()
    start = time.perf_counter()
    try:
        compiled = nvrtc.to_cubin(*request)
        return CompileResult("ok", compiled.data, compiled.log, seconds=time.perf_counter() - start)
    except CompileError as error:
        words, took = str(error), time.perf_counter() - start
        return CompileResult("compile_error", log=words, reason=_first_error(words), seconds=took)


def _limit_memory() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        limit = _MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _MEMORY_LIMIT)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _first_error(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    return (telling or lines or [""])[0][:300]


def _kill_all(children: list[Worker]) -> None:
    for child in children:
        child.kill()
