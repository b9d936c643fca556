"""Golden outputs of the command line and of Python-API errors: exit codes and texts, made independent of the machine.

Every line runs as a process without a terminal, in a fresh user's folder; what depends on the clock, on folders, on the
version or on the identity of templates is replaced by a mark.
"""

from __future__ import annotations

import difflib
import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.house import golden_lines, product
from bench.house.golden_parts import Finding, Options, say

Entries = dict[str, Any]
_DURATION = r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?(?= (?:s|seconds)\b)"
MARKS = (
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?( UTC|Z|\+00:00)?", "<date>"),
    (r"\b\d{4}-\d\d-\d\d\b", "<date>"),
    (r"(?<![\w.])1[789]\d{8}\.\d+\b", "<clock>"),
    (r'("+)(seconds|environment)\1: ?\{[^{}]*\}', r"\1\2\1:<clock>"),
    (r"(?m)^\S+: (?!done)[^\n]*\d+/\d+ trials, [^\n]*\n", ""),  # how many lines of progress is the clock's choice
    (r"(?<![\w.])(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{12,64}\b", "<hash>"),
    (r"\bgpu[-_]tune,? (version )?\d+\.\d+\.\d+\S*", "gpu_tune <version>"),
    (r"\bNVRTC \d+\.\d+", "NVRTC <version>"),
    (_DURATION, "<t>"),
)
"""What is replaced in every text."""
CLOCKS = {
    *("spent", "earlier_seconds", "created", "environment", "compile_time", "verification_time", "benchmark_time"),
    *("compilation", "validation", "benchmark"),
}
"""Fields of JSON output that hold wall-clock times or facts of the machine."""


