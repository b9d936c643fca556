"""Branches of templates: what there is, what can be reached at all, what rendering a variant takes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes

from ..cuda.device import Device
from ..space.knob import Config
from ..templates import base
from ..templates.base import Template
from ..workload import Conv2d, Matmul, Workload

Branch = tuple[str, int, str]
"""(file, line, kind)"""


def all_branches(template: Template) -> set[Branch]:
    """Every branch in the template's source and in the parts that it imports, directly or not."""
    environment, found = _environment(template.folder), set[Branch]()
    todo, done = [template.source.name], set[str]()
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.add(name)
        assert environment.loader is not None
        tree = environment.parse(environment.loader.get_source(environment, name)[0], name)
        found.update((name, line, kind) for line, kind, _ in _bodies(tree))
        for node in tree.find_all((nodes.FromImport, nodes.Import, nodes.Include)):
            target = getattr(node, "template", None)
            if isinstance(target, nodes.Const):
                todo.append(target.value)
    return found


@functools.lru_cache(maxsize=32)
def reachable_branches(template: Template) -> frozenset[Branch]:
    """Branches without those that no workload can take: macros that nothing calls, and tests of what the template's
    operation does not have (``workload.beta`` of a convolution is always 0)."""
    return frozenset(_Reach(template).found)


class _Reach:
    """Walks from the template's source through the macros it uses."""

    def __init__(self, template: Template) -> None:
        self.environment = _environment(template.folder)
        kind = {"matmul": Matmul, "conv2d": Conv2d}[template.op]
        own = {f.name for f in fields(kind)}
        self.fixed = {n: v for n, v in vars(kind).items() if n not in own and isinstance(v, (str, int)) and n[0] != "_"}
        self.found: set[Branch] = set()
        self.files: dict[str, tuple[dict[str, nodes.Macro], dict[str, str], dict[str, tuple[str, str]]]] = {}
        self.done: set[tuple[str, str]] = set()
        self.todo: list[tuple[str, str]] = []
        self._open(template.source.name)
        while self.todo:
            file, name = self.todo.pop()
            macro = self._open(file)[0].get(name)
            if macro is not None and (file, name) not in self.done:
                self.done.add((file, name))
                self.found.add((file, macro.lineno, "macro"))
                self._walk(file, macro.defaults)
                self._walk(file, macro.body)

    def _open(self, name: str) -> tuple[dict[str, nodes.Macro], dict[str, str], dict[str, tuple[str, str]]]:
        """(macros, imported files by alias, imported macros by alias) of a file, whose top level is walked once."""
        if name not in self.files:
            assert self.environment.loader is not None
            source = self.environment.loader.get_source(self.environment, name)[0]
            tree = jinja2.Environment._parse(self.environment, source, name, None)
            macros = {m.name: m for m in tree.find_all(nodes.Macro)}
            whole = {n.target: _constant(n.template) for n in tree.find_all(nodes.Import)}
            parts: dict[str, tuple[str, str]] = {}
            for node in tree.find_all(nodes.FromImport):
                pairs = [n if isinstance(n, tuple) else (n, n) for n in node.names]
                parts.update({alias: (_constant(node.template), own) for own, alias in pairs})
            self.files[name] = macros, whole, parts
            for file in {*whole.values(), *(file for file, _ in parts.values())}:
                self._open(file)
            self._walk(name, tree.body)
        return self.files[name]

    def _walk(self, file: str, todo: Iterable[nodes.Node]) -> None:
        for node in todo:
            if isinstance(node, nodes.Macro):
                continue
            if isinstance(node, nodes.If):
                self._if(file, node)
                continue
            if isinstance(node, nodes.For):
                if self._no_scalars(node.iter):
                    continue
                self.found.add((file, node.lineno, "for"))
            if isinstance(node, nodes.Include):
                self._open(_constant(node.template))
            self._use(file, node)
            self._walk(file, node.iter_child_nodes())

    def _if(self, file: str, node: nodes.If) -> None:
        kinds = [("if", node), *(("elif", other) for other in node.elif_)]
        for kind, case in kinds:
            holds = self._value(case.test)
            self._walk(file, [case.test])
            if holds is not False:
                self.found.add((file, case.lineno, kind))
                self._walk(file, case.body)
            if holds is True:
                return
        if node.else_:
            self.found.add((file, node.else_[0].lineno, "else"))
            self._walk(file, node.else_)

    def _use(self, file: str, node: nodes.Node) -> None:
        """Macros that a node names."""
        macros, whole, parts = self.files[file]
        if isinstance(node, nodes.Name):
            if node.name in macros:
                self.todo.append((file, node.name))
            if node.name in parts:
                self.todo.append(parts[node.name])
        if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name) and node.node.name in whole:
            self.todo.append((whole[node.node.name], node.attr))

    def _no_scalars(self, sequence: nodes.Node) -> bool:
        """Whether a loop is over ``workload.scalars()`` of an operation that has none."""
        call = isinstance(sequence, nodes.Call) and isinstance(sequence.node, nodes.Getattr)
        return call and sequence.node.attr == "scalars" and {"alpha", "beta"} <= set(self.fixed)  # type: ignore[attr-defined]

    def _value(self, test: nodes.Node) -> Any:
        """The value of a test that the operation alone decides, else None."""
        if isinstance(test, nodes.Const):
            return test.value
        if isinstance(test, nodes.Getattr) and isinstance(test.node, nodes.Name) and test.node.name == "workload":
            return self.fixed.get(test.attr)
        if isinstance(test, nodes.Compare) and len(test.ops) == 1 and test.ops[0].op in ("eq", "ne"):
            left, right = self._value(test.expr), self._value(test.ops[0].expr)
            return None if left is None or right is None else (left == right) == (test.ops[0].op == "eq")
        if isinstance(test, nodes.And):
            sides = [self._value(test.left), self._value(test.right)]
            return False if False in sides else None if None in sides else all(sides)
        return None


