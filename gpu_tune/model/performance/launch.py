"""Seconds of a launch from its blocks' cycles: waves, the tail, DRAM, and the steps around the main kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...cuda.device import Device
from ...plan import MainLoop
from .block import Kernel
from .constants import DRAM_SHARE
from .costs import CAUSES, L2, LATENCY, meet


@dataclass(frozen=True)
class Waves:
    """How blocks run: ``resident`` on an SM at once, ``full`` waves of them, ``left`` blocks in the last one."""

    resident: int
    full: int
    left: int

    @classmethod
    def of(cls, blocks: int, resident: int, device: Device) -> Waves:
        return cls(resident, *divmod(blocks, max(1, resident) * device.sm_count))

    @property
    def count(self) -> float:
        """Waves, the last one by its share of the blocks."""
        return self.full + (1 if self.left else 0)


@dataclass(frozen=True)
class OnSms:
    """Cycles of a kernel on the SMs, by cause; ``tail`` of them in a last wave that leaves SMs or slots idle."""

    cycles: float
    tail: float
    causes: dict[str, float]


NOTHING = OnSms(0.0, 0.0, dict.fromkeys(CAUSES, 0.0))


def on_sms(kernel: Kernel, waves: Waves, trips: float, units: int, device: Device, address: float = 0.0) -> OnSms:
    """Each wave takes what its residents take together; the last one plays the blocks that are left.

    ``address``: cycles by which one block's unit of work occupies the way from L1 to L2 (see ``memory``), while its
    loop runs, or all the time where its code has no loop."""
    total, tail, causes = 0.0, 0.0, np.zeros(len(CAUSES))
    parts = [(waves.full, waves.resident)] if waves.full else []
    if waves.left:
        parts.append((1, math.ceil(waves.left / device.sm_count)))
    for count, blocks in parts:
        wave = kernel.wave(blocks, trips, units)
        beside = wave.iteration * trips or wave.cycles / units
        longer = (meet(beside, address * blocks) - beside) * units
        total += count * (wave.cycles + longer)
        causes += count * wave.causes
        causes[L2] += count * longer
    if waves.left:
        tail = wave.cycles * (1 - waves.left / (waves.resident * device.sm_count))
    return OnSms(total, tail, dict(zip(CAUSES, causes.tolist())))


def on_sms_in_parts(kernel: Kernel, loop: MainLoop, trips: float, blocks: int, device: Device, address: float) -> OnSms:
    """The tail of ``loop``: ``blocks`` blocks compute its units in parts, in rounds.

    A part takes its share of a unit's ``trips``, and its own start and end. Its sums go to L2, from where the block
    that arrives last reads those of all parts; between lie a store, the atomic that counts it and the first load.
    ``address`` as for :func:`on_sms`.
    """
    items, sms = loop.tail * loop.parts, device.sm_count
    rounds, together = math.ceil(items / blocks), math.ceil(min(items, blocks) / sms)
    wave = kernel.wave(together, trips / loop.parts, rounds)
    beside = wave.iteration * trips / loop.parts or wave.cycles / rounds
    longer = (meet(beside, address / loop.parts * together) - beside) * rounds
    ending = math.ceil(loop.tail / sms)
    moving = (together * rounds + ending * loop.parts) * loop.part_bytes / kernel.sm.l2_bytes
    waiting = 3 * kernel.sm.l2 + 2 * kernel.sm.barrier
    causes = wave.causes.copy()
    causes[L2] += longer + moving
    causes[LATENCY] += waiting
    cycles = wave.cycles + longer + moving + waiting
    return OnSms(cycles, cycles * (1 - items / (rounds * blocks)), dict(zip(CAUSES, causes.tolist())))


def dram_seconds(nbytes: float, device: Device) -> float:
    return nbytes / (device.bandwidth * DRAM_SHARE)


@dataclass(frozen=True)
class Tiling:
    """A tiled product's traffic: tiles ``down`` x ``across``; a tile reads ``row_bytes`` of one operand and
    ``column_bytes`` of the other; ``compulsory`` bytes are read and ``written`` at least once."""

    down: int
    across: int
    row_bytes: float
    column_bytes: float
    compulsory: float
    written: float
    group: int = 8

    def dram_bytes(self, together: int, device: Device, cold: bool, tail: int = 0) -> tuple[float, float]:
        """Each wave of ``together`` tiles reads its rows and columns anew, less what L2 keeps between waves; a last
        wave those of the tiles that are left.

        All bytes, and those of them that belong to the last ``tail`` tiles, whose parts walk along K together.
        """
        last = self._waves(tail, together)
        every = self._waves(self.down * self.across - tail, together) + last
        over = min(1.0, max(0.0, self.compulsory / (0.6 * device.l2_bytes) - 1.0))
        again = max(0.0, every - self.compulsory) * over
        first = self.compulsory if cold else self.compulsory * over
        moved = first + again + self.written
        return moved, moved * last / every

    def _waves(self, tiles: int, together: int) -> float:
        full, left = divmod(tiles, together)
        return full * self._wave(together) + (self._wave(left) if left else 0.0)

    def _wave(self, together: int) -> float:
        """Bytes of the rows and columns of tiles that run together."""
        rows = min(self.group, self.down)
        columns = min(math.ceil(together / rows), self.across)
        rows = min(self.down, math.ceil(together / columns))
        return rows * self.row_bytes + columns * self.column_bytes
