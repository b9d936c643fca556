"""How the Winograd families launch: the transforms around the steps of another family's batched matrix product.

The plan has up to four steps, each timed: the transform of the filters to U (unless they are pretransformed), of image
tiles to V, alpha^2 independent products of U and V by the inner matmul family, and the transform of M to the output.
Transforms compute in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....cuda.device import Device
from ....plan import Arg, BufferArg, KernelStep, LaunchPlan, MemsetStep, Step
from ...base import ResourceEstimate
from ..common import ceil_div, epilogue_args
from .tiles import Inner, Tiling

Config = Mapping[str, Any]


def resources(c: Config, w: Any, device: Device, inner: Inner) -> ResourceEstimate:
    """The inner product's, in a workspace with what lies between the transforms."""
    t = Tiling(w, int(c["tile"]))
    made = inner.template.resources(inner.config(c, w), t.product(), device)
    end = t.offsets(made.workspace_bytes)["end"]
    return replace(made, threads=max(made.threads, int(c["transform_threads"])), workspace_bytes=end)


def plan(name: str, c: Config, w: Any, device: Device, inner: Inner) -> LaunchPlan:
    """The transforms around the steps of the inner product."""
    t, threads = Tiling(w, int(c["tile"])), int(c["transform_threads"])
    inside = inner.template.plan(inner.config(c, w), t.product(), device)
    at = t.offsets(inside.workspace_bytes)
    u = BufferArg("w") if w.weights == "pretransformed" else BufferArg("workspace", at["u"])
    v, m = BufferArg("workspace", at["v"]), BufferArg("workspace", at["m"])
    a, b = (v, u) if w.layout == "nhwc" else (u, v)
    buffers = {"a": a, "b": b, "out": m, "workspace": BufferArg("workspace", at["inner"])}

    def transform(kernel: str, units: int, *args: Arg) -> KernelStep:
        return KernelStep(f"{name}_{kernel}", (ceil_div(units, threads), 1, 1), (threads, 1, 1), args)

    steps: list[Step] = [
        transform("input", t.tiles * w.c // int(c["channels"]), BufferArg("x"), v),
        *(_moved(step, buffers) for step in inside.steps),
        transform("output", t.tiles * w.k // int(c["filters"]), m, *epilogue_args(w)),
    ]
    if w.weights == "plain":
        steps.insert(0, transform("filter", w.k * w.c, BufferArg("w"), u))
    return LaunchPlan(tuple(steps), at["end"])


def _moved(step: Step, buffers: Mapping[str, BufferArg]) -> Step:
    """A step of the inner product on the buffers that stand for its own."""
    if isinstance(step, MemsetStep):
        return replace(step, offset=step.offset + buffers["workspace"].offset)
    args = (
        replace(buffers[x.buffer], offset=buffers[x.buffer].offset + x.offset) if isinstance(x, BufferArg) else x
        for x in step.args
    )
    return replace(step, args=tuple(args))
