"""Does the emulator notice a synchronisation instruction that is missing or wrong? Mutation testing of templates.

    python -m bench.mutation [TEMPLATE ...] --variants 4 --each 6 --seeds 4 --json out.json

For each template a few random variants are compiled to PTX and emulated; then one executed synchronisation instruction
at a time is dropped or changed (a wait one group too lax, a parity flipped, a count or byte number off, an order of
memory weakened) and the kernel is run again with several interleavings. A mutant is noticed when it is refused,
reported, or gives a wrong result. Survivors are listed with their line and the reason: those marked ``equivalent``
cannot be told from the original by any legal execution of that workload and do not count.

``bench/results/mutation.json`` is what ``--variants 4 --each 4 --json bench/results/mutation.json`` wrote:
mutants by kind and fate, and every survivor with its variant, which ``gpu-tune verify NAME --case`` takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpu_tune import emulator
from gpu_tune.errors import GpuTuneError
from gpu_tune.templates.base import Template
from gpu_tune.templates.bound import BoundTemplate, Rendered
from gpu_tune.templates.registry import registry
from gpu_tune.verify.cases import Variant
from gpu_tune.verify.check import Outcome, Problem, run_module
from gpu_tune.verify.draw import filling, variants

SYNC = re.compile(
    r"^\s*(?:@!?%\w+\s+)?("
    r"bar\.(?:warp\.)?sync|barrier\.(?:cluster\.)?\w+|bar\.arrive|cp\.async\.(?:wait_group|wait_all|commit_group|mbarrier)"
    r"|cp\.async\.bulk\.(?:commit|wait)_group|mbarrier\.(?:init|arrive|expect_tx|complete_tx)|wgmma\.(?:fence|commit_group|wait_group)"
    r"|fence\.|membar\.|griddepcontrol\.wait)"
)
WAIT_GROUP = re.compile(r"(?:cp\.async\.(?:bulk\.)?wait_group(?:\.read)?|wgmma\.wait_group\.sync\.aligned)\s+(\d+);")
ORDER = re.compile(r"\.(acq_rel|acquire|release)(?=\.(?:cta|gpu|sys|cluster))")
COUNTED = re.compile(r"(mbarrier\.(?:init|arrive\.expect_tx|expect_tx)\S*\s.*,\s*)(%?\w+);")
BARRIER_COUNT = re.compile(r"((?:bar|barrier)\.(?:sync|arrive)\S*\s+\S+,\s*)(\d+);")


@dataclass(frozen=True)
class Mutant:
    """``line`` (1-based) of the PTX becomes ``text``; ``kind`` says how."""

    kind: str
    line: int
    before: str
    text: str


def mutants(lines: list[str], covered: frozenset[int]) -> Iterator[Mutant]:
    """Every mutant of the executed synchronisation instructions."""
    for number, line in enumerate(lines, 1):
        if number not in covered:
            continue
        bare = line.strip()

        def changed(kind: str, text: str, number: int = number, bare: str = bare) -> Mutant:
            return Mutant(kind, number, bare, text)

        match = SYNC.match(line)
        if match and "try_wait" not in line and "test_wait" not in line:
            yield changed(f"drop {match[1]}", _without(line))
        if "mbarrier.try_wait" in line or "mbarrier.test_wait" in line:
            predicate = re.search(r"wait\S*\s+(%?\w+)", line)
            if predicate:
                yield changed("drop mbarrier wait", f"setp.eq.u32 {predicate[1]}, 0, 0;")
            parity = re.search(r"\],\s*(%?\w+)(.*);", line)
            if parity and ".parity" in line:
                flipped = line.replace(f"], {parity[1]}", "], %flipped_")
                yield changed(
                    "flip wait parity", f"{{ .reg .b32 %flipped_; xor.b32 %flipped_, {parity[1]}, 1; {flipped} }}"
                )
        if match := WAIT_GROUP.search(line):
            yield changed("wait one group less", line.replace(f" {match[1]};", f" {int(match[1]) + 1};"))
        if (match := ORDER.search(line)) and "fence" not in line:
            yield changed(f"weaken .{match[1]} to .relaxed", line.replace(f".{match[1]}", ".relaxed", 1))
        if match := COUNTED.search(line):
            what = "bytes expected + 16" if "expect_tx" in line else "arrivals expected + 1"
            step = 16 if "expect_tx" in line else 1
            yield changed(what, _bumped(line, match[1], match[2], step))
            yield changed(what.replace("+", "-"), _bumped(line, match[1], match[2], -step))
        if match := BARRIER_COUNT.search(line):
            yield changed("barrier count + 32", line.replace(match[0], f"{match[1]}{int(match[2]) + 32};"))


def _without(line: str) -> str:
    """The line without its instruction; results it would have written are zero."""
    state = re.search(r"mbarrier\.arrive\S*\s+(%\w+),", line)
    return f"mov.b64 {state[1]}, 0;" if state else ""


def _bumped(line: str, head: str, operand: str, step: int) -> str:
    if operand.isdigit():
        return line.replace(f"{head}{operand};", f"{head}{max(0, int(operand) + step)};")
    other = line.replace(f"{head}{operand};", f"{head}%bumped_;")
    return f"{{ .reg .b32 %bumped_; add.s32 %bumped_, {operand}, {step}; {other} }}"


def rendered(template: Template, variant: Variant) -> Rendered:
    """The variant's source and plan."""
    return BoundTemplate(template, variant.workload, variant.device).render(variant.config)


