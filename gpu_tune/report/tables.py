"""Tables for terminals. Where one is too narrow, long texts such as keys get a line of their own above their row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table as RichTable

INDENT = 2
"""Columns of a terminal by which rows stand in below the line of their own."""
LEAST = 12
"""Columns of a terminal for the last column of such a row: with less, rows are told as pairs of name and text."""


@dataclass(frozen=True)
class Table:
    """``rows`` of texts (str, or rich's) below ``columns``, for a rich console.

    ``right``: the columns of numbers; ``framed``: whether it has a frame. ``apart``: the columns that go to a line of
    their own, above the rows that have them alike, where the whole is wider than the terminal.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    right: Collection[str] = ()
    framed: bool = True
    apart: Collection[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.text import Text

        if self.title:  # not the table's: rich breaks that at the width of the table
            yield Text(self.title, "italic")
        broad = sum(self._widths()) + (3 * len(self.columns) + 1 if self.framed else 2 * len(self.columns))
        if not self.apart or broad <= options.max_width:
            yield self._made(self.rows)
        else:
            yield from self._in_lines(options.max_width)

    def _widths(self) -> list[int]:
        """Of each column, as broad as its longest text."""
        from rich.cells import cell_len

        cells = (self.columns, *self.rows)
        return [max(cell_len(str(row[i])) for row in cells) for i in range(len(self.columns))]

    def _made(self, rows: Sequence[Sequence[Any]], head: bool = True, widths: Sequence[int] = ()) -> RichTable:
        from rich.table import Table as RichTable

        plain: dict[str, Any] = {"box": None, "padding": (0, 2, 0, 0), "header_style": "bright_black"}
        made = RichTable(show_header=head, **({} if self.framed else plain))
        for i, name in enumerate(self.columns):
            justify: Any = "right" if name in self.right else "left"
            made.add_column(name, overflow="fold", justify=justify, width=widths[i] if widths else None)
        for row in rows:
            made.add_row(*row)
        return made

    def _in_lines(self, width: int) -> Iterator[Any]:
        """The rows without the columns ``apart``, each below a line of those unless it is the line before."""
        from rich.padding import Padding
        from rich.text import Text

        kept = [i for i, name in enumerate(self.columns) if name not in self.apart]
        bare = replace(self, columns=[self.columns[i] for i in kept], framed=False)
        rows = [[row[i] for i in kept] for row in self.rows]
        widths = replace(bare, rows=rows)._widths()
        room = width - INDENT - sum(widths[:-1]) - 2 * len(widths)
        aligned = room >= min(widths[-1], LEAST)
        widths[-1] = min(widths[-1], room)
        if aligned:
            yield Padding(bare._made((), widths=widths), (0, 0, 0, INDENT))
        said: Any = None
        for whole, row in zip(self.rows, rows):
            line = [str(text) for name, text in zip(self.columns, whole) if name in self.apart]
            if line != said:
                yield Text("  ".join(line), "bold")
            said = line
            row_only = bare._made((row,), head=False, widths=widths) if aligned else bare._pairs(row, width - INDENT)
            yield Padding(row_only, (0, 0, 0, INDENT))

    def _pairs(self, row: Sequence[Any], width: int) -> Any:
        """A row as names and texts, a pair unbroken as long as it fits a line."""
        from rich.text import Text

        lines = [Text()]
        for name, text in zip(self.columns, row):
            pair = Text.assemble((name + " ", "bright_black"), text)
            if lines[-1].cell_len and lines[-1].cell_len + 2 + pair.cell_len > width:
                lines.append(Text())
            lines[-1].append("  " if lines[-1].cell_len else "").append_text(pair)
        return Text("\n").join(lines)
