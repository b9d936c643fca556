"""Time from machine code: what a compiled variant takes on a named chip, without running it.

A cubin's instructions are played on one of the four sub-partitions of an SM (``player``) with published constants of
the architecture (``constants``), which gives the pace of the main loop and the cost of the rest; the launch adds waves,
the tail, DRAM and the steps around the main kernel (``launch``). Nothing is fitted to measured times, but six
figures that are not published were read off development timings (``memory`` and ``fetch`` name them).
"""

from __future__ import annotations

from .lanes import KernelLanes, Lanes
from .prediction import Prediction, main_step, predict, predict_kernel

__all__ = ["KernelLanes", "Lanes", "Prediction", "main_step", "predict", "predict_kernel"]
