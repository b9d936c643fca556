"""``gpu-tune doctor``: what was found on this machine, what is missing, and what that means."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click

from .. import __version__, paths
from ..cuda import cublas, driver, nvrtc
from ..emulator import build
from ..errors import GpuTuneError, Unavailable
from ..measure.quarantine import Journal
from ..store.records import Records
from ..store.store import Store
from ..templates.registry import broken, registry
from ..trial import SOURCES
from . import options

_PACKAGES = {
    "numpy": "",
    "scipy": "",
    "lightgbm": "",
    "jinja2": "",
    "ml_dtypes": "",
    "cupy": "gpu_tune[cuda13] or [cuda12]: CuPy arrays",
    "torch": "PyTorch arrays, and the library that the dispatchers use for them",
    "cudnn": "gpu_tune[baselines]: the cuDNN baseline",
    "distributed": "gpu_tune[cluster]: tuning on many hosts",
    "matplotlib": "gpu_tune[report]: plots",
}
"""What each optional package is for; the others are needed."""
_DISTRIBUTIONS = {
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "cudnn": ("nvidia-cudnn-frontend",),
}


@click.command(help="Say what was found on this machine and what is missing.")
@options.templates_option
@options.json_option
def command(as_json: bool) -> None:
    """Exit code 1 when tuning cannot work here at all."""
    rows = [_row(name, needed, probe) for name, needed, probe in _PROBES]
    able = all(r["ok"] for r in rows if r["needed"])
    if as_json:
        options.echo_json({"able": able, "findings": rows})
    else:
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for r in rows:
            mark = "[green]ok[/green]" if r["ok"] else "[red]missing[/red]" if r["needed"] else "[yellow]-[/yellow]"
            table.add_row(mark, r["name"], escape(r["found"]))
        options.console().print(table)
    if not able:
        raise SystemExit(1)


def _row(name: str, needed: bool, probe: Callable[[], tuple[bool, str]]) -> dict[str, Any]:
    try:
        ok, found = probe()
    except (GpuTuneError, OSError, Unavailable) as error:
        ok, needed, found = False, False, str(error)
    return {"name": name, "ok": ok, "needed": needed, "found": found}


def _python() -> tuple[bool, str]:
    return True, f"{platform.python_version()} ({sys.executable}), gpu_tune {__version__}, {os.cpu_count()} CPUs"


def _gpu() -> tuple[bool, str]:
    device = driver.detect_device()
    if device is None:
        return False, "none: times are predicted, kernels run on the emulator"
    rates = "" if device.known else ", not in the built-in table (peak rates inferred)"
    return True, f"{device.product} as {device.chip}, {device.arch}{rates}"


def _driver() -> tuple[bool, str]:
    why = driver.missing()
    return not why, why or "supports CUDA {}.{}".format(*driver.version())


def _nvrtc() -> tuple[bool, str]:
    if not nvrtc.available():
        return False, "no NVRTC; install it with: pip install 'gpu_tune[cuda13]' (or [cuda12], or [compiler])"
    archs = nvrtc.architectures()
    found = f"{nvrtc.identity()} for sm_{archs[0]} to sm_{archs[-1]} ({nvrtc.library_path()})"
    if driver.device_count():
        supported, device = driver.version()[0], driver.describe()
        if nvrtc.version()[0] > supported:
            return False, f"{found}: the driver runs CUDA {supported} only; install gpu_tune[cuda{supported}]"
        if device.cc not in archs:
            return False, f"{found}: does not compile for this GPU ({device.arch}); install another version"
    return True, found


def _cublas() -> tuple[bool, str]:
    return True, f"the baselines cublas and cublaslt ({cublas.load('cublasLt')._name})"


def _compiler() -> tuple[bool, str]:
    command = build.compiler()
    run = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return True, f"{run.stdout.partition(chr(10))[0]} ({' '.join(command)})"


def _emulator() -> tuple[bool, str]:
    state = build.state()
    said = {"damaged": ": it is built again when it is next needed", "not built yet": ": it is when it is first needed"}
    return state != "damaged", state + said.get(state, "")


def _templates() -> tuple[bool, str]:
    words = ", ".join(registry()) or "none"
    return bool(registry()) and not broken(), "; ".join([words, *(f"left out: {error}" for error in broken().values())])


def _store() -> tuple[bool, str]:
    store = Store()
    entries = list(store.entries())
    sets, damaged = sum(e.winner_set is not None for e in entries), sum(e.damaged for e in entries)
    winners = sum(e.winner is not None for e in entries) + sets
    remarks = f", {damaged} damaged (gpu-tune gc removes them)" if damaged else ""
    if other := len(entries) - winners - damaged:
        remarks += f", {other} of another format (tune again)"
    return not damaged, f"{store.folder}: {winners} winners{remarks}, {store.size() / 1e6:.1f} MB"


def _shipped() -> tuple[bool, str]:
    entries = list(Store(paths.shipped(), trusted=True).entries())
    return True, f"{paths.shipped()}: {sum(e.winner is not None for e in entries)} winners"


def _records() -> tuple[bool, str]:
    records = Records()
    counts = [f"{len(records.read(s))} {s}" for s in SOURCES]
    size = sum(p.stat().st_size for s in SOURCES for p in records.segments(s))
    return True, f"{records.folder}: {', '.join(counts)} trials, {size / 1e6:.1f} MB"


def _quarantine() -> tuple[bool, str]:
    folder = paths.root() / "started"
    killers = Journal(folder).killers() if folder.is_dir() else {}
    named = "; ".join(f"{k.what} ({k.why})" for k in list(killers.values())[:5])
    return not killers, f"{len(killers)} configs that took a GPU down: {named}" if killers else "none"


def _package(name: str) -> tuple[bool, str]:
    for distribution in _DISTRIBUTIONS.get(name, (name,)):
        try:
            return True, importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return False, f"not installed ({_PACKAGES[name] or 'needed'})"


_PROBES: list[tuple[str, bool, Callable[[], tuple[bool, str]]]] = [
    ("python", True, _python),
    ("gpu", False, _gpu),
    ("driver", False, _driver),
    ("nvrtc", True, _nvrtc),
    ("cublasLt", False, _cublas),
    ("c++", False, _compiler),
    ("emulator", False, _emulator),
    ("templates", True, _templates),
    ("store", False, _store),
    ("shipped", False, _shipped),
    ("records", False, _records),
    ("quarantine", False, _quarantine),
    *((name, not use, functools.partial(_package, name)) for name, use in _PACKAGES.items()),
]
"""Name, whether tuning needs it, and a function that says whether it is there and what was found."""
