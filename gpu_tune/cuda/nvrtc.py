"""NVRTC without a driver: CUDA C++ source to PTX or cubin, through NVIDIA's bindings (``cuda.bindings.nvrtc``).

The library is found and loaded here, and the bindings use the one that is loaded: from the ``nvidia-cuda-nvrtc`` wheel
that the extras bring, else from ``CUDA_PATH`` / ``CUDA_HOME``, the Python environment's own ``lib`` (conda),
``/usr/local/cuda`` or wherever cuda-pathfinder finds it. Where several are found and the machine has a driver, one of a
major version that the driver supports goes first: a driver loads no code of a newer major version than its own.
``GPU_TUNE_NVRTC`` names a library file and wins. Calls release the GIL, so threads compile in parallel.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    major, minor = _call("nvrtcVersion")
    return major, minor


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
    count = _call("nvrtcGetNumSupportedArchs")
    archs = tuple(_call("nvrtcGetSupportedArchs"))
    return archs[:count]


def available() -> bool:
    """Whether an NVRTC can be loaded on this machine."""
    try:
        _loaded()
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
    program = _call("nvrtcCreateProgram", source.encode(), b"kernel.cu", 0, [], [])
    try:
        texts = [o.encode() for o in (*_base_options(), *options)]
        (code,) = _loaded()[1].nvrtcCompileProgram(program, len(texts), texts)
        # a NUL stands before what ptxas says after its -v report: the line of an error begins there
        log = _get(program, "ProgramLog").rstrip(b"\0").replace(b"\0", b"\n").decode(errors="replace")
        if code:
            raise CompileError(f"NVRTC {'.'.join(map(str, version()))} refused the source ({options[0]})", log)
        data = _get(program, kind)
        return Compiled(data.rstrip(b"\0") if kind == "PTX" else data, log)
    finally:
        _call("nvrtcDestroyProgram", program)


def _get(program: Any, what: str) -> bytes:
    buffer = bytearray(_call(f"nvrtcGet{what}Size", program))
    _call(f"nvrtcGet{what}", program, buffer)
    return bytes(buffer)


def _call(name: str, *arguments: Any) -> Any:
    """What the NVRTC function ``name`` returns: None, one value, or a tuple of several; CompileError when it fails."""
    code, *values = getattr(_loaded()[1], name)(*arguments)
    if code:
        raise CompileError(f"NVRTC call failed ({name}: {code.name}, {int(code)})")
    return values[0] if len(values) == 1 else tuple(values) or None


def library_path() -> str:
    """The file that the loaded NVRTC came from."""
    return _loaded()[0]


@functools.cache
def _loaded() -> tuple[str, Any]:
    """The library's file, and NVIDIA's bindings of it."""
    try:
        lib = load("nvrtc")
    except OSError as error:
        tried = f" (tried {error})" if str(error) else ""
        raise CompilerMissing(
            f"NVRTC was not found{tried}; install it with: pip install 'gpu_tune[cuda13]' (or [cuda12]), "
            "or set GPU_TUNE_NVRTC"
        ) from None
    try:
        from cuda import pathfinder
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise CompilerMissing(
            f"NVRTC is here ({lib._name}), but NVIDIA's bindings of it are not installed ({error}); install them with: "
            "pip install 'gpu_tune[cuda13]' (or [cuda12], or [compiler] on a machine without a GPU)"
        ) from error
    used = pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path or lib._name  # what is loaded already, if anything is
    named = os.environ.get("GPU_TUNE_NVRTC")
    if named and os.path.realpath(used) != os.path.realpath(named):
        raise CompilerMissing(
            f"GPU_TUNE_NVRTC: {named} cannot be used: this process has loaded {used} before; name a library whose "
            "soname is libnvrtc.so.12 or .13, and set it before another package loads NVRTC"
        )
    return used, nvrtc


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
    found = _by_pathfinder(stem) if not tried and not os.environ.get(f"GPU_TUNE_{stem.upper()}") else ""
    if found:
        return ctypes.CDLL(found)
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
    if len({_major(path) for path in found}) < 2:  # nothing to choose between: the driver need not be asked
        return list(found)
    supported = driver.supported_major()
    return sorted(found, key=lambda path: supported > 0 and _major(path) > supported)


def _by_pathfinder(stem: str) -> str:
    """Where cuda-pathfinder finds the library (conda, the system's loader, a toolkit); empty where it does not."""
    try:
        from cuda import pathfinder

        return pathfinder.load_nvidia_dynamic_lib(stem).abs_path or ""
    except ImportError:
        return ""
    except pathfinder.DynamicLibNotFoundError:
        return ""


def _major(path: str) -> int:
    match = re.search(r"\.so\.(\d+)", path)
    return int(match[1]) if match else 0