def fate(template: Template, variant: Variant, ptx: str, seeds: int) -> str:
    """``refused``, ``reported: kind``, ``wrong result``, or ``survived``."""
    problem = Problem.of(rendered(template, variant), variant)
    try:
        module = emulator.Module(ptx)
        for number in range(seeds):
            outcome = Outcome()
            run_module(outcome, module, problem, variant.seed + 3 * number)
            if outcome.failures:
                labels = [f.label for f in outcome.failures]
                findings = [x for x in labels if x not in ("wrong result", "writes between rows", "not deterministic")]
                return f"reported: {findings[0].split(':')[0]}" if findings else "wrong result"
    except GpuTuneError as error:
        return f"refused: {str(error)[:80]}"
    return "survived"


def explain(mutant: Mutant, code: Code) -> tuple[bool, str]:
    """(equivalent, reason) of a survivor; the reason is empty where none is known."""
    text = mutant.before
    if "bar.warp.sync" in text:
        return True, (
            "what follows it waits for the whole warp by itself (.sync), and PTX asks for no bar.warp.sync before; the "
            "order in memory that it gives is checked"
        )
    waits = WAIT_GROUP.search(text) or "_wait" in text
    if waits and mutant.line not in code.useful:
        if "mbarrier" in text:
            return True, "its phase was complete, and all that it tells known by other ways, whenever it was executed"
        return True, "nothing that it waits for was in flight whenever it was executed"
    if "commit_group" in text and "wgmma" not in text and code.idle_commit(mutant.line):
        return True, "the group is empty, and every wait is for all groups"
    if text.startswith(("bar.sync", "barrier.sync")) and code.redundant_barrier(mutant.line):
        return True, "no conflicting accesses of shared memory between the barriers before and after it"
    if code.hands_on_nothing(mutant.line):
        return True, "it hands on a bulk wait before it, which had nothing to wait for"
    if "mbarrier" in text and waits and code.next_wait_follows(mutant.line):
        return True, "a wait right after it, with no access of memory between, tells all that it does"
    if text.startswith("bar.sync \t0;"):
        return False, (
            "what is accessed before it and what is written after it lie at different addresses in this workload (the "
            "last tile of K in another stage than what follows overwrites)"
        )
    if mutant.kind.startswith("drop mbarrier.arrive"):
        return False, (
            "the phase that the arrival would complete is never waited for, else nobody could go on: it is the last "
            "turn of this run"
        )
    if mutant.kind == "arrivals expected + 1":
        return False, (
            "the phase that it delays is never waited for, else nobody could go on: the first turn is free, and this "
            "run has no second"
        )
    if mutant.kind == "arrivals expected - 1":
        return False, (
            "the arrivals are of the warps of one warpgroup, whose wgmma complete together, so that each tells as much "
            "as all; the spare ones make up a phase only after as many turns as the count: more than this run has"
        )
    return False, ""


