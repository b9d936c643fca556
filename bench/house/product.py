"""All that the golden outputs know of the product's own names: adapt this file alone when modules move.

Everything here takes and gives plain data (dicts, lists, text), so that a golden file made at one commit can be
compared at another. A *case* is ``{"template", "workload", "config", "device": [name, SM count], "arch"}``.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.house import renames

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
COMMAND = [sys.executable, "-m", "gpu_tune"]
"""The command line, without arguments."""

RENAMED = {"modelled": "predicted", "screened": "pruned", "--direction dgrad": "--direction back"}
"""Words of golden lines and texts that were changed on purpose, and what they are now."""

Case = dict[str, Any]


def renamed(text: str) -> str:
    """A golden text in today's words."""
    for old, new in RENAMED.items():
        text = text.replace(old, new)
    return text


# --- templates, devices, workloads ---


def families() -> list[str]:
    """Names of all kernel families."""
    from gpu_tune.templates.registry import registry

    return list(registry())


def devices() -> list[str]:
    """One known device of each compute capability."""
    from gpu_tune.cuda.device import KNOWN

    return list({d.cc: d.name for d in reversed(KNOWN.values())}.values())[::-1]


def knob_values(family: str) -> dict[str, list[Any]]:
    """The listed values of each knob."""
    return {k.name: list(k.values) for k in _template(family).knobs}


def draw(family: str, device: str, seed: int, seen: Counter[Any]) -> Iterator[Case]:
    """Random valid cases without end (none when the device supports nothing).

    ``seen`` counts what earlier cases were made of, so that dtypes, layouts and epilogues come up evenly over devices.
    """
    from gpu_tune.cuda.device import by_name
    from gpu_tune.verify.cases import draw_workload, supported_cells
    from gpu_tune.verify.draw import Pairs
    from gpu_tune.workload import to_dict

    template, chip = _template(family), by_name(device)
    cells, pairs = dict(supported_cells(template, chip)), Pairs(template)
    rng = np.random.default_rng([seed, *family.encode(), *device.encode()])
    misses = 0
    for number in itertools.count():
        if not cells or misses > 500:
            return
        place = replace(chip, sm_count=int(rng.integers(1, 5))) if rng.random() < 0.3 else chip
        order = [list(cells)[i] for i in rng.permutation(len(cells))]
        cell = min(order, key=lambda c: [seen[p] for p in _parts(c)])
        workload = draw_workload(template, cell, cells[cell], place, rng)
        if workload is not None and rng.random() < 0.3:
            workload = _enlarged(template, workload, place)
        config = None
        if workload is not None and number % 10 == 9:
            named = [template.default(workload, place), *template.seeds(workload, place)]
            named = [c for c in named if not template.violations(c, workload, place)]
            config = named[rng.integers(len(named))] if named else None
        if workload is not None and config is None:
            config = pairs.config(template, workload, place, rng)
        if workload is None or config is None or template.violations(config, workload, place):
            misses += 1
            seen.update(_parts(cell)[-1:])  # so that a cell without configs does not come up for ever
            continue
        pairs.add(config)
        seen.update(_parts(cell))
        yield {
            "template": family,
            "workload": json.loads(json.dumps(to_dict(workload))),
            "config": dict(config),
            "device": [place.name, place.sm_count],
            "arch": place.arch,
        }


def _parts(cell: Any) -> list[Any]:
    return [
        ("dtype", cell.dtype, cell.layout),
        ("epilogue", cell.dtype, cell.epilogue),
        ("layout", cell.layout, cell.epilogue),
        cell,
    ]


def _enlarged(template: Any, workload: Any, device: Any) -> Any:
    """A larger problem of the same kind, where the template takes it: nothing is executed, so size costs nothing."""
    if workload.op == "matmul":
        larger = dict(m=workload.m * 8, n=workload.n * 8, k=workload.k * 8, lda=0, ldb=0, ldc=0)
    else:
        deep = 4 if workload.groups == 1 else 1
        larger = dict(n=workload.n * 3, h=workload.h * 3, w=workload.w * 3, c=workload.c * deep, k=workload.k * deep)
    try:
        made = replace(workload, **larger)
    except ValueError:
        return workload
    return made if template.supported(made, device) is True else workload


def _template(family: str) -> Any:
    from gpu_tune.templates.registry import registry

    return registry()[family]


# --- one case ---


