"""Which task of a campaign goes next, and what is already done: the state that outlives every slice."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from bench.campaign.setup import Setup

PHASES = {"checks": 0.10, "tuning": 0.42, "spaces": 0.33, "templates": 0.07, "again": 0.08}
"""Share of the time that each phase is given as long as it has something left to do."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One resumable piece: ``run()`` returns a JSON-ready result. ``needs``: it is not begun with less time left."""

    phase: str
    name: str
    run: Callable[[], Any]
    needs: float = 10.0

    @property
    def key(self) -> str:
        """What it is called in the state."""
        return f"{self.phase}: {self.name}"


class Unfinished(Exception):
    """A task's time was over before it was done; what it has measured is on record, and the rest waits."""


class Schedule:
    """The state of the campaign in ``setup.out``; SystemExit when that folder belongs to another device."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.file = setup.out / "state.json"
        here = {"kind": setup.kind, "chip": setup.device.chip, "rehearsal": setup.rehearsal}
        self.state: dict[str, Any] = {"done": {}, "spent": dict.fromkeys(PHASES, 0.0), **here, "slices": 0}
        if self.file.exists():
            known = json.loads(self.file.read_text())
            if any(known[k] != v for k, v in here.items()):
                raise SystemExit(
                    f"{setup.out} belongs to {known['kind']} {known['chip']}, here is {setup.kind} "
                    f"{setup.device.chip}; use another --out"
                )
            self.state = known

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Results by phase and task name."""
        done = self.state["done"].items()
        return {p: {k.split(": ", 1)[1]: v["result"] for k, v in done if k.startswith(p + ": ")} for p in PHASES}

    def save(self) -> None:
        """Write the state, whole or not at all."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(self.state, indent=1))
        os.replace(fresh, self.file)

    def run(self, tasks: Iterable[Task], seconds: float, phases: Collection[str] = tuple(PHASES)) -> None:
        """Run tasks of ``phases`` until ``seconds`` are over. One that would not fit is left to the next slice."""
        end = self.setup.end = time.monotonic() + seconds
        self.state["slices"] += 1
        self.save()
        waiting: dict[str, list[Task]] = {p: [] for p in PHASES}
        for task in tasks:
            if task.phase in phases and task.key not in self.state["done"]:
                waiting[task.phase].append(task)
        while (next_task := self.next(waiting, end - time.monotonic())) is not None:
            waiting[next_task.phase].remove(next_task)
            self._one(next_task)

    def next(self, waiting: Mapping[str, list[Task]], left: float) -> Task | None:
        """The first task that fits into ``left`` seconds of the phase that is furthest behind its share."""
        spent, tuned = self.state["spent"], self.results["tuning"]
        for phase in sorted(PHASES, key=lambda p: spent[p] / PHASES[p]):
            for task in waiting[phase]:
                ready = phase != "again" or "failed" not in tuned.get(task.name, {"failed": ""})
                if ready and task.needs * min(1.0, self.setup.scale) < left:
                    return task
        return None

    def _one(self, task: Task) -> None:
        start = time.monotonic()
        try:
            result: Any = task.run()
        except Unfinished as rest:
            result = rest
        except Exception as error:  # one task's failure is a result; the hour goes on
            result = {"failed": f"{type(error).__name__}: {error}"}
        took = time.monotonic() - start
        self.state["spent"][task.phase] += took
        if not isinstance(result, Unfinished):
            self.state["done"][task.key] = {"seconds": round(took, 2), "result": result}
        self.save()
        told = f"not done: {result}" if isinstance(result, Unfinished) else json.dumps(result)[:160]
        print(f"{task.phase:9s} {task.name}  {took:.1f} s  {told}", flush=True)
