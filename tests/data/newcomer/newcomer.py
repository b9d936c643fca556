"""A kernel family of somebody else's: a thread computes a column of ``height`` results, straight from memory."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan, MainLoop, ResourceEstimate
from gpu_tune.space.knob import Config, Constraint, Knob
from gpu_tune.templates.base import Template
from gpu_tune.templates.lib.common import ceil_div, epilogue_args
from gpu_tune.workload import ITEMSIZE

from .limits import GRID_Y, INT


@dataclass(frozen=True)
class Launch:
    """Blocks along n and m."""

    across: int
    down: int

    def __str__(self) -> str:
        return f"{self.across} x {self.down} blocks"


def supports(w, device):
    if w.layout != "nn" or w.batch > 1 or w.scales != "none" or w.dtype == "int8":
        return "computes one unscaled nn product of floats"
    return True if max(w.m * max(w.lda, w.ldc), w.k * w.ldb) < INT else "indexes with int"


def derive(c, w, device) -> Launch:
    return Launch(ceil_div(w.n, c["lanes"]), ceil_div(w.m, c["height"]))


def resources(c, w, device) -> ResourceEstimate:
    launch, item = derive(c, w, device), ITEMSIZE[w.dtype]
    loop = MainLoop(
        "newcomer",
        steps=w.k,
        macs=c["lanes"] * c["height"],
        tiles=(launch.down, launch.across, 1),
        reads=(c["height"] * w.k * item, c["lanes"] * w.k * item),
    )
    return ResourceEstimate(c["lanes"], 0, min(c["height"], w.m), loop=loop)


def plan(c, w, device) -> LaunchPlan:
    launch = derive(c, w, device)
    args = (BufferArg("a"), BufferArg("b"), *epilogue_args(w))
    return LaunchPlan((KernelStep("newcomer", (launch.across, launch.down, 1), (c["lanes"], 1, 1), args),))


TEMPLATE = Template(
    name="newcomer",
    op="matmul",
    summary="a column of results a thread, straight from memory",
    knobs=(
        Knob("lanes", (32, 64, 128), "threads of a block, each with a column"),
        Knob("height", (1, 2, 4), "rows that a thread computes"),
        Knob("ahead", (1, 2, 4), "steps of k that are unrolled"),
    ),
    tile=(("height",), ("lanes",), ()),
    constraints=(
        Constraint(
            "grid", ("height",), lambda c, w, d: ceil_div(w.m, c["height"]) <= GRID_Y, f"at most {GRID_Y} blocks down"
        ),
    ),
    supports=supports,
    derive=derive,
    resources=resources,
    plan=plan,
    default=lambda w, d: Config(lanes=64, height=2 if w.m <= GRID_Y else 4, ahead=2),
)
