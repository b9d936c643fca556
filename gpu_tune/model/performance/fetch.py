"""Instructions on their way to an SM's sub-partitions: what loops cost that are longer than the caches near them.

Each sub-partition has an instruction cache of its own, and the SM one of 128 KB for all four (Jia 2018, 2019). A warp
walks around a loop, which evicts all of a cache that is too small for it. Warps of one block walk in step, from barrier
to barrier, and ask for the same instructions together; blocks are somewhere else each. So an iteration of the resident
blocks takes the loop's bytes once for each block. Three figures are not published and were read off the development
shapes of public timings on the A100:

* a loop that the SM's cache does not hold comes from L2 at 3 bytes a clock: 150 to 155 KB, one config in four layouts,
  2.9 to 3.0 in all of them; taken for the other architectures too;
* the SM's cache hands out one instruction, of 16 bytes, a clock: known for the A100 alone, from one config in four
  layouts (four blocks of two warps in loops of 72 KB);
* the sub-partition's own cache holds a loop of 37 KB and does not hold one of 71.
"""

from __future__ import annotations

from .constants import Architecture

INSTRUCTION_BYTES = 16
SM_CACHE_BYTES = 128 << 10
NEAR_CACHE_BYTES = 48 << 10


def fetch_cycles(instructions: int, blocks: int, sm: Architecture) -> float:
    """Cycles in which the instructions of one iteration reach the SM: of a loop of so many ``instructions``, for
    ``blocks`` resident blocks."""
    size = float(instructions * INSTRUCTION_BYTES)
    if size > SM_CACHE_BYTES:
        return blocks * size / sm.fetch_bytes
    if size > NEAR_CACHE_BYTES and sm.near_fetch_bytes:
        return blocks * size / sm.near_fetch_bytes
    return 0.0
