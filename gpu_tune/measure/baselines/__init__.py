"""Vendor libraries as contenders: the same inputs, permissions and timing policy as ours, interleaved with ours.

``cublas``: cublasGemmEx with its own choice. ``cublaslt``: the fastest of the 100 algorithms that its heuristic
proposes, with 32 MiB of workspace. ``cudnn``: the fastest of all plans of the cuDNN frontend; ``cudnn-first``: the one
that its heuristic puts first. ``torch``: PyTorch as its users call it. ``triton``: an autotuned Triton matmul.
What a library cannot fuse is done by one elementwise kernel of our own in the same graph where that is faster, and the
label says so. A baseline whose result is wrong does not compete, and says why. No library is required: each is looked
for when it is asked for.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence

from ...cuda.device import Device
from ...cuda.driver import DriverError
from ...cuda.memory import Stream
from ...errors import Unavailable
from ...reference import EPS
from ...reference.numerics import Numerics
from ...workload import FP8, Matmul, Workload
from ..check import Verifier
from ..device_data import DeviceData
from .baseline import Baseline

log = logging.getLogger("gpu_tune.baselines")
NAMES = ("cublas", "cublaslt", "cudnn", "torch", "triton")
_MATMUL, _CONV2D = ("cublas", "cublaslt", "torch", "triton"), ("cudnn", "torch")


def names_for(workload: Workload) -> tuple[str, ...]:
    """The baselines that are meant for workloads of that kind, installed or not."""
    return _MATMUL if isinstance(workload, Matmul) else _CONV2D


def prepare(
    names: Sequence[str],
    data: DeviceData,
    verifier: Verifier,
    stream: Stream,
    device: Device,
    note: Callable[[str], None],
) -> tuple[list[Baseline], dict[str, str]]:
    """The baselines that can compute the workload and do it right; and for each other one, the reason why not."""
    good: list[Baseline] = []
    missing: dict[str, str] = {}
    for name in names:
        said = functools.partial(_say, note, name)  # should this library take the process down, its name is known
        said("baselines")
        try:
            for baseline in _make(name, data, stream, device, said):
                error = _check(baseline, verifier)
                if error:
                    missing[baseline.name] = f"its result is wrong: {error}"
                    baseline.close()
                else:
                    good.append(baseline)
        except Unavailable as reason:
            missing[name] = str(reason)
        except Exception as error:  # of another version, or none that we know: it does not compete, and says why
            if isinstance(error, DriverError) and error.sticky:
                raise
            log.warning("baseline %s: %s", name, error)
            missing[name] = f"{type(error).__name__}: {error}"
    return good, missing


def _say(note: Callable[[str], None], name: str, text: str) -> None:
    note(f"check {name}|{text}")


def _make(
    name: str, data: DeviceData, stream: Stream, device: Device, note: Callable[[str], None]
) -> Iterator[Baseline]:
    workload = data.workload
    if name not in NAMES:
        raise Unavailable(f"is unknown; use {', '.join(NAMES)}")
    if isinstance(workload, Matmul):
        if name == "cudnn":
            raise Unavailable("is compared with for convolutions")
        if name in ("cublas", "cublaslt"):
            from . import cublas

            yield cublas.make(name, workload, data, stream, device, note)
        elif name == "triton":
            from .triton import make as triton

            yield triton(workload, data, stream, device, note)
    elif name not in ("cudnn", "torch"):
        raise Unavailable("multiplies matrices")
    elif name == "cudnn":
        from . import cudnn

        yield from cudnn.make(workload, data, stream, device, note)
    if name == "torch":
        from .torch import make as torch

        yield torch(workload, data, stream, device, note)


def _check(baseline: Baseline, verifier: Verifier) -> str:
    verdict = verifier.check_result(baseline.run, _tolerance(verifier.data.workload, baseline.roundings))
    return "" if verdict.status == "ok" else verdict.reason


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


__all__ = ["NAMES", "Baseline", "Unavailable", "names_for", "prepare"]
