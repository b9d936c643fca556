"""The house's marks, read from the tree's syntax alone: how many rooms and floors, what is too long, how much there is.

    python -m bench.house count              # the table
    python -m bench.house count --imports    # and which rooms each room imports
    python -m bench.house count --by-file    # and statements and lines of each file of the package
    python -m bench.house count --root DIR   # of another checkout

A room is a top-level folder of ``gpu_tune/`` with all that lies below it, or a file that lies flat in ``gpu_tune/``.
Imports inside functions and under TYPE_CHECKING count like all others; names given to ``importlib`` as text are not
seen. ``from a import b`` is an import of ``a.b`` where that is a module, else of ``a``; the packages above an imported
module are not counted as imported. The package root and ``__main__``, which name everything, stand outside the floors
and circles. A room's floor is one above the highest of those that it imports; rooms of a circle share a floor.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "gpu_tune"
TREES = (PACKAGE, "tests", "bench", "examples", "findings")
OUTSIDE = ("__init__", "__main__")
"""Flat files that have no place in the order of rooms."""
APART = "emulator"
"""The folder of the package without which statements are counted too."""
FLAT, ROOMS = 8, 24
LINES, FUNCTION_LINES = 400, 120

Name = tuple[str, ...]
"""A module's dotted name below the package: ``("measure", "base")``; a package's is its folder's; the root's is ()."""
Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Source:
    """One Python file: where it is, relative to the root of the checkout, and what is in it."""

    path: Path
    lines: int
    tree: ast.Module

    @property
    def statements(self) -> int:
        """Statements, nested ones too; a docstring is one."""
        return sum(isinstance(node, ast.stmt) for node in ast.walk(self.tree))

    def long_functions(self) -> list[tuple[int, str]]:
        """Functions above the limit, nested ones too: lines, from ``def`` to the last one, and ``file:line name``."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    found.append((lines, f"{self.path}:{node.lineno} {node.name}"))
        return found


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.house count", description=__doc__.splitlines()[0])
    parser.add_argument("--by-file", action="store_true", help="statements and lines of each file of the package")
    parser.add_argument("--imports", action="store_true", help="which rooms each room imports, highest floor first")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="another checkout")
    options = parser.parse_args(argv)
    sources = read(options.root)
    package = {name_of(s.path): s for s in sources if s.path.parts[0] == PACKAGE}
    if not package:
        parser.error(f"there is no Python file in {options.root / PACKAGE}")
    edges = {name: imports(name, s, package) for name, s in package.items()}
    print(table(sources, package, edges))
    if options.imports:
        print("\n" + imports_table(grouped(edges)))
    if options.by_file:
        print("\nstatements  lines  file")
        for source in sorted(package.values(), key=lambda s: s.path):
            print(f"{source.statements:10}  {source.lines:5}  {source.path}")
    return 0


def read(root: Path, trees: Iterable[str] = TREES) -> list[Source]:
    """Every Python file of those folders of a checkout."""
    found = []
    for tree in trees:
        for path in sorted((root / tree).rglob("*.py")):
            relative = path.relative_to(root)
            if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in relative.parts):
                text = path.read_text(encoding="utf-8")
                found.append(Source(relative, len(text.splitlines()), ast.parse(text, str(path))))
    return found


def name_of(path: Path) -> Name:
    """The dotted name of a file of the package."""
    parts = path.with_suffix("").parts[1:]
    return parts[:-1] if parts[-1] == "__init__" else parts


def room_of(path: Path) -> str:
    """The room in which a file of the package lies: a folder's name, or that of a flat file without its suffix."""
    return path.with_suffix("").parts[1]


def imports(name: Name, source: Source, package: Mapping[Name, Source]) -> set[Name]:
    """The modules of the package that one of its modules imports, anywhere in its text; () is the root."""
    home = name if source.path.name == "__init__.py" else name[:-1]
    found: set[Name] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            dotted = [tuple(alias.name.split(".")) for alias in node.names]
            found |= {nearest(parts[1:], package) for parts in dotted if parts[0] == PACKAGE}
        elif isinstance(node, ast.ImportFrom):
            parts = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                if node.level - 1 > len(home):
                    continue  # above the package: no import of Python's
                parts = home[: len(home) - (node.level - 1)] + parts
            elif parts[0] == PACKAGE:
                parts = parts[1:]
            else:
                continue
            for alias in node.names:
                inner = (*parts, alias.name)
                found.add(inner if inner in package else nearest(parts, package))
    return found - {name}


