"""Device code is written in the sources and parts alone: Python derives numbers and names, and nobody edits C text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

import pytest

from gpu_tune.space.knob import Config
from gpu_tune.templates.base import FOLDER
from gpu_tune.templates.registry import registry
from gpu_tune.workload import Conv2d, Matmul
from tests.templates.test_contract import TEMPLATES, served

MODULES = sorted(FOLDER.rglob("*.py"))
SOURCES = sorted(FOLDER.rglob("*.j2"))
NAME = re.compile(r"[A-Za-z0-9_.]*")


def texts(value: object) -> Iterator[str]:
    """Every text and every mapping's text that a source can reach from a derived value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Matmul | Conv2d | Config):
        return
    elif isinstance(value, Mapping):
        assert len(value) <= 10, f"an untyped mapping of {len(value)} keys: {list(value)}"
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from texts(getattr(value, field.name))
        for name, member in vars(type(value)).items():
            if isinstance(member, property):
                yield from texts(getattr(value, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_derived_holds_numbers_and_names_but_no_text(name: str) -> None:
    template = registry()[name]
    for workload, device in served(name)[:6]:
        for config in [template.default(workload, device), *list(template.seeds(workload, device))[:4]]:
            if template.violations(config, workload, device):
                continue
            found = {text for text in texts(template.derive(config, workload, device)) if not NAME.fullmatch(text)}
            assert found == set(), f"{config.key}: a source writes these itself"


def test_no_function_of_the_library_returns_text() -> None:
    found = {
        f"{path.relative_to(FOLDER)}: {node.name}"
        for path in MODULES
        if path.is_relative_to(FOLDER / "lib")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns) in ("str", "list[str]")
    }
    assert {f for f in found if not f.endswith(("__str__", ": sum_ctype"))} == set()  # that is int or float


def test_nobody_edits_device_code_by_replacement() -> None:
    found = {f"{path.name}: replace" for path in SOURCES if re.search(r"\|\s*replace\b|\.replace\(", path.read_text())}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            # text.replace(old, new); configs and dataclasses take keywords, dataclasses.replace one value
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "replace":
                found |= {f"{path.name}:{node.lineno}: replace"} if len(node.args) > 1 else set()
    assert found == set()
