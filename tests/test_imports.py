"""Imports point down: a room knows only rooms of lower floors, and neither rooms nor modules import in a circle.

Every import of every module counts, those inside functions and under TYPE_CHECKING too. Rooms of one floor do not
import each other. The package root and ``__main__``, which name everything, stand outside (see ``bench.house count``).
"""

from __future__ import annotations

import ast

import pytest

from bench.house import count

FLOORS = (
    "errors",
    "text",
    "plan",
    "workload paths cuda",
    "space reference emulator",
    "trial templates",
    "model store",
    "measure search kernel",
    "dispatch report verify",
    "torch",
    "tuner",
    "cli",
)
"""The rooms, bottom up; those of one floor stand in one line."""

Edges = dict[count.Name, set[count.Name]]


@pytest.fixture(scope="module")
def package() -> dict[count.Name, count.Source]:
    sources = count.read(count.ROOT, (count.PACKAGE,))
    return {count.name_of(s.path): s for s in sources}


@pytest.fixture(scope="module")
def edges(package: dict[count.Name, count.Source]) -> Edges:
    return {name: count.imports(name, source, package) for name, source in package.items()}


def test_every_room_has_a_floor(edges: Edges) -> None:
    assert sorted(room for floor in FLOORS for room in floor.split()) == sorted(count.grouped(edges))


def test_rooms_import_only_from_lower_floors(edges: Edges) -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
    graph = count.grouped(edges)
    upward = {(room, other) for room, others in graph.items() for other in others if floor[other] >= floor[room]}
    assert upward == set()


def test_no_modules_import_each_other_in_a_circle(edges: Edges) -> None:
    assert count.circles(count.single(edges)) == []


def test_the_package_knows_nothing_of_tests_and_bench(package: dict[count.Name, count.Source]) -> None:
    named = {
        (str(source.path), name)
        for source in package.values()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.split(".")[0] in ("tests", "bench") and not getattr(node, "level", 0)
    }
    assert named == set()


def test_an_error_that_shows_no_value_says_so_by_an_ellipsis(package: dict[count.Name, count.Source]) -> None:
    """None is a value, and shown: ``InvalidInput("bias", None, "is missing")`` would say ``bias: None is missing``."""
    values = {"InvalidInput": 1, "require": 2}
    wrong = [
        f"{source.path}:{node.lineno}"
        for source in package.values()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        for argument in node.args[values.get(node.func.id, len(node.args)) :][:1]
        if isinstance(argument, ast.Constant) and argument.value is None
    ]
    assert wrong == []
