"""``gpu-tune records``: list, export and import what was tried."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import click

from .. import text
from ..errors import InvalidInput
from ..kernel.emit import figure
from ..trial import PREDICTED, SOURCES
from . import options


@click.command(help="List, export and import the trials kept so far.")
@click.option("--source", type=click.Choice([*SOURCES, "all"]), default="all", show_default=True)
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
    from ..store import interchange, records

    kept = records.Records()
    if import_files:
        _import(kept, import_files)
        return
    sources = SOURCES if source == "all" else (source,)
    found = [r for s in sources for r in kept.read(s, chip=chip, key=key)]
    if template is not None:
        found = [r for r in found if r.measurement.candidate.template == template]
    if csv_file is not None:
        _write(csv_file, records.to_csv(found))
    if t4_file is not None or kt_file is not None:
        recorded = records.as_recorded(found)
        if t4_file is not None:
            interchange.save_t4(recorded, t4_file)
        if kt_file is not None:
            interchange.save_kernel_tuner(recorded, kt_file)
        click.echo(f"{len(recorded.trials)} trials written", err=True)
    if csv_file is None and t4_file is None and kt_file is None:
        _list(found, str(kept.folder), as_json)


def _import(kept: Any, names: tuple[str, ...]) -> None:
    from ..store import records

    texts = [(n, options.read_text("--import", n, "name a .jsonl file of records")) for n in names]  # before any write
    known = {r.line() for s in SOURCES for r in kept.read(s)}
    added = 0
    for name, content in texts:
        found = list((records.from_csv if name.endswith(".csv") else records.read_text)(content, name))
        if content.strip() and not found:
            remedy = "name a .jsonl or .csv file that gpu-tune wrote, or use replay for other formats"
            raise InvalidInput("--import", name, "holds no record", remedy)
        new = [r for r in found if r.line() not in known]
        for r in new:
            kept.append(r)
            known.add(r.line())
        added += len(new)
    kept.close()
    click.echo(f"{added} records added")


def _list(found: list[Any], folder: str, as_json: bool) -> None:
    groups: dict[tuple[str, str, str, str], list[Any]] = defaultdict(list)
    for r in found:
        groups[r.source, r.chip, r.workload.key, r.measurement.candidate.template].append(r.measurement)
    rows: list[dict[str, Any]] = [
        {
            **dict(zip(("source", "chip", "workload", "template"), group)),
            "trials": len(trials),
            "statuses": dict(Counter(m.status for m in trials)),
            **_best(trials),
        }
        for group, trials in sorted(groups.items(), key=lambda item: item[0])
    ]
    if as_json:
        options.echo_json({"folder": folder, "groups": rows})
    elif not rows:
        click.echo(f"no records in {folder}")
    else:
        options.print_table(
            ("workload", "chip", "source", "template", "trials", "best", "ended"),
            map(_cells, rows),
            title=f"{len(found)} trials in {folder}",
            right=("trials", "best"),
            apart=("source", "chip", "workload"),
        )


def _best(trials: list[Any]) -> dict[str, Any]:
    """Of trials of one workload: the least time, if it may be told, and what is said of it."""
    best = min((m for m in trials if m.ok), key=lambda m: m.time, default=None)
    if best is None:
        return {"best_seconds": None, "best": "-"}
    told = best.source != PREDICTED or best.environment.get("judged")
    said = figure(best.time, best.source, best.environment) if told else "not judged"
    return {"best_seconds": best.time if told else None, "best": said}


def _cells(row: dict[str, Any]) -> list[str]:
    ended = ", ".join(f"{n} {status}" for status, n in row["statuses"].items())
    return [row["workload"], row["chip"], row["source"], row["template"], str(row["trials"]), row["best"], ended]


def _write(name: str, table: str) -> None:
    if name == "-":
        click.echo(table, nl=False)
        return
    try:
        text.write(name, table)
    except OSError as error:
        raise InvalidInput("--csv", name, f"cannot be written ({error.strerror})", "name another file") from error
