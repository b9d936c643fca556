"""Executing a candidate on the emulator: on the workload itself where that is small, else on a smaller one like it.

The smaller workload keeps the config and everything that the code's paths depend on: layout, dtype, epilogue, strides
beyond the row, how far each size is from a multiple of 128 (so tails stay tails). Sizes are compiled into the source,
so it is rendered again. Where a config wants more tiles than the emulator can compute (whole waves of them, and some
beyond), it is rendered for a slice of the device with a few SMs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from .. import reference
from ..cuda.device import Device
from ..emulator import run_plan
from ..errors import CompilerMissing, GpuTuneError, MeasureError, StoreError
from ..plan import LaunchPlan
from ..space.knob import Config
from ..templates.bound import BoundTemplate, Rendered
from ..workload import Conv2d, Matmul, Workload
from .finals import Check
from .protocol import Build

WHOLE = 3e8
"""FLOP up to which the workload itself is executed (the emulator does about 10^9 a second)."""
SLICES = (1, 3, 5)
"""SMs of slices of a device, for configs whose grid depends on it."""
LARGEST = 6e9
"""FLOP up to which it is executed when no smaller workload satisfies the config's constraints."""


def check(build: Build, seed: int = 0) -> Check:
    """Run ``build`` on the emulator and compare with the reference.

    ``ok`` needs a right result and no finding (race, access outside a buffer, deadlock ...). A check that the kernel
    does not let run (an unknown instruction, say) is not ok, and its ``detail`` says why; where the machine does not
    (a compiler that has gone), its error comes out: it says nothing of the kernel.
    """
    bound, config = build.bound, build.candidate.config
    small = stand_in(bound, config)
    if small is None:
        rule = "no smaller workload satisfies the config's constraints"
        return Check("result", "emulator", False, rule, bound.computed.key)
    found = Check("result", "emulator", False, workload=small.computed.key)
    try:
        rendered = build.rendered if small is bound else small.render(config)
    except GpuTuneError as error:
        return replace(found, detail=f"could not be executed: {error}"[:500])
    found = _executed(rendered, rendered.plan, small.computed, small.device, seed)
    part = "" if small.device == bound.device else f", on {small.device.sm_count} SMs"
    return replace(found, detail=found.detail + part)


def check_sizes(bound: BoundTemplate, config: Config, sizes: Sequence[int], seed: int = 0) -> Iterator[Check]:
    """Run a config that leaves a size open with each of ``sizes``, the others made small, and compare as :func:`check`.

    One source computes all of them: that of the size for which the config is valid.
    """
    small = stand_in(bound, config) if bound.open is not None else None
    if small is None:
        rule = "no smaller workload satisfies the config's constraints"
        yield Check("result", "emulator", False, rule, bound.computed.key)
        return
    rendered = small.render(config)
    assert rendered.open_plan is not None
    for size in sizes:
        yield _executed(rendered, rendered.open_plan.at(size), small.computed.resized(size), small.device, seed)


def _executed(rendered: Rendered, plan: LaunchPlan, workload: Workload, device: Device, seed: int) -> Check:
    """``rendered`` run by ``plan`` on inputs of ``workload``."""
    found = Check("result", "emulator", False, workload=workload.key)
    try:
        arrays = reference.example_inputs(workload, seed)
        scalars = {name: value for name, value in (("alpha", 0.75), ("beta", 0.5)) if name in workload.scalars()}
        made = reference.empty_results(workload)
        given = {**arrays, **made}
        options: dict[str, Any] = dict(scalars=scalars, arch=device.arch, device=device, seed=seed, writes=tuple(made))
        report = run_plan(rendered.source, plan, given, **options)
        if report.findings:  # advice too: what this package emits waits for all that it starts
            return replace(found, detail=str(report)[:500])
        results = {name: report.arrays[name] for name in made}
        compared = reference.compare(results, workload, arrays, scalars, numerics=rendered.numerics)
        return replace(found, ok=compared.ok, detail=str(compared))
    except (CompilerMissing, MeasureError, StoreError):
        raise
    except GpuTuneError as error:
        return replace(found, detail=f"could not be executed: {error}"[:500])