class Code:
    """The executed part of a PTX text: what may happen between one instruction and others.

    ``covered``: lines executed in runs of the unchanged kernel, ``useful``: waits that waited for something there. The
    control flow of our kernels does not depend on data, so that what was not executed cannot be.
    """

    READ = re.compile(
        r"(?:ld\S*\.shared|ldmatrix|stmatrix|st\S*\.shared|atom\S*\.shared|red\S*\.shared|wgmma\.mma|cp\.)"
    )
    WRITE = re.compile(
        r"(?:stmatrix|st\S*\.shared|atom\S*\.shared|red\S*\.shared|cp\.async\.c[ag]|cp\.async\.bulk(?!\.(?:commit|prefetch)))"
    )
    ANYTHING = re.compile(
        r"(?:mbarrier|barrier\.cluster|bar\.arrive|barrier\.arrive|call|ld\.volatile|(?:ld|st|atom|red)\.(?:u|b|s|f|v)\d)"
    )
    BARRIER = re.compile(r"(?:bar|barrier)\.sync\S*\s+0;")

    def __init__(self, lines: list[str], covered: frozenset[int], useful: frozenset[int]) -> None:
        self.lines, self.covered, self.useful = lines, covered, useful
        self.text = {n: re.sub(r"^@!?%\w+\s+", "", lines[n - 1].strip()) for n in sorted(covered)}
        labels = {m[1]: n for n, text in enumerate(lines, 1) if (m := re.match(r"(\$?\w+):", text))}
        order = sorted(covered)
        follows = dict(itertools.pairwise(order))
        self.next: dict[int, set[int]] = {n: set() for n in order}
        for n in order:
            raw = lines[n - 1].strip()
            branch = re.match(r"(@!?%\w+\s+)?bra(?:\.uni)?\s+(\$?\w+);", raw)
            if branch and (target := next((q for q in order if q > labels[branch[2]]), None)):
                self.next[n].add(target)
            ends = re.match(r"(ret|exit|trap);", raw) or (branch and not branch[1])
            if not ends and n in follows:
                self.next[n].add(follows[n])
        self.before: dict[int, set[int]] = {n: {q for q in order if n in self.next[q]} for n in order}

    def _interval(self, line: int, edges: dict[int, set[int]], stop: re.Pattern[str]) -> set[int]:
        """Lines on the ways from ``line`` until ``stop`` matches (those lines included)."""
        seen, todo = set[int](), list(edges[line])
        while todo:
            n = todo.pop()
            if n in seen:
                continue
            seen.add(n)
            if not stop.match(self.text[n]):
                todo += edges[n]
        return seen

    def _texts(self, lines: set[int]) -> list[str]:
        return [self.text[n] for n in lines if not (WAIT_GROUP.search(self.text[n]) and n not in self.useful)]

    def redundant_barrier(self, line: int) -> bool:
        """Whether nothing before this barrier (back to the last one) conflicts with what follows (up to the next)."""
        if not self.BARRIER.match(self.text[line]):
            return False
        sides = [self._texts(self._interval(line, edges, self.BARRIER)) for edges in (self.before, self.next)]
        if any(self.ANYTHING.match(text) for side in sides for text in side):
            return False
        writes, touches = ([any(p.match(t) for t in side) for side in sides] for p in (self.WRITE, self.READ))
        landing = [any(WAIT_GROUP.search(t) for t in side) for side in sides]
        writes = [w or land for w, land in zip(writes, landing)]
        return not (writes[0] and touches[1]) and not (touches[0] and writes[1]) and not all(writes)

    def next_wait_follows(self, line: int) -> bool:
        """Whether another wait for an mbarrier comes before anything that touches memory or leads elsewhere."""
        for n in sorted(q for q in self.text if q > line):
            text = self.text[n]
            if "try_wait" in text:
                return True
            if (
                self.READ.match(text)
                or self.WRITE.match(text)
                or re.match(r"(mbarrier|bar|ld|st|atom|red|ret|exit)\b", text)
            ):
                return False
        return False

    def hands_on_nothing(self, line: int) -> bool:
        """Whether a barrier comes right after a wait for bulk stores that never had any to wait for."""
        before = [n for n in range(line - 15, line) if self.text.get(n, "").startswith("cp.async.bulk.wait_group")]
        return (
            self.text[line].startswith(("bar.sync", "barrier.sync")) and bool(before) and before[-1] not in self.useful
        )

    def idle_commit(self, line: int) -> bool:
        """Whether no cp.async can precede this commit since the last one, and no wait leaves groups in flight."""
        commit = re.compile(r"cp\.async\.commit_group")
        empty = not any(
            t.startswith(("cp.async.ca", "cp.async.cg")) for t in self._texts(self._interval(line, self.before, commit))
        )
        waits = [int(m[1]) for t in self.text.values() if t.startswith("cp.async.wait") and (m := WAIT_GROUP.search(t))]
        return empty and not any(waits)


