"""``gpu-tune gc``: what nobody needs any more."""

from __future__ import annotations

import time
from pathlib import Path

import click

from .. import paths
from . import options


@click.command(
    help="Remove damaged winners, leftovers of killed runs and compiled candidates. Winners and records stay."
)
@click.option(
    "--keep-days",
    type=click.FloatRange(0),
    default=7.0,
    show_default=True,
    help="Compiled candidates used since then stay.",
)
@click.option("--quarantine", is_flag=True, help="Forget which configs took a GPU down: they may be tried again.")
@options.store_option
@options.json_option
def command(keep_days: float, quarantine: bool, store_folder: str | None, as_json: bool) -> None:
    """Frees disk space; never removes a sound winner or a record."""
    store = options.open_store(store_folder)
    paths.check_trusted(store.folder)
    count, size = store.gc() if store.folder.is_dir() else (0, 0)
    files = freed = 0
    compiled = paths.root() / "compiled"
    paths.check_trusted(compiled)
    for path in compiled.rglob("*") if compiled.is_dir() else ():
        files_, freed_ = _remove(path, keep_days * 86400)
        files, freed = files + files_, freed + freed_
    released = 0
    for path in (paths.root() / "started").glob("*.jsonl") if quarantine else ():
        path.unlink()
        released += 1
    facts = {
        "quarantine_files": released,
        "winner_directories": count,
        "winner_bytes": size,
        "compiled_files": files,
        "compiled_bytes": freed,
    }
    if as_json:
        options.echo_json(facts)
        return
    click.echo(f"{count} damaged or left-over winner directories removed ({size / 1e6:.1f} MB)")
    click.echo(f"{files} compiled candidates removed ({freed / 1e6:.1f} MB)")


def _remove(path: Path, older_than: float) -> tuple[int, int]:
    try:
        info = path.lstat()
        if not path.is_symlink() and path.is_file() and time.time() - max(info.st_mtime, info.st_atime) >= older_than:
            path.unlink()
            return 1, info.st_size
    except OSError:
        pass
    return 0, 0
