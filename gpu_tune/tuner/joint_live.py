"""What a person sees while several workloads are tuned together."""

from __future__ import annotations

import math
from typing import Any

from ..trial import PREDICTED
from .live import BAR, PHASES, Live
from .together import JointProgress


class JointLive(Live):
    """As :class:`Live`, of a :class:`JointProgress`."""

    def line(self, progress: Any) -> str:
        return f"{self.title}: {'; '.join(part for part in _facts(progress) if part)}"

    def lines(self, progress: Any, width: int) -> Any:
        from rich.text import Text

        far, found, current = _facts(progress)
        filled = round(BAR * min(1.0, _used(progress)))
        made = Text.assemble(
            (self.title if len(self.title) < width - 2 else self.title[: width - 3] + "…", "bold"),
            "\n  ",
            ("━" * filled, "green"),
            ("━" * (BAR - filled), "bright_black"),
            f" {far}",
            no_wrap=True,
            overflow="ellipsis",
        )
        for text, style in ((found, "cyan"), (current, "bright_black")):
            if text:
                made.append(f"\n  {text}", style)
        return made


def _used(progress: JointProgress) -> float:
    """The part of the budget that is spent."""
    seconds, trials = progress.budget.seconds, progress.budget.trials
    return max(progress.seconds / (seconds or math.inf), progress.trials / (trials or math.inf))


def _facts(progress: JointProgress) -> tuple[str, str, str]:
    """(how far, what was found, the workload under way), as short texts."""
    seconds, trials = progress.budget.seconds, progress.budget.trials
    far = f"{progress.trials}{f'/{trials}' if trials else ''} trials, "
    far += f"{progress.seconds:.0f}{f'/{seconds:g}' if seconds else ''} s"
    words = {"build": PHASES["build"], "finals": "checking and re-timing finalists", "done": "done"}
    if progress.phase in words:
        far = f"{words[progress.phase]}; {far}"
    found = ""
    if progress.speedup is not None:
        mark = " (predicted)" if progress.source == PREDICTED else ""
        found = f"its layers {progress.speedup:.2f}x as fast as with default configs{mark}"
    current = f"{progress.number}/{progress.count} {progress.current.workload.key}" if progress.current else ""
    return far, found, current
