"""Any kernel on the emulator: NumPy arrays, scalars, structs and tensor maps as arguments, one launch or several."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..cuda.device import DEFAULT, Device, by_name
from ..errors import InvalidInput, require
from ..plan import Dim3
from ..plan.size import whole
from .arguments import Pointer, Struct, TensorMap, arrays_in
from .machine import Machine, copied, span
from .module import Module
from .report import ALL_CHECKS, Checks, Report


@dataclass
class _Block:
    """Memory of the machine that mirrors a span of the host's; ``owners`` keeps the arrays alive."""

    start: int
    end: int
    data: np.ndarray
    index: int
    address: int
    owners: list[np.ndarray]


class Session:
    """Kernels of one module launched one after the other on the same memory.

        with gpu_tune.Session(source, device="h100") as gpu:
            gpu.launch("fill", grid=4, block=128, args=[x, np.float32(1)])
            gpu.launch("scale", grid=4, block=128, args=[x, y])
            y_after, report = gpu.array(y), gpu.report()

    Arrays are copied to the machine when they are first named, and the caller's stay as they are. See :func:`emulate`
    for the options.
    """

    def __init__(
        self,
        source_or_ptx: str,
        *,
        device: str | Device = DEFAULT,
        arch: str = "",
        options: Sequence[str] = (),
        symbols: Mapping[str, Any] | None = None,
        seed: int = 0,
        late: bool | None = None,
        checks: Checks = ALL_CHECKS,
        ignore: Sequence[str] = (),
        stop: str = "first",
    ) -> None:
        chip = by_name(device) if isinstance(device, str) else device
        self.module = Module.load(source_or_ptx, arch or chip.arch, options)
        self._machine = Machine(self.module, device=chip, seed=seed, late=late, checks=checks, ignore=ignore, stop=stop)
        self._blocks: list[_Block] = []
        self._held: list[np.ndarray] = []
        self._named: dict[str, np.ndarray] = {}
        self._open, self._report = True, Report({})
        try:
            for name, value in (symbols or {}).items():
                self._set_symbol(name, value)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the machine. :meth:`report` and :meth:`array` go on telling what was."""
        if self._open:
            self._report, self._open = self._make_report(), False
            self._machine.close()

    def launch(
        self,
        kernel: str = "",
        grid: int | Sequence[int] = 1,
        block: int | Sequence[int] = 1,
        args: Sequence[Any] = (),
        *,
        shared: int = 0,
        cluster: int | Sequence[int] = 1,
        cooperative: bool = False,
    ) -> bool:
        """Run a kernel to its end; False when a finding ended it early. Later launches see what it has written."""
        require(self._open, "session", ..., "is closed", "launch inside the with block")
        require(isinstance(kernel, str), "kernel", kernel, "is no name", "give its name as text")
        listed = isinstance(args, Sequence) and not isinstance(args, (str, bytes))
        rule = f"are {'None' if args is None else f'a value of type {type(args).__name__}'}, not a list"
        require(listed, "args", ..., rule, "give an entry for each parameter in order, [] for none")
        name = self.module.find(kernel)
        sizes, types = self.module.facts(name).parameter_sizes, self.module.parameter_types(name)
        dims = {what: _dim3(what, value) for what, value in (("grid", grid), ("block", block), ("cluster", cluster))}
        sound = isinstance(shared, (int, np.integer)) and shared >= 0
        require(sound, "shared", shared, "is no number of bytes", "give an integer from 0 on")
        rest = [g % c for g, c in zip(dims["grid"], dims["cluster"])]
        require(not any(rest), "grid", dims["grid"], f"is no multiple of the cluster {dims['cluster']}")
        require(
            len(args) == len(sizes),
            f"args of kernel {kernel or name!r}",
            len(args),
            f"are not the {len(sizes)} it takes",
        )
        self._place([a for value in args for a in arrays_in(value)])
        values = []
        for k, (value, size, declared) in enumerate(zip(args, sizes, types)):
            raw = self._bytes(_number(value, declared, f"args[{k}]"), f"arg{k}", size)
            rule = f"has {len(raw)} bytes; kernel {kernel or name!r} takes {size} there"
            require(len(raw) == size, f"args[{k}]", type(value).__name__, rule, "pass a NumPy scalar of its type")
            values.append(raw)
        return not self._machine.launch(
            name, dims["grid"], dims["block"], values, cluster=dims["cluster"], shared_bytes=shared,
            cooperative=cooperative, given="given are",
        )  # fmt: skip

    def array(self, array: np.ndarray) -> np.ndarray:
        """What an array that was an argument holds now: a copy with its shape, dtype and strides."""
        start, end = span(array)
        block = self._find(start, end)
        require(block is not None, "array", array.shape, "was no argument of a launch")
        assert block is not None
        if not array.size:
            return array.copy()
        data = block.data[start - block.start : end - block.start].copy()
        return np.ndarray(array.shape, array.dtype, data.data, 0, array.strides)

    def symbol(self, name: str, dtype: Any = np.uint8) -> np.ndarray:
        """What a ``__device__`` or ``__constant__`` variable holds now (one-dimensional)."""
        return self._symbol(name).copy().view(dtype)

    def report(self) -> Report:
        """Findings and counters of the launches so far. ``arrays`` are called ``arg0``, ``arg1`` ... by first use."""
        return self._make_report() if self._open else self._report

    # ---- memory
    def _make_report(self) -> Report:
        return self._machine.report({name: self.array(a) for name, a in self._named.items()})

    def _find(self, start: int, end: int) -> _Block | None:
        inside = (b for b in self._blocks if b.start <= start and end <= b.end)
        return next(inside, None)

    def _place(self, arrays: Sequence[np.ndarray]) -> None:
        """Give every array a block; those of one launch that overlap share one."""
        spans = sorted((*span(a), k) for k, a in enumerate(arrays))
        groups: list[tuple[int, int, list[int]]] = []
        for start, end, k in spans:
            if groups and start < groups[-1][1]:
                low, high, inside = groups[-1]
                groups[-1] = (low, max(high, end), [*inside, k])
            else:
                groups.append((start, end, [k]))
        for start, end, numbers in sorted(groups, key=lambda group: min(group[2])):
            members = [arrays[k] for k in sorted(numbers)]
            if self._find(start, end) is not None:
                continue
            apart = all(end <= b.start or b.end <= start or start == end for b in self._blocks)
            rule = "overlaps memory of an earlier launch and is not within it"
            require(apart, "array", members[0].shape, rule, "pass the whole array to the first launch")
            data = copied(start, end)
            writable = any(a.flags.writeable for a in members)
            name = f"arg{len(self._blocks)}"
            index, address = self._machine.buffer(name, data, writable=writable)
            self._blocks.append(_Block(start, end, data, index, address, members))
            self._named[name] = members[0]

    def _bytes(self, value: Any, what: str, size: int) -> bytes:
        """An argument as the kernel sees it."""
        if value is None:
            return bytes(8)
        if isinstance(value, bytes):
            return value
        if isinstance(value, np.generic):
            return value.tobytes()
        if isinstance(value, (bool, int)):
            kinds = {1: np.uint8, 2: np.int16, 4: np.int64, 8: np.int64}
            require(size in kinds, what, value, f"is a number where the kernel takes {size} bytes")
            with contextlib.suppress(OverflowError):
                return int(value).to_bytes(size, "little", signed=value < 0)
            raise InvalidInput(what, value, f"does not fit into the {size} bytes that the kernel takes")
        if isinstance(value, float):
            require(
                size in (4, 8), what, value, f"is a float where the kernel takes {size} bytes", "pass a NumPy scalar"
            )
            return (np.float32(value) if size == 4 else np.float64(value)).tobytes()
        if isinstance(value, Struct):
            out = bytearray(value.size)
            for at, field in value.fields:
                raw = self._bytes(field, f"{what}+{at}", 0)
                out[at : at + len(raw)] = raw
            return bytes(out)
        if isinstance(value, Pointer):
            raw = self._bytes(value.value, what, 0)
            data = np.frombuffer(bytearray(raw), np.uint8)
            self._held.append(data)
            return self._machine.buffer(f"*{what}", data)[1].to_bytes(8, "little")
        array = value.array if isinstance(value, TensorMap) else value
        kind = type(array).__name__
        rule = "is no array, NumPy scalar, number, bytes, Struct, Pointer, TensorMap or None"
        require(isinstance(array, np.ndarray), what, kind, rule, "copy it to the host first")
        require(not array.dtype.hasobject, what, "array of objects", "holds no numbers", "give it a dtype")
        start, end = span(array)
        block = self._find(start, end)
        assert block is not None
        address = block.address + start - block.start
        if isinstance(value, TensorMap):
            return self._machine.tensor_map(value.argument(what), block.index, address, block.end - start, what)
        return address.to_bytes(8, "little")

    # ---- module variables
    def _symbol(self, name: str) -> np.ndarray:
        found = self._machine.symbol(name)
        if found is None:
            names = self._machine.symbols()
            close = [n for n in names if self.module.demangled(n).split("::")[-1] == name]
            require(
                len(close) == 1, "symbol", name, "is no variable of the module", f"it has: {', '.join(names) or 'none'}"
            )
            found = self._machine.symbol(close[0])
        assert found is not None
        return found

    def _set_symbol(self, name: str, value: Any) -> None:
        target = self._symbol(name)
        if isinstance(value, np.ndarray):
            raw = np.ascontiguousarray(value).tobytes()
        else:
            self._place(list(arrays_in(value)))
            raw = self._bytes(value, name, target.size)
        require(len(raw) <= target.size, f"symbol {name!r}", len(raw), f"bytes do not fit into its {target.size}")
        target[: len(raw)] = np.frombuffer(raw, np.uint8)


def _number(value: Any, declared: str, what: str) -> Any:
    """``value``, a whole number as the float that a kernel declares; InvalidInput for a number of the other kind, whose
    bits would be taken for something else."""
    whole_number = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))
    if declared in ("f32", "f64") and whole_number:
        rule = f"is an {type(value).__name__} where the kernel takes a float ({declared})"
        require(type(value) is int, what, value, rule, f"pass np.float{declared[1:]}(...)")
        return float(value)
    if declared[:1] in ("s", "u") and isinstance(value, (float, np.floating)):
        rule, remedy = f"is a float where the kernel takes a whole number ({declared})", "pass an int"
        require(False, what, value, rule, remedy)
    return value


def _dim3(what: str, value: int | Sequence[int]) -> Dim3:
    given = value if isinstance(value, (Sequence, np.ndarray)) else (value,)
    dims = [whole(d) for d in given]
    rule = "is not one to three positive integers"
    require(1 <= len(dims) <= 3 and all(type(d) is int and 1 <= d < 1 << 32 for d in dims), what, value, rule)
    x, y, z = (*dims, 1, 1)[:3]
    return x, y, z


def emulate(
    source_or_ptx: str,
    kernel: str = "",
    grid: int | Sequence[int] = 1,
    block: int | Sequence[int] = 1,
    args: Sequence[Any] = (),
    *,
    shared: int = 0,
    cluster: int | Sequence[int] = 1,
    cooperative: bool = False,
    device: str | Device = DEFAULT,
    arch: str = "",
    options: Sequence[str] = (),
    symbols: Mapping[str, Any] | None = None,
    seed: int = 0,
    late: bool | None = None,
    checks: Checks = ALL_CHECKS,
    ignore: Sequence[str] = (),
    stop: str = "first",
) -> Report:
    """Run one kernel on the CPU and report what it computes and everything that is wrong with it.

    ``source_or_ptx``: CUDA C++ (compiled by NVRTC for ``arch``, default the device's, with ``options``) or PTX.
    ``kernel``: its PTX name, its C++ name, or a regular expression; empty for the only one. ``args``: an array (a
    pointer to it), a NumPy scalar, a number, bytes, a :class:`Struct`, a :class:`TensorMap`, a :class:`Pointer`, None
    (a null pointer). Arrays are not modified; those that are not writeable count as ``const``.
    ``report.results[k]`` is the array passed as ``args[k]`` after the run.

    ``shared``: bytes of dynamic shared memory. ``cooperative``: all blocks must be resident at once, and may meet at a
    barrier of the whole grid; InvalidInput when the device does not hold them. ``symbols``: what module variables
    hold before. ``seed`` chooses the interleaving (run several); ``late``: asynchronous results land as late as is
    legal (True) or at random moments (False); None takes late for even seeds. ``ignore``: kinds of findings that are
    not reported. ``stop="never"``: go on after a finding that would end the kernel on a device, such as an access out
    of bounds.

    Raises InvalidInput (arguments that do not fit), EmulationError (an unsupported instruction, text that is no PTX),
    CompileError, CompilerMissing.
    """
    with Session(
        source_or_ptx, device=device, arch=arch, options=options, symbols=symbols, seed=seed, late=late, checks=checks,
        ignore=ignore, stop=stop,
    ) as session:  # fmt: skip
        session.launch(kernel, grid, block, args, shared=shared, cluster=cluster, cooperative=cooperative)
        results = tuple(session.array(a) if isinstance(a, np.ndarray) else None for a in args)
        return replace(session.report(), results=results)
