"""Tables of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.performance_model.metrics import FIRST


def rows(title: str, found: Sequence[dict[str, Any]]) -> str:
    """Geometric mean (5 % quantile) of best / best of the first k, and the mean rank correlation."""
    head = f"{title[:30]:30}{'n':>5}" + "".join(f"{f'top {k}':>12}" for k in FIRST[:3]) + f"{'rank':>7}"
    lines = [head]
    for r in found:
        cells = "".join(f"{r[f'top{k}']:>6.3f}({r[f'low{k}']:.2f})" for k in FIRST[:3])
        lines.append(f"{r['name'][:30]:30}{r['shapes']:>5}{cells}{r['rank_correlation']:>7.2f}")
    return "\n".join(lines)


def paired(name: str, found: dict[str, Any]) -> str:
    """Differences of log shares with their intervals."""
    lines = [f"{name}: difference (95 % interval)"]
    for key, value in found.items():
        low, high = value["interval"]
        lines.append(f"  {key:20}{value['mean']:>+9.4f} ({low:+.4f} to {high:+.4f})")
    return "\n".join(lines)


def marks(found: Sequence[dict[str, Any]]) -> str:
    """What was asked for and what was reached."""
    return "\n".join(
        f"{'met ' if m['met'] else 'MISS'} {m['name'][:58]:58}{m['value']:>8.3f} {m['mark']:>7}" for m in found
    )


def intervals(found: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """Factors of the predicted time, by what multiplies and what limits, and the measured times that lie within."""
    lines = [f"{'measured / predicted':20}{'limited by':>12}{'from':>8}{'to':>8}{'times':>8}{'within':>8}"]
    for name, rows in found.items():
        for r in rows:
            if r["times"]:
                which = f"{name:20}{r['limiter'] or 'others':>12}"
                lines.append(f"{which}{r['low']:>8.2f}{r['high']:>8.2f}{r['times']:>8}{r['coverage']:>8.1%}")
    return "\n".join(lines)
