"""A search as one HTML file that stands alone: what was tried, what the models learned, how rightly they predict."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from ..kernel.emit import duration
from ..trial import PREDICTED
from .html import document, image, png, pyplot

COLOURS = ("#3366cc", "#cc5533", "#22aa77", "#8844aa", "#bb9900", "#557788")
SHOWN = 12
"""Features of a model that are drawn."""


def page(facts: Mapping[str, Any]) -> str:
    """The page for what ``gpu-tune show search --json`` prints. InvalidInput without matplotlib."""
    estimate = facts["source"] == PREDICTED
    ended = ", ".join(f"{n} {s.replace('_', ' ')}" for s, n in facts["statuses"].items()) or "none yet"
    lines = [f"{facts['trials']} trials: {ended}", f"{facts['records']} records are learned from"]
    if estimate:
        lines.append("times are estimates of an analytic model, not measurements")
    if facts["best"]:
        lines.append(f"best: {duration(facts['best']['seconds'])} with {facts['best']['key']}")
    lines += [judgement(name, s) for name, s in facts["spaces"].items() if "rank_correlation" in s]
    failures = "".join(
        f"<tr><td>{html.escape(f['status'])}</td><td>{f['count']}</td><td>{html.escape(f['reason'][:300])}</td></tr>"
        for f in facts["failures"]
    )
    body = "<ul>" + "".join(f"<li>{html.escape(x)}</li>" for x in lines) + "</ul>"
    body += "".join(image(name, data) for name, data in plots(facts).items())
    if failures:
        body += f"<h2>What failed</h2><table><tr><th>status</th><th>trials</th><th>why</th></tr>{failures}</table>"
    return document(f"Search for {facts['workload']} on {facts['device']}", body)


def judgement(name: str, space: Mapping[str, Any]) -> str:
    """One line on how rightly the model of a space predicts trials that it had not seen."""
    first = ", ".join(f"{float(x):.3f} among its first {k}" for k, x in space["top"].items())
    return (
        f"{name}: of two unseen trials the model tells the faster in {space['pairwise_accuracy']:.0%}, "
        f"rank correlation {space['rank_correlation']:.2f}; best time / best it would have picked: {first}"
    )


def plots(facts: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG images by title: every trial and the best so far; for each space with a model, what it goes by, and predicted
    against measured rank. InvalidInput without matplotlib."""
    plt = pyplot()
    made: dict[str, bytes] = {}
    names = list(facts["spaces"])
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    if any(t is not None for t in facts["curve"]):
        figure, axes = plt.subplots(figsize=(10, 4.8), layout="constrained")
        made["Trials and the best so far"] = _trials(figure, axes, facts, colour)
        plt.close(figure)
    for name, space in facts["spaces"].items():
        if not space.get("gain"):
            continue
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(13, 4.2), layout="constrained", width_ratios=(1, 1, 1.05)
        )
        made[f"What the model of {name} goes by, and how rightly it predicts"] = _model(
            figure, left, middle, right, name, space, colour[name]
        )
        plt.close(figure)
    return made


def _trials(figure: Any, axes: Any, facts: Mapping[str, Any], colour: Mapping[str, str]) -> bytes:
    points = list(enumerate(facts["points"], 1))
    for name in facts["spaces"]:
        mine = [(n, p["seconds"] * 1e6) for n, p in points if p["space"] == name and p["seconds"] is not None]
        if mine:
            axes.scatter(*zip(*mine), s=11, color=colour[name], alpha=0.6, linewidths=0, label=f"{name} ({len(mine)})")
    curve = [(n, t * 1e6) for n, t in enumerate(facts["curve"], 1) if t is not None]
    axes.step(*zip(*curve), where="post", color="#222", linewidth=1.4, label="best so far")
    axes.set_yscale("log")
    failed = [n for n, p in points if p["seconds"] is None]
    if failed:  # on the upper edge, whatever the times are
        top = axes.get_xaxis_transform()
        axes.scatter(
            failed,
            [0.985] * len(failed),
            transform=top,
            marker="|",
            s=45,
            color="#999",
            label=f"no time ({len(failed)})",
        )
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}" if str(f"{y:e}")[0] in "25" else "")
    axes.set_xlim(0, len(points) + 1)
    axes.set_xlabel("trial")
    axes.set_ylabel("time (us)")
    axes.grid(alpha=0.3, linewidth=0.5)
    estimate = " (estimates, not measurements)" if facts["source"] == PREDICTED else ""
    axes.set_title(f"{facts['workload']}{estimate}", fontsize=10)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=6, frameon=False)
    return png(figure)


def _model(figure: Any, left: Any, middle: Any, right: Any, name: str, space: Mapping[str, Any], colour: str) -> bytes:
    for axes, key, title in ((left, "gain", "share of split gain"), (middle, "shap", "mean |SHAP|")):
        shown = list(space[key].items())[:SHOWN]
        axes.barh([n for n, _ in shown], [v for _, v in shown], color=colour)
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=7)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(title, fontsize=9)
    count = len(space["measured"])
    right.plot([0, count - 1], [0, count - 1], color="#999", linewidth=1)
    right.scatter(space["measured"], space["predicted"], s=10, color=colour, alpha=0.7, linewidths=0)
    right.set_xlabel("measured rank (0: fastest)", fontsize=8)
    right.set_ylabel("predicted rank", fontsize=8)
    right.tick_params(labelsize=8)
    right.set_aspect("equal")
    right.set_title(
        f"predicted before it was seen\nrank correlation {space['rank_correlation']:.2f}, "
        f"{space['pairwise_accuracy']:.0%} of pairs",
        fontsize=9,
    )
    figure.suptitle(f"{name}: {space['trials']} trials", fontsize=10)
    return png(figure)
