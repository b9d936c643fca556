"""Measuring on this machine's GPUs: one killable child per GPU verifies and times what the compile pool built.

A child that is lost costs the config that it ran, but only where that can have been the reason: a kernel that is known
to be right must run on the GPU afterwards, and a child that was killed from outside, or ran out of time before it came
to the config, is asked again. What remains is the environment's fault, which is no trial.
"""

from __future__ import annotations

import logging
import queue
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..cuda import nvrtc
from ..errors import CompilerMissing, EnvironmentFault, GpuTuneError, MeasureError
from ..templates.bound import BoundTemplate
from ..trial import MEASURED, Candidate, Measurement, Policy
from .baselines import names_for
from .compiling import CompilingMeasurer
from .finals import ROUNDS, Check, Finalist, Finals, conclude
from .messages import (
    PROBE,
    EnvironmentRequest,
    FinalistReply,
    FinalsReply,
    FinalsRequest,
    KernelToLoad,
    ProbeRequest,
    TrialReply,
    TrialRequest,
    WinnerRequest,
    WorkerFacts,
)
from .protocol import Build
from .quarantine import CircuitBreaker, Journal, run_seconds
from .worker import Stage, Worker, WorkerLost

log = logging.getLogger("gpu_tune.measure")
ENTRY = "gpu_tune.measure.gpu_worker:handler"
LIMITS = {"": 120.0, "inputs": 300.0, "reference": 600.0, "load": 15.0, "rounds": 120.0, "baselines": 120.0}
"""Seconds that a stage may take; every other stage runs the kernel a few times and has :func:`run_seconds`."""
BEFORE = ("", "start", "inputs", "reference")
"""Stages at which no kernel of the config has begun."""
ATTEMPTS = 3
"""How often something is asked of a child that is lost for a reason outside."""
PAUSES = (0.0, 1.0, 4.0, 15.0)
"""Seconds before each try to bring a GPU back that has worked before."""
BASELINES = ("cublas", "cublaslt", "cudnn")
"""Those that every tuning compares with where they fit; ``gpu-tune bench`` asks for PyTorch and Triton as well."""