class Place:
    """A scratch folder with the users' folders ``empty`` and ``tuned``; its name has always the same length."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gtg-", dir="/tmp"))
        for name in ("empty", "tuned"):
            (self.folder / name).mkdir(mode=0o700)
            product.link_emulator(self.folder / name)
        for name, text in golden_lines.FILES.items():
            (self.folder / name).write_text(text)

    def fill(self, text: str) -> str:
        """``text`` with ``{tmp}`` and ``{data}`` filled in."""
        return text.replace("{tmp}", str(self.folder)).replace("{data}", str(product.DATA))

    def run(self, command: list[str], home: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the user's folder ``home``."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GPU_TUNE_")}
        env = {**kept, "GPU_TUNE_CACHE_DIR": str(self.folder / home), "GPU_TUNE_LIBCUDA": "/nonexistent",
               "COLUMNS": "80", "LINES": "24", "TERM": "dumb", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}  # fmt: skip
        return subprocess.run(command, cwd=product.ROOT, env=env, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=600)  # fmt: skip

    def expand(self, word: str) -> list[str]:
        """The files in the scratch folder that a pattern names, as a shell would give them; any other word itself."""
        return (sorted(glob.glob(word)) if word.startswith(str(self.folder)) else []) or [word]

    def read(self, names: list[str]) -> subprocess.CompletedProcess[str]:
        """The texts of files, as a command would print them."""
        found = [Path(name) for name in names if Path(name).is_file()]
        text = "".join(f"== {path.name}\n{path.read_text()}" for path in found)
        return subprocess.CompletedProcess([], 0 if found else 1, _without_clocks(text), "")

    def normal(self, text: str) -> str:
        """``text`` without what may differ from run to run."""
        text = text.replace(str(self.folder), "/tmp/gtg-SCRATCH").replace(str(product.ROOT), "<repo>")
        text = _without_clocks(text.replace("{tmp}", str(self.folder)))
        for pattern, mark in MARKS:
            text = re.sub(pattern, mark, text)
        return text.replace(sys.executable, "<python>")


def _without_clocks(text: str) -> str:
    """JSON (below a line that names its file) with its clocks replaced; other text as it is."""
    head, start = (text[: text.index("\n") + 1], text.index("\n") + 1) if text.startswith("== ") else ("", 0)
    if text[start : start + 1] in ("{", "["):
        try:
            return head + json.dumps(_hidden(json.loads(text[start:])), indent=1) + "\n"
        except ValueError:
            return text
    return text


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        clocks = CLOCKS | ({"seconds"} if "runs" in value and "variants" in value else set())
        return {k: "<clock>" if k in clocks else _hidden(v) for k, v in value.items()}
    return [_hidden(v) for v in value] if isinstance(value, list) else value


def lines() -> Entries:
    """Every command line (with the user's folder it runs in) and API call, by key."""
    found: Entries = {}
    for group, texts, home in (
        ("help", golden_lines.HELP, "empty"),
        ("plain", golden_lines.PLAIN, "empty"),
        ("bad", golden_lines.BAD, "empty"),
        ("tuned", golden_lines.TUNED, "tuned"),
    ):
        for number, text in enumerate(texts):
            found[f"{group}/{number:02d} {text}"] = {"line": text, "home": home}
    for number, text in enumerate(golden_lines.API):
        found[f"api/{number:02d} {text}"] = {"call": text}
    return found


def outcomes(entries: Entries) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each gives now: exit code, standard output and error; or the result or error of a call."""
    place = Place()
    try:
        for key, entry in entries.items():
            if "line" in entry:
                words = [w for word in shlex.split(place.fill(entry["line"])) for w in place.expand(word)]
                written = words[:1] == ["cat"]
                done = place.read(words[1:]) if written else place.run([*product.COMMAND, *words], entry["home"])
                texts = {"out": place.normal(done.stdout), "err": place.normal(done.stderr)}
                yield key, {"code": done.returncode, **texts}
        calls = {key: place.fill(entry["call"]) for key, entry in entries.items() if "call" in entry}
        if calls:
            (place.folder / "calls.json").write_text(json.dumps(calls))
            child = f"from bench.house.golden_cli import call_all; call_all({str(place.folder / 'calls.json')!r})"
            done = place.run([sys.executable, "-c", child], "empty")
            results = json.loads(done.stdout) if done.returncode == 0 else dict.fromkeys(calls, done.stderr[-2000:])
            yield from ((key, {"result": place.normal(text)}) for key, text in results.items())
    finally:
        shutil.rmtree(place.folder, ignore_errors=True)


def call_all(file: str) -> None:
    """In a child: evaluate each expression of the JSON file, and print what came of it as JSON."""
    names, results = product.api_names(), {}
    for key, text in json.loads(Path(file).read_text()).items():
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                result = f"returns {eval(text, dict(names))!r}"
            except Exception as error:
                result = f"{type(error).__name__}: {error}"
        results[key] = "\n".join([result, *(f"{w.category.__name__}: {w.message}" for w in warned)])
    print(json.dumps(results))


def make() -> Entries:
    """All lines and calls with what they give."""
    entries, start = lines(), time.time()
    for number, (key, found) in enumerate(outcomes(entries), 1):
        entries[key]["golden"] = found
        if number % 10 == 0:
            say(f"cli: {number}/{len(entries)} after {time.time() - start:.0f} s")
    return entries


def check(entries: Entries, options: Options) -> Iterator[Finding]:
    """Run everything again and compare, in today's words."""
    today = {
        key: {k: product.renamed(v) if isinstance(v, str) else v for k, v in e.items()} for key, e in entries.items()
    }
    for key, found in outcomes(today):
        golden = {k: product.renamed(v) if isinstance(v, str) else v for k, v in entries[key]["golden"].items()}
        for kind in dict.fromkeys([*golden, *found]):
            old, new = golden.get(kind), found.get(kind)
            yield Finding(key, kind, "" if old == new else _difference(str(old), str(new)))


def _difference(old: str, new: str) -> str:
    found = list(difflib.unified_diff(old.splitlines(), new.splitlines(), "golden", "now", lineterm="", n=1))
    return "\n" + "\n".join(found[:40]) + ("\n..." if len(found) > 40 else "") if found else "differs in white space"
