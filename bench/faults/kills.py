"""Processes killed while they publish, append and tune, and many of them at one store."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.faults.samples import CHIP, SOURCE, WORKLOAD, record, whole, winner
from gpu_tune.store.records import Records
from gpu_tune.store.store import Store

fork = multiprocessing.get_context("fork")
Writer = Callable[[Path, int, int], None]
"""(folder, first number, pipe to acknowledge through): writes for ever."""


def publish_for_ever(folder: Path, first: int, pipe: int) -> None:
    """A writer of winners."""
    home, number = Store(folder), first
    while True:
        home.publish(winner(number))
        os.write(pipe, b"+")
        number += 1


def append_for_ever(folder: Path, first: int, pipe: int) -> None:
    """A writer of records."""
    log, number = Records(folder), first
    while True:
        log.append(record(number))
        os.write(pipe, b"+")
        number += 1


@contextlib.contextmanager
def running(writer: Writer, folder: Path, firsts: Sequence[int]) -> Iterator[tuple[list[Any], list[int]]]:
    """One process a number of ``firsts``; their ends of the pipes. All are dead afterwards."""
    processes, pipes = [], []
    try:
        for first in firsts:
            ours, theirs = os.pipe()
            process = fork.Process(target=writer, args=(folder, first, theirs), daemon=True)
            process.start()
            os.close(theirs)
            processes.append(process)
            pipes.append(ours)
        yield processes, pipes
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
        for pipe in pipes:
            os.close(pipe)


def acknowledged(pipe: int) -> int:
    """How often the (dead) writer at the other end acknowledged."""
    count = 0
    while data := os.read(pipe, 65536):
        count += len(data)
    return count


def wait_for(pipe: int) -> None:
    """Block until the writer has acknowledged once more."""
    if os.read(pipe, 1) != b"+":
        raise RuntimeError("a writer died by itself")


def kill_publishers(kills: int, folder: Path, seed: int, writer: Writer = publish_for_ever) -> dict[str, Any]:
    """Three writers replace one winner; each is killed at a random moment. The winner is read all the while."""
    home, rng, figures = Store(folder), random.Random(seed), dict.fromkeys(("kills", "reads", "interrupted"), 0)
    published = lost = corrupt = 0
    home.publish(winner(0))
    place = home.path(WORKLOAD, CHIP, SOURCE).parent
    while figures["kills"] < kills:
        halves = len(list(place.glob(".tmp-*")))
        with running(writer, folder, [10**6 * (1 + i) for i in range(min(3, kills - figures["kills"]))]) as (ps, pipes):
            for pipe in pipes:
                wait_for(pipe)
            for process in ps:
                until = time.monotonic() + rng.uniform(0, 0.008)
                while True:
                    found = home.get(WORKLOAD, CHIP, SOURCE)
                    figures["reads"] += 1
                    lost += found is None
                    corrupt += found is not None and not whole(found)
                    if time.monotonic() >= until:
                        break
                os.kill(process.pid or 0, signal.SIGKILL)
                process.join()
                figures["kills"] += 1
            published += sum(1 + acknowledged(pipe) for pipe in pipes)
            found = home.get(WORKLOAD, CHIP, SOURCE)
            lost += found is None
            corrupt += found is not None and not whole(found)
        figures["interrupted"] += len(list(place.glob(".tmp-*"))) - halves
        if figures["kills"] % 60 == 0:
            home.gc(older_than=-1)
    home.gc(older_than=-1)
    left = [p for p in folder.rglob("*") if p.name.startswith(".")]
    lost += home.get(WORKLOAD, CHIP, SOURCE) is None
    return {**figures, "publications": published, "lost": lost, "corrupt": corrupt, "left_after_gc": len(left)}


def kill_appenders(kills: int, folder: Path, seed: int, writer: Writer = append_for_ever) -> dict[str, Any]:
    """Four writers at a time, each killed at a random moment; then everything acknowledged must be there, in order."""
    rng, done, appended, lost, corrupt, torn = random.Random(seed), 0, 0, 0, 0, 0
    between = 0
    while done < kills:
        count = min(4, kills - done)
        part = folder / str(done)
        firsts = [10**6 * i for i in range(count)]
        with running(writer, part, firsts) as (processes, pipes):
            for pipe in pipes:
                wait_for(pipe)
            for process in processes:
                time.sleep(rng.uniform(0, 0.004))
                os.kill(process.pid or 0, signal.SIGKILL)
                process.join()
            known = [1 + acknowledged(pipe) for pipe in pipes]
        done += count
        appended += sum(known)
        log = Records(part)
        torn += sum(not p.read_bytes().endswith(b"\n") for p in log.segments(SOURCE))
        found = log.read(SOURCE)
        corrupt += sum(r != record(int(r.time)) for r in found)
        for first, acks in zip(firsts, known):
            mine = [int(r.time) - first for r in found if first <= r.time < first + 10**6]
            corrupt += mine != list(range(len(mine)))
            lost += max(0, acks - len(mine))
            between += len(mine) > acks
        shutil.rmtree(part)
    facts = {"kills": done, "torn_lines": torn, "killed_before_the_acknowledgement": between, "appended": appended}
    return {**facts, "lost": lost, "corrupt": corrupt}


TUNING = """
import os, sys
from pathlib import Path
import gpu_tune as gt
from gpu_tune.store.records import Records
told = lambda progress: os.write(1, b"+" * (progress.trials - told.seen)) and setattr(told, "seen", progress.trials)
told.seen = 0
home = Path(sys.argv[1])
store, records = gt.Store(home / "kernels"), Records(home / "records")
w = gt.Matmul(256, 256, 256, dtype="float32")
gt.tune(w, kind="predicted", trials=400, jobs=1, store=store, records=records, on_trial=told)
"""


def kill_tunings(kills: int, folder: Path, seed: int) -> dict[str, Any]:
    """A whole tuning (with predicted times), killed and started again; each start resumes from the records."""
    rng, known, lost, done = random.Random(seed), 0, 0, 0
    folder.mkdir(parents=True)
    environment = {**os.environ, "GPU_TUNE_CACHE_DIR": str(folder / "cache")}
    counts: list[int] = []
    while done < kills:
        command = [sys.executable, "-c", TUNING, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        assert process.stdout is not None
        told = len(process.stdout.read(1 + len(counts) * 3))  # goes a little further each time
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        told += len(process.stdout.read())
        process.wait()
        done += 1
        found = len(Records(folder / "records").read(SOURCE))
        lost += max(0, max(known, told) - found)
        known = found
        counts.append(found)
    return {"kills": done, "trials_on_record": counts, "lost": lost, "corrupt": 0}


def sixteen(seconds: float, folder: Path) -> dict[str, Any]:
    """16 processes publish and append to one store at the same time."""
    home, log, lost, corrupt, reads = Store(folder / "kernels"), Records(folder / "records"), 0, 0, 0
    home.publish(winner(0))
    firsts = [10**6 * i for i in range(8)]
    with (
        running(publish_for_ever, home.folder, [1 + f for f in firsts]) as (ps, pipes),
        running(append_for_ever, log.folder, firsts) as (qs, more),
    ):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = home.get(WORKLOAD, CHIP, SOURCE)
            reads += 1
            lost += found is None
            corrupt += found is not None and not whole(found)
        for process in (*ps, *qs):
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        published, appended = sum(map(acknowledged, pipes)), [acknowledged(p) for p in more]
    records = log.read(SOURCE)
    corrupt += sum(r != record(int(r.time)) for r in records)
    lost += sum(max(0, n - sum(i * 10**6 <= r.time < (i + 1) * 10**6 for r in records)) for i, n in enumerate(appended))
    found = home.get(WORKLOAD, CHIP, SOURCE)
    lost += found is None
    return {"processes": 16, "publications": published, "appended": sum(appended), "reads": reads, "lost": lost,
            "corrupt": corrupt}  # fmt: skip
