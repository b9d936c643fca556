"""Interchange: Kernel Tuner cache files and T4 results, read and written, ``.json`` or ``.json.gz``.

Formats: kernel_tuner/schema (cache 1.0.0, T4 1.0.0) and the autotuning community's hub. In memory times are seconds.
Files come from strangers: size, nesting, keys, numbers and duplicates are checked, and anything amiss is one
CorruptData naming the file and the entry.
"""

from __future__ import annotations

import os

from ...errors import CorruptData
from ..recorded_space import Recorded, RecordedSpace, RecordedTrial
from . import files, kernel_tuner, t4
from .kernel_tuner import save as save_kernel_tuner
from .t4 import save as save_t4

__all__ = ["Recorded", "RecordedSpace", "RecordedTrial", "load", "save_kernel_tuner", "save_t4"]


def load(path: str | os.PathLike[str]) -> Recorded:
    """Read a Kernel Tuner cache file (also one left open by its writer) or a T4 results file.

    InvalidInput when it cannot be read, CorruptData when its content is not one of the two.
    """
    name = os.fspath(path)
    data = files.parse(files.read(name), name)
    if isinstance(data, dict) and isinstance(data.get("cache"), dict):
        return kernel_tuner.parse(data, name)
    if isinstance(data, dict) and isinstance(data.get("results"), list):
        return t4.parse(data, name)
    raise CorruptData(
        f"{name}: is neither a Kernel Tuner cache file (an object with 'cache') nor T4 results (with 'results')"
    )
