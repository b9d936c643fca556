"""A small family is tuned while the machine misbehaves; then, undisturbed, it must end as it always does.

Faults are real: compile workers are killed or stopped, the file system is full or read-only (mounts; they need root),
NVRTC vanishes, files are cut, modules in the working directory shadow those that workers import. A disturbed run may
end with an error that says what is wrong. What it leaves behind must blame no config, and a run afterwards in the same
folder must have the same winner as a run that was never disturbed. Every config is measured, so that the winner does
not depend on how far which run came.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import gpu_tune as gt
from gpu_tune.cuda import driver
from gpu_tune.errors import GpuTuneError
from gpu_tune.space.knob import Knob
from gpu_tune.store.records import Records
from gpu_tune.templates.base import Template
from gpu_tune.tuner.budget import Progress

WORKLOAD = gt.Matmul(20, 18, 16, dtype="float32")
VALUES: dict[str, tuple[Any, ...]] = {
    "threads": (32, 64, 128),
    "rows": (1, 2, 4),
    "unroll": (1, 4),
    "clear": (False,),
    "fault": ("none",),
}
CONFIGS = 18
SHADOWS = ("json", "pickle", "numpy", "ctypes", "gpu_tune", "hashlib", "resource", "logging")
"""Modules that a file in the working directory may shadow."""


def family(folder: Path) -> dict[str, Template]:
    """The tests' toy without its faults: configs that compile in 50 ms each."""
    from tests.helpers import toy

    made = toy.make(folder)
    return {
        "toy": replace(made, knobs=tuple(Knob(k.name, VALUES.get(k.name, k.values), k.meaning) for k in made.knobs))
    }


@dataclass
class Run:
    """One tuning in the folder ``home``. ``undo``: what puts the machine right again, last first."""

    home: Path
    templates: dict[str, Template]
    rng: random.Random
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def tune(self, at: int = 0, fault: Callable[[], None] | None = None) -> Any:
        """The winner; ``fault`` happens once, after ``at`` trials."""
        left = [fault]

        def told(progress: Progress) -> None:
            if left[0] is not None and progress.trials >= at and progress.phase == "search":
                happens, left[0] = left[0], None
                happens()

        tuned: Any = gt.tune(
            WORKLOAD, kind="predicted", trials=CONFIGS, jobs=2, templates=self.templates, on_trial=told
        )
        return tuned.winner

    def statuses(self) -> dict[str, str]:
        """How each recorded config ended; twins of a binary, and what was pruned before it was timed, are well."""
        found = {r.measurement.candidate.key: r.measurement.status for r in Records().read("predicted")}
        return {key: "ok" if status in ("duplicate", "pruned") else status for key, status in found.items()}


def workers() -> list[int]:
    """The live children of this process that are Python's."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            if int(words[1]) == os.getpid() and words[0] != "Z":
                found.append(int(path.parent.name))
    return found


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def killed(run: Run) -> None:
    """One worker is killed."""
    _signal(workers()[:1], signal.SIGKILL)


def killed_again(run: Run) -> None:
    """Every worker is killed, and those that follow, for a while."""
    end = time.monotonic() + run.rng.uniform(0.2, 1.0)

    def kill() -> None:
        while time.monotonic() < end:
            _signal(workers(), signal.SIGKILL)
            time.sleep(0.03)

    thread = threading.Thread(target=kill)
    thread.start()
    run.undo.callback(thread.join)


def stopped(run: Run) -> None:
    """The workers get no time for a while."""
    pids = workers()
    _signal(pids, signal.SIGSTOP)
    timer = threading.Timer(run.rng.uniform(0.1, 1.0), _signal, (pids, signal.SIGCONT))
    timer.start()
    run.undo.callback(timer.join)


def full(run: Run) -> None:
    """Not a byte is left on the file system."""
    filler = run.home / "filler"
    run.undo.callback(filler.unlink, missing_ok=True)
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def nvrtc_gone(run: Run) -> None:
    """NVRTC cannot be loaded any more: workers that start now do without."""
    before = os.environ.get("GPU_TUNE_NVRTC")
    os.environ["GPU_TUNE_NVRTC"] = "/nowhere/libnvrtc.so"
    run.undo.callback(lambda: os.environ.pop("GPU_TUNE_NVRTC") and before and os.environ.update(GPU_TUNE_NVRTC=before))
    _signal(workers(), signal.SIGKILL)


def cut(run: Run) -> None:
    """Some files of the user's folder are cut to a random length."""
    files = [p for p in run.home.rglob("*") if p.is_file() and "emulator" not in p.parts]
    for path in run.rng.sample(files, min(len(files), run.rng.randint(1, 8))):
        os.truncate(path, run.rng.randint(0, path.stat().st_size))


def shadowed(run: Run) -> None:
    """The working directory holds modules named like those that workers import; they would leave a mark."""
    for name in run.rng.sample(SHADOWS, 4):
        (run.home / f"{name}.py").write_text(f"open({str(run.home / 'mark')!r}, 'w').close()\nraise SystemExit(7)\n")
    run.undo.callback(os.chdir, os.getcwd())
    os.chdir(run.home)
    _signal(workers(), signal.SIGKILL)


