"""Kernel families from outside this package: in installed packages, and in folders of pairs.

A package names its families as entry points of the group ``gpu_tune.templates``, each a module ``<name>`` with
``<name>.cu.j2`` beside it. ``GPU_TUNE_TEMPLATES`` names folders, joined like those of ``PATH``, whose pairs
``<name>.py`` and ``<name>.cu.j2`` are families; modules there may import each other relatively (``from .helper import
x``). Both run as Python of the user who asked for them. What can be checked without a workload is checked here, so that
a mistake is one error that names file and line.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes

from ..errors import TemplateError
from .base import FOLDER, Template, _environment
from .identity import sources

GROUP = "gpu_tune.templates"
VARIABLE = "GPU_TUNE_TEMPLATES"
OPERATIONS = ("matmul", "conv2d")
_NAMES = {"workload", "device", "launch"}
"""What a source sees besides its knobs."""


@dataclass(frozen=True)
class Family:
    """A family that was found, before it is loaded. ``load`` raises TemplateError."""

    name: str
    load: Callable[[], Template]


def families(folders: str) -> Iterator[Family]:
    """Those of installed packages by name, then those of ``folders`` (a value of ``GPU_TUNE_TEMPLATES``) in order."""
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        yield Family(entry.name, lambda entry=entry: _of_entry_point(entry))  # type: ignore[misc]
    for folder in map(Path, filter(None, folders.split(os.pathsep))):
        for name in _pairs(folder):
            yield Family(name, lambda folder=folder, name=name: load(folder, name))  # type: ignore[misc]


def load(folder: Path, name: str) -> Template:
    """The family ``<name>.py`` of a folder of pairs."""
    folder = folder.resolve()
    path = folder / f"{name}.py"
    if not folder.is_dir():
        raise TemplateError(f"{VARIABLE}={folder}: is not a folder; name one that holds <name>.py and <name>.cu.j2")
    if not path.is_file():
        raise TemplateError(f"{folder / name}.cu.j2: has no {name}.py beside it; a kernel family is both files")
    package = f"gpu_tune_templates_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    if package not in sys.modules:
        made = types.ModuleType(package, "A folder of kernel families.")
        made.__path__ = [str(folder)]
        sys.modules[package] = made
    return _checked(_imported(f"{package}.{name}", path), path, name)


def place_of(error: BaseException, folder: Path) -> str:
    """``file:line`` of the last step of ``error`` in ``folder`` or below it, "" where there is none."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    steps = [s for s in traceback.extract_tb(error.__traceback__) if Path(s.filename).is_relative_to(folder)]
    return f"{steps[-1].filename}:{steps[-1].lineno}" if steps else ""


def _pairs(folder: Path) -> list[str]:
    """Names of the families in a folder: sources, and modules that declare a TEMPLATE; some may lack the other file."""
    if not folder.is_dir():
        return [folder.name]
    found = {path.name.removesuffix(".cu.j2") for path in folder.glob("*.cu.j2")}
    for path in folder.glob("*.py"):
        if re.search(r"^TEMPLATE\b", path.read_text("utf-8", "replace"), re.MULTILINE):
            found.add(path.stem)
    return sorted(found)


def _of_entry_point(entry: metadata.EntryPoint) -> Template:
    origin = f"entry point {entry.name} = {entry.value} of {entry.dist.name if entry.dist else 'a package'}"
    try:
        spec = importlib.util.find_spec(entry.module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise TemplateError(f"{origin}: there is no module {entry.module}; name the family's module")
    path = Path(spec.origin).resolve()
    return _checked(_imported(entry.module, path), path, entry.name)


def _imported(module: str, path: Path) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the family's module raises is the family's
        sys.modules.pop(module, None)
        place = place_of(error, path.parent) or str(path)
        said = error.msg if isinstance(error, SyntaxError) else repr(error)
        raise TemplateError(f"{place}: {said}; the family {path.stem} cannot be imported") from error


def _checked(module: types.ModuleType, path: Path, name: str) -> Template:
    """The module's TEMPLATE, with its folder; TemplateError where a rule is broken that needs no workload to see."""
    template: Any = getattr(module, "TEMPLATE", None)
    if not isinstance(template, Template):
        raise TemplateError(f"{path}:{_line(path)}: TEMPLATE is {template!r}; declare one gpu_tune Template")
    if template.folder == FOLDER:
        template = replace(template, folder=path.parent)
    found = _broken_rules(template, path, name)
    if found:
        raise TemplateError(f"{path}:{_line(path)}: " + "; ".join(found))
    _check_source(template)
    return template


def _broken_rules(template: Template, path: Path, name: str) -> list[str]:
    found: list[str] = []
    knobs = [knob.name for knob in template.knobs]
    if not template.name == path.stem == name:
        found.append(f"the family's name {template.name!r} is not its file's ({path.stem}); give both one name")
    if template.op not in OPERATIONS:
        found.append(f"op {template.op!r} is not one of {', '.join(OPERATIONS)}")
    if len(set(knobs)) < len(knobs) or set(knobs) & _NAMES:
        found.append(f"knobs {', '.join(knobs)} need names of their own, other than {', '.join(sorted(_NAMES))}")
    for constraint in template.constraints:
        if unknown := set(constraint.knobs) - set(knobs):
            found.append(f"constraint {constraint.name} reads {', '.join(sorted(unknown))}, which is no knob")
    if unknown := {knob for names in template.tile for knob in names} - set(knobs):
        found.append(f"tile names {', '.join(sorted(unknown))}, which is no knob")
    if not template.source.is_file():
        found.append(f"there is no {template.source.name} beside it; a kernel family is both files")
    return found


def _check_source(template: Template) -> None:
    """TemplateError unless the source and its parts are valid Jinja and use nothing that is not declared."""
    environment, allowed = _environment(template.folder), _NAMES | set(template.knob)
    assert environment.loader is not None
    for part in sources(template.source.name, environment):
        text, path, _ = environment.loader.get_source(environment, part)
        if path is None or Path(path).is_relative_to(FOLDER):
            continue  # the library's own, which its tests check
        try:
            tree = environment.parse(text)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{path}:{error.lineno}: {error.message}") from error
        if undeclared := meta.find_undeclared_variables(tree) - allowed - set(environment.globals):
            lines = [n.lineno for n in tree.find_all(nodes.Name) if n.name in undeclared]
            rule = f"it may use its knobs, {', '.join(sorted(_NAMES))} and imported parts"
            raise TemplateError(f"{path}:{min(lines, default=1)}: {', '.join(sorted(undeclared))} is undefined; {rule}")


def _line(path: Path) -> int:
    """The line that assigns TEMPLATE, 1 where none does."""
    found = re.search(r"^TEMPLATE\b", text := path.read_text("utf-8"), re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else 1
