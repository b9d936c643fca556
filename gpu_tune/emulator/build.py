"""The emulator's shared library: built with the system's C++ compiler on first use, kept in the user's store.

The file name carries a hash of sources, compiler and flags, and appears by one rename, so that several processes may
ask for it at once and an update of gpu_tune never meets an old library.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .. import paths
from ..errors import CompilerMissing, EmulationError

FOLDERS = (Path(__file__).parent, Path(__file__).parents[1] / "model" / "performance")
"""Where the library's sources lie: the emulator, and the player of the performance model, which is built with it."""
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-w")
_P, _S, _I, _U64 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint64
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "emu_load": (_P, [_S, _S, _I]),
    "emu_unload": (None, [_P]),
    "emu_params": (_I, [_P, _S, _P, _P, _I, _P]),
    "emu_demangle": (_S, [_S, _P, _I]),
    "emu_kernels": (_S, [_P, _S, _I]),
    "emu_variables": (_S, [_P, _S, _I]),
    "emu_begin": (_P, [_P, _P, _S]),
    "emu_refusal": (_S, [_P, _S]),
    "emu_end": (None, [_P]),
    "emu_buffer": (_U64, [_P, _I, _S, _P, _U64, _I, _I]),
    "emu_symbol": (_P, [_P, _S, _P]),
    "emu_mark_written": (None, [_P, _I, _U64, _U64]),
    "emu_tensor_map": (_I, [_P, _P]),
    "emu_type": (_I, [_S]),
    "emu_launch": (_I, [_P, _S, _P, _P, _P, ctypes.c_uint32, _P, _U64, ctypes.c_uint32, _I]),
    "emu_results": (_S, [_P]),
    "emu_lines": (_I, [_P, _I, _P, _I]),
    "perf_play": (_I, [_P, _P, _I, _P, _I, _P, _I, _I, _P, _P, _P, _P]),
    "emu_record": (None, [_P, ctypes.c_uint32, ctypes.c_uint32, _U64, _U64, _P, _I]),
    "emu_explore": (None, [_P]),
    "emu_recorded": (_I, [_P, _S, _P, _I]),
}
"""Result and arguments of each function of the library."""


def folder() -> Path:
    """Where libraries and PTX are kept: ``emulator/`` below the user's folder."""
    return paths.root() / "emulator"


def compiler() -> str:
    """The C++ compiler's path; CompilerMissing when there is none."""
    for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise CompilerMissing(
        "the emulator needs a C++17 compiler and found none of $CXX, g++, c++, clang++; "
        "install one (Debian and Ubuntu: apt install g++)"
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library, with argument types set."""
    path = _path()
    if not path.exists():
        _build(path)
    lib = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def _files() -> list[Path]:
    return [path for kind in ("*.cpp", "*.hpp") for folder in FOLDERS for path in sorted(folder.glob(kind))]


def _path() -> Path:
    return folder() / f"libemulator-{_hash(*_files())}.so"


def _hash(*files: Path) -> str:
    key = hashlib.sha256()
    for text in (_version(), " ".join(FLAGS), _processor(), *(p.name + p.read_text() for p in files)):
        key.update(text.encode() + b"\0")
    return key.hexdigest()[:24]


@functools.cache
def _version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True).stdout


def _processor() -> str:
    """What -march=native depends on: a store may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return ""


def _build(path: Path) -> None:
    objects = paths.prepare(path.parent / "objects")
    sources = [p for p in _files() if p.suffix == ".cpp"]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        made = list(pool.map(lambda source: _compile(source, objects), sources))
    _publish([compiler(), "-shared", *map(str, made)], path)


def _compile(source: Path, objects: Path) -> Path:
    """One object file, kept: a change of one source compiles that one again."""
    headers = [p for p in _files() if p.suffix == ".hpp"]
    target = objects / f"{source.stem}-{_hash(source, *headers)}.o"
    if not target.exists():
        command = [compiler(), *FLAGS, "-c", str(source)]
        try:
            _publish([*command, "-march=native"], target)
        except EmulationError:
            _publish(command, target)
    return target


def _publish(command: list[str], target: Path) -> None:
    """Run a compiler command whose output appears as ``target`` in one step."""
    with paths.replacing(target) as new:
        done = subprocess.run([*command, "-o", str(new)], capture_output=True, text=True)
        if done.returncode:
            raise EmulationError(f"building the emulator failed ({command[0]}):\n{done.stderr[-2000:]}")
