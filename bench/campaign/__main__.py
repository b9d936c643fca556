"""Everything worth measuring on a GPU host, in slices that can be stopped, moved and resumed; each useful by itself.

    python -m bench.campaign plan                                    # what would run, in order, and the wheels needed
    python -m bench.campaign run --out results --seconds 540 --archive results/slice-1
    python -m bench.campaign run --out results --seconds 540 --archive results/slice-2 --phases tuning,spaces
    python -m bench.campaign run --out fresh --resume results/slice-2-*.tar.gz --seconds 540 --archive slice-3
    python -m bench.campaign table --out results                     # the tables once more
    python -m bench.campaign results --out results                   # bench/RESULTS.md, from what was measured

Phases, each with a share of the time; whichever is furthest behind its share goes next, so that every slice holds
something of each, in the order of value within each:

- checks:    does the emulator agree with the GPU (bench.conformance), tests/gpu, the marks of the measuring
             (bench.noise), small workloads of every template on both
- tuning:    a prioritised list of workloads, each with a time box, and the winner against every installed baseline
- spaces:    unbiased random configs of the tensor-core matmul templates, failures kept: which knobs pay, and data
- templates: every template at random configs, each result compared with the reference
- again:     winners against the baselines once more, to see whether verdicts repeat

State, records and winners lie in ``--out``; a task that was interrupted runs again, and trials on record are not
repeated. Each slice leaves at most ``--files`` archives of at most ``--megabytes`` that a later slice can resume from
on another machine; they are written every 40 seconds, so that a machine that is taken away takes little with it.
Without a GPU times are predicted (``--kind predicted``): a rehearsal, whose times mean nothing; ``--toy`` rehearses
on a small kernel that the virtual GPU of the tests knows.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.campaign import archive, pages, tasks
from bench.campaign.schedule import PHASES, Schedule, Task
from bench.campaign.setup import Setup

RESULTS = Path(__file__).parents[1] / "RESULTS.md"

WHEELS = (
    "gpu_tune (built here: python -m build --wheel)",
    "numpy", "ml_dtypes", "jinja2", "markupsafe", "lightgbm", "scipy", "narwhals", "rich", "click",
    "pygments", "markdown-it-py", "mdurl", "pytest", "hypothesis", "pluggy", "iniconfig", "packaging",
    "sortedcontainers",
    "nvidia-cuda-nvrtc (of the driver's CUDA major)", "nvidia-cublas", "cupy-cuda13x or -cuda12x", "cuda-bindings",
    "cuda-pathfinder", "nvidia-ml-py",
    "nvidia-cudnn-frontend and nvidia-cudnn-cu13 or -cu12 (for cuDNN)", "torch and triton (for their baselines)",
)  # fmt: skip
"""For a host without an index: pip download --only-binary :all: --python-version 3.12 (cp312, or what the host has)."""


def plan(setup: Setup, tasks: Iterable[Task]) -> str:
    """What would run, phase by phase, and the wheels that a host without an index needs."""
    by_phase: dict[str, list[str]] = {p: [] for p in PHASES}
    for task in tasks:
        by_phase[task.phase].append(task.name)
    lines = [f"on {setup.kind} {setup.device.chip}"]
    lines += [f"{p}: {len(by_phase[p])} tasks, {share:.0%} of the time" for p, share in PHASES.items()]
    for phase, names in by_phase.items():
        shown = [*names[:12], *(["..."] if len(names) > 12 else [])]
        lines += ["", f"{phase}, in this order:", *(f"  {n}" for n in shown)]
    return "\n".join([*lines, "", "wheels: " + "; ".join(WHEELS)])


def _phases(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if not set(found) <= set(PHASES):
        raise argparse.ArgumentTypeError(f"{text}: phases are {', '.join(PHASES)}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["plan", "run", "table", "results"])
    parser.add_argument("--out", type=Path, default=Path("campaign"))
    parser.add_argument("--seconds", type=float, default=540.0, help="length of this slice")
    parser.add_argument("--phases", type=_phases, default=tuple(PHASES), help="only these, such as checks,tuning")
    parser.add_argument("--archive", type=Path, help="NAME: writes NAME-1.tar.gz, NAME-2.tar.gz ... now and then")
    parser.add_argument("--megabytes", type=float, default=16.0, help="of one archive at most")
    parser.add_argument("--files", type=int, default=8, help="archives of a slice at most")
    parser.add_argument(
        "--resume", type=Path, nargs="+", help="archives of an earlier slice, unpacked into --out first"
    )
    parser.add_argument("--kind", choices=["auto", "gpu", "predicted"], default="auto")
    parser.add_argument("--device", help="the chip to predict for")
    parser.add_argument("--scale", type=float, default=1.0, help="below 1: a short rehearsal")
    parser.add_argument("--toy", action="store_true", help="rehearse with a small kernel")
    parser.add_argument("--jobs", type=int, default=0, help="compile workers (default: all CPUs)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=RESULTS, help="where results are written")
    given = parser.parse_args(arguments)
    if given.resume:
        archive.restore(given.resume, given.out)
    setup = Setup(given.out, given.kind, given.device, given.scale, given.seed, toy=given.toy, jobs=given.jobs)
    schedule = Schedule(setup)
    if given.verb == "plan":
        print(plan(setup, tasks.tasks(setup)))
        return 0
    if given.verb == "results":
        given.to.write_text(pages.results_page(schedule))
        print(f"{given.to} written")
        return 0
    if given.verb == "run":
        limits = (given.archive, given.megabytes, given.files)
        keeper = pages.Keeper(schedule, *limits) if given.archive else contextlib.nullcontext()
        with keeper, contextlib.suppress(KeyboardInterrupt):
            schedule.run(tasks.tasks(setup), given.seconds, given.phases)
        schedule.save()
        if given.archive:
            missing = pages.archive(schedule, *limits)
            made = sorted(given.archive.parent.glob(f"{given.archive.name.removesuffix('.tar.gz')}-*.tar.gz"))
            sizes = ", ".join(f"{p.name} {p.stat().st_size / 1e6:.1f} MB" for p in made)
            print(sizes + (f"; without {len(missing)} files: {', '.join(missing[:5])}" if missing else ""))
    print(pages.tables(schedule))
    return 0


if __name__ == "__main__":
    sys.exit(main())
