"""Small kernels that each use one thing which the tuned kernels rely on, from a plain store to the copy engine.

Every probe knows its right answer without running anything, so the same probes run on the emulator (which proves the
probes) and on a GPU (which they then prove: driver, argument passing, and the hardware's own semantics). Integers only.
"""

from __future__ import annotations

from tests.gpu.probes import plain, tensor_maps, warpgroups
from tests.gpu.probes.probe import HOPPER_ONLY, PROBES, Probe, plan, simple

KINDS = (plain, tensor_maps, warpgroups)
"""The files whose probes are in ``PROBES``, simple ones first."""
__all__ = ["HOPPER_ONLY", "KINDS", "PROBES", "Probe", "plan", "simple"]