def stand_in(bound: BoundTemplate, config: Config) -> BoundTemplate | None:
    """``bound`` where what it computes is small, else for the first smaller workload that ``config`` is valid for, on
    its device or a slice of that; or None."""
    workload = bound.computed
    if workload.flops <= WHOLE:
        return bound
    for device in (bound.device, *(replace(bound.device, sm_count=sms) for sms in SLICES)):
        for small in smaller(workload):
            with contextlib.suppress(GpuTuneError):
                fits = small.flops <= LARGEST and bound.template.supported(small, device) is True
                if fits and not (found := bound.on(small, device)).violations(config):
                    return found
    return bound if workload.flops <= LARGEST else None


def smaller(workload: Workload) -> Iterator[Workload]:
    """Smaller workloads like ``workload``; first those that cost least to execute."""
    if isinstance(workload, Matmul):
        sizes = [
            (2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 1, 1), (1, 1, 3), (3, 1, 0), (1, 3, 0), (1, 0, 5), (0, 1, 5),
            (2, 2, 4), (2, 2, 8), (1, 1, 16), (2, 2, 16), (1, 1, 32), (1, 1, 64), (4, 4, 2), (4, 4, 8), (8, 8, 8),
            *((m, n, k) for k in (1, 2, 4, 8, 16) for m, n in ((8, 1), (1, 8), (16, 1), (1, 16), (33, 1), (1, 33))),
            (16, 2, 4), (2, 16, 4), (4, 4, 16), (8, 4, 8), (4, 8, 8), (8, 8, 16),
            (1, 1, 1 << 30), (2, 2, 1 << 30),  # all of k: stages and splits can demand a long sum
        ]  # fmt: skip
        for m, n, k in sizes:
            yield _matmul(workload, _shrunk(workload.m, m), _shrunk(workload.n, n), _shrunk(workload.k, k))
    else:
        for sides in ((64, 64, 12), (32, 64, 14), (128, 32, 8), (256, 64, 6), (32, 32, 8), (16, 16, 8)):
            with contextlib.suppress(GpuTuneError):
                yield _conv2d(workload, *sides)


def _shrunk(size: int, multiples: int) -> int:
    """At most ``size``; the same distance from a multiple of 128 beyond ``multiples`` times 128."""
    return min(size, 128 * multiples + (size % 128 or (128 if multiples == 0 else 0)))


def _matmul(w: Matmul, m: int, n: int, k: int) -> Matmul:
    bare = replace(w, m=m, n=n, k=k, batch=min(w.batch, 2), lda=0, ldb=0, ldc=0)
    a, b, c = w.lda - w.a_shape[-1], w.ldb - w.b_shape[-1], w.ldc - w.n
    return replace(bare, lda=bare.lda + a, ldb=bare.ldb + b, ldc=bare.ldc + c)


def _conv2d(w: Conv2d, channels: int, filters: int, side: int) -> Conv2d:
    groups = w.groups
    per_group, out_group = w.c // groups, w.k // groups
    while groups > 2 and (groups * per_group > channels or groups * out_group > filters) and groups % 2 == 0:
        groups //= 2
    c = groups * min(per_group, max(1, channels // groups) + per_group % 32)
    k = groups * min(out_group, max(1, filters // groups) + out_group % 32)
    reach_h, reach_w = w.dilation[0] * (w.r - 1) + 1, w.dilation[1] * (w.s - 1) + 1
    h = min(w.h, max(side + w.h % 8, reach_h))
    width = min(w.w, max(side + w.w % 8, reach_w))
    return replace(w, n=min(w.n, 2), c=c, k=k, h=h, w=width, groups=groups)
