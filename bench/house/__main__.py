"""``python -m bench.house COMMAND ...`` from the root of the repository."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {"count": "count", "golden": "golden", "trace": "trace"}
"""The module of each command; its ``main(argv)`` returns the exit code."""


def main(argv: list[str]) -> int:
    """Hand over to the command's module."""
    if not argv or argv[0] not in COMMANDS:
        print(f"usage: python -m bench.house {'|'.join(COMMANDS)} ...", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"{__package__}.{COMMANDS[argv[0]]}").main(argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
