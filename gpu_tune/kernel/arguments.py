"""The arguments of a call: which a workload takes, and what must be true of them before a kernel runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..errors import InvalidInput, require
from ..workload import Workload
from . import arrays
from .arrays import HOST, ArrayView

REMEDY_HOST = "copy the arrays to the GPU, or call kernel.emulate(...)"


class Arguments:
    """What calls of kernels for ``workload`` must give; every check raises InvalidInput.

    ``lead`` names the first operand, which says where the call runs; ``specs`` are the arrays that are compiled in,
    ``second`` those that a call writes beside ``out``.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload, self.specs, self.lead = workload, workload.arrays(), workload.inputs[0]
        self.second = tuple(name for name in workload.outputs if name != "out")
        self._order = (*workload.inputs, *(("c",) if workload.op == "matmul" or "c" in self.specs else ()))
        self._known = [name for name in self.specs if name != "out"]

    def given(self, operands: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays of a call by name; None is the same as none given."""
        order = self._order
        rule = f"are more than {len(order)} ({', '.join(order)})"
        require(len(operands) <= len(order), "arguments", len(operands), rule, "name the others")
        for name in named:
            twice = name in order[: len(operands)]
            require(not twice, name, ..., "is given twice", "give it by position or by name")
        found = {name: value for name, value in (*zip(order, operands), *named.items()) if value is not None}
        for name in found:
            if name not in self._known:  # not require: making the words costs more than all other checks of a call
                remedy = f"it takes {', '.join(self._known)}, alpha, beta, out"
                raise InvalidInput(name, ..., f"is no argument of {self.workload.key}", remedy)
        for name in self.workload.inputs:
            self._require(name, found.get(name))
        return found

    def first(self, operands: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """The first operand, whatever else a call gives."""
        value = operands[0] if operands else named.get(self.lead)
        self._require(self.lead, value)
        return value

    def _require(self, name: str, value: Any) -> None:
        require(value is not None, name, ..., "is missing", f"call kernel({', '.join(self.workload.inputs)}, ...)")

    def scalars(self, alpha: float | None, beta: float | None) -> dict[str, float]:
        """The numbers that are given at run time; those compiled in may be repeated, but not changed."""
        found = {}
        for name, value, fixed in (("alpha", alpha, "1"), ("beta", beta, self.workload.beta)):
            if getattr(self.workload, name) == "any":
                given = (1.0 if name == "alpha" else 0.0) if value is None else value
                found[name] = given if type(given) is float and given == given else arrays.number(name, given)
            elif value is not None and (value != float(fixed) or isinstance(value, bool)):
                raise InvalidInput(name, value, f"is compiled in as {fixed}", f"tune the workload with {name}='any'")
        return found

    def needs_c(self, scalars: Mapping[str, float]) -> bool:
        """Whether the call reads c."""
        return self.workload.beta == "1" or scalars.get("beta", 0.0) != 0.0

    def on_gpu(self, lead: ArrayView | None) -> None:
        """The first operand lies in GPU memory; None: it does not."""
        there = lead is not None and lead.place != HOST
        require(there, self.lead, "a host array", "is not in CUDA memory", REMEDY_HOST)

    def check(self, seen: Mapping[str, ArrayView], scalars: Mapping[str, float]) -> None:
        """The arrays are what the kernel is compiled for, in one place, and apart from ``out``."""
        first, beta = seen[self.lead], self.workload.beta
        complete = "c" in seen or not self.needs_c(scalars)
        require(complete, "c", ..., "is missing", f"the workload has beta={beta}: pass c=")
        for name, spec in self.specs.items():
            if name in seen:
                self.check_array(name, seen[name], first, f"where {self.lead} is")
            else:
                given = name in ("c", "out", *self.second)
                require(given, name, ..., "is missing", f"pass {name}= with shape {spec.shape}")
        for name in ("out", *self.second):
            if name in seen and first.place != HOST:
                _check_overlap(name, seen[name], {n: a for n, a in seen.items() if n != name})

    def check_array(self, name: str, array: ArrayView, first: ArrayView, there: str) -> None:
        """``array`` is what is compiled in, and lies in the place of ``first``, which ``there`` tells of."""
        arrays.check(name, array, self.specs[name], self.workload.alignment)
        same = array.place == first.place and (array.place == HOST or array.device == first.device)
        where, rule = f"{array.place}:{array.device}", f"is not {there} ({first.place}:{first.device})"
        require(same, name, where, rule, "put all arrays on one GPU")

    def check_host(self, name: str, array: Any) -> None:
        """A NumPy array is what is compiled in."""
        arrays.check(name, arrays.view(name, array), self.specs[name], self.workload.alignment)


def _check_overlap(written: str, out: ArrayView, others: Mapping[str, ArrayView]) -> None:
    start, end = arrays.span(out)
    for name, array in others.items():
        low, high = arrays.span(array)
        same = (low, array.strides) == (start, out.strides) and name in ("c", "residual") and written == "out"
        rule, remedy = f"overlaps {name}", "only c and residual may be the very array that out is"
        require(same or low >= end or start >= high, written, hex(start), rule, remedy)


def check_apart(second: Collection[str], host: Mapping[str, np.ndarray]) -> None:
    """Second results share no memory with any other array of a call on the CPU; InvalidInput names two that do."""
    for written in second:
        for name, array in host.items():
            if name != written and written in host and np.shares_memory(array, host[written]):
                raise InvalidInput(written, hex(array.ctypes.data), f"overlaps {name}", "give it memory of its own")
