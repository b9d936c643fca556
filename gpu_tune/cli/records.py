"""``gpu-tune records``: list, export and import what was tried."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from .. import text as textfiles
from ..errors import InvalidInput
from ..trial import MEASURED, PREDICTED, REPLAYED
from . import options


@click.command(help="List, export and import the trials kept so far.")
@click.option("--source", type=click.Choice([MEASURED, PREDICTED, REPLAYED, "all"]), default="all", show_default=True)
@click.option("--chip", help="Of this chip only, such as nvidia-h200-132sm-141gb.")
@click.option("--workload", "key", help="Of the workload with this key only.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write a table (- for standard output).")
@click.option("--t4", "t4_file", metavar="FILE", help="Write T4 results; needs one workload, chip and template.")
@click.option(
    "--kernel-tuner",
    "kt_file",
    metavar="FILE",
    help="Write a Kernel Tuner cache file; needs one workload, chip and template.",
)
@click.option("--template", help="Of this template only.")
@click.option(
    "--import",
    "import_files",
    multiple=True,
    metavar="FILE",
    help="Add the records of a .jsonl or .csv file (may be repeated).",
)
@options.json_option
def command(
    source: str,
    chip: str | None,
    key: str | None,
    csv_file: str | None,
    t4_file: str | None,
    kt_file: str | None,
    template: str | None,
    import_files: tuple[str, ...],
    as_json: bool,
) -> None:
    """Without options: how many trials of what are kept, where."""
    from ..store import records as r

    book = r.Records()
    if import_files:
        _import(book, import_files)
        return
    sources = [MEASURED, PREDICTED, REPLAYED] if source == "all" else [source]
    found = [x for s in sources for x in book.read(s, chip=chip, key=key)]
    if template is not None:
        found = [x for x in found if x.measurement.candidate.template == template]
    if csv_file is not None:
        _write(csv_file, r.to_csv(found))
    if t4_file is not None or kt_file is not None:
        from ..store import interchange

        recorded = r.as_recorded(found)
        if t4_file is not None:
            interchange.save_t4(recorded, t4_file)
        if kt_file is not None:
            interchange.save_kernel_tuner(recorded, kt_file)
        click.echo(f"{len(recorded.trials)} trials written", err=True)
    if csv_file is None and t4_file is None and kt_file is None:
        _list(found, str(book.folder), as_json)


def _import(book: Any, names: tuple[str, ...]) -> None:
    from ..store import records as r

    texts = []
    for name in names:  # read all before anything is written
        try:
            texts.append((name, textfiles.read(name)))
        except OSError as error:
            raise InvalidInput(
                "--import", name, f"cannot be read ({error.strerror})", "name a .jsonl file of records"
            ) from error
    known = {x.line() for s in r.SOURCES for x in book.read(s)}
    added = 0
    for name, text in texts:
        found = list(r.from_csv(text, name) if name.endswith(".csv") else r.read_text(text, name))
        new = [x for x in found if x.line() not in known]
        if text.strip() and not found:
            raise InvalidInput(
                "--import",
                name,
                "holds no record",
                "name a .jsonl or .csv file that gpu-tune wrote, or use replay for other formats",
            )
        for x in new:
            book.append(x)
            known.add(x.line())
        added += len(new)
    book.close()
    click.echo(f"{added} records added")


def _list(found: list[Any], folder: str, as_json: bool) -> None:
    groups: dict[tuple[str, str, str, str], list[Any]] = {}
    for x in found:
        groups.setdefault((x.source, x.chip, x.workload.key, x.measurement.candidate.template), []).append(
            x.measurement
        )
    rows: list[dict[str, Any]] = []
    for (source, chip, key, template), trials in sorted(groups.items()):
        timed = [m.time for m in trials if m.ok]
        rows.append(
            {
                "source": source,
                "chip": chip,
                "workload": key,
                "template": template,
                "trials": len(trials),
                "statuses": dict(Counter(m.status for m in trials)),
                "best_seconds": min(timed) if timed else None,
            }
        )
    if as_json:
        options.echo_json({"folder": folder, "groups": rows})
        return
    if not rows:
        click.echo(f"no records in {folder}")
        return
    from rich.console import Console
    from rich.table import Table

    from ..kernel.emit import duration

    table = Table(title=f"{len(found)} trials in {folder}", title_justify="left")
    for name in ("source", "chip", "workload", "template", "trials", "best", "ended"):
        table.add_column(name, overflow="fold", justify="right" if name in ("trials", "best") else "left")
    for row in rows:
        best = (
            "-"
            if row["best_seconds"] is None
            else duration(row["best_seconds"]) + (" (est.)" if row["source"] == PREDICTED else "")
        )
        table.add_row(
            row["source"],
            row["chip"],
            row["workload"],
            row["template"],
            str(row["trials"]),
            best,
            ", ".join(f"{n} {s}" for s, n in row["statuses"].items()),
        )
    Console().print(table)


def _write(name: str, text: str) -> None:
    if name == "-":
        click.echo(text, nl=False)
        return
    try:
        textfiles.write(name, text)
    except OSError as error:
        raise InvalidInput("--csv", name, f"cannot be written ({error.strerror})", "name another file") from error
