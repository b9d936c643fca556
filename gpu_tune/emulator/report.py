"""What an emulated run tells: checks that can be switched off, findings, results and counters."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields

import numpy as np


@dataclass(frozen=True)
class Checks:
    """Which checks report.

    ``races``: unordered accesses to shared memory. ``global_races``: to global memory (double writes, missing
    release/acquire between blocks). ``uninitialised``: reads of shared memory or workspace that nothing has written.
    ``proxies``: missing fence.proxy.async and fence.mbarrier_init. ``bounds``: accesses outside a buffer; without it
    reads there give zero and writes vanish (bounds of shared memory are always checked). ``registers``: the setmaxnreg
    budget.
    """

    races: bool = True
    global_races: bool = True
    uninitialised: bool = True
    proxies: bool = True
    bounds: bool = True
    registers: bool = True

    @functools.cached_property
    def bits(self) -> int:
        """The checks as the library takes them."""
        return sum(getattr(self, f.name) << k for k, f in enumerate(fields(self)))


ALL_CHECKS = Checks()


KINDS = (
    "bounds", "alignment", "read_only", "uninitialised", "race", "global_race", "asynchronous", "mbarrier", "barrier",
    "divergence", "deadlock", "proxy", "wgmma", "metadata", "registers", "tensor_map", "launch", "exited_cta", "trap",
    "assert", "limit", "unfenced", "unawaited", "workspace",
)  # fmt: skip
"""Kinds of findings; docs/emulator.md has a bug of each."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a kernel. ``message`` is a complete sentence; ``count``: how often it was seen.

    ``cuda_line`` is the line in the kernel's own body, 0 when the PTX has no line information; ``inlined_line`` the
    line of the inlined function, 0 outside one; ``warp`` is -1 when no warp is at fault. ``level``: ``error``, or
    ``advice`` for what PTX allows and is seldom meant.
    """

    kind: str
    message: str
    kernel: str = ""
    cuda_line: int = 0
    inlined_line: int = 0
    ptx_line: int = 0
    block: tuple[int, int, int] = (0, 0, 0)
    warp: int = -1
    count: int = 1
    level: str = "error"

    def __str__(self) -> str:
        level = "" if self.level == "error" else f"{self.level}, "
        return f"{level}{self.kind}: {self.message}" + (f" ({self.count} times)" if self.count > 1 else "")


@dataclass(frozen=True)
class BankConflicts:
    """Wavefronts that shared memory needed, and how many of them conflicts cost, for loads and stores."""

    load_wavefronts: int = 0
    load_extra: int = 0
    store_wavefronts: int = 0
    store_extra: int = 0

    @property
    def share(self) -> float:
        """The share of all wavefronts that conflicts cost."""
        total = self.load_wavefronts + self.store_wavefronts
        return (self.load_extra + self.store_extra) / total if total else 0.0


@dataclass(frozen=True)
class Report:
    """An emulated run: of a launch plan, or of the launches of a session.

    ``arrays``: every buffer after the run (copies with the shape and strides of what was given). ``results``: of
    ``emulate``, the arrays among the arguments after the run, by position. ``findings``: at most 16 of each kind are
    kept; ``counted`` says how many of each kind there were. ``printed``: what the kernel printed, a line for each
    thread that did, marked with its block and thread. ``instructions``: warp instructions by opcode.
    ``shared_bytes_touched``: by kernel, the highest byte of dynamic shared memory touched. ``active_lanes``: mean share
    of lanes that took part. ``covered_lines`` of ``all_lines``: CUDA lines executed; ``covered_ptx_lines`` likewise.
    ``useful_waits``: PTX lines of waits that had something to wait for. ``steps``: warp instructions executed.
    ``stopped``: a finding ended the run early.
    """

    arrays: dict[str, np.ndarray]
    findings: tuple[Finding, ...] = ()
    results: tuple[np.ndarray | None, ...] = ()
    counted: dict[str, int] = field(default_factory=dict)
    printed: str = ""
    instructions: dict[str, int] = field(default_factory=dict)
    shared_bytes_touched: dict[str, int] = field(default_factory=dict)
    bank_conflicts: BankConflicts = BankConflicts()
    active_lanes: float = 1.0
    covered_lines: frozenset[int] = frozenset()
    all_lines: frozenset[int] = frozenset()
    covered_ptx_lines: frozenset[int] = frozenset()
    useful_waits: frozenset[int] = frozenset()
    steps: int = 0
    seconds: float = 0.0
    stopped: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is no error among the findings. The results in ``arrays`` are for the caller to compare."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are no mere advice."""
        return tuple(f for f in self.findings if f.level == "error")

    def __str__(self) -> str:
        kept: dict[str, int] = {}
        for f in self.findings:
            kept[f.kind] = kept.get(f.kind, 0) + f.count
        more = [f"{self.counted[k] - n} more of kind {k}" for k, n in kept.items() if self.counted.get(k, 0) > n]
        return "\n".join([*map(str, self.findings), *more]) or "no findings"
