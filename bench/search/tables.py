"""What bench.search tells of its runs: statistics, the table, the plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_tune.search.observations import LEAST, PATIENCE, stopped


def summary(curves: dict[str, dict[str, np.ndarray]], marks: Sequence[int], draws: int = 1000) -> dict[str, Any]:
    """Per searcher: mean over spaces of the median ratio at each mark, trials to 95 % and 99 %, with intervals."""
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {}
    samples: dict[str, np.ndarray] = {}
    seeds = next(iter(next(iter(curves.values())).values())).shape[0]
    picks = rng.integers(0, seeds, (draws, seeds))
    for searcher, by_space in curves.items():
        at = np.stack([c[:, [min(m, c.shape[1]) - 1 for m in marks]] for c in by_space.values()])
        boot = np.stack([np.median(a[picks], axis=1) for a in at]).mean(axis=0)
        samples[searcher] = boot
        need = {g: np.stack([first(c, g) for c in by_space.values()]) for g in (0.95, 0.99)}
        out[searcher] = {
            "ratio": np.median(at, axis=1).mean(axis=0).tolist(),
            "low": np.quantile(boot, 0.025, axis=0).tolist(),
            "high": np.quantile(boot, 0.975, axis=0).tolist(),
            "lower_quartile": np.quantile(at, 0.25, axis=1).mean(axis=0).tolist(),
            "trials_to": {f"{g:.2f}": float(np.median(n, axis=1).mean()) for g, n in need.items()},
            "not_reached": {
                f"{g:.2f}": float(np.mean([np.mean(c[:, -1] < g) for c in by_space.values()])) for g in need
            },
            "spaces": {
                s: {
                    "ratio": np.median(a, axis=0).tolist(),
                    "lower_quartile": np.quantile(a, 0.25, axis=0).tolist(),
                    "trials_to_0.99": float(np.median(first(c, 0.99))),
                    "reached_0.99": float(np.mean(c[:, -1] >= 0.99)),
                }
                for (s, c), a in zip(by_space.items(), at)
            },
        }
        out[searcher]["plateau"] = {str(risk): plateau(by_space, risk) for risk, _ in PATIENCE}
    names = list(curves)
    out["differences"] = {
        f"{b} - {a}": {
            "mean": (np.array(out[b]["ratio"]) - out[a]["ratio"]).tolist(),
            "low": np.quantile(samples[b] - samples[a], 0.025, axis=0).tolist(),
            "high": np.quantile(samples[b] - samples[a], 0.975, axis=0).tolist(),
        }
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }
    return out


def plateau(by_space: dict[str, np.ndarray], risk: float) -> dict[str, float]:
    """When the stopping rule ends the runs (mean over spaces of the median; the budget where it does not), and the
    share of runs whose best at that moment is more than 1 % behind their best at the end."""
    at, lost = [], []
    for curves in by_space.values():
        ends = []
        for curve in curves:
            times = np.divide(1.0, curve, out=np.full(len(curve), np.inf), where=curve > 0)
            end = next((n for n in range(LEAST, len(times)) if stopped(times[:n], risk)), len(times))
            ends.append(end)
            lost.append(curve[end - 1] < 0.99 * curve[-1])
        at.append(np.median(ends))
    return {"trials": float(np.mean(at)), "lost": float(np.mean(lost))}


def first(curves: np.ndarray, goal: float) -> np.ndarray:
    """Trials until each run reaches ``goal``; the budget where it does not."""
    hit = curves >= goal
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, curves.shape[1])


def show(result: dict[str, Any], marks: Sequence[int]) -> str:
    """The table for people."""
    lines = [
        f"optimum / best found, mean over spaces of the median over {len(result['seeds'])} seeds [95 % interval]",
        f"{'searcher':28}" + "".join(f"{m:>22}" for m in marks) + f"{'to 95 %':>9}{'to 99 %':>9}{'s/run':>8}",
    ]
    for name, r in result["searchers"].items():
        cells = "".join(f"{x:>8.3f} [{a:.3f}-{b:.3f}]" for x, a, b in zip(r["ratio"], r["low"], r["high"]))
        lines.append(
            f"{name:28}{cells}{r['trials_to']['0.95']:>9.0f}{r['trials_to']['0.99']:>9.0f}{r['seconds']:>8.2f}"
        )
    part = result.get("with_other_devices")
    if part:
        lines.append(f"the same over the {len(part['spaces'])} spaces with records of other devices")
    for name, r in part["searchers"].items() if part else ():
        cells = "".join(f"{x:>8.3f} [{a:.3f}-{b:.3f}]" for x, a, b in zip(r["ratio"], r["low"], r["high"]))
        lines.append(f"{name:28}{cells}{r['trials_to']['0.95']:>9.0f}{r['trials_to']['0.99']:>9.0f}")
    for name, r in result["searchers"].items():
        stops = "  ".join(f"risk {k}: {v['trials']:.0f} trials, {v['lost']:.1%} lost" for k, v in r["plateau"].items())
        lines.append(f"{name:28} plateau rule: {stops}")
    for pair, d in result["differences"].items():
        cells = "".join(f"{x:>+8.3f} [{a:+.3f},{b:+.3f}]" for x, a, b in zip(d["mean"], d["low"], d["high"]))
        lines.append(f"{pair:28}{cells}")
    for name, r in result["searchers"].items():
        lines.extend(
            f"  {name:12} {space:44}"
            + "".join(f"{x:>7.3f}" for x in s["ratio"])
            + f"{s['trials_to_0.99']:>7.0f}{s['reached_0.99']:>7.0%}"
            for space, s in r["spaces"].items()
        )
    return "\n".join(lines)


def plot(curves: dict[str, dict[str, np.ndarray]], path: str) -> None:
    """Median ratio, averaged over spaces, against trials."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name, by_space in curves.items():
        length = min(c.shape[1] for c in by_space.values())
        middle = np.mean([np.median(c[:, :length], axis=0) for c in by_space.values()], axis=0)
        axes.plot(np.arange(1, length + 1), middle, label=name)
    axes.set(xlabel="configs measured", ylabel="optimum time / best time found", ylim=(0.6, 1.005), xscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
