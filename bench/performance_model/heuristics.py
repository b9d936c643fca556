"""The run time that NVIDIA's matmul heuristics estimate of a config, where that package is installed.

``pip install nvidia-matmul-heuristics`` (tried: 0.1.0.27). It is asked about Triton kernels and answers in seconds;
what it does not know, such as how many warps share a tile, is given to it as the warps' tiles.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

from bench.transfer.autoheuristic import Config, Shape

NAME = "nvMatmulHeuristics' estimate"
_GPUS = {80: "A100_SXM_80GB", 90: "H100_SXM"}
_PRECISIONS = {"float16": "HSH", "bfloat16": "TST", "float32": "SSS"}
"""What is read, summed and written, in the package's letters."""


def installed() -> bool:
    """Whether the package is here."""
    try:
        import nvMatmulHeuristics  # noqa: F401
    except ImportError:
        return False
    return True


def estimate(s: Shape, config: Config) -> float:
    """Seconds; inf where the package has no answer."""
    w = s.workload
    precision = _PRECISIONS[w.dtype]
    interface, layout = _interface(s.device.cc, w.layout, precision)
    block_m, block_k, block_n, stages, warps = config
    kernel = interface.nvmmhKernelConfiguration()
    kernel.cta[:] = [block_m, block_n, block_k]
    kernel.warp[:] = [*_warp_tile(block_m, block_n, warps), block_k]
    kernel.instr[:] = _instruction(s.device.cc, config, w.dtype)
    kernel.cluster[:] = [1, 1]
    kernel.splitK, kernel.loadStages, kernel.gridSwizzle, kernel.ctaOrder = 1, max(2, stages), 8, 0
    problem = interface.makeNvMatmulHeuristicsProblem(w.m, w.n, w.k, layout)
    seconds = interface.nvMatmulHeuristicsEstimateRuntime(  # the method estimateRuntime fails in 0.1.0.27
        interface.handle,
        precision.encode(),
        ctypes.c_int(interface.target),
        ctypes.byref(problem),
        ctypes.byref(kernel),
        interface.hardware_descriptor,
    )
    return float(seconds) if seconds > 0 else math.inf


@functools.cache
def _interface(cc: int, layout: str, precision: str) -> tuple[Any, Any]:
    import nvMatmulHeuristics as package

    made = package.NvMatmulHeuristicsInterfaceEx(
        backend=package.NvMatmulHeuristicsTarget.TRITON, gpu=package.NvMatmulHeuristicsNvidiaGpu[_GPUS[cc]]
    )
    its = package.boolsToNvMatmulHeuristicsLayout(layout[0] == "t", layout[1] == "t")
    made.loadInternalDiscoverySet(its, precision)
    return made, its


def _instruction(cc: int, config: Config, dtype: str) -> list[int]:
    """Shape of the tensor instruction that Triton chooses."""
    block_m, _, block_n, _, warps = config
    if dtype == "float32":
        return [16, 8, 8]
    return [64, min(block_n, 256), 16] if cc >= 90 and block_m >= 64 and warps % 4 == 0 else [16, 8, 16]


def _warp_tile(block_m: int, block_n: int, warps: int) -> tuple[int, int]:
    """A near-square share of the tile for each warp, no smaller than an instruction."""
    down = across = 1
    while down * across < warps:
        if block_n // across <= 8 or (block_m // down > 16 and block_m // down * 8 >= block_n // across * 16):
            down *= 2
        else:
            across *= 2
    return max(16, block_m // down), max(8, block_n // across)
