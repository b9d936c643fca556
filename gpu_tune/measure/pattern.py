"""Where wrong elements lie, in words: a lost fragment, a tail or a swizzle is known by its rows and columns."""

from __future__ import annotations

import numpy as np

_MODULI = (2, 4, 8, 16, 32, 64, 128, 256)


def where(wrong: np.ndarray, unwritten: np.ndarray | None = None) -> str:
    """Rows and columns of the True elements of ``wrong``; the last axis counts as columns, all others as rows.

    For each: the range, and the modulus that tells most, where they are at most half of its residues. ``unwritten``
    (the same shape): elements that still hold the poison.
    """
    flat = wrong.reshape(-1, wrong.shape[-1]) if wrong.ndim > 1 else wrong.reshape(1, -1)
    told = [f"{name} {_places(np.any(flat, axis=axis))}" for name, axis in (("rows", 1), ("columns", 0))]
    if unwritten is not None:
        told.append(f"{int((wrong & unwritten).sum())} of them not written")
    return ", ".join(told)


def _places(hit: np.ndarray) -> str:
    """``8-127 of 128 (8-15 mod 16)``-like words for the True elements of a vector."""
    at = np.flatnonzero(hit)
    if at.size == hit.size:
        return "all"
    if at.size < 2:
        return f"{', '.join(map(str, at))} of {hit.size}"
    residues = {m: np.unique(at % m) for m in _MODULI if 2 * m <= hit.size}
    best = min(residues, key=lambda m: residues[m].size / m, default=0)
    telling = best and 2 * residues[best].size <= best
    return f"{at[0]}-{at[-1]} of {hit.size}" + (f" ({_ranges(residues[best])} mod {best})" if telling else "")


def _ranges(numbers: np.ndarray) -> str:
    """Sorted integers as ranges, the first few of them: ``0-7,16-23``."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    words = [f"{r[0]}-{r[-1]}" if r.size > 1 else f"{r[0]}" for r in runs[:6]]
    return ",".join(words) + (",..." if len(runs) > 6 else "")
