"""The stand-in for CuPy has the names that the worker uses and no other, as the real CuPy has them.

CuPy is imported in a process of its own: it needs no GPU for that, and here the stand-in is called ``cupy``.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gpu_tune.measure import runtime
from gpu_tune.reference import rounding
from tests.helpers.virtual_gpu import FAKE_CUPY

MOST = 25
ASKING = """
import inspect, json, re, sys
import cupy
found = {}
for name in json.load(sys.stdin):
    value = cupy
    try:
        for part in name.split("."):
            value = getattr(value, part)
    except AttributeError:
        found[name] = "absent"
        continue
    try:
        told = str(inspect.signature(value))
    except (TypeError, ValueError):  # of Cython: its docstring begins with it
        told = next((line for line in (value.__doc__ or "").splitlines() if line.strip()), "")
    found[name] = told if callable(value) else "a value"
print(json.dumps({"version": cupy.__version__, "found": found}))
"""


@pytest.fixture(scope="module")
def stand_in() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stand_in_for_cupy", FAKE_CUPY / "cupy" / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named(module: ModuleType) -> dict[str, Any]:
    """Every public name of the stand-in, and of its namespaces."""
    found: dict[str, Any] = {}

    def walk(prefix: str, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, SimpleNamespace):
                walk(f"{prefix}{name}.", vars(value))
            else:
                found[prefix + name] = value

    walk("", {name: getattr(module, name) for name in module.__all__})
    return found


def methods(names: dict[str, Any]) -> dict[str, Any]:
    """Public methods that the stand-in's classes define, by dotted name."""
    return {
        f"{name}.{method}": function
        for name, kind in names.items()
        if isinstance(kind, type)
        for method, function in vars(kind).items()
        if not method.startswith("_") and inspect.isfunction(function)
    }


def used() -> set[str]:
    """Dotted names that the worker's one file asks of CuPy, itself or through ``reference.products``."""

    def chains(tree: ast.AST, roots: dict[str, str]) -> set[str]:
        found = set()
        for node in ast.walk(tree):
            parts, at = [], node
            while isinstance(at, ast.Attribute):
                parts.append(at.attr)
                at = at.value
            root = at.func if isinstance(at, ast.Call) and not at.args else at
            if parts and isinstance(root, ast.Name) and root.id in roots:
                found.add(roots[root.id] + ".".join(reversed(parts)))
        return found

    here = chains(ast.parse(inspect.getsource(runtime)), {"cupy": "", "xp": "", "cuda": "cuda."})
    for function in (rounding.products, rounding._matmul, rounding._conv2d):
        here |= chains(ast.parse(inspect.getsource(function)), {"xp": ""})
    return {name for name in here if not any(other.startswith(f"{name}.") for other in here)} - {"cuda"}


def test_the_stand_in_has_what_the_worker_uses_and_no_other(stand_in: ModuleType):
    assert set(named(stand_in)) == used()
    assert len(used()) <= MOST
    for missing in (lambda: stand_in.matmul, lambda: stand_in.cuda.Graph, lambda: stand_in.cuda.runtime.malloc):
        with pytest.raises(AttributeError):
            missing()


def test_cupy_is_imported_in_one_file_alone():
    package = Path(runtime.__file__).parents[1]
    importing = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "cupy" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "cupy")
    ]
    assert importing == ["measure/runtime.py"]


def test_the_real_cupy_has_every_name_with_the_same_parameters(stand_in: ModuleType):
    names = named(stand_in)
    asked = {**names, **methods({n: v for n, v in names.items() if n != "ndarray"})}
    asked |= {f"ndarray.{n}": getattr(names["ndarray"], n) for n in ("get", "set", "view", "astype", "sum")}
    answer = subprocess.run(
        [sys.executable, "-c", ASKING], input=json.dumps(list(asked)), capture_output=True, text=True,
        env={"PATH": "/usr/bin", "HOME": "/nonexistent"}, check=False,
    )  # fmt: skip
    if "No module named 'cupy'" in answer.stderr:
        pytest.skip("CuPy is not installed")
    told = json.loads(answer.stdout)["found"]
    assert [name for name, what in told.items() if what == "absent"] == []
    for name, ours in asked.items():
        if not inspect.isfunction(ours) and not isinstance(ours, type):
            continue
        if name.startswith("ndarray") or ours.__module__ != stand_in.__name__:
            continue  # NumPy's own
        mine = [p for p in inspect.signature(ours).parameters if p != "self"]
        theirs = re.search(r"\((.*)\)", told[name])
        assert theirs is not None, (name, told[name])
        words = [re.split(r"[=:]", part)[0].split()[-1:] for part in theirs[1].split(",")]
        found = [w[0] for w in words if w and w[0] not in ("self", "*", "/")]
        assert mine == found[: len(mine)], (name, told[name])
