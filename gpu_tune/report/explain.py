"""What limits one kernel, and what its neighbours in the space would change: all of it played, nothing measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..cuda.device import Device
from ..errors import InvalidInput
from ..kernel.emit import figure, limits
from ..measure.compiling import prediction_of
from ..measure.predicted import PredictedMeasurer, judged
from ..model.performance import Prediction
from ..templates.bound import BoundTemplate
from ..trial import PREDICTED, Candidate
from ..workload import Workload

BEST = 3
"""Neighbours that are shown."""
MOST = 96
"""Neighbours that are compiled and played at most, the nearest first."""


@dataclass(frozen=True)
class Neighbour:
    """A config near the kernel's: what ``changes`` (knob: from, to), its predicted time over the kernel's (``ratio``,
    below 1 is faster), and what limits it."""

    changes: Mapping[str, tuple[Any, Any]]
    ratio: float
    limited_by: str


@dataclass(frozen=True)
class Explanation:
    """One kernel, explained. ``occupancy``: resident blocks and warps of an SM and what allows no more. ``pipes``: the
    share of the hot loop's time that each pipe works. ``causes``: share of the cycles by cause. ``played`` of the
    config's neighbours, the best of which are ``neighbours``."""

    workload: Workload
    device: Device
    candidate: Candidate
    prediction: Prediction
    figure: str
    occupancy: str
    pipes: Mapping[str, float]
    causes: Mapping[str, float]
    limited_by: str
    played: int
    neighbours: tuple[Neighbour, ...]

    def to_json(self) -> dict[str, Any]:
        p = self.prediction
        return {
            "workload": self.workload.key,
            "device": self.device.chip,
            "template": self.candidate.template,
            "config": dict(self.candidate.config),
            "source": PREDICTED,
            "figure": self.figure,
            "judged": p.judged,
            "limited_by": self.limited_by,
            "causes": dict(self.causes),
            "pipes": dict(self.pipes),
            "occupancy": self.occupancy,
            "waves": p.waves,
            "iteration_cycles": p.iteration,
            "iterations": p.trips,
            "rest_cycles": p.rest,
            "played": self.played,
            "neighbours": [asdict(n) for n in self.neighbours],
        }


def explain(bound: BoundTemplate, candidate: Candidate, *, jobs: int | None = None, **options: Any) -> Explanation:
    """``candidate`` (of ``bound``) and its neighbours compiled and played. ``options`` go to the measurer.

    InvalidInput where the kernel itself cannot be played: a config that no longer builds, or does not fit the device.
    """
    space = bound.space()
    row = space.rows([candidate.config])[0]
    near = [Candidate(bound.name, c) for c in space.configs(space.steps(row)[:MOST])]
    with PredictedMeasurer([bound], jobs=jobs, **options) as measurer:
        build = measurer.build(candidate)
        own = prediction_of(build)
        if not own.resident:
            rule = f"does not fit on {bound.device.name}"
            raise InvalidInput("kernel", candidate.key, rule, "tune it for this device")
        played = {b.candidate: prediction_of(b) for b in measurer.builds(near)}
    found = sorted((p.seconds, c.key, c) for c, p in played.items() if p.resident)
    neighbours = []
    for seconds, _, other in found[:BEST]:
        changed = {k: (candidate.config[k], v) for k, v in other.config.items() if v != candidate.config[k]}
        neighbours.append(Neighbour(changed, seconds / own.seconds, limits(played[other].terms())))
    step = max(build.rendered.plan.kernels, key=lambda s: s.blocks * s.threads)
    taken = build.resources
    return Explanation(
        bound.workload,
        bound.device,
        candidate,
        own,
        figure(own.seconds, PREDICTED, judged(own)),
        occupancy(bound.device, step.threads, taken.registers, step.shared_bytes + taken.static_shared_bytes),
        own.shares,
        shares(own),
        limits(own.terms()),
        len(played),
        tuple(neighbours),
    )


def shares(prediction: Prediction) -> dict[str, float]:
    """Share of the cycles by cause, largest first; ``tail`` (idle slots of the last wave) is in the others too."""
    whole = sum(cycles for name, cycles in prediction.causes.items() if name != "tail") or 1.0
    found = {name: cycles / whole for name, cycles in prediction.causes.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def occupancy(device: Device, threads: int, registers: int, shared_bytes: int) -> str:
    """How many blocks an SM holds at once, and which resource allows no more."""
    blocks = device.resident_blocks(threads, registers, shared_bytes)
    without = {
        "registers": device.resident_blocks(threads, 1, shared_bytes),
        "shared memory": device.resident_blocks(threads, registers, 0),
    }
    more = [name for name, count in without.items() if count > blocks]
    if not more:
        both = device.resident_blocks(threads, 1, 0)
        more = ["registers", "shared memory"] if both > blocks else ["threads or blocks of an SM"]
    warps = blocks * -(-threads // 32)
    most = device.threads_per_sm // 32
    plural = "" if blocks == 1 else "s"
    return f"{blocks} block{plural} an SM, {warps} of {most} warps; limited by {' and '.join(more)}"


def text(found: Explanation) -> list[tuple[str, str]]:
    """Names and texts of the lines that people read; each line fits beside its name at 80 columns or wraps."""
    p = found.prediction
    lines = [
        ("predicted", found.figure),
        ("the model", p.judged),
        ("limited by", ", ".join(f"{name} {share:.0%}" for name, share in found.causes.items() if share >= 0.005)),
        ("hot loop", f"{p.iteration:,.0f} cycles an iteration of the resident blocks, {p.trips:,.4g} iterations"),
        ("pipes", ", ".join(f"{name} {share:.0%}" for name, share in found.pipes.items() if share >= 0.005)),
        ("occupancy", found.occupancy),
        ("waves", f"{p.waves}"),
    ]
    for number, near in enumerate(found.neighbours):
        changed = ", ".join(f"{knob} {a} -> {b}" for knob, (a, b) in near.changes.items())
        words = f"{1 - near.ratio:.1%} less" if near.ratio < 1 else f"{near.ratio - 1:.1%} more"
        name = f"best of {found.played} near" if number == 0 else ""
        lines.append((name, f"{changed}: {words} time; {near.limited_by}"))
    return [(name, line) for name, line in lines if line]
