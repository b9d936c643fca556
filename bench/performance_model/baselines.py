"""Predictors that compile nothing: what a static model has to beat. Seconds, or anything that grows with them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.performance_model import heuristics
from bench.transfer.autoheuristic import Config, Shape, launch
from gpu_tune.space.features import launch_features
from gpu_tune.workload import ITEMSIZE

L2_BYTES_PER_CLOCK = 32.0
"""Of an SM, for the roofline: a round figure between those of the architectures."""


def fits(s: Shape, config: Config) -> bool:
    """Whether a config's tiles fit into shared memory."""
    return launch(config, s.workload).shared_bytes <= s.device.shared_bytes_per_block


def largest_tile(s: Shape, config: Config) -> float:
    """The largest tile that fits and gives every SM a block; then deeper ones; then those of the most blocks."""
    block_m, block_k, block_n, stages, _ = config
    blocks = math.ceil(s.workload.m / block_m) * math.ceil(s.workload.n / block_n)
    if not fits(s, config):
        return math.inf
    if blocks < s.device.sm_count:
        return 1e6 / blocks
    return -block_m * block_n - 1e-3 * block_k * stages


def roofline(s: Shape, config: Config) -> float:
    """Whole waves of padded tiles at the tensor or FMA peak, L2 traffic of the tiles, or DRAM, whichever is longest."""
    w, d = s.workload, s.device
    block_m, block_k, block_n, _, _ = config
    if not fits(s, config):
        return math.inf
    made = launch(config, w)
    kind = made.kind or {2: "fp16", 4: "fp32"}[ITEMSIZE[w.dtype]]
    depth = math.ceil(w.k / block_k) * block_k
    compute = 2 * block_m * block_n * depth / (d.flops_per_clock[kind] * d.clock_mhz * 1e6)
    loads = (block_m + block_n) * depth * ITEMSIZE[w.dtype] / (L2_BYTES_PER_CLOCK * d.clock_mhz * 1e6)
    return max(math.ceil(made.blocks / d.sm_count) * max(compute, loads), w.bytes / d.bandwidth)


def features_bound(s: Shape, config: Config) -> float:
    """The lower bound that the search's features hold."""
    if not fits(s, config):
        return math.inf
    return float(launch_features(launch(config, s.workload), s.workload, s.device)["log2 bound seconds"])


BASELINES: dict[str, Callable[[Shape, Config], float]] = {
    "largest tile that fits and fills": largest_tile,
    "roofline and waves": roofline,
    "features' bound": features_bound,
}
if heuristics.installed():
    BASELINES[heuristics.NAME] = heuristics.estimate


def order(s: Shape, by: Callable[[Shape, Config], float]) -> NDArray[np.float64]:
    """What a baseline says of a shape's configs."""
    return np.array([by(s, config) for config in s.runs], dtype=float)
