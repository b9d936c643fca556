"""What limits one kernel, and what its neighbours in the space would change: all of it played, nothing measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..cuda import cubin as cubins
from ..cuda.device import Device
from ..errors import InvalidInput
from ..kernel.emit import figure, limits
from ..measure.compiling import prediction_of
from ..measure.predicted import PredictedMeasurer, judged
from ..model.performance import Prediction, main_step
from ..plan import MainLoop
from ..templates.bound import BoundTemplate
from ..trial import PREDICTED, Candidate
from ..workload import Workload

BEST = 3
"""Neighbours that are shown."""
MOST = 96
"""Neighbours that are compiled and played at most, the nearest first."""
SAME = 0.0005
"""Times that differ by less, as a share, are the same to a reader."""


@dataclass(frozen=True)
class Neighbour:
    """A config near the kernel's: what ``changes`` (knob: from, to), its predicted time over the kernel's (``ratio``,
    below 1 is faster), what limits it, and by how much the cycles of each cause differ (``moved``: as a share of the
    kernel's cycles, above 0 is more; the largest first)."""

    changes: Mapping[str, tuple[Any, Any]]
    ratio: float
    limited_by: str
    moved: Mapping[str, float]


@dataclass(frozen=True)
class Explanation:
    """One kernel, explained. ``occupancy``: resident blocks and warps of an SM and what allows no more. ``blocks``: of
    the main kernel. ``walk``: the tiles that its blocks walk over ("": each block has one). ``beside``: the share of
    the time that the plan's other steps take, and the launches. ``pipes``: the share of the hot loop's time that
    each pipe works. ``causes``: share of the main kernel's cycles by cause. ``played`` of the config's neighbours,
    the best of which are ``neighbours``; ``faster``: how many are faster."""

    workload: Workload
    device: Device
    candidate: Candidate
    prediction: Prediction
    figure: str
    occupancy: str
    blocks: int
    walk: str
    steps: int
    beside: float
    pipes: Mapping[str, float]
    causes: Mapping[str, float]
    limited_by: str
    played: int
    faster: int
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
            "blocks": self.blocks,
            "walk": self.walk,
            "steps": self.steps,
            "share_beside": self.beside,
            "iteration_cycles": p.iteration,
            "iterations": p.trips,
            "rest_cycles": p.rest,
            "played": self.played,
            "faster": self.faster,
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
        moved = _moved(own, played[other])
        neighbours.append(Neighbour(changed, seconds / own.seconds, limits(played[other].terms()), moved))
    step = main_step(build.rendered.plan, build.rendered.estimate)
    taken = cubins.read(build.cubin).kernels[step.kernel]
    return Explanation(
        bound.workload,
        bound.device,
        candidate,
        own,
        figure(own.seconds, PREDICTED, judged(own)),
        occupancy(bound.device, step.threads, taken.registers, step.shared_bytes + taken.static_shared_bytes),
        step.blocks,
        walk(build.rendered.estimate.loop, step.blocks),
        len(build.rendered.plan.steps),
        max(0.0, 1 - _cycles(own) / (own.seconds * bound.device.clock_mhz * 1e6)),
        own.shares,
        shares(own),
        limits(own.terms()),
        len(played),
        sum(seconds < (1 - SAME) * own.seconds for seconds, _, _ in found),
        tuple(neighbours),
    )


def _cycles(prediction: Prediction) -> float:
    """Of the main kernel; ``tail`` is in the other causes too."""
    return sum(cycles for name, cycles in prediction.causes.items() if name != "tail")


def _moved(own: Prediction, other: Prediction) -> dict[str, float]:
    whole = _cycles(own) or 1.0
    found = {name: (other.causes.get(name, 0.0) - cycles) / whole for name, cycles in own.causes.items()}
    return dict(sorted(found.items(), key=lambda item: -abs(item[1])))


def shares(prediction: Prediction) -> dict[str, float]:
    """Share of the cycles by cause, largest first; ``tail`` (idle slots of the last wave) is in the others too."""
    whole = _cycles(prediction) or 1.0
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


def walk(loop: MainLoop | None, blocks: int) -> str:
    """The tiles that ``blocks`` blocks walk over; "" where each has one."""
    if loop is None or (loop.units <= blocks and not loop.tail):
        return ""
    whole = loop.units - loop.tail
    each = math.ceil(whole / blocks)
    found = f"{loop.units:,}: a block computes {'up to ' if whole % blocks else ''}{each:,}"
    return found + (f", then parts of the last {loop.tail:,}, whose K is split by {loop.parts}" if loop.tail else "")


def text(found: Explanation) -> list[tuple[str, str]]:
    """Names and texts of the lines that people read; each line fits beside its name at 80 columns or wraps."""
    p, causes = found.prediction, dict(found.causes)
    tail = causes.pop("tail", 0.0)
    idle = f"; tail {tail:.0%}, which the others count too" if tail >= 0.005 else ""
    loop = "none: the code runs from its start to its end"
    if p.iteration:
        loop = f"{p.iteration:,.0f} cycles an iteration of the resident blocks, {p.trips:,.4g} iterations"
        loop += " a tile" if found.walk else ""
    places = p.resident * found.device.sm_count
    lines = [
        ("predicted", found.figure),
        ("the model", p.judged),
        ("main kernel", f"{1 - found.beside:.0%} of the time of {found.steps} steps" if found.steps > 1 else ""),
        ("limited by", _listed(causes) + idle),
        ("hot loop", loop),
        ("pipes", _listed(found.pipes)),
        ("occupancy", found.occupancy),
        ("waves", f"{p.waves}: {found.blocks:,} blocks, {places:,} at once"),
        ("tiles", found.walk),
    ]
    if found.neighbours:
        count = "none" if not found.faster else f"{found.faster}"
        lines.append(("neighbours", f"{found.played} played, {count} of them faster; the best:"))
    for near in found.neighbours:
        changed = ", ".join(f"{knob} {a} -> {b}" for knob, (a, b) in near.changes.items())
        more = near.ratio - 1
        words = "the same time" if abs(more) < SAME else f"{abs(more):.1%} {'more' if more > 0 else 'less'} time"
        moved = ", ".join(f"{name} {share:+.0%}" for name, share in list(near.moved.items())[:3] if abs(share) >= 0.005)
        lines.append(("", f"{changed}: {words}" + (f" ({moved})" if moved else "")))
    return [(name, line) for name, line in lines if line]


def _listed(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)
