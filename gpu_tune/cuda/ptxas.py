"""What ptxas says in the log of a cubin compile: registers, spills and its notes, per kernel.

NVRTC's log carries the report when the cubin was compiled with ``--ptxas-options=-v`` (``nvrtc.to_cubin`` does). Spill
bytes exist nowhere else. The ``C75xx`` notes say that ptxas repaired or serialised a wgmma pipeline (a missing fence or
wait, ``setmaxnreg`` ignored): the kernel is right but slow, so a variant that has one is not fit to be published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Report:
    """ptxas on one kernel; bytes, registers per thread. ``notes``: its ``C75xx`` notes, as ``C7510: text``."""

    name: str
    registers: int = 0
    barriers: int = 0
    stack_bytes: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0
    static_shared_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def spill_bytes(self) -> int:
        """Spill stores plus loads, the bytes that ptxas counted in the code (not what a run moves)."""
        return self.spill_store_bytes + self.spill_load_bytes


_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_FUNCTION = re.compile(r"Function properties for (\S+)")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_BARRIERS = re.compile(r"used (\d+) barriers")
_SHARED = re.compile(r"(\d+) bytes smem")
_NOTE = re.compile(r"\((C7\d{3})\)\s*(.*)")
_IN_FUNCTION = re.compile(r"in(?: the)? function '?([A-Za-z_$][\w$]*)'?")


def read(log: str) -> Mapping[str, Report]:
    """The reports in ``log`` by kernel name, empty when the log has none.

    A note that names no kernel belongs to every kernel of the log (to the name ``""`` when the log names none).
    """
    found: dict[str, Report] = {}
    loose: list[str] = []
    kernel = function = ""
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            kernel = function = match[1]
            found.setdefault(kernel, Report(kernel))
        elif match := _FUNCTION.search(line):
            function = match[1]
        elif (match := _FRAME.search(line)) and function == kernel and kernel:
            stack, stores, loads = map(int, match.groups())
            found[kernel] = replace(found[kernel], stack_bytes=stack, spill_store_bytes=stores, spill_load_bytes=loads)
        elif (match := _USED.search(line)) and kernel:
            found[kernel] = replace(
                found[kernel],
                registers=int(match[1]),
                barriers=_number(_BARRIERS, line),
                static_shared_bytes=_number(_SHARED, line),
            )
        elif match := _NOTE.search(line):
            note, where = f"{match[1]}: {match[2].strip()}", _IN_FUNCTION.search(line)
            if where and where[1] in found:
                found[where[1]] = replace(found[where[1]], notes=(*found[where[1]].notes, note))
            elif where:
                found[where[1]] = Report(where[1], notes=(note,))
            else:
                loose.append(note)
    if loose and not found:
        return {"": Report("", notes=tuple(loose))}
    return {name: replace(r, notes=(*r.notes, *loose)) if loose else r for name, r in found.items()}


def _number(pattern: re.Pattern[str], line: str) -> int:
    match = pattern.search(line)
    return int(match[1]) if match else 0
