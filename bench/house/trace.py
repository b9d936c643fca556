"""Which files of the package do the work of one tuning: a count that moves and renames of modules leave alone.

    python -m bench.house trace           # the number of files
    python -m bench.house trace --list    # and each file, with how many of its functions ran (--names: which)
    python -m bench.house trace --with-imports    # another count: see below

The tuning is a small matmul that ``matmul_wgmma`` serves, predicted for an H200, from an empty folder: the search,
the finals, the winner executed by the emulator, and its publication. A file counts when the body of at least one of
its functions (methods, lambdas and a Jinja template's macros too) ran. Every module is imported beforehand, so what
runs at import alone (module bodies, class bodies, decorators) does not count. All threads of this process are watched;
child processes, in which the candidates are compiled, are not: what runs only there is not counted. A cache that an
import has already filled hides the function behind it. Only two public names are used, ``gpu_tune.tune`` and
``gpu_tune.Matmul``.

``--with-imports`` imports nothing beforehand and counts class bodies and what modules call while they are imported
too, but not the modules' own bodies.

On a machine whose GPU is an H200 the same call measures in place of modelling: compare counts of one machine only.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import os
import pkgutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "matmul_wgmma"
SIZE, TRIALS, SEED = 256, 24, 0
NESTED = ("<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>")
"""Code that belongs to the function around it and has a frame of its own in some versions of Python only."""


def main(argv: list[str]) -> int:
    """Trace one tuning and print the count; 1 when no candidate of the wanted template was tried."""
    parser = argparse.ArgumentParser(prog="python -m bench.house trace", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=SIZE, help="rows, columns and depth of the matmul")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--with-imports", action="store_true", help="what runs while modules are imported counts too")
    parser.add_argument("--list", action="store_true", help="each file, with how many distinct functions of it ran")
    parser.add_argument("--names", action="store_true", help="like --list, with the names of the functions")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    package = importlib.import_module("gpu_tune")
    folder = Path(str(package.__file__)).resolve().parent
    missing = {} if options.with_imports else import_all(package)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="gpu_tune-trace-") as home:  # mkdtemp's mode is 0700
        before = os.environ.get("GPU_TUNE_CACHE_DIR")
        os.environ["GPU_TUNE_CACHE_DIR"] = home
        try:
            codes, kernel = watched(lambda: tuning(package, options.size, options.trials))
        finally:
            os.environ.pop("GPU_TUNE_CACHE_DIR")
            if before is not None:
                os.environ["GPU_TUNE_CACHE_DIR"] = before
        tried = mentions(Path(home), TEMPLATE)
    files = by_file(codes, folder, options.with_imports)
    if options.list or options.names:
        for name, functions in sorted(files.items()):
            print(f"{len(functions):5}  {name}")
            if options.names:
                print("".join(f"         {line:5} {function}\n" for line, function in sorted(functions)), end="")
    python = sum(name.endswith(".py") for name in files)
    kinds = f"{python} of Python, {len(files) - python} others"
    print(f"{len(files)} files of {folder} run in one tuning with finals: {kinds}")
    print(f"{sum(map(len, files.values()))} distinct functions; {time.perf_counter() - start:.0f} s")
    print(f"{kernel!r}; {tried} of {options.trials} trials were of {TEMPLATE}")
    for name, error in missing.items():
        print(f"not imported beforehand: {name} ({error})", file=sys.stderr)
    if not tried:
        print(f"no candidate of {TEMPLATE} was tried: the count is of another tuning", file=sys.stderr)
    return 0 if tried else 1


def tuning(package: ModuleType, size: int, trials: int) -> Any:
    """The tuning that is counted."""
    workload = package.Matmul(m=size, n=size, k=size, dtype="float16", layout="nt", epilogue="bias+gelu")
    return package.tune(workload, device="nvidia-h200", trials=trials, seed=SEED)


def import_all(package: ModuleType) -> dict[str, str]:
    """Import every module of the package but the ``__main__`` ones; those that cannot be, with the reason."""
    missing: dict[str, str] = {}

    def failed(name: str) -> None:
        missing[name] = str(sys.exc_info()[1])

    for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".", failed):
        if found.name.rpartition(".")[2] == "__main__":
            continue
        try:
            importlib.import_module(found.name)
        except Exception as error:  # an optional package is not installed
            missing[found.name] = f"{type(error).__name__}: {error}"
    return missing


def watched(work: Callable[[], Any]) -> tuple[list[CodeType], Any]:
    """The code of every Python call that ``work`` made, in this thread and those it started; and what it returned."""
    seen: dict[int, CodeType] = {}  # by identity: equal code of two files is two things

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            seen[id(frame.f_code)] = frame.f_code

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        result = work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(seen.values()), result


def by_file(codes: Iterable[CodeType], folder: Path, classes: bool = False) -> dict[str, set[tuple[int, str]]]:
    """Functions (line and name) by file below ``folder``; modules' bodies are none, those of ``classes`` at will."""
    files: dict[str, set[tuple[int, str]]] = {}
    for code in codes:
        if code.co_name == "<module>" or not (classes or code.co_flags & inspect.CO_OPTIMIZED):
            continue
        path = Path(code.co_filename)
        if not path.is_absolute() or not path.is_relative_to(folder):
            continue
        functions = files.setdefault(path.relative_to(folder).as_posix(), set())
        if code.co_name not in NESTED:
            functions.add((code.co_firstlineno, code.co_name))
    return files


def mentions(folder: Path, name: str) -> int:
    """How many lines of the records (``.jsonl``) below ``folder`` name a template."""
    lines = [line for path in folder.rglob("*.jsonl") for line in path.read_text(errors="replace").splitlines()]
    return sum(f'"{name}"' in line for line in lines)
