"""Malformed PTX must end in a result or in one clear error, never in the end of the process.

    python -m bench.emulator.fuzz --inputs 10000000 --seed 0

Each input is a small kernel of the tests with a few changes: characters, operands, modifiers or lines that go, come
twice, change places or come from another kernel. What can be loaded is run for a few thousand instructions. Inputs are
tried in child processes; what ends one is printed, and the exit code is 1. An input is a function of (seed, number).
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import math
import multiprocessing
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.sharedctypes import RawArray

import numpy as np

from gpu_tune.emulator import build
from gpu_tune.emulator.machine import Machine
from gpu_tune.emulator.module import Module
from gpu_tune.emulator.report import Checks
from gpu_tune.errors import GpuTuneError

TOKEN = re.compile(r"[%\w$]+|\s+|.")
WORDS = [
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ";",
    ":",
    "@",
    "!",
    "|",
    "+",
    "-",
    "_",
    ".",
    "<",
    ">",
    "//",
    "/*",
    "\n",
    "\0",
    "%",
]
WORDS += ["0", "1", "-1", "0x7fffffff", "99999999999", "0f3F800000", "0d0", "1e9", "%tid.x", "%envreg2", "WARP_SZ"]
WORDS += [
    ".reg",
    ".b32",
    ".b64",
    ".pred",
    ".shared",
    ".param",
    ".align",
    ".global",
    ".local",
    ".visible",
    ".entry",
    ".func",
]
LONGEST = 6000


def mutated(rng: random.Random, corpus: Sequence[str], lines: Sequence[str]) -> str:
    """A text of the corpus, short ones more often, with one to four changes."""
    text = corpus[int(len(corpus) * rng.random() ** 2)]
    for _ in range(rng.randint(1, 4)):
        text = rng.choice(CHANGES)(rng, text, lines)
    return text[:LONGEST]


def _characters(rng: random.Random, text: str, lines: Sequence[str]) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(["", chr(rng.randrange(1, 127)), rng.choice(WORDS)]) + text[at + rng.randint(0, 3) :]


def _line(rng: random.Random, text: str) -> tuple[int, int]:
    """Where a line starts and ends: the one around a random place."""
    at = rng.randrange(len(text) + 1)
    end = text.find("\n", at)
    return text.rfind("\n", 0, at) + 1, end if end >= 0 else len(text)


def _tokens(rng: random.Random, text: str, lines: Sequence[str]) -> str:
    """A token is dropped, doubled, replaced by one of another line or by a word, or changes places within its line."""
    start, end = _line(rng, text)
    parts, others = TOKEN.findall(text[start:end]), TOKEN.findall(rng.choice(lines))
    if not parts:
        return text[:start] + rng.choice(WORDS) + text[end:]
    k, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    kind = rng.randrange(6)
    if kind == 0:
        del parts[k]
    elif kind == 1:
        parts.insert(k, parts[k])
    elif kind == 2:
        parts[k] = parts[other]
    elif kind == 3:
        parts[k] = rng.choice(WORDS)
    elif kind == 4:
        parts[k], parts[other] = parts[other], parts[k]
    else:
        parts[k] = rng.choice(others)
    return text[:start] + "".join(parts) + text[end:]


def _lines(rng: random.Random, text: str, lines: Sequence[str]) -> str:
    """A line goes, comes twice, moves, or comes from another kernel."""
    start, end = _line(rng, text)
    kind = rng.randrange(4)
    if kind == 0:
        return text[:start] + text[end + 1 :]
    if kind == 1:
        to = _line(rng, text)[0]
        return text[:to] + text[start:end] + "\n" + text[to:]
    return text[:start] + rng.choice(lines) + "\n" + text[start:]


def _cut(rng: random.Random, text: str, lines: Sequence[str]) -> str:
    return text[: rng.randrange(len(text) + 1)]


Change = Callable[[random.Random, str, Sequence[str]], str]
CHANGES: list[Change] = [_characters, _tokens, _tokens, _tokens, _lines, _lines, _cut]


def tried(text: str, memory: np.ndarray) -> bool:
    """Load a text and run its kernels for a while; whether it could be loaded. Any error but ours is a failure."""
    try:
        module = Module(text)
    except GpuTuneError:
        return False
    for kernel in module.kernels[:2]:
        machine = Machine(module, seed=1, checks=Checks(), stop="never", steps=2000)
        try:
            address = machine.buffer("a", memory)[1]
            sizes = module.facts(kernel).parameter_sizes
            values = [address.to_bytes(8, "little") if size == 8 else bytes(size) for size in sizes]
            machine.launch(kernel, (1, 1, 1), (32, 1, 1), values)
            machine.report({})
        except GpuTuneError:
            pass
        finally:
            machine.close()
    return True


def _child(corpus: list[str], seed: int, first: int, count: int, shown: ctypes.Array, facts: ctypes.Array) -> None:
    lines = [line for text in corpus for line in text.split("\n") if line.strip()]
    memory = np.zeros(4096, np.uint8)
    for number in range(first, first + count):
        text = mutated(random.Random(seed * 1_000_003 + number), corpus, lines)
        raw = text.encode(errors="replace")[: LONGEST * 2]
        ctypes.memmove(shown, raw + b"\0", len(raw) + 1)
        facts[0] = number + 1
        facts[1] += tried(text, memory)


def run(corpus: list[str], inputs: int, seed: int, seconds: float = math.inf) -> tuple[int, int, list[str]]:
    """How many inputs were tried, how many could be loaded, and those that ended the process or took a minute."""
    build.library()
    corpus = sorted(corpus, key=len)
    start, failures, done = time.perf_counter(), [], 0
    shown, facts = RawArray(ctypes.c_char, 4 * LONGEST), RawArray(ctypes.c_longlong, 2)
    context = multiprocessing.get_context("fork")
    while done < inputs and time.perf_counter() - start < seconds:
        count = min(inputs - done, 20000)
        facts[0] = done
        child = context.Process(target=_child, args=(corpus, seed, done, count, shown, facts))
        child.start()
        last = -1
        while child.is_alive() and facts[0] != last:  # a minute for one input is too long
            last = facts[0]
            child.join(60)
        if child.is_alive() or child.exitcode:
            child.kill()
            child.join()
            failures.append(shown.value.decode(errors="replace"))
        done = max(int(facts[0]), done + 1)
        if len(failures) >= 20:
            break
    return done, int(facts[1]), failures


def corpus_of_tests() -> list[str]:
    """The PTX texts that the tests hold, and every PTX text that this machine has compiled, cut to one kernel each."""
    allowed, tables, wide = (  # tests are not typed as strictly as bench
        importlib.import_module(f"tests.emulator.test_{name}")
        for name in ("allowed", "function_tables", "sparse_and_wide")
    )
    texts = [t for twin in allowed.TWINS for t in (twin.right, twin.wrong)] + [allowed.GRID_BARRIER]
    texts += [tables.TABLE, tables.TABLE.replace("square, 64", "twice, twice")] + [
        wide.FRAME.format(b) for b in wide.BODIES
    ]
    for path in sorted((build.folder() / "ptx").rglob("*.ptx"))[:400]:
        text = path.read_text()
        if len(text) < LONGEST:
            texts.append(text)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.emulator.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    done, loaded, failures = run(corpus_of_tests(), options.inputs, options.seed)
    seconds = time.perf_counter() - start
    print(f"{done} inputs, {loaded} could be loaded, {len(failures)} ended the process; {seconds:.0f} s")
    for text in failures:
        print("----\n" + text)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
