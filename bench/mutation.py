"""Does the emulator notice a synchronisation instruction that is missing or wrong? Mutation testing of templates.

    python bench/mutation.py [TEMPLATE ...] --variants 4 --each 6 --seeds 4 --json out.json

For each template a few random variants are compiled to PTX and emulated; then one executed synchronisation instruction
at a time is dropped or changed (a wait one group too lax, a parity flipped, a count or byte number off, an order of
memory weakened) and the kernel is run again with several interleavings. A mutant is noticed when it is refused,
reported, or gives a wrong result. Survivors are listed with their line, and with the reason where one is known: those
marked ``equivalent`` cannot be told from the original by any legal execution and do not count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gpu_tune import emulator
from gpu_tune.errors import GpuTuneError
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import Template, registry, render
from gpu_tune.verify.cases import Variant
from gpu_tune.verify.check import Outcome, Problem, run_module
from gpu_tune.verify.draw import variants
from gpu_tune.workload import Matmul, Workload

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


def fate(template: Template, variant: Variant, ptx: str, seeds: int) -> str:
    """``refused``, ``reported: kind``, ``wrong result``, or ``survived``."""
    problem = Problem.of(template, variant)
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


SHARED = re.compile(
    r"^\s*(?:@!?%\w+\s+)?(?:ld\S*\.shared|st\S*\.shared|ldmatrix|stmatrix|cp\.|mbarrier\.|wgmma\.mma|atom\S*\.shared|red\S*\.shared)"
)


def explain(mutant: Mutant, lines: list[str]) -> tuple[bool, str]:
    """(equivalent, reason) of a survivor; the reason is empty where none is known."""
    if "bar.warp.sync" in mutant.before:
        return False, "not modelled: lanes of a warp rejoin by themselves here; memory order between them is checked"
    drains = mutant.before.startswith(("bar.sync", "barrier.sync", "cp.async.wait_group"))
    if drains and not any(SHARED.match(lines[n]) for n in reachable(lines, mutant.line)):
        return True, "nothing that can follow touches shared memory"
    if mutant.before == "cp.async.wait_group 0;":
        return True, "only empty groups are in flight after the last tile: the loop has waited for every tile"
    return False, ""


def reachable(lines: list[str], number: int) -> set[int]:
    """Indices of the lines that may execute after the 1-based line ``number``."""
    labels = {m[1]: n for n, text in enumerate(lines) if (m := re.match(r"(\$?\w+):", text))}
    seen, todo = set[int](), [number]
    while todo:
        at = todo.pop()
        while at < len(lines) and at not in seen and not lines[at].startswith("}"):
            seen.add(at)
            text = lines[at].strip()
            if match := re.match(r"(@!?%\w+\s+)?bra(?:\.uni)?\s+(\$?\w+);", text):
                todo.append(labels[match[2]])
                if not match[1]:
                    break
            if re.match(r"(ret|exit|trap);", text):
                break
            at += 1
    return seen


def chosen(template: Template, count: int, seed: int) -> list[Variant]:
    """Variants in which every instruction matters: the pipeline goes round twice, blocks compute several tiles, tails.

    Random variants with the workload replaced by one that suits the config, on a slice of the chip with 2 SMs.
    """
    found: list[Variant] = []
    for variant in itertools.islice(variants(template, seed), 400):
        device = replace(variant.device, sm_count=2)
        try:
            workload = _busy(variant.workload, variant.config)
            fits = template.supported(workload, device) is True
        except GpuTuneError:
            continue
        if fits and workload.flops < 6e7 and not template.violations(variant.config, workload, device):
            found.append(replace(variant, workload=workload, device=device))
        if len(found) == count:
            break
    return found


def _busy(workload: Workload, config: Config) -> Workload:
    """``workload`` with sizes that go round the config's pipeline twice and leave tails."""
    knob = {n: int(v) for n, v in config.items() if isinstance(v, int)}
    depth = (2 * knob.get("stages", 1) + 1) * knob.get("block_k", 16) * knob.get("split_k", 1)
    if isinstance(workload, Matmul):
        tiles_n = (5 if knob.get("block_n", 32) <= 64 else 3) if workload.batch == 1 else 2
        m, n = knob.get("block_m", 32) * 2 - 8, knob.get("block_n", 32) * tiles_n - 16
        return replace(workload, m=m, n=n, k=depth + 16, lda=0, ldb=0, ldc=0)
    side = 14
    c = max(16, -(-depth // (workload.r * workload.s * 16)) * 16)
    return replace(
        workload, n=2, h=side, w=side, c=c * workload.groups, k=max(32, knob.get("block_n", 32)) * workload.groups
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
            source = render(template, variant.config, variant.workload, variant.device)
            ptx = emulator.compile_ptx(source, variant.device.arch)
            lines = ptx.split("\n")
            outcome, covered = Outcome(), set[int]()
            run_module(outcome, emulator.Module(ptx), Problem.of(template, variant), variant.seed, covered=covered)
            if outcome.failures:
                print(f"{name}: the unchanged kernel fails ({outcome.failures[0].message}); {variant.command}")
                continue
            groups: dict[str, list[Mutant]] = {}
            for mutant in mutants(lines, frozenset(covered)):
                groups.setdefault(mutant.kind, []).append(mutant)
            for kind, every in sorted(groups.items()):
                picks = rng.permutation(len(every))[: options.each]
                for mutant in (every[i] for i in picks):
                    text = "\n".join([*lines[: mutant.line - 1], mutant.text, *lines[mutant.line :]])
                    end = fate(template, variant, text, options.seeds)
                    if end == "survived":
                        equivalent, reason = explain(mutant, lines)
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
        options.json.write_text(json.dumps({"total": total, "kinds": by_kind, "survivors": survivors}, indent=1))


def _cuda_line(lines: list[str], number: int) -> str:
    """The ``.loc`` that holds at a PTX line."""
    for text in reversed(lines[:number]):
        if match := re.match(r"\s*\.loc\s+\d+\s+(\d+)", text):
            return f"kernel.cu:{match[1]}"
    return ""


if __name__ == "__main__":
    main()
