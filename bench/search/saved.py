"""Runs of bench.search kept in a file as they end, so that a long judgement can be broken off, continued and looked at.

One JSON object a line: the space, searcher, seed, budget and batch, ``code`` (what made the run), the times in the
order tried (seconds, null: failed) and the seconds of searching. Times are what the recorded space has, so that needle
spaces are read from the same runs.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gpu_tune
from gpu_tune.errors import CorruptData, InvalidInput

ROOMS = ("search", "model", "space")
"""Rooms whose code makes a search what it is."""
PACKAGES = {"kt": ("kernel_tuner",), "optuna": ("optuna", "cmaes"), "plain": ("lightgbm",)}


@dataclass(frozen=True)
class Saved:
    """One run: ``order`` are the times of distinct configs in the order tried, inf for failures."""

    space: str
    searcher: str
    seed: int
    trials: int
    batch: int
    code: str
    order: tuple[float, ...]
    seconds: float

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        """What a run is of."""
        return self.space, self.searcher, self.seed, self.trials, self.batch


def read(path: Path) -> list[Saved]:
    """The runs in a file; a last line that was cut off is left out. CorruptData for any other line that is none."""
    if not path.exists():
        return []
    found, lines = [], path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if number == len(lines):
            break  # what follows the last line end: nothing, or a line cut off
        try:
            values = json.loads(line)
            order = tuple(math.inf if t is None else float(t) for t in values.pop("order"))
            found.append(Saved(order=order, **values))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptData(
                f"{path}, line {number}", line[:60], f"is no run ({error})", "take the line out"
            ) from error
    return found


def append(path: Path, run: Saved) -> None:
    """Add one run, in one write."""
    order = [None if math.isinf(t) else t for t in run.order]
    text = json.dumps({**run.__dict__, "order": order}) + "\n"
    if path.exists() and (end := _torn(path)):
        with path.open("r+b") as file:
            file.truncate(end - 1)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _torn(path: Path) -> int:
    """One more than the length of the whole lines of a file whose last line was cut off, else 0."""
    content = path.read_bytes()
    return 0 if not content or content.endswith(b"\n") else content.rfind(b"\n") + 2


def require_same_code(path: Path, runs: Iterable[Saved]) -> None:
    """InvalidInput where runs of one searcher were made by different code."""
    codes: dict[str, str] = {}
    for run in runs:
        if codes.setdefault(run.searcher, run.code) != run.code:
            told = f"has runs by code {codes[run.searcher]} and by {run.code}, which are not to be put together"
            raise InvalidInput(f"{path}: searcher", run.searcher, told, "begin another file")


def code(searcher: str, settings: str) -> str:
    """What makes the runs of ``searcher``: a digest of the code of this project's search (comments and docstrings left
    out) and its settings, and the versions of others' packages."""
    kind, _, name = searcher.partition(":")
    used = [f"{package} {_version(package)}" for package in PACKAGES.get(kind, ())]
    if searcher == "random":
        return "numpy"
    if kind == "plain":
        return " ".join([*used, _digest([Path(__file__).with_name("plain.py")])])
    if kind in PACKAGES:
        return " ".join([*used, _digest([Path(__file__).with_name("peers.py")])])
    root = Path(name) / "gpu_tune" if kind == "at" else Path(gpu_tune.__file__).parent
    digest = _digest(_sources(root))
    return f"gpu_tune {digest}" + (f" {settings}" if settings != "{}" and kind != "at" else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _sources(root: Path) -> Iterator[Path]:
    for folder in (root / room for room in ROOMS):
        yield from sorted(folder.glob("*.py"))
    if not (root / ROOMS[0]).is_dir():  # an older checkout, whose search was not in a room
        yield from sorted(root.glob("*.py"))


def _digest(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):  # a string by itself is a docstring
                node.body = [b for b in body if not _is_text(b)] or [ast.Pass()]  # type: ignore[attr-defined]
        found.update(path.name.encode() + ast.dump(tree).encode())
    return found.hexdigest()[:12]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
