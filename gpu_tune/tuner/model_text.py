"""The report of a tuned model as text, for terminals of any width."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..kernel.emit import duration
from ..report.tables import Table
from ..trial import PREDICTED

if TYPE_CHECKING:
    from ..torch.extraction import Extraction, LeftOut

WIDTH = 120
"""Columns of the text of ``str(tuned)``."""
ENDED = {
    "trials": "all trials used",
    "seconds": "time used",
    "plateau": "no more gain expected",
    "interrupted": "interrupted: the same call goes on",
    "device lost": "the device was lost",
    "": "the store answered, nothing was compiled",
}


def told(tuned: Any) -> str:
    """The report of a :class:`~.tuned_model.TunedModel` as plain text."""
    from rich.console import Console

    file = io.StringIO()
    show(tuned, Console(file=file, width=WIDTH, highlight=False))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def show(tuned: Any, console: Any) -> None:
    """Print the report on a rich console."""
    from rich.text import Text

    found = tuned.extraction
    console.print(Text(f"{found.model} on {tuned.chip}: {_found(found)}", "bold"))
    mark = "predicted, not measured" if tuned.source == PREDICTED else "measured"
    columns = ("workload", "calls", "FLOPs", "time", "ours", "over default", "vendor", "runs")
    rows = [_row(tuned, r) for r in tuned.results]
    console.print(Table(columns, rows, mark, columns[1:7], True, ("workload",)))
    console.print(_named_lines(_below(tuned)))


def show_found(found: Extraction, console: Any, chip: str) -> None:
    """Print what a model multiplies, before anything is tuned."""
    from rich.text import Text

    console.print(Text(f"{found.model} for {chip}: {_found(found)}", "bold"))
    columns = ("workload", "calls", "FLOPs", "modules")
    rows = [(v.workload.key, str(v.count), _share(found.share(v.flops)), _names(v.names)) for v in found.layers]
    console.print(Table(columns, rows, "", columns[1:3], True, ("workload",)))
    if found.left_out or found.notes:
        console.print(_named_lines(_left_out(found)))


def _named_lines(lines: Iterator[tuple[str, str]]) -> Any:
    """Texts wrapped beside their names."""
    from rich.table import Table as RichTable

    grid = RichTable.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bright_black", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in lines:
        grid.add_row(name, text)
    return grid


def _found(found: Extraction) -> str:
    calls = sum(layer.count for layer in found.layers)
    whole = f"{_share(found.found)} of {_flop(found.flops)} a pass"
    return f"{len(found.layers)} workloads in {calls} calls are {whole}"


def _row(tuned: Any, r: Any) -> tuple[str, ...]:
    unknown = "not tuned" if r.kernel is None else "not judged"
    vendor = duration(r.vendor[1]) if r.vendor else "-"
    return (
        r.layer.workload.key,
        str(r.layer.count),
        _share(tuned.extraction.share(r.layer.flops)),
        _share(tuned.share(r)),
        duration(r.seconds) if r.seconds else unknown,
        f"{r.speedup:.2f}x" if r.speedup else "-",
        vendor,
        r.chosen,
    )


def _below(tuned: Any) -> Iterator[tuple[str, str]]:
    """(name, text) of what stands below the table."""
    yield from _left_out(tuned.extraction)
    for r in tuned.results:
        if r.kernel is None:
            yield "not tuned", f"{r.layer.workload.key}: {r.reason}"
    copied = [f"{_names(r.layer.names)} ({', '.join(r.layer.copies)})" for r in tuned.results if r.layer.copies]
    if copied:
        yield "copied first", "; ".join(copied)
    totals = tuned.totals()
    if totals is not None:
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in totals.items())
        yield "all layers", f"{parts} a pass, measured apart from each other"
    elif tuned.source == PREDICTED:
        yield "vendor", "not timed: nothing was measured, so what runs is undecided (until then the vendor's)"
    if tuned.forward is not None:
        f = tuned.forward
        replaced, rewritten = (f"{duration(t)} ({f.before / t:.2f}x)" for t in (f.replaced, f.rewritten))
        yield (
            "forward",
            f"{duration(f.before)} before, {replaced} with {f.layers} layers replaced, {rewritten} rewritten",
        )
    elif tuned.no_forward:
        yield "forward", tuned.no_forward
    yield "trials", f"{tuned.trials} in {tuned.seconds:.1f} s ({ENDED.get(tuned.ended, tuned.ended)})"


def _left_out(found: Extraction) -> Iterator[tuple[str, str]]:
    for part in found.left_out:
        yield "left out", _named(found, part)
    for note in found.notes:
        yield "note", note


def _named(found: Extraction, part: LeftOut) -> str:
    share = "FLOPs unknown" if part.flops is None else f"{_share(found.share(part.flops))} of the FLOPs"
    calls = f"{part.count} call{'s' if part.count != 1 else ''}"
    return f"{part.operation}, {share}, {calls} ({_names(part.names)}): {part.reason}"


def _names(names: tuple[str, ...], most: int = 3) -> str:
    """Some module names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _share(share: float | None) -> str:
    """A share as a percentage; nothing that is there shows as 0."""
    if share is None:
        return "-"
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _flop(flops: int) -> str:
    for name, scale in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6)):
        if flops >= scale:
            return f"{flops / scale:.3g} {name}"
    return f"{flops} FLOP"