def chosen(template: Template, count: int, seed: int) -> list[Variant]:
    """Random variants with workloads that fill their pipelines, on a slice of the chip with 2 SMs."""
    found = (filling(template, v) for v in itertools.islice(variants(template, seed), 400))
    return list(itertools.islice((v for v in found if v is not None), count))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.mutation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("templates", nargs="*", default=sorted(registry()))
    parser.add_argument("--variants", type=int, default=4, help="variants of each template")
    parser.add_argument("--each", type=int, default=6, help="mutants of each kind and variant at most")
    parser.add_argument("--seeds", type=int, default=2, help="rounds of 3 runs that a mutant has to survive")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng, start = np.random.default_rng(options.seed), time.perf_counter()
    total: Counter[str] = Counter()
    by_kind: dict[str, Counter[str]] = {}
    survivors = []
    for name in options.templates:
        template = registry()[name]
        for variant in chosen(template, options.variants, options.seed):
            made = rendered(template, variant)
            ptx = emulator.compile_ptx(made.source, variant.device.arch)
            lines = ptx.split("\n")
            outcome, reports = Outcome(), list[emulator.Report]()
            for number in range(options.seeds):
                seed = variant.seed + 3 * number
                run_module(outcome, emulator.Module(ptx), Problem.of(made, variant), seed, watch=reports.append)
            if outcome.failures:
                print(f"{name}: the unchanged kernel fails ({outcome.failures[0].message}); {variant.command}")
                continue
            covered = frozenset[int]().union(*(r.covered_ptx_lines for r in reports))
            useful = frozenset[int]().union(*(r.useful_waits for r in reports))
            code = Code(lines, covered, useful)
            groups: dict[str, list[Mutant]] = {}
            for mutant in mutants(lines, covered):
                groups.setdefault(mutant.kind, []).append(mutant)
            for kind, every in sorted(groups.items()):
                picks = rng.permutation(len(every))[: options.each]
                for mutant in (every[i] for i in picks):
                    text = "\n".join([*lines[: mutant.line - 1], mutant.text, *lines[mutant.line :]])
                    end = fate(template, variant, text, options.seeds)
                    if end == "survived":
                        equivalent, reason = explain(mutant, code)
                        end = "equivalent" if equivalent else "survived"
                        survivors.append(
                            {
                                "template": name,
                                "kind": kind,
                                "ptx": mutant.before,
                                "line": mutant.line,
                                "near": _cuda_line(lines, mutant.line),
                                "reason": reason,
                                "variant": variant.to_json(),
                            }
                        )
                        print(
                            f"survivor: {name} {kind}, PTX line {mutant.line} `{mutant.before}` "
                            f"{_cuda_line(lines, mutant.line)}: {reason or 'not explained'}",
                            flush=True,
                        )
                    word = end.split(":")[0]
                    total[word] += 1
                    by_kind.setdefault(re.sub(r"[.]$", "", kind), Counter())[word] += 1
            print(f"{name} {variant.workload.key}: {dict(total)} after {time.perf_counter() - start:.0f} s", flush=True)
    for kind, counts in sorted(by_kind.items()):
        print(f"{kind:40s} {dict(counts)}")
    counted = sum(total.values()) - total["equivalent"]
    noticed = counted - total["survived"]
    print(
        f"noticed {noticed} of {counted} mutants that are not equivalent ({100 * noticed / max(1, counted):.1f} %); "
        f"{total['equivalent']} equivalent; mark: 95 %"
    )
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    "command": shlex.join(["python", *sys.argv]),
                    "total": total,
                    "kinds": by_kind,
                    "survivors": survivors,
                },
                indent=1,
            )
        )


def _cuda_line(lines: list[str], number: int) -> str:
    """The ``.loc`` that holds at a PTX line."""
    for text in reversed(lines[:number]):
        if match := re.match(r"\s*\.loc\s+\d+\s+(\d+)", text):
            return f"kernel.cu:{match[1]}"
    return ""


if __name__ == "__main__":
    main()