def _constant(name: nodes.Expr) -> str:
    """The file that an import names; ours are all written out."""
    assert isinstance(name, nodes.Const)
    return str(name.value)


def taken_branches(template: Template, config: Config, workload: Workload, device: Device) -> set[Branch]:
    """The branches that rendering this variant takes."""
    environment = _environment(template.folder)
    seen: set[Branch] = environment.globals["branches_"]  # type: ignore[assignment]
    seen.clear()
    names: dict[str, Any] = dict(config)
    names.update(workload=workload, device=device, launch=template.derive(config, workload, device))
    environment.get_template(template.source.name).render(names)
    return set(seen)


class _Marking(jinja2.Environment):
    """Puts a call at the head of each branch that notes the branch; the text that it renders is not used."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for line, kind, body in list(_bodies(tree)):
            arguments: list[nodes.Expr] = [nodes.Const(name), nodes.Const(line), nodes.Const(kind)]
            call = nodes.Call(nodes.Name("note_branch_", "load"), arguments, [], None, None)
            body.insert(0, nodes.Output([call]).set_lineno(line))
        return tree


def _bodies(tree: nodes.Template) -> Iterator[tuple[int, str, list[nodes.Node]]]:
    """(line, kind, statements) of every branch."""
    alternatives = {id(e) for node in tree.find_all(nodes.If) for e in node.elif_}
    for node in tree.find_all(nodes.If):
        yield node.lineno, "elif" if id(node) in alternatives else "if", node.body
        if node.else_:
            yield node.else_[0].lineno, "else", node.else_
    for loop in tree.find_all(nodes.For):
        yield loop.lineno, "for", loop.body
    for macro in tree.find_all(nodes.Macro):
        yield macro.lineno, "macro", macro.body


@functools.cache
def _environment(folder: Path) -> jinja2.Environment:
    """The rendering environment of ``templates.base``, marking."""
    environment = base._environment(folder).overlay()
    environment.__class__ = _Marking
    environment.cache = {}
    seen: set[Branch] = set()

    def note(file: str, line: int, kind: str) -> str:
        seen.add((file, line, kind))
        return ""

    environment.globals = {**environment.globals, "note_branch_": note, "branches_": seen}
    return environment
