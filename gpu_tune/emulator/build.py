"""The emulator's shared library: built with the system's C++ compiler on first use, kept in the user's store.

The file name carries a hash of sources, compiler and flags, and appears by one rename once it is on disk, so that
several processes may ask for it at once and an update of gpu_tune never meets an old library. A library is mapped into
memory, where a cut file is a bus error: it carries its own digest, is loaded when that is right, and else built again.
Where nothing can be kept, it is built for this process alone.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .. import paths
from ..errors import CompilerMissing, EmulationError, StoreError

log = logging.getLogger(__name__)
FOLDERS = (Path(__file__).parent, Path(__file__).parents[1] / "model" / "performance")
"""Where the library's sources lie: the emulator, and the player of the performance model, which is built with it."""
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-w")
ANNOUNCED = "building the emulator, once for this version: a minute or so"
SPACE = 64 << 20
"""Bytes: with less free where the library is kept, a failed build is tried elsewhere."""
_P, _S, _I, _U64, _I64 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "emu_load": (_P, [_S, _S, _S, _I]),
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
    "perf_code_of": (_I, [_S, _I64, _S, _P]),
    "perf_ptx_of": (_I, [_S, _I64, _P]),
    "perf_ptx_lines": (_I, [_S, _I64, _S, _I64, _P]),
    "perf_kernel": (_P, [_S, _I64, _P, _P, _P, _P]),
    "perf_kernel_table": (None, [_P, _P, _P, _P, _P]),
    "perf_kernel_free": (None, [_P]),
    "perf_pace": (_I, [_P, _I, _I, ctypes.c_double, ctypes.c_double, _I, _I, _P]),
    "perf_accesses": (_I64, [_S, _I64, _P, _P, _P, _P, _P]),
    "perf_join": (None, [_P, _I64, _P, _I64, _P, _P, _P]),
    "emu_count": (_I, [_P, _S, _P, _U64, _U64, _P, _I, _S, _U64, _P, _I]),
    "emu_recorded": (_I, [_P, _S, _P, _I]),
}
"""Result and arguments of each function of the library."""


def folder() -> Path:
    """Where libraries and PTX are kept: ``emulator/`` below the user's folder."""
    return paths.root() / "emulator"


def compiler() -> tuple[str, ...]:
    """The C++ compiler as the start of a command; CompilerMissing when there is none.

    ``CXX`` may have arguments (``ccache g++``). One that names nothing that can be run is said, and not used.
    """
    named = tuple(shlex.split(os.environ.get("CXX", "")))
    for command in (named, *((name,) for name in ("g++", "c++", "clang++"))):
        found = shutil.which(command[0]) if command else None
        if found:
            return found, *command[1:]
        if command and command is named:
            _say_unusable(os.environ["CXX"])
    raise CompilerMissing(
        "the emulator needs a C++17 compiler and found none of $CXX, g++, c++, clang++; "
        "install one (Debian and Ubuntu: apt install g++)"
    )


@functools.cache
def _say_unusable(named: str) -> None:
    log.warning("CXX=%r names no program that can be run: the emulator is built with another compiler", named)


def state() -> str:
    """Whether the library is there: "built", "not built yet" or "damaged"; CompilerMissing without a compiler."""
    path = _path()
    return "built" if paths.sealed(path) is not None else "damaged" if path.exists() else "not built yet"


def current() -> set[Path]:
    """The library that this version uses here and what it was linked of; CompilerMissing where none can be built."""
    return {_path(), *(_object(source) for source in _files() if source.suffix == ".cpp")}


def damaged() -> list[Path]:
    """The library and its objects where they are not whole."""
    used = (_path(), *(_object(source) for source in _files() if source.suffix == ".cpp"))
    return [path for path in used if path.exists() and paths.sealed(path) is None]


def ready() -> bool:
    """Whether :func:`library` has nothing left to build, or tried it in vain; CompilerMissing without a compiler."""
    return bool(library.cache_info().currsize or _failed) or state() == "built"


