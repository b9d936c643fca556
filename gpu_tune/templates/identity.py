"""The identity of a kernel family: what it really imports and includes, by what these files say.

Two closures are hashed. The modules that ``<name>.py`` imports inside this folder (or, for a family from elsewhere,
inside its own package or folder, too), as statements: comments, docstrings and layout do not count. And the Jinja
sources that ``<name>.cu.j2`` imports and includes: their comments, and white space that rendering drops, do not count.
A module that is imported by a computed name is not seen, and a part that is included by one is refused.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import jinja2

from ..errors import TemplateError

LIBRARY = "gpu_tune.templates"
_COMMENTS = {"comment_begin", "comment", "comment_end", "linecomment_begin", "linecomment", "linecomment_end"}
_UNSEEN = {*_COMMENTS, "whitespace"}
"""Tokens of Jinja that do not reach the rendered source."""
_REFERENCES = {("name", word) for word in ("import", "include", "from", "extends")}
_PARSER_DETAILS = ("ctx", "kind", "type_comment", "type_ignores")
"""Fields of a syntax tree that say nothing that its other fields do not say."""


def family_hash(folder: Path, name: str, library: Path, environment: jinja2.Environment, source: str = "") -> str:
    """12 hex digits: the family ``name`` of ``folder``, which uses ``library`` (this folder) and ``environment``.

    ``source``: its Jinja source, where that is not ``<name>.cu.j2``.
    """
    digest = hashlib.sha256()
    files = {**modules(folder, name, library), **sources(source or f"{name}.cu.j2", environment)}
    for label, content in sorted(files.items()):
        digest.update(f"{label}\0{content}\0".encode())
    return digest.hexdigest()[:12]


def modules(folder: Path, name: str, library: Path) -> dict[str, str]:
    """The statements of every module in the import closure of ``<folder>/<name>.py``, by its path in its package."""
    root = library if folder.is_relative_to(library) else _package_root(folder)
    found: dict[Path, str] = {}
    waiting = [folder / f"{name}.py"]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        try:
            found[path], imports = _statements(path.read_text("utf-8"))
        except SyntaxError as error:
            raise TemplateError(f"{path}:{error.lineno}: {error.msg}; a kernel family is valid Python") from error
        for level, module, names in imports:
            waiting += _files(path, level, module, names, library, root)
    bases = (("library", library), ("own", root))
    return {_label(path, bases): text for path, text in found.items()}


def sources(name: str, environment: jinja2.Environment) -> dict[str, str]:
    """The tokens of the source ``name`` and of every part that it imports or includes, by name; transitively."""
    assert environment.loader is not None
    found: dict[str, str] = {}
    waiting = [(name, "")]
    while waiting:
        part, includer = waiting.pop()
        if part in found:
            continue
        try:
            text, path, _ = environment.loader.get_source(environment, part)
            found[part], references = _tokens(text, environment)
        except jinja2.TemplateNotFound:
            raise TemplateError(f"{includer or part}: there is no {part}; see gpu_tune/templates/parts") from None
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{path}:{error.lineno}: {error.message}; a part is a valid Jinja template") from error
        for reference in references:
            if reference is None:
                raise TemplateError(f"{path}: includes a part by a computed name; write the name, or use an if")
            waiting.append((reference, f"{path}:{text.count(chr(10), 0, text.index(reference)) + 1}"))
    return found


@functools.lru_cache(maxsize=256)
def _statements(text: str) -> tuple[str, tuple[tuple[int, tuple[str, ...], tuple[str, ...]], ...]]:
    """A module's statements as text that no version of Python and no layout changes, and its imports: the number of
    leading dots, the module's parts, and the names taken from it."""
    tree = ast.parse(text)
    imports: list[tuple[int, tuple[str, ...], tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(0, tuple(alias.name.split(".")), ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            imports.append((node.level, module, tuple(alias.name for alias in node.names)))
    return _said(tree), tuple(imports)


def _said(node: object) -> str:
    """``node`` as text. ``ast.dump`` would do, but its form differs between versions of Python."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields if name not in _PARSER_DETAILS)
        return f"{type(node).__name__}({','.join(f'{n}={_said(v)}' for n, v in fields if v not in (None, []))})"
    if isinstance(node, list):
        return f"[{','.join(_said(entry) for entry in node if not _is_docstring(entry))}]"
    return repr(node)


def _is_docstring(node: object) -> bool:
    """Whether ``node`` is a string on its own, which documents what stands above it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _package_root(folder: Path) -> Path:
    """The folder of the outermost package that ``folder`` is in; itself where it is in none."""
    while (folder / "__init__.py").exists() and (folder.parent / "__init__.py").exists():
        folder = folder.parent
    return folder


def _files(
    path: Path, level: int, module: tuple[str, ...], names: tuple[str, ...], library: Path, root: Path
) -> Iterator[Path]:
    """The files inside ``library`` or ``root`` that one import in ``path`` runs."""
    prefix = tuple(LIBRARY.split("."))
    if level:
        start = path.parents[level - 1]
        if not (start.is_relative_to(library) or start.is_relative_to(root)):
            return
    elif module[: len(prefix)] == prefix:
        start, module = library, module[len(prefix) :]
    elif module[0] == root.name and root != library:
        start, module = root, module[1:]
    else:
        return
    for part in module:
        yield start / f"{part}.py"
        start /= part
        yield start / "__init__.py"
    for part in names:
        yield start / f"{part}.py"
        yield start / part / "__init__.py"


def _label(path: Path, bases: tuple[tuple[str, Path], ...]) -> str:
    for label, base in bases:
        if path.is_relative_to(base):
            return f"{label}/{path.relative_to(base).as_posix()}"
    return path.name


@functools.lru_cache(maxsize=256)
def _tokens(text: str, environment: jinja2.Environment) -> tuple[str, tuple[str | None, ...]]:
    """What of a Jinja source reaches the rendered text, and the templates that it names (None: by an expression).

    Tokens serve for both: parsing takes three times as long, and each command line waits for it.
    """
    kept: list[tuple[str, str]] = []
    for _, kind, value in environment.lex(text):
        if kind in _UNSEEN:
            continue
        if kind == "data" and kept and kept[-1][0] == "data":  # a comment stood between
            value = kept.pop()[1] + value
        kept.append((kind, value))
    told = "".join(f"{kind} {_dropped_space(value) if kind == 'data' else value.strip()}\n" for kind, value in kept)
    named = (i + 2 for i, (kind, _) in enumerate(kept) if kind == "block_begin" and kept[i + 1] in _REFERENCES)
    return told, tuple(kept[i][1][1:-1] if _ends_after(kept, i) else None for i in named)


def _ends_after(tokens: list[tuple[str, str]], i: int) -> bool:
    """Whether token ``i`` is a string that names one template, not the start of a list or an expression."""
    following = tokens[i + 1]
    names = following[0] == "name" and following[1] not in ("if", "in", "is", "and", "or", "not")
    return tokens[i][0] == "string" and (names or following[0] == "block_end")


def _dropped_space(text: str) -> str:
    """``text`` without the white space that rendering drops: at the ends of lines, and of several empty lines."""
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+(?=\n)", "", text))


__all__ = ["family_hash", "modules", "sources"]
