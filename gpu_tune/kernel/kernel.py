"""A tuned kernel: what ``tune`` and ``load`` return, and what a call of it checks and does.

A call checks shapes, dtypes, strides and alignment against what is compiled in before anything runs. It allocates
nothing but the result (and, once a stream, the workspace), never synchronises, may be called from several threads, on
several streams, and inside the caller's own graph capture. NumPy arrays are computed by the emulator where there is no
GPU, which is slow and says so.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cuda import driver
from ..cuda.device import KNOWN
from ..cuda.launch import Program
from ..cuda.memory import Workspaces, device_of, on_device
from ..errors import MeasureError, WrongResult
from ..reference import allocate
from ..store.winner import Winner
from ..trial import MEASURED
from . import arrays
from .arguments import Arguments, check_apart
from .arrays import HOST, ArrayView
from .prepared import KEPT, NOTHING, BoundCall, CallPath, Key, signature
from .shared_code import SharedCode


class EmulatedResult(UserWarning):
    """A result was computed by the emulator on the CPU, not by a GPU."""


class TunedKernel:
    """A kernel with its launch plan, ready to be called.

    ``kernel(a, b, c=None, *, bias=None, row_bias=None, residual=None, aux=None, scale=None, scale_a=None, scale_b=None,
    alpha=1, beta=0, out=None)`` for a matmul, ``kernel(x, w, ...)`` for a conv2d, ``kernel(dy, w, ...)`` and
    ``kernel(dy, x, c=None, ...)`` for its gradients; returns ``out``, and where the epilogue writes arrays beside it a
    tuple of all ``workload.outputs``, each allocated unless the call gives it (``aux=``). Arrays are CuPy's, PyTorch's
    or anything with DLPack or ``__cuda_array_interface__``, of the shapes, dtypes and strides of ``workload.arrays()``;
    ``out`` may be ``c``. Work is queued on ``stream`` (a CUstream as an integer), by default on the stream that the
    arrays' library has current. Keep the kernel while a graph captured from it lives. InvalidInput for bad arguments.

    ``workload`` is what it computes, ``chip`` what it was tuned for; ``template`` (a name) and ``config`` are what it
    was made from. ``source`` is the CUDA source, self-contained, under its header comment; ``cubin`` the compiled code
    and ``plan`` its launch plan. ``verdict`` says how it compares with the vendor library and the default config;
    ``host_seconds`` is what issuing a run took the host, prepared as :meth:`bind` does it (None: not measured).
    ``seconds`` is the median of one run: predicted unless ``measured`` on a GPU, 0 where it was not timed.
    """

    def __init__(
        self, winner: Winner, match: str = "exact", path: Path | None = None, code: SharedCode | None = None
    ) -> None:
        self.winner, self.match, self.path = winner, match, path
        self._code = code or SharedCode(winner)
        self.workload, self.chip = winner.workload, winner.chip
        self.template, self.config = winner.template, winner.config
        self.source, self.cubin, self.plan = winner.code, winner.cubin, winner.plan
        self.verdict, self.seconds = winner.verdict, winner.seconds
        self.host_seconds = winner.host_seconds
        self.measured = winner.source == MEASURED and winner.seconds > 0
        self._programs: dict[int, tuple[Program, Workspaces]] = {}
        self._lock = threading.Lock()
        self._checked: set[Any] = set()
        self._warned = False
        computed = winner.computed
        self._names = {b: winner.view.origin(b) if winner.view else b for b in (*computed.arrays(), "out")}
        self._arguments = Arguments(winner.workload)
        self._second = self._arguments.second
        self._paths: dict[Key, CallPath] = {}
        self._defaults = self._arguments.scalars(None, None)

    def __repr__(self) -> str:
        kind = self.winner.source if self.seconds > 0 else "not timed"
        return f"TunedKernel({self.workload.key}, {self.chip}, {self.template}, {kind}, match={self.match!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the winner that it is: another process loads the code anew."""
        return type(self), (self.winner, self.match, self.path)

    def __deepcopy__(self, memo: dict[int, Any]) -> TunedKernel:
        """The kernel itself: nothing of it changes, and calls do not meet."""
        return self

    def __call__(
        self,
        *operands: Any,
        stream: int | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        out: Any = None,
        **named: Any,
    ) -> Any:
        found = signature(operands[0], operands, named, out) if operands else None
        if found is not None:
            result = self.repeat(found, out, alpha, beta, stream, named)
            if result is not None:
                return result
        given = self._arguments.given(operands, named)
        scalars = self._arguments.scalars(alpha, beta)
        seen, stream = self._view(given, out, stream, scalars)
        if seen[self._arguments.lead].place == HOST:
            return self._on_host(given, scalars, out)
        results = self._results(given, out, seen, stream)
        path = self._path(seen)
        path.launch([array.pointer for array in seen.values()], stream, scalars)
        if found is not None:
            if len(self._paths) >= KEPT:
                self._paths = {}
            self._paths[found[0]] = path
        return self._returned(results)

    def repeat(
        self,
        found: tuple[Key, list[int]],
        out: Any,
        alpha: float | None = None,
        beta: float | None = None,
        stream: int | None = None,
        named: Mapping[str, Any] = NOTHING,
    ) -> Any:
        """A call with the arrays that ``found`` tells of (see :func:`signature`), if one like it was good before.

        ``named``: those of them that are given by name. Only addresses and numbers are left to look at. None where they
        are not as they must be, or nothing is known.
        """
        key, pointers = found
        path = self._paths.get(key)
        if path is None:
            return None
        scalars = self._defaults if alpha is None and beta is None else self._arguments.scalars(alpha, beta)
        if "c" not in path.names and self._arguments.needs_c(scalars):
            return None
        second: dict[str, Any] = {}
        if self._second:
            second, pointers = self._completed(path, pointers, named, out is not None)
        if out is None:
            out = path.allocate("out")
            pointers = [*pointers, arrays.view("out", out).pointer]
        on = path.current_stream() if stream is None else stream
        if not path.launch(pointers, on, scalars):
            return None
        return self._returned({**second, "out": out}) if second else out

    def _completed(
        self, path: CallPath, pointers: list[int], named: Mapping[str, Any], last: bool
    ) -> tuple[dict[str, Any], list[int]]:
        """Second results, new arrays where ``named`` has none, and the addresses with theirs; ``last``: that of ``out``
        is the last of them."""
        second = {name: named.get(name) for name in self._second}
        known, end = (pointers[:-1], pointers[-1:]) if last else (pointers, [])
        for name in [name for name, value in second.items() if value is None]:
            second[name] = path.allocate(name)
            known = [*known, arrays.view(name, second[name]).pointer]
        return second, [*known, *end]

    def _returned(self, results: Mapping[str, Any]) -> Any:
        """What a call returns: ``out``, or a tuple where it has several results."""
        return tuple(results[name] for name in self.workload.outputs) if self._second else results["out"]

    def _results(self, given: Mapping[str, Any], out: Any, seen: dict[str, ArrayView], stream: int) -> dict[str, Any]:
        """A call's results by name, new arrays where it gives none, which are added to ``seen`` with ``out`` last."""
        results, last = {name: given.get(name) for name in self._second} | {"out": out}, seen.pop("out", None)
        for name, value in results.items():
            if value is None:
                results[name] = arrays.allocate(self._arguments.specs[name], seen[self._arguments.lead], name)
                seen[name] = arrays.view(name, results[name], stream)
        if last is not None:
            seen["out"] = last
        return results

    def bind(
        self,
        *operands: Any,
        stream: int | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        out: Any = None,
        **named: Any,
    ) -> BoundCall:
        """The same call with everything decided: ``launch()`` of what is returned costs the host next to nothing.

        Arguments and errors are those of a call; arrays must be in GPU memory. ``stream`` is where ``launch()`` queues
        the kernel: by default the stream that the arrays' library has current now. Nothing is launched here.
        """
        given, scalars = self._arguments.given(operands, named), self._arguments.scalars(alpha, beta)
        seen, stream = self._view(given, out, stream, scalars)
        first = seen[self._arguments.lead]
        self._arguments.on_gpu(first)
        results = self._results(given, out, seen, stream)

        def check(name: str, value: Any) -> ArrayView:
            array = arrays.view(name, value, stream)
            self._arguments.check_array(name, array, first, "where the bound arrays are")
            return array

        pointers = [array.pointer for array in seen.values()]
        return BoundCall(self._path(seen), {**given, **results}, pointers, stream, scalars, check)

    def _view(
        self, given: Mapping[str, Any], out: Any, stream: int | None, scalars: Mapping[str, float]
    ) -> tuple[dict[str, ArrayView], int]:
        """A call's arrays, checked, ``out`` last (where given); and the stream that they are read on."""
        lead = self._arguments.lead
        first = arrays.view(lead, given[lead], stream or 0)
        if stream is None:
            stream = 0 if first.place == HOST else arrays.current_stream(first.library, first.device)
        seen = {lead: first}
        seen |= {name: arrays.view(name, value, stream) for name, value in given.items() if name != lead or stream}
        for name in self._second:
            if name in given:
                arrays.check_writable(name, given[name])
        if out is not None:
            arrays.check_writable("out", out)
            seen["out"] = arrays.view("out", out, stream)
        key = tuple((n, a.pointer, a.shape, a.strides, a.dtype, a.place, a.device) for n, a in seen.items())
        if key not in self._checked:
            self._arguments.check(seen, scalars)
            if len(self._checked) >= KEPT:
                self._checked.clear()
            self._checked.add(key)
        elif self._arguments.needs_c(scalars) and "c" not in seen:
            self._arguments.check(seen, scalars)
        return seen, stream

    def prepare(self, stream: int = 0, device: int = 0) -> None:
        """Load the code and make the workspace for ``stream`` now, so that the first call has nothing left to do."""
        with on_device(device):
            self._loaded(device)[1].get(stream)

    def emulate(
        self, *operands: Any, alpha: float | None = None, beta: float | None = None, out: Any = None, **named: Any
    ) -> Any:
        """The same call on NumPy arrays, computed by the emulator on the CPU: exact, and slow. Needs NVRTC and g++."""
        given = self._arguments.given(operands, named)
        return self._emulate(given, self._arguments.scalars(alpha, beta), out)

    def _path(self, seen: Mapping[str, ArrayView]) -> CallPath:
        """How calls with arrays like ``seen`` go, which are checked; ``out`` is the last of them."""
        target = seen["out"]
        guess = target.library == "interface" and driver.device_count() > 1  # that protocol does not name the GPU
        device = device_of(target.pointer) if guess else target.device
        with on_device(device):
            return CallPath(self._loaded(device), device, seen, self._names, self.workload)

    def _loaded(self, device: int) -> tuple[Program, Workspaces]:
        with self._lock:
            if device not in self._programs:
                self._check_device(device)
                self._programs[device] = self._code.program(self.plan, device)
            return self._programs[device]

    def _check_device(self, device: int) -> None:
        here = driver.describe(device)
        if here.arch != self.winner.arch:
            raise MeasureError(
                f"this kernel is compiled for {self.winner.arch} ({self.chip}); GPU {device} is {here.chip} "
                f"({here.arch}): tune or load the workload for it"
            )
        if here.chip != self.chip:
            warnings.warn(
                f"kernel tuned for {self.chip} runs on {here.chip}: right, but tuned for another chip", stacklevel=5
            )

    def _on_host(self, given: Mapping[str, Any], scalars: Mapping[str, float], out: Any) -> Any:
        if driver.device_count():
            self._arguments.on_gpu(None)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.workload.key}: no GPU here, so the emulator computes this on the CPU (exact, but slow; "
                "its speed says nothing about the kernel's)",
                EmulatedResult,
                stacklevel=3,
            )
        return self._emulate(given, scalars, out)

    def _emulate(self, given: Mapping[str, Any], scalars: Mapping[str, float], out: Any) -> Any:
        from .. import emulator

        host = {n: arrays.on_host(n, v) for n, v in given.items()}
        for name, array in host.items():
            self._arguments.check_host(name, array)
        if out is not None:
            host["out"] = arrays.on_host("out", out)
            self._arguments.check_host("out", host["out"])
        for name in self.workload.outputs:
            if name in host:
                arrays.check_writable(name, out if name == "out" else given[name])
        check_apart(self._second, host)
        made = [name for name in self.workload.outputs if name not in host]
        host.update({name: allocate(self._arguments.specs[name]) for name in made})
        buffers = {buffer: host[name] for buffer, name in self._names.items() if name in host}
        if self.workload.beta != "0":
            buffers.setdefault("c", host["out"])
        w = self.winner
        options: dict[str, Any] = dict(scalars=scalars, arch=w.arch, device=KNOWN.get(w.device), writes=self._second)
        report = emulator.run_plan(w.code, w.plan, buffers, **options)
        if report.findings:
            raise WrongResult(
                f"{self.workload.key}: the emulator found {len(report.findings)} faults; first: {report.findings[0]}"
            )
        like = arrays.view(self._arguments.lead, given[self._arguments.lead])
        returned = {**given, "out": out}
        for name in self.workload.outputs:
            result = host[name]
            result[...] = report.arrays[name].view(result.dtype).reshape(result.shape)
            if name in made:
                returned[name] = arrays.from_host(result, like)
        return self._returned(returned)
