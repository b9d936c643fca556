"""``gpu-tune doctor``: what was found on this machine, what is missing, and what that means."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click

from .. import __version__, paths
from ..errors import GpuTuneError
from . import options

_PACKAGES = {
    "numpy": "",
    "lightgbm": "",
    "jinja2": "",
    "ml_dtypes": "",
    "cupy": "gpu_tune[cuda13] or [cuda12]: CuPy arrays",
    "torch": "PyTorch arrays, and the library that the dispatchers use for them",
    "cudnn": "gpu_tune[baselines]: the cuDNN baseline",
    "distributed": "gpu_tune[cluster]: tuning on many hosts",
    "matplotlib": "gpu_tune[report]: plots",
}
_DISTRIBUTIONS = {
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "cudnn": ("nvidia-cudnn-frontend",),
}


@click.command(help="Say what was found on this machine and what is missing.")
@options.json_option
def command(as_json: bool) -> None:
    """Exit code 1 when tuning cannot work here at all."""
    rows = [_row(name, probe) for name, probe in _PROBES]
    able = all(r["ok"] for r in rows if r["needed"])
    if as_json:
        options.echo_json({"able": able, "findings": rows})
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for r in rows:
            mark = "[green]ok[/green]" if r["ok"] else "[red]missing[/red]" if r["needed"] else "[yellow]-[/yellow]"
            table.add_row(mark, r["name"], str(r["found"]).replace("[", "\\["))
        Console(highlight=False).print(table)
    if not able:
        raise SystemExit(1)


def _row(name: str, probe: Callable[[], tuple[bool, bool, str]]) -> dict[str, Any]:
    try:
        ok, needed, found = probe()
    except (GpuTuneError, OSError) as error:
        ok, needed, found = False, False, str(error)
    return {"name": name, "ok": ok, "needed": needed, "found": found}


def _python() -> tuple[bool, bool, str]:
    return True, True, f"{platform.python_version()} ({sys.executable}), gpu_tune {__version__}, {os.cpu_count()} CPUs"


def _gpu() -> tuple[bool, bool, str]:
    from ..cuda.driver import detect_device

    device = detect_device()
    if device is None:
        return False, False, "none: times are predicted (estimates), kernels run on the emulator"
    rates = "" if device.known else ", not in the built-in table (peak rates inferred)"
    return True, False, f"{device.product} as {device.chip}, {device.arch}{rates}"


def _driver() -> tuple[bool, bool, str]:
    from ..cuda import driver

    if driver.library() is None:
        return False, False, driver.missing()
    return True, False, "supports CUDA {}.{}".format(*driver.version())


def _nvrtc() -> tuple[bool, bool, str]:
    from ..cuda import driver, nvrtc

    if not nvrtc.available():
        return False, True, "no NVRTC; install it with: pip install 'gpu_tune[cuda13]' (or [cuda12], or [compiler])"
    archs = nvrtc.architectures()
    found = f"{nvrtc.identity()} for sm_{archs[0]} to sm_{archs[-1]} ({nvrtc.library_path()})"
    if driver.device_count():
        supported, device = driver.version()[0], driver.describe()
        if nvrtc.version()[0] > supported:
            return False, True, f"{found}: the driver runs CUDA {supported} only; install gpu_tune[cuda{supported}]"
        if device.cc not in archs:
            return False, True, f"{found}: does not compile for this GPU ({device.arch}); install another version"
    return True, True, found


def _cublas() -> tuple[bool, bool, str]:
    from ..cuda.cublas import load
    from ..errors import Unavailable

    try:
        return True, False, f"the baselines cublas and cublaslt ({load('cublasLt')._name})"
    except Unavailable as missing:
        return False, False, str(missing)


def _compiler() -> tuple[bool, bool, str]:
    name = os.environ.get("CXX") or "g++"
    path = shutil.which(name)
    if path is None:
        return False, False, f"{name} is missing: the emulator cannot be built (apt install g++, or set CXX)"
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.partition("\n")[0]
    return True, False, f"{version} ({path})"


def _packages() -> list[tuple[str, Callable[[], tuple[bool, bool, str]]]]:
    def probe(name: str) -> Callable[[], tuple[bool, bool, str]]:
        def look() -> tuple[bool, bool, str]:
            for distribution in _DISTRIBUTIONS.get(name, (name,)):
                try:
                    return True, not _PACKAGES[name], f"{importlib.metadata.version(distribution)}"
                except importlib.metadata.PackageNotFoundError:
                    continue
            return False, not _PACKAGES[name], f"not installed ({_PACKAGES[name] or 'needed'})"

        return look

    return [(name, probe(name)) for name in _PACKAGES]


def _store() -> tuple[bool, bool, str]:
    from ..store.store import Store

    store = Store()
    entries = list(store.entries())
    winners, damaged = sum(e.winner is not None for e in entries), sum(e.damaged for e in entries)
    told = f", {damaged} damaged (gpu-tune gc removes them)" if damaged else ""
    if other := len(entries) - winners - damaged:
        told += f", {other} of another format (tune again)"
    return not damaged, False, f"{store.folder}: {winners} winners{told}, {store.size() / 1e6:.1f} MB"


def _shipped() -> tuple[bool, bool, str]:
    from ..store.store import Store

    entries = list(Store(paths.shipped(), trusted=True).entries())
    return True, False, f"{paths.shipped()}: {sum(e.winner is not None for e in entries)} winners"


def _records() -> tuple[bool, bool, str]:
    from ..store.records import SOURCES, Records

    book = Records()
    counts = [f"{len(book.read(s))} {s}" for s in SOURCES]
    size = sum(p.stat().st_size for s in SOURCES for p in book.segments(s))
    return True, False, f"{book.folder}: {', '.join(counts)} trials, {size / 1e6:.1f} MB"


def _quarantine() -> tuple[bool, bool, str]:
    from ..measure.quarantine import Journal

    folder = paths.root() / "started"
    killers = Journal(folder).killers() if folder.is_dir() else {}
    named = "; ".join(f"{k.what} ({k.why})" for k in list(killers.values())[:5])
    return not killers, False, f"{len(killers)} configs that took a GPU down: {named}" if killers else "none"


def _templates() -> tuple[bool, bool, str]:
    from ..templates.registry import registry

    return bool(registry()), True, ", ".join(registry()) or "none"


_PROBES: list[tuple[str, Callable[[], tuple[bool, bool, str]]]] = [
    ("python", _python),
    ("gpu", _gpu),
    ("driver", _driver),
    ("nvrtc", _nvrtc),
    ("cublasLt", _cublas),
    ("c++", _compiler),
    ("templates", _templates),
    ("store", _store),
    ("shipped", _shipped),
    ("records", _records),
    ("quarantine", _quarantine),
    *_packages(),
]