class GpuMeasurer(CompilingMeasurer):
    """Measures on the GPUs ``gpus`` (ordinals, all of one chip).

    ``baselines``: the vendor libraries that ``finals`` times beside ours, as far as they are installed. ``entry`` and
    ``run_limit`` are for tests.
    """

    source = MEASURED

    def __init__(
        self,
        bound: Sequence[BoundTemplate],
        *,
        gpus: Sequence[int] = (0,),
        policy: Policy | None = None,
        store: Path | None = None,
        baselines: Sequence[str] | None = None,
        seed: int = 0,
        entry: str = ENTRY,
        run_limit: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(bound, policy=policy, store=store, timers=len(gpus), **options)
        fitting = tuple(n for n in names_for(self.workload) if n in BASELINES)
        self.baselines = fitting if baselines is None else tuple(baselines)
        self.seed, self.run_limit = seed, run_seconds(self.workload) if run_limit is None else run_limit
        self.children = [Worker(entry, {"ordinal": ordinal}) for ordinal in gpus]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for child in self.children:
            self._free.put(child)
        self.journal = Journal(store / "started") if store is not None else None
        self.killers = self.journal.killers() if self.journal else {}
        self._best = 0.0
        self.breaker = CircuitBreaker()
        self._timed_out = False
        self._facts: WorkerFacts | None = None
        self._known: dict[Worker, int] = {}
        self._probe = b""
        self._complained = False

    def close(self) -> None:
        if not self._closed:
            for child in self.children:
                child.kill()
            super().close()
            for child in self.children:
                child.kill()
            if self.journal:
                self.journal.close()

    def finals(self, candidates: Sequence[Candidate], *, rounds: int = ROUNDS) -> Finals:
        """A candidate that takes the child down is out."""
        builds, out = {}, dict[str, Finalist]()
        for candidate in dict.fromkeys(candidates):
            try:
                builds[candidate.key] = self.build(candidate)
            except (MeasureError, CompilerMissing):  # the environment's: says nothing of the candidate
                raise
            except GpuTuneError as error:
                out[candidate.key] = Finalist(candidate.key, candidate, status="compile_error", reason=str(error))
        baselines, reply = self.baselines, None
        while reply is None:
            left = [b for n, b in builds.items() if n not in out]
            if not left and not baselines:
                reply = FinalsReply({})
                break
            failed, reason, reply = self._ask_finals(left, baselines, rounds)
            if reply is None and failed in builds:
                out[failed] = Finalist(failed, builds[failed].candidate, status="run_error", reason=reason)
                out |= self._spared(failed, builds, out)
            elif reply is None and failed in baselines:  # it took the child down, or hung: the others go on
                out[failed] = Finalist(failed, status="run_error", reason=reason)
                baselines = tuple(n for n in baselines if n != failed)
            elif reply is None and baselines:  # one of them did, nobody knows which: ours are re-timed without them
                out.update({n: Finalist(n, status="run_error", reason=reason) for n in baselines})
                baselines = ()
            elif reply is None:
                raise MeasureError(f"the finalists could not be re-timed: {reason}")
        series = reply.finalists
        finalists = {n: out[n] if n in out else _finalist(n, b.candidate, series[n]) for n, b in builds.items()}
        finalists = {**out, **finalists, **{n: _finalist(n, None, r) for n, r in series.items() if n not in builds}}
        again = {n: r.again for n, r in series.items() if r.again}
        taken = {n: b.resources for n, b in builds.items()}
        environment = {**self._environment(), "clocks": reply.clocks, "baselines": list(baselines)}
        while True:
            found = conclude(MEASURED, list(finalists.values()), again, taken, environment)
            if found.winner is None or len(found.finalist(found.winner).checks) > 1:
                return found
            name = found.winner.key
            finalists[name] = self._check_winner(finalists[name], builds[name])

    def _spared(self, failed: str, builds: Mapping[str, Build], out: Mapping[str, Finalist]) -> dict[str, Finalist]:
        """The others of the template of ``failed``, should it be given up: they are not run any more."""
        template = builds[failed].candidate.template
        self.breaker.note(template, lost=True, hung=self._timed_out)
        reason = self.breaker.tripped(template)
        same = {n: b.candidate for n, b in builds.items() if n not in out and b.candidate.template == template}
        return {n: Finalist(n, c, status="quarantined", reason=reason) for n, c in same.items()} if reason else {}

    def vendors(self) -> Sequence[Finalist]:
        return self.finals(()).finalists

    def _check_winner(self, finalist: Finalist, build: Build) -> Finalist:
        """``finalist`` with the checks that only a winner gets, and wrong when one of them fails."""
        _, reason, reply = self._ask(WinnerRequest(self.workload, self.seed, KernelToLoad.of(build)))
        found = reply.checks if reply is not None else {"new inputs": (False, reason)}
        checks = (*finalist.checks, *(Check(n, "gpu", ok, detail) for n, (ok, detail) in found.items()))
        bad = "; ".join(f"{c.name}: {c.detail}" for c in checks if not c.ok)
        return replace(finalist, status="wrong" if bad else "ok", reason=bad, checks=checks)

    def _time(self, build: Build) -> Measurement:
        killer = self.killers.get(build.hash)
        reason = f"it {killer.why}" if killer is not None else self.breaker.tripped(build.candidate.template)
        if reason:
            return self._ended(build.candidate, "quarantined", reason, build=build)
        reply = self._trial(build)
        self.breaker.note(build.candidate.template, lost=reply.lost, hung=reply.status == "run_timeout")
        if reply.status == "ok":
            median = statistics.median_high(reply.samples)
            self._best = min(self._best or median, median)
        return self._ended(
            build.candidate,
            reply.status,
            reply.reason,
            {**build.seconds, **reply.seconds},
            build,
            samples=reply.samples,
            warm_samples=reply.warm_samples,
            environment={**self._environment(), **reply.clocks},
            error=reply.error,
        )

    def _trial(self, build: Build) -> TrialReply:
        """How ``build`` ended; EnvironmentFault where the machine let it come to no end."""
        request = TrialRequest(self.workload, self.seed, self.policy, KernelToLoad.of(build), self._best)
        why = ""
        for _ in range(ATTEMPTS):
            child, outside = self._child(), False
            try:
                if self.journal:
                    self.journal.started(build.hash, f"{self.workload.key} {build.candidate.key}")
                try:
                    reply: TrialReply = child.ask(request, self._limit)
                    outside = reply.outside
                    if reply.lost:
                        child.kill()
                except WorkerLost as lost:
                    if self._closed:
                        raise MeasureError("the measurer was closed") from lost
                    outside = _outside(lost)
                    reply = TrialReply("run_timeout" if lost.timed_out else "run_error", str(lost), lost=True)
                except GpuTuneError as error:
                    reply = TrialReply("run_error", str(error))
                if reply.lost and not outside:
                    self._require_health(child, reply.reason)  # else the journal keeps it as begun and not ended
            finally:
                self._free.put(child)
            if self.journal:
                self.journal.ended(build.hash, reply.status, reply.lost and not outside)
            if not outside:
                return reply
            why = reply.reason
            self._say("a trial was lost for a reason outside of it (%s): it is tried again", why)
        raise EnvironmentFault(f"a trial was lost {ATTEMPTS} times for a reason outside of it: {why}")

    def _say(self, words: str, why: str) -> None:
        """Warn once in the life of a measurer."""
        if not self._complained:
            self._complained = True
            log.warning(words, why)

    def _require_health(self, child: Worker, why: str) -> None:
        """EnvironmentFault unless the child's GPU still runs what is known to be right: then ``why`` blames nobody."""
        try:
            self._revive(child)
        except GpuTuneError as error:
            if self._closed:
                raise MeasureError("the measurer was closed") from error
            raise EnvironmentFault(f"{error}; before that: {why}") from error

    def _ask_finals(
        self, builds: Sequence[Build], baselines: Sequence[str], rounds: int
    ) -> tuple[str, str, FinalsReply | None]:
        """The name of what made the finals break off ("": unknown) and why, or the reply."""
        kernels = tuple(map(KernelToLoad.of, builds))
        request = FinalsRequest(self.workload, self.seed, self.policy, kernels, tuple(baselines), rounds)
        failed, reason, reply = self._ask(request)
        broken = reply is not None and reply.failed is not None
        return (reply.failed, reply.reason, None) if broken else (failed, reason, reply)

    def _ask(self, request: FinalsRequest | WinnerRequest) -> tuple[str, str, Any]:
        """The subject that made the child end before it replied ("": unknown) and why, or the reply."""
        why = ""
        for _ in range(ATTEMPTS):
            child = self._child()
            self._timed_out = False
            try:
                reply = child.ask(request, self._limit)
                if reply.lost:
                    child.kill()
                    self._require_health(child, getattr(reply, "reason", ""))
                return "", "", reply
            except WorkerLost as error:
                why = str(error)
                if not _outside(error):
                    self._timed_out = error.timed_out
                    self._require_health(child, why)
                    return error.stage.subject, why, None
            finally:
                self._free.put(child)
            self._say("the finalists were lost for a reason outside of them (%s): they are timed again", why)
        raise EnvironmentFault(f"the finalists were lost {ATTEMPTS} times for a reason outside of them: {why}")

    def _child(self) -> Worker:
        """A child that is free and whose GPU works; MeasureError when it cannot be used at all."""
        child = self._free.get()
        try:
            self._revive(child)
        except BaseException:
            self._free.put(child)
            raise
        return child

    def _revive(self, child: Worker) -> None:
        """Start the process of ``child`` where it has none, and see whether its GPU works; else MeasureError."""
        if self._known.get(child) == child.restarts and child.pid is not None:
            return
        pauses = PAUSES if child in self._known else (0.0,)  # after a lost context the GPU may need a moment
        for pause in pauses:
            time.sleep(pause)
            try:
                facts = self._facts_of(child)
                child.ask(ProbeRequest(self._probe_code()), LIMITS[""])
                break
            except GpuTuneError as error:
                child.kill()
                reason = error
        else:
            raise MeasureError(f"the GPU of {self.device.name} cannot be used: {reason}") from reason
        self._known[child] = child.restarts
        self._facts = self._facts or facts

    def _probe_code(self) -> bytes:
        """The probe, compiled for the device."""
        if not self._probe:
            found = self.pool.submit(PROBE, self.device.arch).result()
            if found.status != "ok":
                raise MeasureError(f"NVRTC does not even compile a kernel that is known to be right: {found.reason}")
            self._probe = found.cubin
        return self._probe

    def _facts_of(self, child: Worker) -> WorkerFacts:
        facts: WorkerFacts = child.ask(EnvironmentRequest(), LIMITS[""])
        if facts.chip != self.device.chip:
            raise MeasureError(f"GPU {facts.ordinal} is {facts.chip}, not {self.device.chip}")
        supported, built = int(facts.cuda.split(".")[0]), nvrtc.version()[0]
        if built > supported:
            raise MeasureError(
                f"its driver runs CUDA {facts.cuda}, but NVRTC {built} compiles for newer ones; "
                f"install gpu_tune[cuda{supported}] or a newer driver"
            )
        if self.device.cc not in nvrtc.architectures():
            old = self.device.cc < min(nvrtc.architectures())
            newer = f"a newer one: pip install -U gpu_tune[cuda{supported}]"
            raise MeasureError(
                f"NVRTC {'.'.join(map(str, nvrtc.version()))} does not compile for its architecture "
                f"({self.device.arch}); install {'gpu_tune[cuda12], which still does' if old else newer}"
            )
        return facts

    def _limit(self, stage: Stage) -> float:
        return LIMITS.get(stage.name, self.run_limit)

    def _environment(self) -> dict[str, Any]:
        return {**super()._environment(), **(asdict(self._facts) if self._facts else {})}


def _outside(lost: WorkerLost) -> bool:
    """Whether a child was lost for a reason outside of what it ran."""
    return lost.killed or (lost.timed_out and lost.stage.name in BEFORE)


def _finalist(name: str, candidate: Candidate | None, reply: FinalistReply) -> Finalist:
    checks = tuple(Check(n, "gpu", ok, detail) for n, (ok, detail) in reply.checks.items())
    return Finalist(name, candidate, reply.samples, reply.warm_samples, reply.status, reply.reason, reply.label, checks,
                    reply.host_seconds)  # fmt: skip
