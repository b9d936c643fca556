"""Can the numbers be trusted? Marks of the measuring itself, on a GPU.

    python -m bench.noise                         # about three minutes
    python -m bench.noise --trials 40 --only floor,self,planted --json noise.json

``floor``:   the noise floor of a run for a kernel above 20 us (wanted: at most 0.5 %) and one near 3 us (1.5 %).
``self``:    a kernel against an equal one under another name is called a win in at most 5 % of trials.
``planted``: a kernel that does 2 % more work is found slower in at least 90 % of trials.
``tunings``: two tunings with different seeds, from nothing; their winners, re-timed together, differ by at most 1 %.

``--toy`` runs everything on a small kernel that the virtual GPU of the tests knows: a rehearsal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_tune.cuda import driver
from gpu_tune.cuda.device import Device
from gpu_tune.measure.finals import compare
from gpu_tune.measure.select import make_measurer
from gpu_tune.space.knob import Config, Knob
from gpu_tune.store.records import Records
from gpu_tune.store.store import Store
from gpu_tune.templates.base import Template
from gpu_tune.templates.registry import registry
from gpu_tune.trial import Candidate
from gpu_tune.tuner.tune import tune
from gpu_tune.workload import Matmul
from tests.helpers import toy


class Marks:
    """The measurements behind the marks. ``trials``: how often a verdict is asked for."""

    def __init__(self, folder: Path, trials: int, seconds: float, only_toy: bool) -> None:
        self.folder, self.trials, self.seconds, self.only_toy = folder, trials, seconds, only_toy
        (folder / "toy").mkdir(parents=True)
        self.toy = {"toy": toy.make(folder / "toy")}
        self.gpu: Device = driver.describe()
        self.measured = not only_toy

    def _confirm(
        self, w: Matmul, entries: Sequence[Candidate], templates: Mapping[str, Template] | None, n: int
    ) -> Any:
        options: dict[str, Any] = {"kind": "gpu", "store": self.folder, "baselines": (), "templates": templates}
        with make_measurer(w, **options) as m:
            return [m.finals(entries) for _ in range(n)]

    def floor(self) -> list[dict[str, Any]]:
        """Noise floors of a long and a short kernel; the median and the largest of several runs."""
        rows = []
        for name, size, wanted, least in (("above 20 us", 4096, 0.005, 20e-6), ("near 3 us", 128, 0.015, 0.0)):
            if self.only_toy:
                w, templates, candidate = Matmul(12, 12, 12, dtype="float32"), self.toy, Candidate("toy", toy.config())
            else:
                w, templates = Matmul(size, size, size, dtype="float32"), None
                candidate = Candidate("matmul_simt", registry()["matmul_simt"].default(w, self.gpu))
            found = self._confirm(w, [candidate], templates, max(3, self.trials // 4))
            floors = [c.noise_floor for c in found]
            seconds = statistics.median(s for c in found for s in c.finalists[0].samples)
            met = statistics.median(floors) <= wanted and seconds >= least * self.measured
            rows.append(_row(f"noise floor, kernel {name}", statistics.median(floors), f"<= {wanted:.1%}", met,
                             largest=max(floors), kernel_seconds=seconds, runs=len(floors)))  # fmt: skip
        return rows

    def versus(self) -> list[dict[str, Any]]:
        """An equal kernel and one with 2 % more work against the same one, interleaved, many times."""
        w = Matmul(12, 12, 12, dtype="float32") if self.only_toy else Matmul(512, 512, 4096, dtype="float32")
        plain, slower = Candidate("toy", toy.config()), Candidate("toy", toy.config(fault="slower"))
        # on the virtual GPU, which goes by names, another unrolling is the equal kernel; on a real one, another name is
        equal = Candidate("toy", toy.config(unroll=2) if self.only_toy else toy.config(fault="unstable"))
        wins = found = 0
        ratios = []
        for c in self._confirm(w, [plain, slower, equal], self.toy, self.trials):
            samples = {x.candidate: x.samples for x in c.finalists}
            wins += compare(samples[plain], samples[equal], noise_floor=c.noise_floor).decided
            planted = compare(samples[plain], samples[slower], noise_floor=c.noise_floor)
            found += planted.faster
            ratios.append(planted.ratio)
        n = self.trials
        return [
            _row("an equal kernel called a win", wins / n, "<= 5%", wins <= 0.05 * n, trials=n),
            _row("planted slowdown found", found / n, ">= 90%", found >= 0.9 * n, trials=n,
                 planted=statistics.median(ratios) - 1),
        ]  # fmt: skip

    def tunings(self) -> list[dict[str, Any]]:
        """Two tunings of one workload, and their winners re-timed together."""
        w = (
            Matmul(12, 12, 12, dtype="float32")
            if self.only_toy
            else Matmul(2048, 2048, 2048, dtype="bfloat16", layout="nt")
        )
        templates = None
        if self.only_toy:
            knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in self.toy["toy"].knobs)
            templates = {"toy": replace(self.toy["toy"], knobs=knobs)}
        winners = []
        for seed in (1, 2):
            home = self.folder / f"tuning-{seed}"
            kernel: Any = tune(w, kind="gpu", seconds=self.seconds, seed=seed, store=Store(home / "kernels"),
                          records=Records(home / "records"), templates=templates)  # fmt: skip
            winners.append(Candidate(kernel.winner.template, Config(kernel.winner.config)))
        if winners[0] == winners[1]:
            return [_row("two tunings' winners differ by", 0.0, "<= 1%", True, same_config=True)]
        (c,) = self._confirm(w, winners, templates, 1)
        samples = {x.candidate: x.samples for x in c.finalists}
        apart = compare(samples[winners[0]], samples[winners[1]], noise_floor=c.noise_floor)
        off = abs(apart.ratio - 1)
        return [_row("two tunings' winners differ by", off, "<= 1%", off <= 0.01, same_config=False, text=str(apart))]


def _row(name: str, value: float, wanted: str, met: bool, **more: Any) -> dict[str, Any]:
    return {"mark": name, "found": value, "wanted": wanted, "met": bool(met), **more}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The marks as Markdown."""
    lines = ["| mark | found | wanted | met | more |", "|---|---|---|---|---|"]
    for r in rows:
        rest = {k: v for k, v in r.items() if k not in ("mark", "found", "wanted", "met")}
        more = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rest.items())
        lines.append(f"| {r['mark']} | {r['found']:.2%} | {r['wanted']} | {'yes' if r['met'] else 'NO'} | {more} |")
    return "\n".join(lines)


def run(folder: Path, only: Sequence[str], trials: int = 20, seconds: float = 30.0, only_toy: bool = False) -> Any:
    """The rows of all parts that ``only`` names (all of them when empty)."""
    marks = Marks(folder, trials, seconds, only_toy)
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {"floor": marks.floor, "versus": marks.versus}
    parts["tunings"] = marks.tunings
    wanted = {"self": "versus", "planted": "versus"}
    names = dict.fromkeys(wanted.get(n, n) for n in only) or parts
    return [row for name in names for row in parts[name]()]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when a mark is missed, 2 without a GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.noise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each tuning")
    parser.add_argument("--only", default="", help="parts, by comma: floor, self, planted, tunings")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    if not driver.device_count():
        print("no GPU: nothing is measured here", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="gpu_tune-noise-") as folder:
        only = [n for n in given.only.split(",") if n]
        rows = run(Path(folder), only, given.trials, given.seconds, given.toy)
    print(("A rehearsal with a toy kernel.\n\n" if given.toy else "") + table(rows))
    if given.json:
        facts = {"chip": driver.describe().chip, "rehearsal": given.toy, "marks": rows}
        given.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if all(r["met"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
