"""Every template's kernels on the GPU: random variants of those that the emulator checks, verified as in tuning.

Each is rendered, compiled, checked and timed by the measuring process itself. All are tried before a test fails, and
the message has one line for each that is not right, with the command that runs the same variant on the emulator.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import KNOWN, Device
from gpu_tune.errors import GpuTuneError, InvalidInput
from gpu_tune.measure.messages import EnvironmentRequest, KernelToLoad, TrialRequest, WinnerRequest
from gpu_tune.measure.worker import Worker, WorkerLost
from gpu_tune.templates.base import Template
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import registry
from gpu_tune.trial import Policy
from gpu_tune.verify.cases import Variant
from gpu_tune.verify.draw import variants

pytestmark = pytest.mark.gpu
COUNT = int(os.environ.get("GPU_TUNE_GPU_VARIANTS", "16"))
HANGS = 3
"""So many that hang, and a template is given up."""
STAGE_SECONDS, READY_SECONDS = 8.0, 60.0


def build(template: Template, variant: Variant, gpu: Device) -> TrialRequest:
    """The request that the measuring process gets for ``variant``, built for ``gpu``."""
    rendered = BoundTemplate(template, variant.workload, variant.device).render(variant.config)
    cubin, names = nvrtc.to_cubin(rendered.source, gpu.arch).data, {n: n for n in variant.workload.arrays()}
    kernel = KernelToLoad("it", cubin, rendered.plan, rendered.numerics, names)
    return TrialRequest(variant.workload, variant.seed, Policy(repeats=3), kernel)


def outcome(child: Worker, request: TrialRequest) -> tuple[str, str]:
    """(status, reason) of one variant: checked, timed, and checked as a winner is."""
    try:
        if child.pid is None:  # its start, and the making of a context, are no part of a kernel's time
            child.ask(EnvironmentRequest(), READY_SECONDS)
        reply = child.ask(request, STAGE_SECONDS)
        if reply.lost:
            child.kill()
        if reply.status not in ("ok", "unstable"):
            return reply.status, reply.reason
        checks = child.ask(WinnerRequest(request.workload, request.seed, request.kernel), STAGE_SECONDS)
        if checks.lost:
            child.kill()
        bad = [f"{name}: {reason}" for name, (ok, reason) in checks.checks.items() if not ok]
        return ("wrong", "; ".join(bad)) if bad else ("ok", "")
    except WorkerLost as error:
        return "hangs" if error.timed_out else "run_error", str(error)
    except GpuTuneError as error:
        return "error", str(error)


@pytest.mark.parametrize("name", registry())
def test_variants_are_right(gpu: Device, measuring: Worker, told: Callable[[str], None], name: str):
    template = registry()[name]
    like = next((d.name for d in KNOWN.values() if d.name == gpu.name), None) or next(
        (d.name for d in KNOWN.values() if d.arch == gpu.arch), ""
    )
    try:
        drawn = [replace(v, device=replace(gpu, sm_count=min(gpu.sm_count, v.device.sm_count)))
                 for v in itertools.islice(variants(template, 1, (like,) if like else ()), COUNT)]  # fmt: skip
    except InvalidInput as error:
        pytest.skip(f"not for this chip: {error}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        built = [pool.submit(build, template, v, gpu) for v in drawn]
    bad, hangs, tried = [], 0, 0
    for variant, made in zip(drawn, built):
        try:
            status, reason = outcome(measuring, made.result())
        except GpuTuneError as error:
            status, reason = "not built", str(error)
        tried += 1
        if status != "ok":
            bad.append(f"{status}: {reason[:500]}\n    {variant.workload.key}\n    {variant.command}")
        hangs += status == "hangs"
        if hangs >= HANGS:
            break
    told(f"{name}: {tried - len(bad)} of {tried} variants right" + (", given up after hangs" if hangs >= HANGS else ""))
    assert not bad, f"{len(bad)} of {tried} variants of {name}:\n" + "\n".join(bad)
