"""Who runs what on a sub-partition: the warps of resident blocks, their traces, and the ring between roles."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ring:
    """The ring of stages between a producer and the consumers of a block.

    ``stages``: how many fills may be under way or in use. ``waits``: fills that a consumer takes for one unit of work.
    ``readers``: consumers that release a fill; with ``interleaved`` it is one, and units go to ``consumers`` in turn.
    ``release``: cycles from a consumer's arrival to the producer's knowing.
    """

    stages: int = 1
    waits: int = 1
    readers: int = 1
    consumers: int = 1
    interleaved: bool = False
    release: float = 0.0


@dataclass(frozen=True, eq=False)
class Cast:
    """The warps of one sub-partition, an entry each: ``begin`` and ``end`` of its part of ``trace`` (indices of
    instructions); ``group``: warps that meet at a barrier; ``block``: whose ring it uses; ``reader``: its number among
    the block's consumers, -1 for a producer, which nobody waits for at the end. ``marks``: places of the trace.
    """

    trace: NDArray[np.int32]
    begin: NDArray[np.int32]
    end: NDArray[np.int32]
    group: NDArray[np.int32]
    block: NDArray[np.int32]
    reader: NDArray[np.int32]
    marks: NDArray[np.int32]
    ring: Ring = field(default_factory=Ring)

    @classmethod
    def alike(cls, trace: NDArray[np.int32], marks: NDArray[np.int32], warps: int, blocks: int) -> Cast:
        """``blocks`` resident blocks of ``warps`` warps that all run ``trace``, spread over four sub-partitions."""
        count = max(1, -(-warps * blocks // 4))
        per_block = max(1, count // blocks) if warps >= 4 else 1
        zeros, block = np.zeros(count, np.int32), (np.arange(count) // per_block).astype(np.int32)
        end = np.full(count, len(trace), np.int32)
        return cls(np.ascontiguousarray(trace, np.int32), zeros, end, block, block, zeros, marks.astype(np.int32))

    def integers(self) -> NDArray[np.int32]:
        """One row a field of the warps, in the order that the player reads."""
        return np.array([self.begin, self.end, self.group, self.block, self.reader], np.int32)
