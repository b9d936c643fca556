"""Made-up spaces and measurements for tests of searches."""

from __future__ import annotations

import math

from gpu_tune.space.knob import Constraint, Knob
from gpu_tune.space.space import Space
from gpu_tune.trial import MEASURED, Candidate, Measurement


def result(candidate: Candidate, seconds: float, source: str = MEASURED, **more: object) -> Measurement:
    ok = math.isfinite(seconds)
    return Measurement(candidate, "ok" if ok else "run_error", source, samples=(seconds,) if ok else (), **more)  # type: ignore[arg-type]


def toy_space(name: str = "toy", **more: object) -> Space:
    knobs = [Knob("m", (1, 2, 4, 8, 16), ""), Knob("n", (1, 2, 4, 8), ""), Knob("kind", ("p", "q", "r"), "", False)]
    rule = Constraint("fits", ("m", "n"), lambda c, w, d: c["m"] * c["n"] <= 32, "fits")
    return Space(name, knobs, [rule])