_failed: dict[str, str] = {}
"""By compiler, why the library cannot be built: asked again for every kernel, it would fail every time."""


def failure() -> str:
    """Why an earlier try of this process to build the library failed; empty where none did."""
    return _failed.get(shlex.join(compiler()), "")


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library, with argument types set."""
    if failure():
        raise EmulationError(failure())
    try:
        lib = _load(_path())
    except EmulationError as error:
        _failed[shlex.join(compiler())] = str(error)
        raise
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def _load(path: Path) -> ctypes.CDLL:
    """The library at ``path``, built where it is not there or not whole: elsewhere, when it cannot be kept there."""
    try:
        paths.check_trusted(path.parent)
        whole = paths.sealed(path) is not None
    except StoreError as error:
        return _unkept(path, error)
    if not whole:
        if path.exists():
            log.warning("the emulator's library %s is damaged: it is built again", path)
        try:
            _build(path)
        except (OSError, StoreError) as error:
            return _unkept(path, error)
        except EmulationError as error:
            if shutil.disk_usage(path.parent).free > SPACE:
                raise
            return _unkept(path, error)
    return ctypes.CDLL(str(path))


def _unkept(path: Path, error: Exception) -> ctypes.CDLL:
    """Built for this process alone: once it is loaded its file is not needed."""
    paths.cannot_keep("the emulator's library", path.parent, error)
    with tempfile.TemporaryDirectory(prefix="gpu_tune-") as place:
        alone = Path(place) / path.name
        _build(alone)
        return ctypes.CDLL(str(alone))


_told = False
"""Whether it was said in this process that the library is built."""


def told() -> None:
    """The caller says itself that the library is built now: standard error is left alone."""
    global _told
    _told = True


def announce() -> None:
    """Say on standard error that the library is built now, once in a process."""
    if not _told:
        print(ANNOUNCED, file=sys.stderr, flush=True)
    told()


def _files() -> list[Path]:
    return [path for kind in ("*.cpp", "*.hpp") for folder in FOLDERS for path in sorted(folder.glob(kind))]


def _path() -> Path:
    return folder() / f"libemulator-{_hash(*_files())}.so"


def _hash(*files: Path) -> str:
    key = hashlib.sha256()
    for text in (
        " ".join(compiler()[1:]),
        _version(compiler()),
        " ".join(FLAGS),
        _processor(),
        *(p.name + p.read_text() for p in files),
    ):
        key.update(text.encode() + b"\0")
    return key.hexdigest()[:24]


@functools.cache
def _version(command: tuple[str, ...]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True).stdout


def _processor() -> str:
    """What -march=native depends on: a store may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return ""


def _build(path: Path) -> None:
    """Objects are kept beside it: a change of one source compiles that one again."""
    announce()
    objects = paths.prepare(path.parent / "objects")
    sources = [p for p in _files() if p.suffix == ".cpp"]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        made = list(pool.map(lambda source: _compile(source, objects / _object(source).name), sources))
    _publish([*compiler(), "-shared", *map(str, made)], path)


def _object(source: Path) -> Path:
    headers = [p for p in _files() if p.suffix == ".hpp"]
    return folder() / "objects" / f"{source.stem}-{_hash(source, *headers)}.o"


def _compile(source: Path, target: Path) -> Path:
    """One object file."""
    if paths.sealed(target) is None:
        command = [*compiler(), *FLAGS, "-c", str(source)]
        try:
            _publish([*command, "-march=native"], target)
        except EmulationError:
            _publish(command, target)
    return target


def _publish(command: list[str], target: Path) -> None:
    """Run a compiler command whose output appears as ``target`` in one step, sealed."""
    with paths.replacing(target, durable=True) as new:
        done = subprocess.run([*command, "-o", str(new)], capture_output=True, text=True)
        if done.returncode:
            said = done.stderr[-2000:].strip() or f"it said nothing and ended with {done.returncode}"
            raise EmulationError(f"building the emulator failed ({command[0]}); CXX names another compiler:\n{said}")
        paths.seal(new)
