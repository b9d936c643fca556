"""What a person sees while tuning: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from ..kernel.emit import duration
from ..trial import PREDICTED
from ..tuner.budget import Progress

EVERY = 5.0
"""Seconds between plain lines."""
BAR = 18
PHASES = {"prepare": "preparing the search", "confirm": "checking and re-timing the finalists"}


class Live:
    """A context manager whose ``update`` is an ``on_trial`` callback. ``quiet``: shows nothing."""

    def __init__(self, title: str, *, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.title, self.quiet = title, quiet
        self.stream = stream or sys.stderr
        self._tty = self.stream.isatty() and not quiet
        self._live: Any = None
        self._said, self._phase = 0.0, ""
        self._progress: Progress | None = None

    def __enter__(self) -> Live:
        if self._tty:
            from rich.console import Console
            from rich.live import Live as RichLive

            self._live = RichLive(self, console=Console(file=self.stream), refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __rich_console__(self, console: Any, options: Any) -> Any:
        if self._progress is not None:
            yield render(self.title, self._progress, console.width)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, progress: Progress) -> None:
        """Show ``progress``."""
        self._progress = progress
        if self._live is not None:
            return  # rich asks eight times a second, so that the clock runs between trials
        now = time.monotonic()
        if not self.quiet and (progress.phase != self._phase or now - self._said >= EVERY):
            self._said, self._phase = now, progress.phase
            print(plain(self.title, progress), file=self.stream, flush=True)


def facts(progress: Progress) -> tuple[str, str, str]:
    """(how far, what was found, how trials ended), as short texts."""
    trials, seconds = progress.budget.limits
    of_trials = f"/{trials:.0f}" if trials != float("inf") else ""
    of_seconds = f"/{seconds:.0f}" if seconds != float("inf") else ""
    far = f"{progress.trials}{of_trials} trials, {progress.seconds:.0f}{of_seconds} s"
    found = "nothing timed yet"
    if progress.best is not None:
        mark = " (estimate)" if progress.source == PREDICTED else ""
        found = f"best {duration(progress.best.time)}{mark}, {rate(progress, progress.best.time)}"
        if progress.default is not None:
            found += f", {progress.default.time / progress.best.time:.2f}x the default"
    if progress.goal is not None:
        found += f", target {duration(progress.goal)}"
    return far, found, statuses(progress.statuses)


def rate(progress: Progress, seconds: float) -> str:
    """TFLOP/s of one run."""
    return f"{progress.workload.flops / seconds / 1e12:.3g} TFLOP/s"


def statuses(counts: Any) -> str:
    """How trials ended, most frequent first."""
    return ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in counts.most_common()) or "no trial yet"


def share(progress: Progress) -> float:
    """Part of the budget that is used, 0 to 1."""
    trials, seconds = progress.budget.limits
    return min(1.0, max(progress.trials / trials, progress.seconds / seconds))


def plain(title: str, progress: Progress) -> str:
    """One line of plain text."""
    far, found, ended = facts(progress)
    if progress.phase == "prepare":
        return f"{title}: preparing the search"
    what = {"confirm": "checking and re-timing the finalists; ", "done": "done; "}.get(progress.phase, "")
    return f"{title}: {what}{far}; {found}; {ended}"


def render(title: str, progress: Progress, width: int) -> Any:
    """The live line (two lines on narrow terminals)."""
    from rich.text import Text

    far, found, ended = facts(progress)
    filled = round(share(progress) * BAR)
    if progress.phase in PHASES:
        far = f"{PHASES[progress.phase]}, {progress.seconds:.0f} s"
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(title if len(title) < width - 2 else title[: width - 3] + "…", style="bold")
    text.append("\n  ")
    text.append("━" * filled, style="green")
    text.append("━" * (BAR - filled), style="bright_black")
    text.append(f" {far}\n  ")
    text.append(found, style="cyan")
    text.append(f"\n  {ended}", style="bright_black")
    return text
