"""``gpu-tune export``: winners into a folder that can be committed, or used from C++."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import text
from ..errors import NotTuned, StoreError, require
from ..store.store import Store
from ..store.winner_set import WinnerSet
from ..trial import MEASURED, PREDICTED
from . import options


@click.command(help="Publish measured winners into a folder, for a repository (kernels/) or for C++.")
@click.option("--to", "target", required=True, metavar="FOLDER", help="Such as kernels/; made when missing.")
@click.option("--chip", help="Of this chip only.")
@click.option("--workload", "key", help="The workload with this key only.")
@click.option(
    "--predicted", is_flag=True, help="Winners with predicted times instead (they answer for no real device)."
)
@click.option(
    "--cpp", is_flag=True, help="Also write kernel.hpp, a C++ header that runs the kernel through the driver API."
)
@options.store_option
@options.json_option
def command(
    target: str, chip: str | None, key: str | None, predicted: bool, cpp: bool, store: Store, as_json: bool
) -> None:
    """Copies winners, each by one rename; a damaged one is left out, with a message."""
    from ..kernel.export_cpp import header, set_header

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
            if cpp:
                made = (
                    set_header(w) if isinstance(w, WinnerSet) else header(w.plan, w.workload, chip=w.chip, view=w.view)
                )
                _write(path / "kernel.hpp", made)
            written.append({"workload": w.workload.key, "chip": w.chip, "path": str(path)})
    if not written:
        hint = " (there are predicted ones: --predicted)" if source == MEASURED else ""
        raise NotTuned(f"the store has no {source} winner to export{hint}; run gpu-tune tune first")
    if as_json:
        options.echo_json(written)
    else:
        click.echo("\n".join(row["path"] for row in written))


def _write(path: Path, code: str) -> None:
    try:
        text.write(path, code)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
