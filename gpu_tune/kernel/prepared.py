"""Prepared calls: what arrays of one library, layout and device need is decided once; a call then reads pointers.

A :class:`CallPath` belongs to one kernel and one set of layouts, and looks at nothing but addresses. It is re-entrant:
whatever two calls may share is made once and never changed. A :class:`BoundCall` has the addresses decided as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..cuda import driver
from ..cuda.launch import Bound, Program
from ..cuda.memory import Workspaces, on_device
from ..errors import InvalidInput, require
from . import arrays
from .arrays import ArrayView

if TYPE_CHECKING:
    from ..workload import Workload

KEPT = 256
"""Sets of addresses whose launches a path keeps; sets of layouts whose path a kernel or a dispatcher keeps."""
NOTHING: Mapping[str, Any] = MappingProxyType({})
Key = tuple[Any, ...]


def signature(first: Any, values: Sequence[Any], named: Mapping[str, Any], out: Any) -> tuple[Key, list[int]] | None:
    """What a call's arrays are but for their addresses, as a key, and their addresses, ``out`` last (where given).

    None when they are not arrays of the library of ``first`` (CuPy or PyTorch): nothing is prepared for those.
    """
    read = arrays.READERS.get(type(first)) or arrays.reader(type(first))
    if read is None:
        return None
    key: list[Any] = []
    pointers: list[int] = []
    try:
        for value in values:
            if value is None:
                key.append(None)
            else:
                facts, pointer = read(value)
                key.append(facts)
                pointers.append(pointer)
        for name, value in named.items():
            if value is not None:
                facts, pointer = read(value)
                key += (name, facts)
                pointers.append(pointer)
        if out is None:
            key.append(None)
        else:
            facts, pointer = read(out)
            key.append(facts)
            pointers.append(pointer)
    except (AttributeError, RuntimeError):  # no array of the library, or a sparse one: the long way says what is wrong
        return None
    return tuple(key), pointers


class CallPath:
    """Calls of one kernel with arrays ``seen`` (by name, ``out`` last): checked, and good but for their addresses.

    ``names`` maps the plan's buffer names to the arrays'.
    """

    def __init__(
        self,
        loaded: tuple[Program, Workspaces],
        device: int,
        seen: Mapping[str, ArrayView],
        names: Mapping[str, str],
        workload: Workload,
    ) -> None:
        self._program, self._workspaces = loaded
        self.device, self.names, self._given = device, tuple(seen), dict(names)
        self._alignment = alignment = workload.alignment
        self._specs, self._like = workload.arrays(), replace(next(iter(seen.values())), owner=None)
        spans = {name: arrays.span(array) for name, array in seen.items()}
        sizes = {name: end - start for name, (start, end) in spans.items()}
        strides = seen["out"].strides
        self._out_size = sizes["out"]
        self._others = tuple(
            (sizes[name], name in ("c", "residual") and seen[name].strides == strides) for name in seen if name != "out"
        )
        self.written, self._sizes = workload.outputs, tuple(sizes.values())
        self._second = tuple(i for i, name in enumerate(seen) if name in self.written and name != "out")
        self._mask = alignment - 1 if alignment & (alignment - 1) == 0 else None
        self._bound: dict[Any, Callable[[int], None]] = {}
        self.needs_workspace = bool(self._program.plan.workspace_bytes)
        self.current_device, self.good = driver.bindings().cuCtxGetDevice, driver.bindings().CUresult.CUDA_SUCCESS
        self.handle = int(driver.handle_of(device))

    def admits(self, pointers: Sequence[int]) -> bool:
        """Whether addresses keep the alignment that is compiled in, and results (``out`` is the last) lie apart."""
        out = pointers[-1]
        end, joined = out + self._out_size, 0
        for pointer, (size, may_be_out) in zip(pointers, self._others):
            if pointer < end and out < pointer + size and not (may_be_out and pointer == out):
                return False
            joined |= pointer
        for i in self._second:
            start, over = pointers[i], pointers[i] + self._sizes[i]
            spans = enumerate(zip(pointers, self._sizes))
            if any(low < over and start < low + size for j, (low, size) in spans if j != i):
                return False
        if self._mask is not None:
            return not (joined | out) & self._mask
        return not any(pointer % self._alignment for pointer in pointers)

    def allocate(self, name: str) -> Any:
        """A new array for the result ``name``, in the library of the others."""
        return arrays.allocate(self._specs[name], self._like, name)

    def current_stream(self) -> int:
        """The stream that the arrays' library works on now."""
        return arrays.current_stream(self._like.library, self.device)

    def launch(self, pointers: Sequence[int], stream: int, scalars: Mapping[str, float]) -> bool:
        """Issue the plan for arrays at ``pointers`` (in the order of ``names``) into ``stream``.

        False, and nothing is issued, where the addresses are not as they must be.
        """
        known = None if scalars or self.needs_workspace else self._bound.get(tuple(pointers))
        if known is None and not self.admits(pointers):
            return False
        code, device = self.current_device()
        if code is self.good and int(device) == self.handle:
            (known or self.issue(pointers, stream, scalars))(stream)
        else:
            with on_device(self.device):
                (known or self.issue(pointers, stream, scalars))(stream)
        return True

    def issue_here(self, issue: Callable[[int], None], stream: int) -> bool:
        """Call ``issue(stream)``; False, and it is not called, where this thread has no context of the arrays' GPU."""
        code, device = self.current_device()
        if code is not self.good or int(device) != self.handle:
            return False
        issue(stream)
        return True

    def issue(self, pointers: Sequence[int], stream: int, scalars: Mapping[str, float]) -> Callable[[int], None]:
        """What issues the plan into ``stream`` when called with it; for addresses that are as they must be.

        The GPU's context is current.
        """
        key: Key = tuple(pointers)
        if scalars:
            key += tuple(scalars.items())
        if self.needs_workspace:
            workspace = self._workspaces.get(stream)
            key += (workspace,)
        else:
            workspace = 0
        found = self._bound.get(key)
        if found is None:
            bound = self._bind(pointers, workspace, scalars)
            found = bound.only or bound
            if len(self._bound) >= KEPT:
                self._bound = {}  # a new dictionary: another thread may be reading the old one
            self._bound[key] = found
        return found

    def prepared(
        self, pointers: Sequence[int], stream: int, scalars: Mapping[str, float]
    ) -> Callable[[], tuple[Any]] | None:
        """Issues the plan as :meth:`issue` does and returns the driver's result, which the caller compares with
        ``good``; ``current_device()`` must name ``handle`` then. None where it takes more than one launch."""
        if self.needs_workspace:  # a graph capture gets one of its own
            return None
        issue = self.issue(pointers, stream, scalars)
        return issue.on(stream) if isinstance(issue, driver.Launch) else None

    def _bind(self, pointers: Sequence[int], workspace: int, scalars: Mapping[str, float]) -> Bound:
        at = dict(zip(self.names, pointers))
        buffers = {buffer: at[name] for buffer, name in self._given.items() if name in at}
        buffers.setdefault("c", at["out"])  # beta is 0: never read
        if workspace:
            buffers["workspace"] = workspace
        return self._program.bind(buffers, scalars)


