"""Which baselines compete: each library's algorithms are tried and timed in small graphs, the fastest is checked."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from ...cuda.device import Device
from ...errors import Unavailable
from ...reference import EPS, Numerics
from ...workload import FP8, Workload
from .. import runtime
from ..check import Checker
from ..device_data import DeviceData
from ..runtime import Stream
from ..timing import SLOW
from ..worker import Note
from . import cublas, cudnn, torch, triton
from .baseline import Algorithm, Baseline, Session

log = logging.getLogger("gpu_tune.baselines")
LIBRARIES: Mapping[str, tuple[Callable[[Session], Sequence[Algorithm]], tuple[str, ...]]] = {
    "cublas": (cublas.gemm_ex, ("matmul",)),
    "cublaslt": (cublas.lt, ("matmul",)),
    "cudnn": (cudnn.algorithms, ("conv2d",)),
    "torch": (torch.algorithms, ("matmul", "conv2d")),
    "triton": (triton.algorithms, ("matmul",)),
}
"""By name: what gives the algorithms, and the operations that they are meant for."""
NAMES = tuple(LIBRARIES)
FINALISTS, RETRIALS = 5, 5
LAUNCHES, SERIES = 8, 3
LONG = 100e-6
"""A run of that many seconds is timed well without a graph."""


def names_for(workload: Workload) -> tuple[str, ...]:
    """The baselines that are meant for workloads of that kind, installed or not."""
    return tuple(name for name, (_, ops) in LIBRARIES.items() if workload.op in ops)


def prepare(
    names: Sequence[str],
    data: DeviceData,
    checker: Checker,
    stream: Stream,
    device: Device,
    note: Note,
) -> tuple[list[Baseline], dict[str, str]]:
    """The baselines that can compute the workload and do it right; and for each other one, the reason why not."""
    good: list[Baseline] = []
    missing: dict[str, str] = {}
    for name in names:  # should this library take the process down, its name is known
        session = Session(data, stream, device, functools.partial(note, "baselines", name))
        session.note()
        try:
            for baseline in _contest(name, session):
                result = checker.check_result(baseline)
                if result.status == "ok":
                    session.users += 1
                    good.append(baseline)
                else:
                    missing[baseline.name] = f"its result is wrong: {result.reason}"
        except Unavailable as reason:
            missing[name] = str(reason)
        except Exception as error:  # of another version, or none that we know: it does not compete, and says why
            if runtime.is_fatal(error):
                raise
            log.warning("baseline %s: %s", name, error)
            missing[name] = f"{type(error).__name__}: {error}"
        if not session.users:
            session.owned.close()
    return good, missing


def _contest(name: str, session: Session) -> Iterator[Baseline]:
    """The fastest algorithm of library ``name``; of cuDNN also the one that its heuristic puts first."""
    workload = session.data.workload
    if name not in LIBRARIES:
        raise Unavailable(f"is unknown; use {', '.join(NAMES)}")
    offer, ops = LIBRARIES[name]
    if workload.op not in ops:
        raise Unavailable("multiplies matrices" if "matmul" in ops else "is compared with for convolutions")
    algorithms = offer(session)
    best = fastest(algorithms, session)
    if best is None:
        failure = next((f": {a.failed}" for a in algorithms if a.failed), "")
        raise Unavailable(f"offers nothing for {workload.key}{failure}")
    label = best.label + (f", fastest of {len(algorithms)}" if len(algorithms) > 1 else "")
    yield Baseline(name, label, best, session, _tolerance(workload, best.roundings))
    if name == "cudnn":
        first = next(a for a in algorithms if not a.failed)
        label = f"{first.label}, first by its heuristic"
        yield Baseline("cudnn-first", label, first, session, _tolerance(workload, first.roundings))


def fastest(algorithms: Sequence[Algorithm], session: Session) -> Algorithm | None:
    """The fastest of ``algorithms``, None when all fail. Those that were fastest at first are timed again."""
    timed: list[float] = []
    for algorithm in algorithms:
        session.note()
        timed.append(_seconds(algorithm, session, min(timed, default=math.inf)))
    order = sorted((t, i) for i, t in enumerate(timed) if t < math.inf)
    finalists = [algorithms[i] for _, i in order[:FINALISTS]]
    return min(finalists, key=lambda a: min(_seconds(a, session) for _ in range(RETRIALS)), default=None)


def _seconds(algorithm: Algorithm, session: Session, best: float = math.inf) -> float:
    """Seconds of one run, the best of three short graphs on rotating buffers; inf where the library refuses.

    A graph, because issuing from Python takes longer than a small kernel runs; a long one is issued once a graph, and
    one that is far from ``best`` is not timed again.
    """
    data, stream, launches = session.data, session.stream, LAUNCHES

    def issue(on: int) -> None:
        for i in range(launches):
            algorithm.run(data.timing[i % data.sets], data.scalars, on)

    try:
        timer = runtime.timer(stream)
        algorithm.run(data.timing[0], data.scalars, stream.ptr)
        once = timer(lambda on: algorithm.run(data.timing[0], data.scalars, on))
        if once > LONG:
            if once > SLOW * best:
                return once
            launches = max(1, min(LAUNCHES, math.ceil(4 * LONG / once)))
        graph = runtime.capture(stream, issue)
        graph.launch(stream)
        return min(timer(lambda on: graph.launch(stream)) / launches for _ in range(SERIES))
    except Exception as error:  # the libraries' errors have no common root; one way that fails leaves the others
        if runtime.is_fatal(error):
            raise
        algorithm.failed = f"{type(error).__name__}: {error}"
        log.debug("%s fails: %s", algorithm.label, error)
        return math.inf


def _tolerance(workload: Workload, roundings: int) -> Numerics:
    """Wide enough for what was permitted and for intermediate roundings; a wrong layout or operand is far outside.

    float8: tensor cores cut products to about 13 fraction bits before they add them, and without fast accumulation
    libraries add such sums of a few steps in float32.
    """
    eps = EPS.get(workload.out_dtype, EPS["float32"])
    loose = {"tf32": 2.0**-9, "tf32x3": 2.0**-16, "fp16_accumulate": 2.0**-7, "fast_accumulate": 2.0**-7}
    permitted = max((loose.get(p, 0.0) for p in workload.math), default=0.0)
    permitted = max(permitted, 2.0**-10 if workload.dtype in FP8 else 0.0)
    return Numerics(k_eps=8.0, input_eps=permitted + 4 * roundings * eps)