def nearest(name: Name, package: Mapping[Name, Source]) -> Name:
    """The module ``name``, or the nearest package above it that has a file."""
    while name and name not in package:
        name = name[:-1]
    return name


def grouped(edges: Mapping[Name, set[Name]]) -> Graph:
    """The imports between rooms, without those that stand outside."""
    graph: Graph = {}
    for name, targets in edges.items():
        if name and name[0] not in OUTSIDE:
            rooms = {t[0] for t in targets if t and t[0] not in OUTSIDE}
            graph.setdefault(name[0], set()).update(rooms - {name[0]})
    return graph


def single(edges: Mapping[Name, set[Name]]) -> Graph:
    """The imports between modules, without those that stand outside."""
    inside = {name: targets for name, targets in edges.items() if name and name[0] not in OUTSIDE}
    return {".".join(name): {".".join(t) for t in targets if t in inside} for name, targets in inside.items()}


def components(graph: Graph) -> list[list[str]]:
    """Strongly connected components, each after all those that it reaches (Tarjan)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            at = stack.index(node)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Components of more than one, the largest first."""
    return sorted((c for c in components(graph) if len(c) > 1), key=lambda c: (-len(c), c))


def floors(graph: Graph) -> tuple[dict[str, int], list[str]]:
    """The floor of each room, the lowest being 1, and a longest chain from the top down (a circle is one link)."""
    floor: dict[str, int] = {}
    links: dict[str, list[str]] = {}
    for circle in components(graph):
        below = {other for node in circle for other in graph[node]} - set(circle)
        under = max(sorted(below), key=lambda other: floor[other], default=None)
        label = circle[0] if len(circle) == 1 else "{" + ", ".join(circle) + "}"
        chain = [label, *(links[under] if under is not None else ())]
        for node in circle:
            floor[node], links[node] = len(chain), chain
    return floor, max(links.values(), key=len, default=[])


def table(sources: Iterable[Source], package: Mapping[Name, Source], edges: Mapping[Name, set[Name]]) -> str:
    """The marks, one a line, each with its goal where it has one, and what misses it."""
    paths = [s.path for s in package.values()]
    flat = [p for p in paths if len(p.parts) == 2]
    rooms = {room_of(p) for p in paths}
    nested = {p.parent for p in paths if len(p.parts) > 2} | set(flat)
    graph = grouped(edges)
    floor, chain = floors(graph)
    between, among = circles(graph), circles(single(edges))
    sources = list(sources)
    functions = sorted((f for s in sources for f in s.long_functions()), reverse=True)
    files = sorted(((s.lines, str(s.path)) for s in sources if s.lines > LINES), reverse=True)
    statements = sum(s.statements for s in package.values())
    rest = sum(s.statements for name, s in package.items() if name[:1] != (APART,))
    lines = [
        _row(f"Python files flat in {PACKAGE}/", len(flat), f"goal: at most {FLAT}"),
        _row("rooms", len(rooms), f"goal: at most {ROOMS}"),
        _row("rooms, nested folders counted apart", len(nested)),
        _row("floors", max(floor.values(), default=0), " > ".join(chain)),
        _row("circles between rooms", len(between)),
        *(f"    {len(c)}: {', '.join(c)}" for c in between),
        _row("circles between modules", len(among)),
        *(f"    {len(c)}: {', '.join(c)}" for c in among),
        _row(f"functions above {FUNCTION_LINES} lines", len(functions)),
        *(f"    {count}: {name}" for count, name in functions),
        _row(f"Python files above {LINES} lines", len(files)),
        *(f"    {count}: {name}" for count, name in files),
        _row(f"Python files of {PACKAGE}/", len(paths)),
        _row(f"statements of {PACKAGE}/", statements),
        _row(f"statements without {PACKAGE}/{APART}/", rest),
    ]
    return "\n".join(lines)


def _row(mark: str, count: int, note: str = "") -> str:
    return f"{mark:40}{count:>7,}  {note}".rstrip()


def imports_table(graph: Graph) -> str:
    """Each room with its floor and the rooms that it imports."""
    floor, _ = floors(graph)
    order = sorted(graph, key=lambda room: (-floor[room], room))
    return "\n".join(["floor  room", *(f"{floor[r]:5}  {r}: {', '.join(sorted(graph[r])) or '-'}" for r in order)])
