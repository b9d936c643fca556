"""Golden outputs: recorded at one commit, compared at any later one.

    python -m bench.house golden make --out FILE.json.gz [--part variants|search|cli] [--family NAME] [--valid N]
    python -m bench.house golden check FILE.json.gz ... [--part PART] [--family NAME] [--compile] [--allow FILE]

A golden file holds every case explicitly, so that a check draws nothing. ``check`` exits with 1 when something differs
that no line of ``--allow`` (``part<TAB>key-prefix<TAB>reason``; the key may be followed by a blank and the kind, and
``*`` in it stands for anything) names
(by default the differences made on purpose: bench/results/golden/deliberate.tsv).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bench.house import golden_cli, golden_search, golden_variants, product
from bench.house.golden_parts import Finding, Options, say

PARTS = ("search", "cli", "variants")
SHOWN = 20
ALLOWED = product.ROOT / "bench" / "results" / "golden" / "deliberate.tsv"
CHECKS = {"search": golden_search.check, "cli": golden_cli.check, "variants": golden_variants.check}


def main(argv: list[str]) -> int:
    """0: equal; 1: something differs."""
    parser = argparse.ArgumentParser(prog="python -m bench.house golden", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making, checking = commands.add_parser("make"), commands.add_parser("check")
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--valid", type=int, default=golden_variants.VALID, help="valid cases a family and device")
    checking.add_argument("files", nargs="+", type=Path)
    checking.add_argument("--allow", type=Path, default=ALLOWED, help="lines part<TAB>key-prefix<TAB>reason")
    checking.add_argument("--compile", action="store_true", help="compile even where the source is the same")
    checking.add_argument("--same-source", action="store_true", help="another source text is a difference as well")
    for command in (making, checking):
        command.add_argument("--part", choices=PARTS, action="append")
        command.add_argument("--family", default="", help="of part variants: this family only")
    args = parser.parse_args(argv)
    return _make(args) if args.command == "make" else _check(args)


def _make(args: argparse.Namespace) -> int:
    parts: dict[str, Any] = {}
    facts = {"format": 1, "commit": _commit(), "compiler": product.compiler_version(), "parts": parts}

    def save(part: str, entries: dict[str, Any], complete: bool) -> None:
        parts[part] = {"complete": complete, "entries": entries}
        text = json.dumps(facts, separators=(",", ":"))
        new = args.out.with_name(f".new-{args.out.name}")
        new.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        os.replace(new, args.out)
        say(f"{args.out}: {part} {len(entries)} entries, {'complete' if complete else 'so far'}; "
            f"{args.out.stat().st_size / 1e6:.2f} MB")  # fmt: skip

    for part in args.part or PARTS:
        start = time.time()
        if part == "variants":
            entries = golden_variants.make(lambda e: save("variants", e, False), args.out, args.family, args.valid)
        else:
            entries = golden_search.make() if part == "search" else golden_cli.make()
        save(part, entries, True)
        say(f"{part}: done in {time.time() - start:.0f} s")
    return 0


def _check(args: argparse.Namespace) -> int:
    allowed = _allowances(args.allow)
    options = Options(args.family, args.compile, args.same_source)
    failed = False
    for path in args.files:
        golden = json.loads(gzip.decompress(path.read_bytes()))
        if golden.get("format") != 1:
            print(f"{path}: is no golden file of format 1")
            return 2
        print(f"{path}: made at {golden['commit']}; here {_commit()}")
        if golden["compiler"] != product.compiler_version():
            print(f"NOTE: NVRTC was {golden['compiler']} then and is {product.compiler_version()} now: code of equal "
                  "sources is not compared, and code of others will differ")  # fmt: skip
        for part, body in golden["parts"].items():
            if part in (args.part or PARTS):
                if not body["complete"]:
                    print(f"NOTE: part {part} is not complete: {len(body['entries'])} entries")
                failed |= _report(part, CHECKS[part](body["entries"], options), allowed)
    return int(failed)


def _report(part: str, findings: Iterator[Finding], allowed: list[tuple[str, str, str]]) -> bool:
    """Print what came out; whether something differs that is not allowed."""
    start, equal, differing = time.time(), Counter[str](), defaultdict[str, list[Finding]](list)
    excused, notes, keys = Counter[str](), defaultdict[str, list[Finding]](list), dict[str, bool]()
    for f in findings:
        keys.setdefault(f.key, True)
        if not f.text:
            equal[f.kind] += 1
            continue
        if f.note:
            notes[f.kind].append(f)
            continue
        reason = next(
            (r for p, prefix, r in allowed if p == part and fnmatchcase(f"{f.key} {f.kind}", f"{prefix}*")), None
        )
        if reason is not None:
            excused[reason] += 1
            continue
        keys[f.key] = False
        differing[f.kind].append(f)
    same = sum(keys.values())
    print(f"\n== {part}: {same} of {len(keys)} equal, {len(keys) - same} differ ({time.time() - start:.0f} s)")
    print("   equal: " + ", ".join(f"{n} {kind}" for kind, n in sorted(equal.items())))
    for reason, n in excused.items():
        print(f"   allowed: {n} ({reason})")
    for kind, found in notes.items():
        print(f"   note: {len(found)} {kind}: {found[0].text} (no failure); such as {found[0].key}")
    for kind, found in differing.items():
        print(f"\n-- {part}: {len(found)} differ in {kind}")
        for f in found[:SHOWN]:
            print(f"{f.key} {kind}: {f.text}")
        if len(found) > SHOWN:
            print(f"... and {len(found) - SHOWN} more")
    return bool(differing)


def _allowances(path: Path | None) -> list[tuple[str, str, str]]:
    found = []
    for line in path.read_text().splitlines() if path else ():
        if line.strip() and not line.startswith("#"):
            part, prefix, reason = line.split("\t", 2)
            found.append((part, prefix, reason))
    return found


def _commit() -> str:
    done = subprocess.run(["git", "log", "-1", "--format=%h %s"], cwd=product.ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
