"""PTX as the library holds it: its kernels, by every name they have, and what a launch has to know of them."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import EmulationError, require
from . import build


def expect(valid: object, problem: str) -> None:
    """Raise EmulationError unless ``valid``."""
    if not valid:
        raise EmulationError(problem)


@dataclass(frozen=True)
class KernelFacts:
    """What a launch has to know of a kernel: its parameters in bytes, and its static shared memory."""

    parameter_offsets: tuple[int, ...]
    parameter_sizes: tuple[int, ...]
    parameter_bytes: int
    shared_bytes: int


_HEAD = re.compile(r"\.entry\s+([\w$%]+)\s*\(([^)]*)\)")
_TYPE = re.compile(r"\.([usbf]\d+)\b")


class Ptx:
    """Parsed PTX text; of its kernels those named by ``only`` where that is given. EmulationError when it is none."""

    def __init__(self, ptx: str, only: Iterable[str] = ()) -> None:
        self.ptx = ptx
        self.library = build.library()
        self._facts: dict[str, KernelFacts] = {}
        error = ctypes.create_string_buffer(1000)
        self.handle = self.library.emu_load(ptx.encode(), " ".join(only).encode(), error, len(error))
        expect(self.handle, f"the emulator refuses this PTX: {error.value.decode(errors='replace')}")

    def __del__(self) -> None:
        if handle := getattr(self, "handle", None):
            self.library.emu_unload(handle)

    @functools.cached_property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels in the module, as the PTX has them."""
        size = len(self.ptx) + 1
        out = ctypes.create_string_buffer(size)
        names: bytes = self.library.emu_kernels(self.handle, out, size)
        return tuple(names.decode().split())

    @functools.cached_property
    def refused(self) -> dict[str, str]:
        """The kernels that the emulator cannot run: why, with the PTX line."""
        reasons = {name: self.refusal(name) for name in self.kernels}
        return {name: reason for name, reason in reasons.items() if reason}

    def refusal(self, kernel: str) -> str:
        """Why the emulator cannot run ``kernel``, with the PTX line; empty where it can."""
        reason: bytes = self.library.emu_refusal(self.handle, kernel.encode())
        return reason.decode()

    def demangled(self, kernel: str) -> str:
        """The C++ name of a kernel with its parameters (the name itself when it is not mangled)."""
        out = ctypes.create_string_buffer(1 << 16)
        name: bytes = self.library.emu_demangle(kernel.encode(), out, len(out))
        return name.decode(errors="replace")

    def find(self, name: str = "") -> str:
        """The one kernel that ``name`` means: a PTX name, a C++ name, or a regular expression in either.

        Empty: the only kernel of the module. InvalidInput when none or several fit.
        """
        kernels = self.kernels
        if name in kernels:
            return name
        plain = {k: self.demangled(k) for k in kernels}
        chosen = [k for k in kernels if name and name in (plain[k], re.split(r"[<(]", plain[k])[0].split(" ")[-1])]
        if not chosen:
            try:
                chosen = [k for k in kernels if re.search(name, k) or re.search(name, plain[k])]
            except re.error:
                chosen = [k for k in kernels if name in plain[k]]
        names = ", ".join(plain[k] for k in (chosen or kernels))
        require(
            len(chosen) == 1, "kernel", name or None, f"fits {len(chosen)} kernels of the module", f"name one: {names}"
        )
        return chosen[0]

    def facts(self, kernel: str) -> KernelFacts:
        """Its parameters and its shared memory; EmulationError when it is not there or cannot be run."""
        found = self._facts.get(kernel)
        if found is None:
            offsets, sizes, total = (ctypes.c_int * 1024)(), (ctypes.c_int * 1024)(), (ctypes.c_int * 2)()
            count = self.library.emu_params(self.handle, kernel.encode(), offsets, sizes, 1024, total)
            if count < 0:
                raise EmulationError(f"the module has no kernel {kernel!r}; it has: {', '.join(self.kernels)}")
            reason = self.refusal(kernel)
            expect(not reason, f"the emulator refuses kernel {kernel!r}: {reason}")
            found = KernelFacts(tuple(offsets[:count]), tuple(sizes[:count]), total[0], total[1])
            self._facts[kernel] = found
        return found

    def parameter_types(self, kernel: str) -> tuple[str, ...]:
        """Of each parameter as the PTX declares it, such as "f32"; "" where it has none that is known."""
        types, count = self._types.get(kernel, ()), len(self.facts(kernel).parameter_sizes)
        return types if len(types) == count else ("",) * count

    @functools.cached_property
    def _types(self) -> dict[str, tuple[str, ...]]:
        """The declared types of every kernel's parameters; of arrays of bytes (structs) none."""
        found = {}
        at = self.ptx.find(".entry")
        while at >= 0:
            head = _HEAD.match(self.ptx, at)
            at = self.ptx.find(".entry", at + 1)
            if head is None:
                continue
            named = [(_TYPE.search(text), text) for text in head[2].split(",") if text.strip()]
            found[head[1]] = tuple("" if match is None or "[" in text else match[1] for match, text in named)
        return found