@dataclass(frozen=True)
class Bound:
    """A case as the product's own objects."""

    template: Any
    config: Any
    workload: Any
    device: Any

    @classmethod
    def of(cls, case: Case) -> Bound:
        """The objects that the case's plain data mean."""
        from gpu_tune.cuda.device import by_name
        from gpu_tune.space.knob import Config
        from gpu_tune.workload import from_dict

        case = renames.today(case)
        name, sms = case["device"]
        device = replace(by_name(name), sm_count=sms)
        return cls(_template(case["template"]), Config(case["config"]), from_dict(case["workload"]), device)

    def workload_dict(self) -> dict[str, Any]:
        """The workload as plain data again."""
        from gpu_tune.workload import to_dict

        return to_dict(self.workload)

    def workload_key(self) -> str:
        """The workload's readable name."""
        return str(self.workload.key)

    def arch(self) -> str:
        """What the case is compiled for."""
        return str(self.device.arch)

    def violations(self) -> list[str]:
        """Why the config is invalid; empty when it is valid."""
        found = self.template.violations(self.config, self.workload, self.device)
        return [renames.text_recorded(self.template.name, text) for text in found]

    def refusals(self) -> dict[str, str]:
        """Every template that cannot compute the workload on the device, and why not; later ones are left out."""
        from gpu_tune.templates.registry import registry

        known = [t for t in registry().values() if t.name not in renames.LATER]
        answers = {t.name: t.supported(self.workload, self.device) for t in known}
        return {name: str(answer) for name, answer in answers.items() if answer is not True}

    def starts(self) -> list[str]:
        """Keys of the default config and of the seeds, in recorded names."""
        default, name = self.template.default(self.workload, self.device), self.template.name
        seeds = self.template.seeds(self.workload, self.device)
        return [renames.config_key(renames.config_recorded(name, c)) for c in (default, *seeds)]

    def source(self) -> str:
        """The rendered CUDA source."""
        from gpu_tune.templates.base import render

        return render(self.template, self.config, self.workload, self.device)

    def plan(self) -> dict[str, Any]:
        """The launch plan as JSON data."""
        return dict(self.template.plan(self.config, self.workload, self.device).check().to_json())

    def estimate(self) -> dict[str, Any]:
        """The resources that the template declares; ``loop``, which the first golden outputs lack, is left out."""
        declared = asdict(self.template.resources(self.config, self.workload, self.device))
        return {name: value for name, value in declared.items() if name != "loop"}

    def numerics(self) -> dict[str, Any]:
        """How far results may be from the reference."""
        return asdict(self.template.numerics(self.config, self.workload))


# --- compiling ---


def compiler_version() -> str:
    """NVRTC's version."""
    from gpu_tune.cuda import nvrtc

    return ".".join(map(str, nvrtc.version()))


class Compiler:
    """One compiler process; ``compile`` returns the status and the cubin (empty unless the status is ``ok``)."""

    def __init__(self) -> None:
        from gpu_tune.measure.compile import CompilePool

        self._pool = CompilePool(None, 1, timeout=900)

    def compile(self, source: str, arch: str) -> tuple[str, bytes]:
        """Compile ``source`` for exactly ``arch``."""
        result = self._pool.submit(source, arch).result()
        return result.status, result.cubin

    def close(self) -> None:
        """End the process."""
        self._pool.close()


# --- search ---


class Searching:
    """A search: ``ask`` gives keys of candidates, ``tell`` how those ended (seconds, or None: failed)."""

    def __init__(self, space: dict[str, Any], seed: int, pipelined: bool = False) -> None:
        from gpu_tune import Tuner
        from gpu_tune.store import interchange
        from gpu_tune.store.recorded_space import RecordedSpace
        from gpu_tune.workload import from_dict

        self._recorded = None
        if "file" in space:
            self._recorded = RecordedSpace(interchange.load(DATA / space["file"]))
            self._tuner = Tuner(spaces=[self._recorded], seed=seed, pipelined=pipelined)
        else:
            workload = from_dict(space["workload"])
            self._tuner = Tuner(workload, device=space["device"], seed=seed, pipelined=pipelined)
        self._asked: dict[str, Any] = {}

    def ask(self) -> list[str]:
        """The next batch."""
        return self._keys(self._tuner.ask())

    def final(self) -> list[str]:
        """What a run would end with."""
        return self._keys(self._tuner.final())

    def tell(self, times: dict[str, float | None]) -> None:
        """How candidates ended; those of a recorded space take the recorded times instead."""
        from gpu_tune.trial import MEASURED, Measurement

        told = []
        for key, time in times.items():
            candidate = self._asked[key]
            if self._recorded is not None:
                told.append(self._recorded.measurement(candidate.config, repeats=False))
            elif time is None:
                told.append(Measurement(candidate, "run_error", MEASURED, "planted"))
            else:
                told.append(Measurement(candidate, "ok", MEASURED, samples=(time,)))
        self._tuner.tell(told)

    def best(self) -> str:
        """The best candidate's key and time."""
        best = self._tuner.best
        return f"{renames.key_recorded(best.candidate.key)} {best.time!r}" if best is not None else ""

    def _keys(self, batch: Any) -> list[str]:
        keys = [renames.key_recorded(c.key) for c in batch]
        self._asked.update(zip(keys, batch))
        return keys


# --- command line and Python API ---


def link_emulator(home: Path) -> None:
    """Let a fresh user's folder share the emulator's library, which takes long to build."""
    from gpu_tune.emulator import build

    build.library()
    (home / "emulator").symlink_to(build.folder())


def api_names() -> dict[str, Any]:
    """What expressions of API calls may use."""
    import gpu_tune

    return {"gt": gpu_tune, "np": np}
