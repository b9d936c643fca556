"""``gpu-tune gc``: what nobody needs any more."""

from __future__ import annotations

import contextlib
import stat
import time
from pathlib import Path

import click

from .. import paths
from ..emulator import build
from ..errors import CompilerMissing
from ..store.store import Store
from . import options


@click.command(
    help="Remove damaged winners, leftovers of killed runs and compiled candidates. Winners and records stay."
)
@click.option(
    "--keep-days",
    type=click.FloatRange(0, 1e6),
    default=7.0,
    show_default=True,
    help="Compiled candidates used since then stay.",
)
@click.option("--quarantine", is_flag=True, help="Forget which configs took a GPU down: they may be tried again.")
@options.store_option
@options.json_option
def command(keep_days: float, quarantine: bool, store: Store, as_json: bool) -> None:
    """Frees disk space; never removes a sound winner or a record."""
    compiled = paths.root() / "compiled"
    for folder in (store.folder, compiled):
        paths.check_trusted(folder)
    count, size = store.gc() if store.folder.is_dir() else (0, 0)
    used: set[Path] = set()  # the emulator of this version stays: the next call would build it anew, in a minute
    with contextlib.suppress(CompilerMissing):
        used = build.current()
    made = (path for folder in (compiled, build.folder()) for path in folder.rglob("*") if path not in used)
    freed = [_remove(path, time.time() - keep_days * 86400) for path in made]
    with contextlib.suppress(CompilerMissing):
        freed += [_remove(path, time.time()) for path in build.damaged()]
    files, freed_bytes = len(freed) - freed.count(None), sum(filter(None, freed))
    journals = list((paths.root() / "started").glob("*.jsonl")) if quarantine else []
    for path in journals:
        path.unlink()
    if as_json:
        options.echo_json(
            {
                "quarantine_files": len(journals),
                "winner_directories": count,
                "winner_bytes": size,
                "compiled_files": files,
                "compiled_bytes": freed_bytes,
            }
        )
        return
    click.echo(f"{count} damaged or left-over winner directories removed ({size / 1e6:.1f} MB)")
    click.echo(f"{files} compiled candidates removed ({freed_bytes / 1e6:.1f} MB)")


def _remove(path: Path, before: float) -> int | None:
    """Delete a file that was last used before a time: the bytes it had; None where it stays."""
    with contextlib.suppress(OSError):
        info = path.lstat()
        if stat.S_ISREG(info.st_mode) and max(info.st_mtime, info.st_atime) <= before:
            path.unlink()
            return info.st_size
    return None
