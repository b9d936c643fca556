"""What a person sees while tuning: live lines on a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from types import TracebackType
from typing import Any, TextIO

from ..emulator.build import ANNOUNCED
from ..kernel.emit import duration, figure
from ..trial import PREDICTED
from .budget import Progress

EVERY, OFTEN = 5.0, 0.5
"""Seconds between plain lines; between two states of a notebook's line."""
BAR = 18
PHASES = {
    "build": ANNOUNCED,
    "prepare": "preparing the search",
    "finals": "checking and re-timing the finalists",
}


class Live:
    """A context manager whose ``update`` is an ``on_trial`` callback. ``quiet``: shows nothing."""

    def __init__(self, title: str, *, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.title, self.quiet = title, quiet
        self.stream = stream or sys.stderr
        self._tty = self.stream.isatty() and not quiet
        self._live: Any = None
        self._cell: Any = None
        self._said, self._phase = 0.0, ""
        self.progress: Any = None

    def __enter__(self) -> Live:
        if self._tty:
            from rich.console import Console
            from rich.live import Live as RichLive

            self._live = RichLive(self, console=Console(file=self.stream), refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __rich_console__(self, console: Any, options: Any) -> Any:
        if self.progress is not None:
            yield self.lines(self.progress, console.width)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self, progress: Any) -> str:
        """The state in one line."""
        return plain(self.title, progress)

    def lines(self, progress: Any, width: int) -> Any:
        """The state in some lines of a terminal of that width."""
        return render(self.title, progress, width)

    def update(self, progress: Any) -> None:
        self.progress = progress
        if self._live is not None:
            return  # rich asks eight times a second, so that the clock runs between trials
        now = time.monotonic()
        if self.quiet or self._in_cell(progress, now):
            return
        if progress.phase != self._phase or now - self._said >= EVERY:
            self._said, self._phase = now, progress.phase
            print(self.line(progress), file=self.stream, flush=True)

    def _in_cell(self, progress: Any, now: float) -> bool:
        """Say it in the output cell of a notebook, where this is one: a line there, in place of the one before."""
        display = notebook_display()
        if display is None:
            return False
        if progress.phase == self._phase and now - self._said < OFTEN:
            return True
        self._said, self._phase = now, progress.phase
        shown = {"text/plain": self.line(progress)}
        if self._cell is None:
            self._cell = display(shown, raw=True, display_id=True)
        else:
            self._cell.update(shown, raw=True)
        return True


def notebook_display() -> Any:
    """IPython's ``display`` in a notebook; None elsewhere, a terminal's IPython included."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if type(shell).__name__ != "ZMQInteractiveShell":
        return None
    from IPython.display import display

    return display


def somebody_looks() -> bool:
    """Whether progress is seen as it goes on: on a terminal, in a notebook."""
    return sys.stderr.isatty() or notebook_display() is not None


def statuses(counts: Counter[str]) -> str:
    """How trials ended, most frequent first."""
    return ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in counts.most_common()) or "no trial yet"


def _facts(progress: Progress) -> tuple[str, str, str]:
    """(how far, what was found, how trials ended), as short texts."""
    trials, seconds = (f"/{limit:.0f}" if math.isfinite(limit) else "" for limit in progress.budget.limits)
    far = f"{progress.trials}{trials} trials, {progress.seconds:.0f}{seconds} s"
    found, best = "nothing timed yet", progress.best
    if best is not None:
        found = f"best {figure(best.time, best.source, best.environment)}"
        if best.source != PREDICTED:
            found += f", {progress.workload.flops / best.time / 1e12:.3g} TFLOP/s"
        if progress.default is not None:
            found += f", {progress.default.time / best.time:.2f}x the default"
    elif progress.phase == "done" and progress.statuses["ok"]:
        found = "kernels for every size"
    if progress.size:
        far = f"{progress.size}, {far}"
    if progress.goal is not None:
        found += f", target {duration(progress.goal)}"
    return far, found, statuses(progress.statuses)


def plain(title: str, progress: Progress) -> str:
    if progress.phase in ("build", "prepare"):
        return f"{title}: {PHASES[progress.phase]}"
    what = {"finals": f"{PHASES['finals']}; ", "done": "done; "}.get(progress.phase, "")
    return f"{title}: {what}{'; '.join(_facts(progress))}"


def render(title: str, progress: Progress, width: int) -> Any:
    """The live lines: title, bar and how far, what was found, how trials ended."""
    from rich.text import Text

    far, found, ended = _facts(progress)
    if progress.phase in PHASES:
        far = f"{PHASES[progress.phase]}, {progress.seconds:.0f} s"
    trials, seconds = progress.budget.limits
    filled = round(BAR * min(1.0, max(progress.trials / trials, progress.seconds / seconds)))
    return Text.assemble(
        (title if len(title) < width - 2 else title[: width - 3] + "…", "bold"),
        "\n  ",
        ("━" * filled, "green"),
        ("━" * (BAR - filled), "bright_black"),
        f" {far}\n  ",
        (found, "cyan"),
        (f"\n  {ended}", "bright_black"),
        no_wrap=True,
        overflow="ellipsis",
    )
