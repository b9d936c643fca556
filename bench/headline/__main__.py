"""What the performance model expects of a suite: for each shape and chip the default, the seeds, and what limits them.

    python -m bench.headline [SUITE] [--device nvidia-a100 ...] [--limit N] [--defaults] [--json out.json]
        [--tails] [--trials N] [--against earlier.json]

Every default and seed of every family that computes a shape is compiled for the chip and played; with ``--defaults``
the default alone of the family that comes first, with ``--tails`` those of its seeds that split a tail as well
(``grid`` "split_tail"); with ``--trials`` what a search of so many trials finds as well. Nothing runs: all times are
predicted; "of peak" is the roofline of the data sheet (arithmetic or DRAM) over the predicted time. With ``--against``
an earlier run's file (same compiler? it names its own) the last lines compare the best with those there.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import gpu_tune as gt
from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import Device, by_name
from gpu_tune.errors import GpuTuneError
from gpu_tune.kernel.emit import limits
from gpu_tune.kernel.kernel import TunedKernel
from gpu_tune.measure.predicted import PredictedMeasurer
from gpu_tune.measure.select import make_measurer
from gpu_tune.report import suites, summary
from gpu_tune.trial import Candidate
from gpu_tune.workload import Workload

DEVICES = ("nvidia-a100", "nvidia-h100", "rtx-4090")


@dataclass(frozen=True)
class Outlook:
    """One shape on one chip. ``default`` and ``best``: predicted seconds of the default config of the family that
    comes first, and of the fastest among ``played`` defaults and seeds; ``template`` and ``limits`` are that one's,
    ``peak`` what the roofline takes over what it takes. ``tail``: of the fastest seed that splits a tail, if any.
    """

    label: str
    workload: str
    device: str
    default: float
    best: float
    template: str
    limits: str
    peak: float
    played: int
    searched: float | None = None
    tail: float | None = None

    @property
    def fastest(self) -> float:
        return min(self.best, math.inf if self.searched is None else self.searched)


def outlook(
    label: str, workload: Workload, device: Device, defaults: bool = False, trials: int = 0, tails: bool = False
) -> Outlook:
    """Compile and play what the families declare for ``workload`` on ``device``; ``defaults``: the first default.

    ``tails``: beside it the seeds of its family that split a tail. ``trials``: of a search, whose winner is played
    beside them.
    """
    winner = _search(workload, device, trials) if trials else None
    with make_measurer(workload, device=device, kind="predicted") as m:
        assert isinstance(m, PredictedMeasurer)
        asked: list[Candidate] = []
        for bound in m.bound.values():
            space = bound.space()
            configs = dict.fromkeys(c for c in (space.default(), *space.seeds()) if c is not None)
            asked += [Candidate(bound.name, c) for c in configs]
        if defaults:
            asked = asked[:1] + [c for c in asked[1:] if tails and _splits(c) and c.template == asked[0].template]
        found = [f.result() for f in [m.submit(c) for c in asked]]
        searched = m.submit(winner).result() if winner else None
    timed = [r for r in found if r.ok]
    if not timed:
        return Outlook(label, workload.key, device.name, math.inf, math.inf, "", found[0].reason, 0.0, 0)
    declared = min(r.time for r in timed)
    best = min([*timed, *([searched] if searched and searched.ok else [])], key=lambda r: r.time)
    share = summary.roofline(workload, device) / best.time
    default = found[0].time if found[0].ok else math.inf
    words = limits(best.prediction)
    tail = min((r.time for r in timed if _splits(r.candidate)), default=None)
    return Outlook(
        label, workload.key, device.name, default, declared, best.candidate.template, words, share, len(timed),
        searched.time if searched and searched.ok else None, tail,
    )  # fmt: skip


def _splits(candidate: Candidate) -> bool:
    return bool(candidate.config.get("grid") == "split_tail")


def _search(workload: Workload, device: Device, trials: int) -> Candidate:
    """What a search of ``trials`` trials finds, in records of its own."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        kernel = gt.tune(
            workload, device=device, trials=trials, store=at / "kernels", records=at / "records", progress=False
        )
    assert isinstance(kernel, TunedKernel), "the sizes of a suite's shapes are known"
    return Candidate(kernel.template, kernel.config)


def table(found: Sequence[Outlook]) -> Iterator[str]:
    """Lines of at most 80 columns."""
    yield f"{'predicted':24}{'default us':>11}{'best us':>9}{'of peak':>8}  {'family':13}{'limited by'}"
    for o in found:
        times = f"{o.default * 1e6:>11.1f}{o.fastest * 1e6:>9.1f}{o.peak:>8.0%}"
        yield f"{o.label[:23]:24}{times}  {o.template[:12]:13}{o.limits.split(',')[0][:13]}"


def against(found: Sequence[Outlook], earlier: Sequence[Outlook]) -> Iterator[str]:
    """What the fastest of now is of the fastest there, over shapes of both."""
    known = {(o.workload, o.device): o.fastest for o in earlier}
    for device in dict.fromkeys(o.device for o in found):
        ratios = {
            o.label: o.fastest / known[key]
            for o in found
            if o.device == device and (key := (o.workload, device)) in known
        }
        if ratios:
            mean = math.exp(sum(math.log(r) for r in ratios.values()) / len(ratios))
            worst = max(ratios, key=lambda label: ratios[label])
            yield f"{device}: {mean:.3f} of before over {len(ratios)} shapes; worst {ratios[worst]:.3f}, {worst}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.headline", description=__doc__.split("\n")[0])
    parser.add_argument("suite", nargs="?", default=suites.HEADLINE)
    parser.add_argument("--device", action="append", help=f"(default: {', '.join(DEVICES)})")
    parser.add_argument("--limit", type=int, default=0, help="this many shapes, evenly spread over the suite")
    parser.add_argument("--defaults", action="store_true", help="play the default of the first family alone")
    parser.add_argument("--tails", action="store_true", help="with --defaults: seeds with a split tail as well")
    parser.add_argument("--trials", type=int, default=0, help="of a search for each shape (default: none)")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--against", type=Path, help="a file of an earlier run")
    given = parser.parse_args(argv)
    try:
        entries = suites.load(given.suite).entries
        step = max(1, len(entries) // given.limit) if given.limit else 1
        devices = [by_name(name) for name in given.device or DEVICES]
        found: list[Outlook] = []
        for device in devices:
            print(f"\n{device.name}, every time predicted", flush=True)
            rows = []
            for entry in entries[::step]:
                label = entry.label or entry.workload.key
                rows.append(outlook(label, entry.workload, device, given.defaults, given.trials, given.tails))
                lines = list(table(rows[-1:]))
                print("\n".join(lines if len(rows) == 1 else lines[1:]), flush=True)
            found += rows
    except GpuTuneError as error:
        print(f"error: {error}")
        return 2
    if given.json:
        compiler = ".".join(map(str, nvrtc.version()))
        data = {"suite": given.suite, "source": "predicted", "nvrtc": compiler, "rows": [asdict(o) for o in found]}
        given.json.write_text(json.dumps(data, indent=1) + "\n")
    if given.against:
        rows = [Outlook(**row) for row in json.loads(given.against.read_text())["rows"]]
        print("\n".join(against(found, rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
