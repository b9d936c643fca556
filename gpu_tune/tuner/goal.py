"""Targets: how fast is fast enough, as a share of the vendor library's speed or as a time."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput, MeasureError

if TYPE_CHECKING:
    from ..measure.finals import Finalist, Finals


UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
LEAST, MOST = 0.1, 10.0
"""Ratios to a vendor library outside these are taken for a slip (a time without its unit)."""


@dataclass(frozen=True)
class SpeedGoal:
    """Ours is to take at most ``seconds``, or at most the fastest vendor baseline's time / ``ratio``; one is None."""

    ratio: float | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, value: object) -> SpeedGoal:
        """From 1.03 or "1.03" (1.03 times as fast as the vendor library: beat it by 3 %), or a time such as "350us".
        InvalidInput on anything else."""
        text = str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
        found = re.fullmatch(r"(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)\s*(x|s|ms|us|µs|μs|ns)?", text)
        number = float(found[1]) if found else math.nan
        if found is None or not 0 < number < math.inf:
            raise InvalidInput(
                "target", value, "is neither a ratio to the vendor library nor a time", "use 1.03, or 350us"
            )
        if found[2] in UNITS:
            return cls(seconds=number * UNITS[found[2]])
        if not LEAST <= number <= MOST:
            rule = f"is a ratio to the vendor library's speed outside {LEAST:g} to {MOST:g}"
            raise InvalidInput(
                "target", value, rule, "use 1.03 to beat it by 3 %, or a time with its unit, as in 350us"
            )
        return cls(ratio=number)

    def __str__(self) -> str:
        return f"{self.seconds * 1e6:g}us" if self.seconds is not None else f"{self.ratio:g}"

    def goal(self, baselines: Sequence[Finalist]) -> float:
        """Seconds to reach, given the vendor baselines as timed now; MeasureError when a ratio has none to go by."""
        if self.seconds is not None:
            return self.seconds
        times = [statistics.median(c.samples) for c in baselines if c.ok]
        if not times or self.ratio is None:
            failed = "; ".join(f"{c.name}: {c.reason or c.status}" for c in baselines) or "none is installed"
            raise MeasureError(
                f"target {self} compares with a vendor library, and none could be timed ({failed}); "
                "give a time instead, as in 350us, or ask gpu-tune doctor what is missing"
            )
        return min(times) / self.ratio

    def reached(self, finals: Finals) -> float:
        """How far the re-timed winner came: at least 1 when it holds the target; 1 where nothing can be said."""
        if finals.winner is None or (self.ratio is not None and finals.verdict is None):
            return 1.0
        if self.ratio is not None and finals.verdict is not None:
            return finals.verdict.ratio / self.ratio
        assert self.seconds is not None
        return self.seconds / statistics.median(finals.finalist(finals.winner).samples)

    def met_by(self, seconds: float, verdict: Mapping[str, Any]) -> bool:
        """Whether a stored winner with this time and verdict holds it."""
        if self.seconds is not None:
            return seconds <= self.seconds
        return float(verdict.get("ratio") or 0.0) >= (self.ratio or math.inf)
