"""Rooms import one way: spaces know nothing of models, and neither knows of the search or of measuring."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gpu_tune

ROOT = Path(gpu_tune.__file__).parent
ABOVE = ("search", "search_arm", "search_stop", "measure", "loop", "tuner", "cli", "report", "report_page", "dispatch")
FORBIDDEN = {"space": ("model", *ABOVE), "model": ABOVE, "templates": ("model", *ABOVE)}


def imported(tree: ast.AST, inside: str) -> set[str]:
    """Rooms that a module of ``inside`` imports when it runs, at the top or at call time."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            if node.level == 2:
                found |= {n.split(".")[0] for n in names}
            elif node.level == 0 and (node.module or "").startswith("gpu_tune."):
                found.add((node.module or "").split(".")[1])
        found |= imported(node, inside)
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_room_imports_one_above_it(room: str) -> None:
    modules = sorted((ROOT / room).rglob("*.py"))
    assert modules
    wrong = {m.name: imported(ast.parse(m.read_text()), room) & set(FORBIDDEN[room]) for m in modules}
    assert {name: rooms for name, rooms in wrong.items() if rooms} == {}
