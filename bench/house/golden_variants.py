"""Golden variants: for random cases of every family and architecture, whether they are valid and what comes of them."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.house import product, renames
from bench.house.elf import code_hashes
from bench.house.golden_parts import Finding, Options, digest, plain, say

SEED = 20261129
VALID, PERTURBED = 80, 20
SAVE_EVERY = 180.0
Entries = dict[str, Any]


class Codes:
    """Compiled code's hashes by source, kept in a file of JSON lines so that a killed run goes on where it was."""

    def __init__(self, path: Path | None) -> None:
        self._file = None
        self._known: dict[str, dict[str, str]] = {}
        self._compiler: product.Compiler | None = None
        self.compiled = 0
        if path is not None:
            if path.exists():
                self._known = dict(json.loads(line) for line in path.read_text().splitlines() if line.endswith("]"))
            self._file = path.open("a")

    def of(self, source: str, arch: str) -> dict[str, str]:
        """``{"status", "text", "data"}`` of a source."""
        key = digest([source, arch, product.compiler_version()])
        if key not in self._known:
            self._compiler = self._compiler or product.Compiler()
            status, cubin = self._compiler.compile(source, arch)
            self._known[key] = {"status": status, **(code_hashes(cubin) if status == "ok" else {})}
            self.compiled += 1
            if self._file is not None:
                self._file.write(json.dumps([key, self._known[key]]) + "\n")
                self._file.flush()
        return self._known[key]

    def close(self) -> None:
        """End the compiler."""
        if self._compiler is not None:
            self._compiler.close()
        if self._file is not None:
            self._file.close()


def draw(family: str = "", valid: int = VALID, perturbed: int = PERTURBED) -> Entries:
    """Every case by key, a pure function of SEED (and of the commit)."""
    found: Entries = {}
    for name in product.families():
        seen: Counter[Any] = Counter()
        if family not in ("", name):
            continue
        for device in product.devices():
            stream, rng = product.draw(name, device, SEED, seen), random.Random(f"{SEED} {name} {device}")
            cases = [case for _, case in zip(range(valid), stream)]
            drawn = len(cases)
            for number in range(perturbed if drawn else 0):
                cases.append(_perturbed(cases[rng.randrange(drawn)], number, rng))
            found.update({f"{name}/{device}/{n:03d}": {"case": plain(case)} for n, case in enumerate(cases)})
    return found


def _perturbed(case: product.Case, number: int, rng: random.Random) -> product.Case:
    """The case with one knob changed; the first three have a knob missing, unknown or of no listed value."""
    config, knobs = dict(case["config"]), product.knob_values(case["template"])
    choices = [k for k, values in knobs.items() if len(values) > 1]
    knob = choices[rng.randrange(len(choices))]
    if number == 0:
        del config[knob]
    elif number == 1:
        config["no_such_knob"] = 1
    elif number == 2:
        config[knob] = 12345
    else:
        others = [v for v in knobs[knob] if repr(v) != repr(config[knob])]
        config[knob] = others[rng.randrange(len(others))]
    return {**case, "config": config}


def _attempt(action: Callable[[], Any]) -> Any:
    """What it returns, or the error's class and text: an error is an outcome like any other."""
    try:
        return action()
    except Exception as error:
        return f"! {type(error).__name__}: {error}"


def facts(case: product.Case) -> tuple[dict[str, Any], str]:
    """All that is recorded of a case but its code, and its source ('' when it is invalid)."""
    bound = product.Bound.of(case)
    violations = _attempt(bound.violations)
    found: dict[str, Any] = {
        # fields that came later have their defaults: the key, which is compared, would name any other value
        "workload": bound.workload_dict().items() >= case["workload"].items() and bound.workload_key(),
        "arch": bound.arch(),
        "violations": violations,
        "refusals": _attempt(bound.refusals),
        "starts": digest(_attempt(bound.starts)),
    }
    if violations:
        return found, ""
    source = _attempt(bound.source)
    found["source"] = source if source.startswith("!") else digest(source)
    plan = _attempt(bound.plan)
    found["plan"] = plan if isinstance(plan, str) else digest(plan)
    found["estimate"], found["numerics"] = _attempt(bound.estimate), _attempt(bound.numerics)
    return plain(found), "" if source.startswith("!") else source


def make(save: Callable[[Entries], None], path: Path, family: str = "", valid: int = VALID) -> Entries:
    """Draw, record and compile everything; ``save`` gets the entries so far every few minutes."""
    entries = draw(family, valid, PERTURBED * valid // VALID)
    say(f"variants: {len(entries)} cases of {len({k.rsplit('/', 1)[0] for k in entries})} families x devices")
    codes, done, start, saved = Codes(path.with_name(path.name + ".codes.jsonl")), {}, time.time(), time.time()
    group, group_start = "", time.time()
    for number, (key, entry) in enumerate(entries.items(), 1):
        found, source = facts(entry["case"])
        if source:
            found["code"] = codes.of(source, entry["case"]["arch"])
            found["tokens"] = renames.tokens_recorded(source, entry["case"]["template"])
        done[key] = {"case": entry["case"], "golden": found}
        if (here := key.rsplit("/", 1)[0]) != group:
            group, group_start = here, time.time()
        if number % 20 == 0:
            spent = time.time() - start
            left = spent / number * (len(entries) - number) / 60
            say(f"variants: {number}/{len(entries)} in {spent:.0f} s, {codes.compiled} compiled, about {left:.0f} min "
                f"left; {here} {time.time() - group_start:.0f} s")  # fmt: skip
        if time.time() - saved > SAVE_EVERY:
            save(done)
            saved = time.time()
    codes.close()
    return done


def check(entries: Entries, options: Options) -> Iterator[Finding]:
    """Compare every entry with what this commit gives."""
    codes, start, number = Codes(None), time.time(), 0
    for key, entry in entries.items():
        if options.family and entry["case"]["template"] != options.family:
            continue
        number += 1
        if number % 500 == 0:
            say(f"variants: {number} compared in {time.time() - start:.0f} s, {codes.compiled} compiled")
        golden = entry["golden"]
        try:
            found, source = facts(entry["case"])
        except Exception as error:
            yield Finding(key, "case", f"cannot be built: {type(error).__name__}: {error}")
            continue
        for kind in dict.fromkeys([*golden, *found]):
            if kind not in ("source", "code", "tokens"):
                old, new = golden.get(kind), found.get(kind)
                yield Finding(key, kind, "" if old == new else f"{_short(old)} -> {_short(new)}")
        same = golden.get("source") == found.get("source")
        if not same and source and golden.get("tokens") == renames.tokens_recorded(source, entry["case"]["template"]):
            yield Finding(key, "source", "comments, white space or listed names differ", note=not options.same_source)
            yield Finding(key, "code")  # the same tokens
            continue
        if not same and (not source or "code" not in golden):
            yield Finding(key, "source", f"{golden.get('source')} -> {found.get('source')}")
        elif not same:
            yield Finding(key, "source", "source text differs", note=not options.same_source)
        elif "source" in golden:
            yield Finding(key, "source")
        if source and "code" in golden:
            if same and not options.compile:
                yield Finding(key, "code")
                continue
            new, old = codes.of(source, entry["case"]["arch"]), golden["code"]
            yield Finding(key, "code", "" if old == new else f"{_short(old)} -> {_short(new)}")
    codes.close()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 700 else text[:697] + "..."
