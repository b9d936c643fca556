"""NVRTC without a driver: CUDA C++ source to PTX or cubin.

The library is loaded with ctypes (no CuPy): from the ``nvidia-cuda-nvrtc`` wheel that the ``cuda12`` / ``cuda13``
extras bring, else from ``CUDA_PATH`` / ``CUDA_HOME``, the Python environment's own ``lib`` (conda), ``/usr/local/cuda``
or the system's loader; CuPy looks in the same places. Where several are found and the machine has a driver, one whose
major version the driver supports goes first: a driver loads no code of a newer major version than its own.
``GPU_TUNE_NVRTC`` names a library file and wins. Calls release the GIL, so threads compile in parallel.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CompileError, CompilerMissing
from . import driver

BASE_OPTIONS = ("--std=c++17", "--no-cache")
"""Every compile's options. ``--no-cache``: a hit in NVRTC's own cache returns no ptxas report (12.9 and later)."""
REPORT_OPTION = "--ptxas-options=-v"


@dataclass(frozen=True)
class Compiled:
    """What one NVRTC call made: ``data`` (PTX text or cubin, as bytes) and the compiler's ``log``."""

    data: bytes
    log: str


@functools.cache
def version() -> tuple[int, int]:
    """(major, minor) of the NVRTC that is used; CompilerMissing when there is none."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


@functools.cache
def identity() -> str:
    """The release of the NVRTC that is used with its patch level, such as ``13.0.88``, as the PTX that it makes tells
    (nvrtcVersion has no patch level); ``13.0`` where the PTX does not. CompilerMissing when there is none."""
    with contextlib.suppress(CompileError):
        header = to_ptx("", f"sm_{architectures()[-1]}").data.decode(errors="replace")
        if found := re.search(r"^// Cuda compilation tools, .*\bV(\d+\.\d+\.\d+)", header, re.MULTILINE):
            return found[1]
    return ".".join(map(str, version()))


@functools.cache
def architectures() -> tuple[int, ...]:
    """Compute capabilities (75, 80, ...) that this NVRTC accepts."""
    lib, count = _library(), ctypes.c_int()
    lib.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    archs = (ctypes.c_int * count.value)()
    lib.nvrtcGetSupportedArchs(archs)
    return tuple(archs)


def available() -> bool:
    """Whether an NVRTC can be loaded on this machine."""
    try:
        _library()
    except CompilerMissing:
        return False
    return True


def to_ptx(source: str, arch: str, *, lineinfo: bool = False, options: Sequence[str] = ()) -> Compiled:
    """PTX of ``source`` for ``arch`` (``sm_80``, ``sm_90a`` ...). PTX is not assembled: see :func:`to_cubin`."""
    extra = ("-lineinfo",) if lineinfo else ()
    return _compile(source, "PTX", (f"--gpu-architecture={arch.replace('sm_', 'compute_')}", *extra, *options))


def to_cubin(source: str, arch: str, *, options: Sequence[str] = ()) -> Compiled:
    """Cubin of ``source`` for exactly ``arch``; the log carries ptxas's register, spill and C75xx report."""
    return _compile(source, "CUBIN", (f"--gpu-architecture={arch}", REPORT_OPTION, *options))


def all_options(arch: str, options: Sequence[str] = ()) -> tuple[str, ...]:
    """The full option list of a cubin compile, for compile keys."""
    return (*_base_options(), f"--gpu-architecture={arch}", REPORT_OPTION, *options)


def _base_options() -> tuple[str, ...]:
    return BASE_OPTIONS if version() >= (12, 9) else tuple(o for o in BASE_OPTIONS if o != "--no-cache")


def _compile(source: str, kind: str, options: Sequence[str]) -> Compiled:
    lib = _library()
    program = ctypes.c_void_p()
    _check(lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None), "create")
    try:
        texts = [o.encode() for o in (*_base_options(), *options)]
        code = lib.nvrtcCompileProgram(program, len(texts), (ctypes.c_char_p * len(texts))(*texts))
        log = _get(lib, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if code:
            raise CompileError(f"NVRTC {'.'.join(map(str, version()))} refused the source ({options[0]})", log)
        data = _get(lib, program, kind)
        return Compiled(data.rstrip(b"\0") if kind == "PTX" else data, log)
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


def _get(lib: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(lib, f"nvrtcGet{what}")(program, buffer), what)
    return buffer.raw[: size.value]


def _check(code: int, what: str) -> None:
    if code:
        raise CompileError(f"NVRTC call failed ({what}, code {code})")


def library_path() -> str:
    """The file that the loaded NVRTC came from."""
    return str(_library()._name)


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        return load("nvrtc")
    except OSError as error:
        tried = f" (tried {error})" if str(error) else ""
        raise CompilerMissing(
            f"NVRTC was not found{tried}; install it with: pip install 'gpu_tune[cuda13]' (or [cuda12]), "
            "or set GPU_TUNE_NVRTC"
        ) from None


def load(stem: str) -> ctypes.CDLL:
    """The CUDA library ``stem`` (nvrtc, cublas, cublasLt); OSError says what was tried, nothing where none is found."""
    tried: list[str] = []
    for path in find(stem):
        try:
            for builtins in Path(path).parent.glob(f"lib{stem}-builtins.so*"):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # NVRTC finds its builtins only when already loaded
            return ctypes.CDLL(path)
        except OSError as error:
            tried.append(f"{path} ({error})")
    raise OSError("; ".join(tried))


def find(stem: str) -> list[str]:
    """Files of the CUDA library ``stem``, the one to try first in front; one that ``GPU_TUNE_<STEM>`` names is alone.

    cuda-pathfinder looks in the same places, but takes one library whether the driver supports it or not.
    """
    named = os.environ.get(f"GPU_TUNE_{stem.upper()}")
    if named:
        return [named]
    places = [(folder or ".", "nvidia/*/lib") for folder in sys.path]
    places += [(os.environ[name], "lib64") for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    places += [(sys.prefix, "lib"), ("/usr/local/cuda", "lib64")]
    found: dict[str, None] = {}
    for root, folder in places:
        files = map(str, Path(root).glob(f"{folder}/lib{stem}.so.*"))
        found.update(dict.fromkeys(sorted(files, key=lambda path: (-_major(path), len(path)))))
    supported = driver.supported_major()
    paths = sorted(found, key=lambda path: supported > 0 and _major(path) > supported)
    by_loader = ctypes.util.find_library(stem)
    return [*paths, by_loader] if by_loader else paths


def _major(path: str) -> int:
    match = re.search(r"\.so\.(\d+)", path)
    return int(match[1]) if match else 0
