"""A user's cache folder for tests."""

from __future__ import annotations

from pathlib import Path

from gpu_tune import paths
from gpu_tune.emulator import build


def cache_folder(parent: Path, compiled_once: Path) -> Path:
    """An empty folder but for what takes long to make: the emulator's library and compiled sources, which all share."""
    build.library()
    folder = parent / "home"
    folder.mkdir(mode=0o700)
    (folder / "emulator").symlink_to(paths.root() / "emulator")
    (folder / "compiled").symlink_to(compiled_once)
    return folder
