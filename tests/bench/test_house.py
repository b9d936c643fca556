"""``bench.house``: what it counts in a small tree, and that a check of golden outputs sees a difference."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bench.house import count, golden, golden_search, product

TREE = {
    "__init__.py": "from .top import dish",
    "base.py": '"""The lowest room."""\nSALT = 1',
    "kitchen/__init__.py": "",
    "kitchen/stove.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..pantry.shelf import Jar",
    "pantry/__init__.py": "from .. import base",
    "pantry/shelf.py": "import gpu_tune.base\nclass Jar:\n    def open(self):\n        from ..kitchen import stove",
    "top.py": "import json\nfrom gpu_tune.pantry import shelf\ndish = shelf.Jar; pass",
}
"""Kitchen and pantry import each other, once for types alone and once at call time."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        path = tmp_path / "gpu_tune" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    lines = [f"    x = {n}" for n in range(count.LINES)]
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_long.py").write_text("\n".join(["def long():", *lines]))
    return tmp_path


def test_count_sees_every_import_and_what_is_too_long(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = count.read(tree)
    package = {count.name_of(s.path): s for s in sources if s.path.parts[0] == count.PACKAGE}
    edges = {name: count.imports(name, source, package) for name, source in package.items()}
    graph = count.grouped(edges)
    assert graph == {
        "base": set(),
        "kitchen": {"pantry"},
        "pantry": {"base", "kitchen"},
        "top": {"pantry"},
    }
    assert count.circles(graph) == [["kitchen", "pantry"]]
    assert count.circles(count.single(edges)) == [["kitchen.stove", "pantry.shelf"]]
    assert count.floors(graph)[0] == {"base": 1, "kitchen": 2, "pantry": 2, "top": 3}
    assert count.main(["--root", str(tree), "--imports", "--by-file"]) == 0
    said = capsys.readouterr().out
    for words in (
        "kitchen.stove, pantry.shelf",
        "401: tests/test_long.py:1 long",
        "401: tests/test_long.py\n",
        "3  top: pantry",
        "gpu_tune/pantry/shelf.py",
    ):
        assert words in said
    assert sum(s.statements for s in package.values()) == 15


@pytest.mark.slow
def test_a_check_of_golden_outputs_sees_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries: dict[str, Any] = {}
    for seed in (0, 1):
        entry: dict[str, Any] = {"space": {"file": "synthetic-a.json.gz"}, "seed": seed, "batches": 2}
        entries[f"synthetic-a/{seed}"] = {**entry, "golden": golden_search.run(entry)}

    nothing = tmp_path / "nothing.tsv"
    nothing.write_text("")

    def check(*options: str) -> tuple[int, str]:
        parts = {"search": {"complete": True, "entries": entries}}
        facts = {"format": 1, "commit": "here", "compiler": product.compiler_version(), "parts": parts}
        (tmp_path / "golden.json.gz").write_bytes(gzip.compress(json.dumps(facts).encode()))
        command = ["check", str(tmp_path / "golden.json.gz"), *(options or ("--allow", str(nothing)))]
        return golden.main(command), capsys.readouterr().out

    code, said = check()
    assert code == 0 and "2 of 2 equal" in said
    batch = entries["synthetic-a/1"]["golden"]["batch 1"]
    batch[0], batch[1] = batch[1], batch[0]
    code, said = check()
    assert code == 1 and "1 of 2 equal, 1 differ" in said
    assert "synthetic-a/1 batch 1: candidate 0 of" in said
    (tmp_path / "allowed").write_text("search\tsynthetic-a/1 batch 1\tplanted\n")
    code, said = check("--allow", str(tmp_path / "allowed"))
    assert code == 0 and "allowed: 1 (planted)" in said
