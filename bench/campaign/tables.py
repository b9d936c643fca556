"""What a campaign found, as Markdown: marks, workloads against baselines, which knobs paid, what failed."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu_tune.cuda.device import Device
from gpu_tune.report import suites
from gpu_tune.report import summary as report
from gpu_tune.store.records import Record
from gpu_tune.workload import from_dict


def rows(results: Mapping[str, Mapping[str, Any]]) -> list[report.Row]:
    """The workloads that were tuned, as rows of a benchmark; the later comparison replaces the earlier one."""
    labels = {e.workload.key: e.label for name in ("headline",) for e in suites.load(name).entries}
    made = []
    for key, r in results["tuning"].items():
        if "failed" in r:
            continue
        versus = {**(r.get("versus") or {}), **(results["again"].get(key, {}).get("versus") or {})}
        made.append(
            report.Row(
                labels.get(key, key), from_dict(r["workload"]), versus.get("ours") or r["seconds"],
                versus.get("baselines", {}), versus.get("low"), versus.get("high"), bool(versus.get("decided")),
                r["template"], r["source"],
            )
        )  # fmt: skip
    return made


def workloads(results: Mapping[str, Mapping[str, Any]], device: Device) -> list[str]:
    """Every tuned workload: times, the ratio to the best baseline with its interval, rates; then the summary."""
    found = rows(results)
    names = sorted({n for r in found for n in r.baselines})
    head = ["workload", "template", "trials", "ours us", *(f"{n} us" for n in names)]
    head += ["ratio", "TFLOP/s", "GB/s", "roofline", "over default", "again"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    tuned = [(k, r) for k, r in results["tuning"].items() if "failed" not in r]
    for (key, r), row in zip(tuned, found):
        ratio = "-" if row.ratio is None else f"{row.ratio:.3f}"
        if row.ratio is not None and row.low is not None and row.high is not None:
            ratio += f" [{row.low:.3f}, {row.high:.3f}]" + ("" if row.decided else " tie")
        ours = row.ours or r["seconds"]
        first = (r.get("versus") or {}).get("ratio")
        again = (results["again"].get(key, {}).get("versus") or {}).get("ratio")
        repeated = f"{100 * (again / first - 1):+.1f}%" if again and first else "-"
        default = r.get("default_speedup")
        cells = [row.label, row.template, str(r["trials"]), f"{ours * 1e6:.2f}"]
        cells += [f"{row.baselines[n] * 1e6:.2f}" if n in row.baselines else "-" for n in names]
        cells += [ratio, f"{row.workload.flops / ours / 1e12:.4g}", f"{row.workload.bytes / ours / 1e9:.4g}"]
        cells += [
            f"{report.roofline(row.workload, device) / ours:.0%}",
            f"{default:.2f}x" if default else "-",
            repeated,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"| {k} | failed: {r['failed'][:120]} |" for k, r in results["tuning"].items() if "failed" in r]
    summary = report.summarise(found)
    lines += ["", report.text(summary) if summary else "No baseline was timed: nothing is compared."]
    absent: dict[str, str] = {}
    for r in (*results["tuning"].values(), *results["again"].values()):
        for name, reason in ((r.get("versus") or {}).get("absent") or {}).items():
            absent.setdefault(name, reason)
    lines += [""] * bool(absent) + [f"- {name} was not timed: {reason}" for name, reason in absent.items()]
    return lines


def knobs(records: Iterable[Record], least: int = 3) -> list[str]:
    """Which knob values paid, from random configs alone, one table a template.

    For each value: in how many percent the best config with it is faster than the best without it, and likewise the
    median config (which, unlike the best, does not gain from having more configs to choose from); geometric means over
    the workloads in which both sides have ``least`` timed configs. Values at the top should be proposed first, those
    at the bottom of both columns hardly ever.
    """
    spaces: dict[str, dict[str, list[tuple[Mapping[str, Any], float]]]] = defaultdict(lambda: defaultdict(list))
    failed: dict[str, Counter[str]] = defaultdict(Counter)
    for r in records:
        m = r.measurement
        failed[m.candidate.template][m.status] += 1
        if (m.ok or m.status == "duplicate") and m.samples:
            spaces[m.candidate.template][r.workload.key].append((m.candidate.config, statistics.median(m.samples)))
    lines: list[str] = []
    for template, shapes in sorted(spaces.items()):
        ends = ", ".join(f"{n} {s}" for s, n in failed[template].most_common())
        lines += ["", f"### {template}: {len(shapes)} workloads; {ends}", ""]
        lines += ["| knob | value | best with it | median with it | workloads | configs with | without |"]
        lines += ["|---|---|---|---|---|---|---|"]
        table = list(_paid(shapes, least))
        for knob, value, best, median, count, w, o in sorted(table, key=lambda t: -t[2]):
            lines.append(f"| {knob} | {value} | {best:+.1%} | {median:+.1%} | {count} | {w} | {o} |")
        if not table:
            lines.append("| (too few timed configs) | | | | | | |")
    return lines


def _paid(shapes: Mapping[str, Sequence[tuple[Mapping[str, Any], float]]], least: int) -> Iterable[tuple[Any, ...]]:
    values = {(n, repr(v)) for timed in shapes.values() for config, _ in timed for n, v in config.items()}
    for knob, value in sorted(values):
        best, median, counts = [], [], [0, 0]
        for timed in shapes.values():
            have = [t for config, t in timed if repr(config.get(knob)) == value]
            rest = [t for config, t in timed if repr(config.get(knob)) != value]
            if len(have) >= least and len(rest) >= least:
                best.append(math.log(min(rest) / min(have)))
                median.append(math.log(statistics.median(rest) / statistics.median(have)))
                counts = [counts[0] + len(have), counts[1] + len(rest)]
        if best:
            paid = (math.exp(statistics.fmean(x)) - 1 for x in (best, median))
            yield (knob, value, *paid, len(best), *counts)


def counts(results: Mapping[str, Mapping[str, Any]], phase: str) -> list[str]:
    """How trials of a phase ended, and where GPU and emulator differ."""
    total: Counter[str] = Counter()
    for r in results[phase].values():
        total.update(r.get("counts", {"failed": 1} if "failed" in r else {}))
    lines = [f"- {n} {what}" for what, n in total.most_common()]
    lines += [f"- differs: {k}: {json.dumps(d)[:300]}" for k, r in results[phase].items() for d in r.get("differ", [])]
    return lines + [f"- failed: {k}: {r['failed'][:300]}" for k, r in results[phase].items() if "failed" in r]


def checks(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Programs that were run (their last lines) and the marks of the measuring."""
    lines = []
    for name, r in results["checks"].items():
        if "exit" in r:
            lines += [f"- {name}: exit {r['exit']}, {r['seconds']:.0f} s", "", "```", *r["tail"], "```", ""]
    marks = [m for r in results["checks"].values() for m in r.get("marks", [])]
    if marks:
        lines += ["| mark | found | wanted | met |", "|---|---|---|---|"]
        lines += [f"| {m['mark']} | {m['found']:.2%} | {m['wanted']} | {'yes' if m['met'] else 'NO'} |" for m in marks]
        lines += [""]
    return lines + counts(results, "checks")
