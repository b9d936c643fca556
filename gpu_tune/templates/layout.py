"""How emitted sources are laid out: indentation follows the braces, whatever the macros that wrote the lines did."""

from __future__ import annotations

import re

_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|//.*')


def reindent(text: str, step: int = 4) -> str:
    """``text`` with every line indented by its depth in braces; one that starts with ``:`` continues the last."""
    depth = 0
    lines: list[str] = []
    for line in (raw.strip() for raw in text.splitlines()):
        code = _LITERAL.sub("", line)
        closing = len(code) - len(code.lstrip("}"))
        inside = max(depth - closing, 0) * step + (13 if line.startswith((": ", ":: ")) else 0)
        if line.startswith("else") and lines and lines[-1].strip() == "}":
            lines[-1] += " " + line
        elif line:
            lines.append(" " * inside + line)
        elif lines and lines[-1] and not lines[-1].endswith("{"):
            lines.append("")
        depth += code.count("{") - code.count("}")
    return "\n".join(lines) + "\n"
