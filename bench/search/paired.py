"""Searchers compared run by run: means over the runs of the same seeds, and the differences of those, with intervals.

A needle space is read from the runs on its recorded space: the seeds of one recorded space are drawn together with
those of its needles, and the spaces apart from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOUND = 0.99
Curves = dict[str, dict[str, NDArray[np.float64]]]


def base(space: str) -> str:
    """The recorded space whose runs those of ``space`` are."""
    return space.split("-needle")[0]


def interval(values: dict[str, NDArray[np.float64]], draws: int) -> NDArray[np.float64]:
    """(2, marks): the middle 95 % of the mean over spaces of the mean over seeds of ``values`` (seeds, marks)."""
    rng, total = np.random.default_rng(0), np.zeros(())
    for name in dict.fromkeys(map(base, values)):
        own = np.sum([v for n, v in values.items() if base(n) == name], axis=0)
        total = total + own[rng.integers(0, len(own), (draws, len(own)))].mean(axis=1)
    return np.asarray(np.quantile(total / len(values), (0.025, 0.975), axis=0))


def groups(spaces: Sequence[str]) -> dict[str, list[str]]:
    """All spaces, and the recorded and the needle spaces where there are both."""
    needles = [n for n in spaces if base(n) != n]
    recorded = [n for n in spaces if base(n) == n]
    return {"all": list(spaces)} | ({"recorded": recorded, "needles": needles} if needles else {})


def compare(curves: Curves, marks: Sequence[int], draws: int = 4000) -> dict[str, Any]:
    """By group of spaces: the mean ratio at each mark and the share of runs that came within 1 % at the end, of each
    searcher; what the last searcher is ahead of each other one, with 95 % intervals; and the space in which the median
    run is farthest behind at the last mark."""
    last = list(curves)[-1]
    out: dict[str, Any] = {}
    for label, names in groups(list(curves[last])).items():
        at = {s: {n: _at(by[n], marks) for n in names} for s, by in curves.items()}
        out[label] = {
            "spaces": len(names),
            "mean": {s: np.mean([v.mean(axis=0) for v in by.values()], axis=0).tolist() for s, by in at.items()},
            "ahead": {},
        }
        for other in list(curves)[:-1]:
            gain = {n: at[last][n] - at[other][n] for n in names}
            behind = {n: float(np.median(at[last][n][:, -2]) - np.median(at[other][n][:, -2])) for n in names}
            worst = min(behind, key=lambda n: behind[n])
            mean = np.mean([g.mean(axis=0) for g in gain.values()], axis=0)
            low, high = interval(gain, draws)
            rows = [[float(x) for x in three] for three in zip(mean, low, high)]
            out[label]["ahead"][f"{last} - {other}"] = {"at": rows, "worst": worst, "median_there": behind[worst]}
    return out


def _at(curves: NDArray[np.float64], marks: Sequence[int]) -> NDArray[np.float64]:
    """(seeds, marks + 1): the ratio at each mark, and whether the run came within 1 % at the end."""
    some = curves[:, [min(m, curves.shape[1]) - 1 for m in marks]]
    return np.concatenate([some, curves[:, -1:] >= FOUND], axis=1)


def told(found: dict[str, Any], marks: Sequence[int]) -> str:
    """The same for people."""
    lines = []
    for label, group in found.items():
        lines.append(f"means over runs, {group['spaces']} spaces ({label}); in the last column: within 1 % at the end")
        for s, row in group["mean"].items():
            lines.append(f"  {s:40}" + "".join(f"{x:>8.3f}" + 18 * " " for x in row))
        for pair, ahead in group["ahead"].items():
            cells = "".join(f"{x:>+8.3f} [{a:+.3f}, {b:+.3f}]" for x, a, b in ahead["at"])
            lines.append(f"  {pair:40}{cells}")
            lines.append(
                f"{'':12}farthest behind by medians at {marks[-1]}: {ahead['worst']} {ahead['median_there']:+.3f}"
            )
    return "\n".join(lines)
