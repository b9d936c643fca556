"""Suggestions of NVIDIA's nvidia-matmul-heuristics, where that package is installed: tiles for a matmul on a known GPU.

An optional, proprietary package (``pip install nvidia-matmul-heuristics``), asked and never required. Its answers
name tiles, stages, clusters and split-K; each becomes the nearest valid config of a space whose knobs carry those
names. They are starts to be measured like any other, not truths: many of them are ties.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ..space.knob import Config
from ..space.space import Space, TemplateSpace
from ..workload import Matmul

log = logging.getLogger(__name__)
_GPUS = {
    "nvidia-a100": "A100_SXM_80GB",
    "nvidia-a10": "A10_PCIE",
    "nvidia-rtx-3090": "RTX_3090",
    "nvidia-rtx-4090": "RTX_4090",
    "nvidia-l40s": "L40S",
    "nvidia-h100": "H100_SXM",
    "nvidia-h100-pcie": "H100_PCIE",
    "nvidia-h200": "H200_SXM",
    "nvidia-b200": "B200",
    "nvidia-rtx-5090": "RTX_5090",
}
_PRECISIONS = {
    ("float16", "float16"): "HSH",
    ("float16", "float32"): "HSS",
    ("bfloat16", "bfloat16"): "TST",
    ("bfloat16", "float32"): "TSS",
    ("float32", "float32"): "SSS",
}
"""Letters for input, accumulation and output; others are not documented well enough to be asked for."""
_KNOBS = {
    "block_m": "cta_tile_m",
    "block_n": "cta_tile_n",
    "block_k": "cta_tile_k",
    "warp_m": "warp_tile_m",
    "warp_n": "warp_tile_n",
    "stages": "stages",
    "split_k": "split_k",
    "cluster_m": "cluster_m",
    "cluster_n": "cluster_n",
    "raster_group": "swizzle_factor",
    "group_m": "swizzle_factor",
}


def suggest(space: Space, n: int = 4) -> list[Config]:
    """At most ``n`` distinct valid configs; none when the package, the GPU, the dtype or the knobs are not there."""
    if not isinstance(space, TemplateSpace) or not isinstance(space.workload, Matmul):
        return []
    default = space.default()
    precision = _PRECISIONS.get((space.workload.dtype, space.workload.out_dtype))
    gpu = _GPUS.get(space.device.name)
    if default is None or precision is None or gpu is None or not {"block_m", "block_n"} <= set(default):
        return []
    found: list[Config] = []
    for answer in _ask(space.workload, gpu, precision, 4 * n):
        config = _nearest(space, default, answer)
        if config is not None and config not in found:
            found.append(config)
    return found[:n]


def _ask(workload: Matmul, gpu: str, precision: str, n: int) -> list[Any]:
    """The package's kernels, best first. It is not ours: whatever goes wrong in it means no suggestion."""
    try:
        import nvMatmulHeuristics as package

        interface = package.NvMatmulHeuristicsInterfaceEx(
            backend=package.NvMatmulHeuristicsTarget.CUTLASS3, gpu=package.NvMatmulHeuristicsNvidiaGpu[gpu]
        )
        layout = package.boolsToNvMatmulHeuristicsLayout(workload.layout[0] == "t", workload.layout[1] == "t")
        problem = interface.makeNvMatmulHeuristicsProblem(workload.m, workload.n, workload.k, layout, workload.batch)
        return [answer["kernel"] for answer in interface.get(problem, n, precision)]
    except ImportError:
        return []
    except Exception as error:
        log.debug("nvidia-matmul-heuristics gave no suggestion for %s: %s", workload.key, error)
        return []


def _nearest(space: TemplateSpace, default: Config, answer: Any) -> Config | None:
    """``default`` with the answer's tiles at the nearest listed values, then made valid by small steps."""
    wanted = {}
    for knob in space.knobs:
        value = getattr(answer, _KNOBS.get(knob.name, ""), None)
        numbers = [v for v in knob.values if isinstance(v, int) and not isinstance(v, bool) and v > 0]
        if isinstance(value, int) and value > 0 and len(numbers) == len(knob.values):
            wanted[knob.name] = min(numbers, key=lambda v: abs(np.log2(v / value)))
    row = space.grid.repair(space.rows([default.replace(**wanted)])[0], np.random.default_rng(0))
    return None if row is None else space.configs(row[None])[0]