class BoundCall:
    """A call of a kernel with everything decided: ``launch()`` queues it on ``stream``, ``launch(other)`` elsewhere.

    Made by :meth:`TunedKernel.bind`. Nothing is checked or allocated by a launch, which returns at once and may be
    captured into a graph (where the plan has a workspace, a graph gets one of its own). ``out`` is the result's array,
    ``results`` has all results by name. The arrays are kept alive; what they hold is read when the kernel runs.
    """

    def __init__(
        self,
        path: CallPath,
        given: Mapping[str, Any],
        pointers: Sequence[int],
        stream: int,
        scalars: Mapping[str, float],
        check: Callable[[str, Any], ArrayView],
    ) -> None:
        self.stream, self.out = stream, given["out"]
        self.path, self.scalars, self._check = path, dict(scalars), check
        self._owners = dict(given)
        self._pointers = tuple(pointers)
        self._issue: Callable[[int], None] | None = None
        self._decide(self._pointers)

    @property
    def results(self) -> dict[str, Any]:
        """The array of each result, by name; ``out`` is the last."""
        return {name: self._owners[name] for name in self.path.names if name in self.path.written}

    def launch(self, stream: int | None = None) -> None:
        """Queue the kernel on ``stream`` (a CUstream as an integer), by default on the one that it was bound for."""
        if stream is None:
            stream = self.stream
        issue, path = self._issue, self.path
        if issue is None or not path.issue_here(issue, stream):
            path.launch(self._pointers, stream, self.scalars)

    def rebind(self, **changed: Any) -> None:
        """Use other memory for the arrays that are named: arrays of the same layout, or device addresses of such.

        InvalidInput for another layout, a misaligned address, or an ``out`` that overlaps an input. Launches made
        before keep what they had. An address does not keep its array alive.
        """
        path, at = self.path, dict(zip(self.path.names, self._pointers))
        for name, value in changed.items():
            require(name in at, name, ..., "is not bound", f"bound are {', '.join(at)}")
            at[name] = value if isinstance(value, int) else self._check(name, value).pointer
        pointers = tuple(at.values())
        if not path.admits(pointers):
            raise InvalidInput(
                ", ".join(changed),
                ", ".join(hex(at[name]) for name in changed),
                "is not aligned as the kernel is compiled for, or out overlaps an input",
                "only c and residual may be the very array that out is",
            )
        self._decide(pointers)
        self._owners.update(changed)
        self.out = self._owners["out"]

    def _decide(self, pointers: tuple[int, ...]) -> None:
        path = self.path
        with on_device(path.device):
            made = path.issue(pointers, self.stream, self.scalars)
        # in this order: a launch of another thread finds the old pair or the new one, or looks the new one up
        self._issue = None
        self._pointers = pointers
        self._issue = None if path.needs_workspace else made
