"""One run on the library: a machine with its memory, onto which buffers are put and kernels are launched."""

from __future__ import annotations

import ctypes
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..cuda.device import DEFAULT, KNOWN, Device
from ..errors import EmulationError, require
from ..plan import TENSOR_MAP_DTYPES, Dim3, TensorMapArg
from . import tensor_map
from .ptx import Ptx, expect
from .report import KINDS, BankConflicts, Checks, Finding, Report

STOPS = ("first", "never")
_MAGIC = 0x70616D726F736E65
_MOST_BUFFERS = 511


class Machine:
    """A machine that lives for one run; :meth:`close` frees it. The bytes of its buffers belong to the caller."""

    def __init__(
        self,
        module: Ptx,
        *,
        device: Device | None = None,
        seed: int = 0,
        late: bool | None = None,
        checks: Checks,
        ignore: Sequence[str] = (),
        stop: str = "first",
        steps: int = 0,
    ) -> None:
        require(stop in STOPS, "emulator stop", stop, f"is not one of {STOPS}")
        listed = not isinstance(ignore, str)
        require(listed, "ignore", ignore, "is text and no list of kinds", f"give ignore=[{ignore!r}]")
        for kind in ignore:
            require(kind in KINDS, "ignore", kind, "is no kind of finding", f"kinds are {', '.join(KINDS)}")
        self.module, self.device, self.library = module, device or KNOWN[DEFAULT], module.library
        self._start, self._buffers = time.perf_counter(), 0
        landing = (seed & 1) == 0 if late is None else late
        options = (ctypes.c_uint64 * 6)(seed, landing, 1, checks.bits, stop == "never", steps)
        self.handle = self.library.emu_begin(module.handle, options, " ".join(ignore).encode())
        self.ignored = frozenset(ignore)

    def close(self) -> None:
        """Free what the library holds."""
        self.library.emu_end(self.handle)

    def buffer(
        self, name: str, data: np.ndarray, *, writable: bool = True, track: bool = False, offset: int = 0
    ) -> tuple[int, int]:
        """Put bytes (uint8, which must outlive the run) on the machine: their number and their device address.

        ``track``: nothing in them counts as initialised. ``offset``: the address mod 256.
        """
        return self.memory(name, data.ctypes.data, data.size, int(writable) | int(track) << 1, offset)

    def memory(self, name: str, pointer: int, size: int, flags: int = 1, offset: int = 0) -> tuple[int, int]:
        """:meth:`buffer` for ``size`` bytes at ``pointer``."""
        expect(self._buffers < _MOST_BUFFERS, f"a run has more than {_MOST_BUFFERS} buffers")
        index, self._buffers = self._buffers, self._buffers + 1
        return index, self.library.emu_buffer(self.handle, index, name.encode(), pointer, size, flags, offset)

    def symbol(self, name: str) -> np.ndarray | None:
        """The bytes of a module's variable on this machine (a view), None when the module has none of that name."""
        size = ctypes.c_uint64()
        address = self.library.emu_symbol(self.handle, name.encode(), ctypes.byref(size))
        if not address:
            return None
        return np.ctypeslib.as_array((ctypes.c_ubyte * size.value).from_address(address))

    def symbols(self) -> tuple[str, ...]:
        """Names of the module's variables."""
        size = len(self.module.ptx) + 1
        out = ctypes.create_string_buffer(size)
        names: bytes = self.library.emu_variables(self.module.handle, out, size)
        return tuple(names.decode().split())

    def mark_written(self, index: int, offset: int, size: int) -> None:
        """That part of a tracked buffer counts as initialised."""
        self.library.emu_mark_written(self.handle, index, offset, size)

    def tensor_map(self, arg: TensorMapArg, index: int, address: int, available: int, what: str) -> bytes:
        """The 128 bytes of a tensor map on ``available`` bytes of buffer ``index`` from ``address`` on."""
        broken = tensor_map.broken_rules(arg, address, available)
        expect(not broken, f"{what}: the tensor map of buffer {arg.buffer!r} is not legal: {'; '.join(broken)}")
        kind = self.library.emu_type(TENSOR_MAP_DTYPES[arg.dtype].ptx.encode())
        numbers = tensor_map.pack(arg, index, address, kind)
        made = self.library.emu_tensor_map(self.handle, (ctypes.c_int64 * len(numbers))(*numbers))
        expect(made >= 0, "a run has more than 1024 tensor maps")
        return _MAGIC.to_bytes(8, "little") + int(made).to_bytes(8, "little") + bytes(112)

    def launch(
        self,
        kernel: str,
        grid: Dim3,
        block: Dim3,
        values: Sequence[bytes],
        *,
        cluster: Dim3 = (1, 1, 1),
        shared_bytes: int = 0,
        cooperative: bool = False,
        given: str = "the plan gives",
    ) -> bool:
        """Run a kernel with the bytes of its arguments; whether a finding ended it early."""
        facts, what = self.module.facts(kernel), f"kernel {kernel!r}"
        params = self.parameters(kernel, values, given)
        resident = self._resident(math.prod(block), facts.shared_bytes + shared_bytes)
        blocks = math.prod(grid)
        if cooperative:
            many = f"blocks are more than the {resident} that {self.device.name} holds at once"
            require(blocks <= resident, f"cooperative launch of {what}", blocks, many, "launch fewer blocks")
        u3 = ctypes.c_uint32 * 3
        clusters = max(1, resident // math.prod(cluster))
        launched = self.library.emu_launch(
            self.handle, kernel.encode(), u3(*grid), u3(*block), u3(*cluster), shared_bytes, params, len(params),
            clusters, cooperative,
        )  # fmt: skip
        return bool(launched)

    def parameters(self, kernel: str, values: Sequence[bytes], given: str = "the plan gives") -> bytes:
        """The parameter block of ``kernel`` with ``values``."""
        facts, what = self.module.facts(kernel), f"kernel {kernel!r}"
        sizes = facts.parameter_sizes
        expect(len(sizes) == len(values), f"{what} takes {len(sizes)} arguments, {given} {len(values)}")
        params = bytearray(facts.parameter_bytes)
        for k, (raw, size, offset) in enumerate(zip(values, sizes, facts.parameter_offsets)):
            if len(raw) != size:
                raise EmulationError(f"argument {k} of {what} has {size} bytes, {given} {len(raw)}")
            params[offset : offset + size] = raw
        return bytes(params)

    def _resident(self, threads: int, shared_bytes: int) -> int:
        """Blocks that the device holds at once. The registers are not known: as if they never limited it."""
        return self.device.sm_count * max(1, self.device.resident_blocks(threads, 1, shared_bytes))

    def report(self, arrays: Mapping[str, np.ndarray], findings: Sequence[Finding] = ()) -> Report:
        """What the launches so far have told; ``findings``: more of them, of the caller."""
        facts = json.loads(self.library.emu_results(self.handle))
        lines = [self._lines(which) for which in range(4)]
        own = [Finding(**{**f, "block": tuple(f["block"])}) for f in facts["findings"]]
        more = [f for f in findings if f.kind not in self.ignored]
        counted: dict[str, int] = dict(facts["counted"])
        for f in more:
            counted[f.kind] = counted.get(f.kind, 0) + 1
        return Report(
            arrays=dict(arrays),
            findings=(*own, *more),
            counted=counted,
            printed=facts["printed"],
            instructions=facts["instructions"],
            shared_bytes_touched=facts["shared"],
            bank_conflicts=BankConflicts(
                facts["load_wavefronts"], facts["load_extra"], facts["store_wavefronts"], facts["store_extra"]
            ),
            active_lanes=facts["lanes"] / (32 * facts["steps"]) if facts["steps"] else 1.0,
            covered_lines=lines[0],
            all_lines=lines[1],
            covered_ptx_lines=lines[2],
            useful_waits=lines[3],
            steps=facts["steps"],
            seconds=time.perf_counter() - self._start,
            stopped=facts["stopped"],
        )

    def _lines(self, which: int) -> frozenset[int]:
        out = (ctypes.c_int * (self.module.ptx.count("\n") + 1000))()
        count = self.library.emu_lines(self.handle, which, out, len(out))
        return frozenset(out[:count])


def span(array: np.ndarray) -> tuple[int, int]:
    """Host addresses of an array's first byte and of the byte behind its last (0, 0 for an empty one)."""
    from numpy.lib.array_utils import byte_bounds

    strides: Any = array.strides
    require(min(strides, default=0) >= 0, "emulated buffer", strides, "has a negative stride", "pass a copy")
    return byte_bounds(array) if array.size else (0, 0)


def copied(start: int, end: int) -> np.ndarray:
    """A copy of host memory."""
    return np.array((ctypes.c_ubyte * (end - start)).from_address(start), np.uint8) if end > start else _EMPTY.copy()


_EMPTY = np.zeros(0, np.uint8)
