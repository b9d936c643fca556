"""Gradient of a convolution's image on tensor cores: mma.sync fed by a cp.async pipeline (sm_80 and newer), NHWC.

A dgrad is a convolution of dy with the filters flipped and transposed: A is the gathered dy, B the filters, whose rows
are channels of dy; both are flipped and transposed by indexing alone. A strided one is several: pixels of dx that lie a
stride apart meet the same filter taps, and each such phase is a dense convolution with a kernel of its own, so nothing
is multiplied by the zeros between elements of dy. Where a phase meets no tap, dx is set to zero before. The main loop,
split K, raster and epilogue are those of matmul_mma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..cuda.device import Device
from ..plan import LaunchPlan, MemsetStep, ResourceEstimate, Step
from ..space.knob import Constraint
from ..workload import ITEMSIZE
from ..workload.epilogue import DERIVATIVES
from .base import Template
from .lib.common import ceil_div, channels, derived_once
from .lib.mma import launch, seeds
from .lib.mma.constraints import WARPS, constraints
from .lib.mma.derived import Derived, Out, derived
from .lib.mma.gradients import SHALLOW, copied, filter_rows, image_operands, image_problem, phase_problem
from .lib.mma.loader import image_loader
from .lib.mma.tiles import KNOBS, Shape, promotes
from .lib.partial_sums import joined
from .lib.phases import Problems, convolutions, dense_problems
from .matmul_mma import numerics

MOST_PHASES = 4
"""Kernels of one source: a stride of 2 in both directions has four phases."""


def _atomics(w: Any) -> bool:
    return bool(not w.ops and w.out_dtype == "float32" and not w.deterministic and w.stride == (1, 1))


def _pixels(c: Mapping[str, Any], w: Any) -> tuple[int, int]:
    """Threads of a block, and those that copy one pixel."""
    dy = image_operands({"shared_layout": "xor", "copy_bytes": 16, "block_m": 16, "block_n": 16, **c}, w)[0]
    count = 32 * (c["block_m"] // c["warp_m"]) * (c["block_n"] // c["warp_n"]) * c["slice_k"]
    return count, c["block_k"] * dy.itemsize // max(1, dy.copy)


def _pixels_are_few(c: Mapping[str, Any], w: Any, d: Device) -> bool:
    count, row = _pixels(c, w)
    return count > 0 and count % row == 0 and c["block_m"] * row <= 8 * count


CONSTRAINTS = (
    *constraints(image_problem, image_operands, _atomics, state=16),
    Constraint(
        "block_k_divides",
        ("block_k",),
        lambda c, w, d: channels(w)[1] % c["block_k"] == 0,
        "block_k divides the channels of dy of a group, so that a k tile lies inside one filter tap",
    ),
    Constraint(
        "pixels_fit",
        (*WARPS, "block_k", "copy_bytes"),
        _pixels_are_few,
        "a thread's vectors lie at one place in k, and it keeps track of at most 8 pixels",
    ),
    Constraint(
        "phase_parts_fit",
        ("block_k", "split_k"),
        lambda c, w, d: all(c["split_k"] <= phase_problem(one).k_tiles(c) for one in convolutions(w)),
        "every part of every phase has a k tile",
    ),
    Constraint(
        "phase_reduction_legal",
        ("split_k", "reduction"),
        lambda c, w, d: c["split_k"] == 1 or c["reduction"] == "workspace" or w.stride == (1, 1),
        "the phases of a stride use one workspace in turn, where no counters can stay: a second kernel adds the parts",
    ),
    SHALLOW,
)


def supports(w: Any, device: Device) -> bool | str:
    cg, kg = channels(w)
    found = copied(w, device, math.gcd(cg, kg), "channels")
    if found is not True:
        return found
    if math.prod(w.stride) > MOST_PHASES:
        strides = f"{w.stride[0]}x{w.stride[1]}"
        return f"takes strides with at most {MOST_PHASES} phases, each of which is a kernel to compile, not {strides}"
    problems = dense_problems(w)
    if isinstance(problems, str):
        return problems
    if not problems.convolutions:
        return "has no pixel that meets a filter tap"
    if problems.empty and any(op.name not in (*DERIVATIVES, "dbias") for op in w.ops):  # which keep a zero
        return "sets pixels that meet no filter tap to zero, which an epilogue would change or save"
    if kg % (least := 64 // ITEMSIZE[w.dtype]):
        return f"takes channels of dy in k tiles of 64 bytes or more: {kg} of a group are no multiple of {least}"
    return seeds.has_tile(image_problem(w), w, device, TEMPLATE)


@dataclass(frozen=True)
class Phased:
    """All that the source sees as ``launch``: each phase as the other mma.sync families derive their one product."""

    phases: tuple[Derived, ...]
    strided: bool


@derived_once
def derive(config: Mapping[str, Any], w: Any, device: Device) -> Phased:
    count, cg = Shape.of(config, w.dtype, promotes(w, device)).threads, channels(w)[0]
    dy, filters = image_operands(config, w)
    problems = dense_problems(w)
    assert isinstance(problems, Problems), "supports() said that a config exists"
    strided, wide = w.stride != (1, 1), w.n * w.h * w.w * w.c >= 2**31
    found = []
    for number, (one, met) in enumerate(zip(problems.convolutions, problems.taps)):
        product, name = phase_problem(one), f"conv2d_dgrad_mma_{number}" if strided else "conv2d_dgrad_mma"
        iterator = "masks" if 1 < one.r * one.s <= 32 else "analytic"
        image = image_loader(dy, count, one, iterator, product.k_tiles(config))
        loaders, row = (image, filter_rows(filters, count, w, met)), math.gcd(w.c, cg)
        found.append(derived(name, config, one, device, product, loaders, Out(row, wide)))
    sums = joined([phase.storage.sums for phase in found])
    phases = (replace(phase, storage=replace(phase.storage, sums=one)) for phase, one in zip(found, sums))
    return Phased(tuple(phases), strided)


def _has_empty(w: Any) -> bool:
    problems = dense_problems(w)
    return isinstance(problems, Problems) and problems.empty


def resources(c: Mapping[str, Any], w: Any, device: Device) -> ResourceEstimate:
    """Those of the largest phase; its main loop counts the k tiles of all, which have about as many pixels each."""
    found = launch.resources(
        derive(c, w, device).phases[0].launch.name, c, w, device, image_problem(w), image_operands(c, w)
    )
    assert found.loop is not None
    tiles = sum(phase_problem(one).k_tiles(c) for one in convolutions(w))
    steps = ceil_div(tiles, c["split_k"])
    reads = (found.loop.reads[0] * steps / found.loop.steps, found.loop.reads[1] * steps / found.loop.steps)
    return replace(found, loop=replace(found.loop, steps=steps, reads=reads))


def plan(c: Mapping[str, Any], w: Any, device: Device) -> LaunchPlan:
    """One launch a phase (two with a split K), after zeros where a phase has no tap."""
    plans = [
        launch.plan(phase, c, w, phase_problem(one)) for phase, one in zip(derive(c, w, device).phases, convolutions(w))
    ]
    if len(plans) == 1 and not _has_empty(w):
        return plans[0]
    out = w.arrays()["out"]
    zeros: tuple[Step, ...] = (MemsetStep("out", out.nbytes),) if _has_empty(w) else ()
    steps = (*zeros, *(step for plan in plans for step in plan.steps))
    return LaunchPlan(steps, max(plan.workspace_bytes for plan in plans)).check()


TEMPLATE: Template = Template(
    name="conv2d_dgrad_mma",
    op="conv2d",
    summary="gradient of the image on tensor cores by mma.sync, strides up to 2, any group, nhwc",
    knobs=KNOBS,
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=resources,
    plan=plan,
    default=lambda w, d: seeds.default(w, d, TEMPLATE, image_problem(w)),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE, image_problem(w)),
    features=lambda c, w, d: seeds.features(c, w, d, image_problem(w)),
    numerics=numerics,
    min_cc=80,
    directions=("dgrad",),
    partial_sums=lambda c, w, d: derive(c, w, d).phases[0].storage.sums,
    whole_masks=lambda c, w, d: derive(c, w, d).phases[0].storage.byte_lanes > 0,
)