def read_only(run: Run) -> None:
    """One of the folders, or all, cannot be written."""
    place = run.home / run.rng.choice(("", "compiled", "records", "kernels"))
    place.mkdir(exist_ok=True, mode=0o700)
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    run.undo.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)


FAULTS: dict[str, Callable[[Run], None]] = {
    f.__name__: f for f in (killed, killed_again, stopped, full, nvrtc_gone, cut, shadowed, read_only)
}
MOUNTS = ("full", "read_only")


@contextlib.contextmanager
def _in_folder(home: Path, small: bool) -> Iterator[None]:
    """``home`` as the user's folder; ``small``: on a file system of its own, of 8 MiB."""
    home.mkdir(mode=0o700)
    before = os.environ.get("GPU_TUNE_CACHE_DIR")
    with contextlib.ExitStack() as stack:
        if small:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", str(home)], check=True)
            stack.callback(subprocess.run, ["umount", "-l", str(home)], check=True)
        os.environ["GPU_TUNE_CACHE_DIR"] = str(home)
        stack.callback(
            lambda: os.environ.pop("GPU_TUNE_CACHE_DIR") and before and os.environ.update(GPU_TUNE_CACHE_DIR=before)
        )
        yield


def disturb(count: int, folder: Path, seed: int = 0, emulator: Path | None = None) -> dict[str, Any]:
    """The figures of ``count`` faults. ``emulator``: a folder with the built library (default: the user's own)."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    from gpu_tune import paths

    library = emulator or paths.root() / "emulator"
    library.mkdir(parents=True, exist_ok=True, mode=0o700)
    rng, templates = random.Random(seed), family(folder)
    able = os.geteuid() == 0 and _may_mount(folder)
    kinds = [k for k in FAULTS if able or k not in MOUNTS]
    with mock.patch.object(driver, "library", lambda: None):  # no GPU, whatever is there
        with _in_folder(folder / "calm", False):
            (folder / "calm" / "emulator").symlink_to(library)
            calm = Run(folder / "calm", templates, rng)
            wanted, statuses = calm.tune(), calm.statuses()
        counts: Counter[str] = Counter()
        happened: Counter[str] = Counter()
        for number in range(count):
            kind = kinds[number % len(kinds)] if number < len(kinds) else rng.choice(kinds)
            happened[kind] += 1
            counts.update(_one(folder, f"{number:03d}", kind, templates, rng, library, wanted, statuses))
            if number % 20 == 19:
                print(f"disturb: {number + 1} of {count} faults, {sum(counts.values())} remarks", flush=True)
    named = ("ended_with_an_error", "ended_otherwise", "blamed", "executed", "other_winner")
    return {
        "faults": count,
        "configs": len(statuses),
        **{n: counts[n] for n in named},
        **{k.replace("_", " "): n for k, n in sorted(happened.items())},
        "lost": counts["other_winner"],
        "corrupt": counts["blamed"] + counts["executed"] + counts["ended_otherwise"],
    }


def _one(
    folder: Path,
    name: str,
    kind: str,
    templates: dict[str, Template],
    rng: random.Random,
    library: Path,
    wanted: Any,
    statuses: dict[str, str],
) -> Counter[str]:
    """What came of one fault."""
    counts: Counter[str] = Counter()
    with _in_folder(folder / name, kind == "full"):
        home = folder / name
        (home / "emulator").symlink_to(library)
        shutil.copytree(folder / "calm" / "compiled", home / "compiled")
        for path in sorted(home.glob("compiled/*/*.bin")):
            if rng.random() < 0.3:  # the others are compiled while the fault happens
                path.unlink()
        run = Run(home, templates, rng)
        at = 0 if kind == "read_only" else rng.randint(0, CONFIGS - 4)
        try:
            with run.undo:
                if at == 0:
                    FAULTS[kind](run)
                run.tune(at, None if at == 0 else lambda: FAULTS[kind](run))
        except GpuTuneError:
            counts["ended_with_an_error"] += 1
        except Exception as error:
            print(f"fault {name} ({kind}): {type(error).__name__}: {error}", flush=True)
            counts["ended_otherwise"] += 1
        counts["executed"] += (home / "mark").exists()
        found = run.statuses()
        counts["blamed"] += sum(statuses.get(key) != status for key, status in found.items())
        try:
            after = run.tune()
            same = (after.config, after.seconds) == (wanted.config, wanted.seconds)
        except GpuTuneError as error:
            print(f"fault {name} ({kind}): undisturbed: {error}", flush=True)
            same = False
        counts["other_winner"] += not same
    shutil.rmtree(folder / name)
    return counts


def _may_mount(folder: Path) -> bool:
    place = folder / "mounted"
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "--bind", str(place), str(place)], capture_output=True)
    if done.returncode == 0:
        subprocess.run(["umount", "-l", str(place)], check=True)
    return done.returncode == 0
