"""The virtual GPU's driver (``fake_cuda``), compiled against NVIDIA's ``cuda.h``."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent / "fake_cuda"
FAKE_CUPY = Path(__file__).parent / "fake_cupy"
"""The folder with a ``cupy`` that runs on it."""


def environment(library: Path) -> dict[str, str]:
    """The variables with which a process and its children have that GPU, and the CuPy for it."""
    libraries = dict.fromkeys(("GPU_TUNE_LIBCUDA", "GPU_TUNE_CUBLAS", "GPU_TUNE_CUBLASLT"), str(library))
    path = os.pathsep.join(filter(None, (str(FAKE_CUPY), os.environ.get("PYTHONPATH", ""))))
    return {**libraries, "PYTHONPATH": path}


def drivers() -> list[str]:
    """The CUDA drivers that are loaded in this process. NVIDIA's bindings keep to the first one for good."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    names = (line.split(maxsplit=5)[5] for line in maps if "libcuda" in line)
    return sorted({name for name in names if Path(name).name.startswith(("libcuda.", "libcuda-"))})


def build(folder: Path) -> Path | None:
    """The library, made in ``folder`` unless it is there; None without g++ or ``cuda.h``."""
    headers = [h for place in sys.path for h in Path(place or ".").glob("nvidia/cu*/include/cuda.h")]
    headers += list(Path("/usr/local/cuda/include").glob("cuda.h"))
    if not headers or not shutil.which("g++"):
        return None
    include = [option for f in (headers[0].parent, SOURCES, SOURCES / "without_cublas") for option in ("-I", str(f))]
    # the name by which NVIDIA's bindings know the library that is loaded
    command = ["g++", "-std=c++17", "-O3", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", *include]
    read = [headers[0], Path(__file__), *sorted(SOURCES.rglob("*.[ch]*"))]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in read if p.is_file())).hexdigest()[:16]
    library = folder / f"libcuda-{digest}.so"
    with (folder / "libcuda.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            made = folder / "libcuda.new"
            subprocess.run([*command, *sorted(map(str, SOURCES.glob("*.cpp"))), "-o", str(made)], check=True)
            made.rename(library)
    return library
