"""``gpu-tune export``: winners into a folder that can be committed, or used from C++."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import NotTuned, require
from ..store.store import Store
from ..trial import MEASURED, PREDICTED
from . import options


@click.command(help="Publish measured winners into a folder, for a repository (kernels/) or for C++.")
@click.option("--to", "target", metavar="FOLDER", help="Such as kernels/; made when missing.")
@click.option("--check", metavar="FOLDER", help="Instead: whether an exported folder is whole and fits this machine.")
@click.option("--chip", help="Of this chip only.")
@click.option("--workload", "key", help="The workload with this key only.")
@click.option(
    "--predicted", is_flag=True, help="Winners with predicted times instead (they answer for no real device)."
)
@click.option(
    "--cpp",
    is_flag=True,
    help="Also write C++ headers that run the kernels through the driver API, and one CMake package of the folder.",
)
@options.store_option
@options.device_option
@options.json_option
def command(
    target: str | None,
    check: str | None,
    chip: str | None,
    key: str | None,
    predicted: bool,
    cpp: bool,
    store: Store,
    device: str | None,
    as_json: bool,
) -> None:
    """Copies winners, each by one rename, and writes a manifest; a damaged one is left out, with a message."""
    from ..kernel import export_cmake, export_folder

    one = (target is None) != (check is None)
    require(one, "export", ..., "needs a folder to write to, or one to check", "give --to FOLDER, or --check FOLDER")
    if check is not None:
        opened = export_folder.open_export(check, device=device)
        rows = export_folder.read_manifest(opened.folder)["winners"]
        if as_json:
            options.echo_json(rows)
        else:
            click.echo(f"{opened.folder} is whole and fits: {len(rows)} winners")
        return
    assert target is not None
    source = PREDICTED if predicted else MEASURED
    require(Path(target).is_dir() or not Path(target).exists(), "--to", target, "is not a folder", "name a folder")
    written: list[dict[str, Any]] = []
    destination = Store(target)
    for entry in store.entries():
        w = entry.winner or entry.winner_set
        if w is None:
            click.echo(f"{entry.path} {entry.problem}: left out", err=True)
        elif w.source == source and chip in (None, w.chip) and key in (None, w.workload.key):
            path = destination.publish(w)
            written.append({"workload": w.workload.key, "chip": w.chip, "path": str(path)})
    if not written:
        hint = " (there are predicted ones: --predicted)" if source == MEASURED else ""
        raise NotTuned(f"the store has no {source} winner to export{hint}; run gpu-tune tune first")
    export_folder.write_manifest(destination.folder)
    if cpp:
        export_cmake.write(destination.folder)
    if as_json:
        options.echo_json(written)
    else:
        click.echo("\n".join(row["path"] for row in written))
