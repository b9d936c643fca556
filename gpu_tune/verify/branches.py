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
    return {(file, line, kind) for file, tree in _trees(template).items() for line, kind, _ in _bodies(tree)}


@functools.lru_cache(maxsize=32)
def reachable_branches(template: Template) -> frozenset[Branch]:
    """Branches without those that no workload can take: macros that nothing calls, and tests of what the template's
    operation does not have (``workload.beta`` of a forward convolution is always 0)."""
    return frozenset(_Reach(template).found)


def _trees(template: Template) -> dict[str, nodes.Template]:
    """The syntax trees of the template's source and of the parts that it imports, directly or not, by file."""
    environment = base._environment(template.folder)
    assert environment.loader is not None
    trees: dict[str, nodes.Template] = {}
    todo = [template.source.name]
    while todo:
        name = todo.pop()
        if name not in trees:
            trees[name] = environment.parse(environment.loader.get_source(environment, name)[0], name)
            todo += map(_file, trees[name].find_all((nodes.FromImport, nodes.Import, nodes.Include)))
    return trees


def _file(node: Any) -> str:
    """The file that an import names; ours are all written out."""
    return str(node.template.value)


class _Reach:
    """Walks from the template's source through the macros it uses."""

    def __init__(self, template: Template) -> None:
        kind: type[Matmul] | type[Conv2d] = Matmul if template.op == "matmul" else Conv2d
        own = {f.name for f in fields(kind)}
        self.fixed = {n: v for n, v in vars(kind).items() if n not in own and isinstance(v, (str, int)) and n[0] != "_"}
        if kind is Conv2d:
            self.fixed |= {"direction": template.directions[0]} if len(template.directions) == 1 else {}
            self.fixed |= {} if "wgrad" in template.directions else {"beta": "0"}
        self.found: set[Branch] = set()
        self.trees = _trees(template)
        self.macros = {(file, m.name): m for file, tree in self.trees.items() for m in tree.find_all(nodes.Macro)}
        self.modules: dict[tuple[str, str], str] = {}
        self.imported: dict[tuple[str, str], tuple[str, str]] = {}
        for file, tree in self.trees.items():
            self.modules.update({(file, node.target): _file(node) for node in tree.find_all(nodes.Import)})
            for node in tree.find_all(nodes.FromImport):
                for name, alias in (n if isinstance(n, tuple) else (n, n) for n in node.names):
                    self.imported[file, alias] = _file(node), name
        self.opened: set[str] = set()
        self.todo: list[tuple[str, str]] = []
        self._open(template.source.name)
        while self.todo:
            file, name = self.todo.pop()
            self._open(file)
            macro = self.macros.pop((file, name), None)
            if macro is not None:
                self.found.add((file, macro.lineno, "macro"))
                self._walk(file, [*macro.defaults, *macro.body])

    def _open(self, name: str) -> None:
        """Walk the top level of a file, once, after those of the files that it imports."""
        if name not in self.opened:
            self.opened.add(name)
            for node in self.trees[name].find_all((nodes.FromImport, nodes.Import)):
                self._open(_file(node))
            self._walk(name, self.trees[name].body)

    def _walk(self, file: str, todo: Iterable[nodes.Node]) -> None:
        for node in todo:
            if isinstance(node, nodes.Macro) or (isinstance(node, nodes.For) and self._no_scalars(node.iter)):
                continue
            if isinstance(node, nodes.If):
                self._if(file, node)
                continue
            if isinstance(node, nodes.For):
                self.found.add((file, node.lineno, "for"))
            if isinstance(node, nodes.Include):
                self._open(_file(node))
            self._use(file, node)
            self._walk(file, node.iter_child_nodes())

    def _if(self, file: str, node: nodes.If) -> None:
        for kind, case in (("if", node), *(("elif", other) for other in node.elif_)):
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
        """Note the macro that a node names: one of its file's own, an imported one, or one of an imported file."""
        if isinstance(node, nodes.Name):
            self.todo.append(self.imported.get((file, node.name), (file, node.name)))
        elif isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
            module = self.modules.get((file, node.node.name))
            self.todo += [(module, node.attr)] if module else []

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
