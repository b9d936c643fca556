"""What a prediction costs beside the compile that made its cubin, and decoding and playing in C++ beside Python."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.performance_model.compiled import Cubins, lanes_for, launch
from bench.performance_model.variants import variant
from bench.transfer.autoheuristic import Config, Shape
from gpu_tune.model.performance import native, predict


def measure(shapes: Sequence[Shape], cubins: Cubins, count: int, lanes: bool) -> dict[str, Any]:
    """Shares of the compile's CPU time, over ``count`` variants drawn at random, each decoded and played anew; and how
    often C++ is faster than Python, over the first of them."""
    drawn = [(s, c) for s in shapes for c in s.runs if cubins.code(variant(s, c).name).cubin]
    chosen = [drawn[i] for i in np.random.default_rng(11).permutation(len(drawn))[:count]]
    shares, with_lanes = [], []
    for s, config in chosen:
        code = cubins.code(variant(s, config).name)
        began = time.process_time()
        _predict(s, config, code.cubin, code.shared, None)
        played = time.process_time() - began
        shares.append(played / code.cpu)
        if lanes:
            began = time.process_time()
            lanes_for(code.cubin, launch(s, config, code.shared)[0], s)
            with_lanes.append((played + time.process_time() - began) / code.cpu)
    found: dict[str, Any] = {"variants": len(shares), **_quantiles(shares)}
    if with_lanes:
        found["with lanes"] = _quantiles(with_lanes)
    found["C++ over Python"] = _ratio(cubins, chosen)
    return found


def _predict(s: Shape, config: Config, cubin: bytes, shared: int, lanes: Any) -> None:
    # a byte behind the ELF makes it new to the caches, and nothing else
    plan, estimate = launch(s, config, shared)
    predict(cubin + time.perf_counter_ns().to_bytes(8, "little"), plan, estimate, s.workload, s.device, lanes=lanes)


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "95 %": float(np.quantile(values, 0.95))}


def _ratio(cubins: Cubins, chosen: Sequence[tuple[Shape, Config]], least: int = 8) -> float:
    """The median, over ``least`` variants, of the CPU time that decoding and playing take in Python over C++'s."""
    ratios, real = [], native.library
    for s, config in chosen[:least]:
        code, spent = cubins.code(variant(s, config).name), []
        for library, times in ((None, 1), (real(), 5)):
            native.library = lambda library=library: library  # type: ignore[assignment]
            began = time.process_time()
            try:
                for _ in range(times):
                    _predict(s, config, code.cubin, code.shared, None)
            finally:
                native.library = real
            spent.append((time.process_time() - began) / times)
        ratios.append(spent[0] / max(spent[1], 1e-6))
    return float(np.median(ratios)) if ratios else float("nan")
