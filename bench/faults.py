"""What faults cost: processes killed while they publish, append and tune; full, read-only and foreign stores.

    python bench/faults.py                              # 1,000 kills each; figures, and bench/results/faults.json
    python bench/faults.py --kills 50 --only publish,append --json /tmp/faults.json

Real processes, real signals, real files. ``lost``: something that was acknowledged (published, appended, reported by
``on_trial``) before the kill and cannot be read after it. ``corrupt``: something that reads as what nobody wrote.
Both must be 0. ``interrupted``: kills that demonstrably hit a publication in progress (it left half a folder).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_tune.errors import CorruptData, StoreError
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan
from gpu_tune.records import Record, Records, parse
from gpu_tune.space.knob import Config
from gpu_tune.store import Store, Winner
from gpu_tune.trial import Candidate, Measurement
from gpu_tune.workload import Matmul

WORKLOAD, CHIP, SOURCE = Matmul(64, 48, 32), "nvidia-h200-132sm-141gb", "modelled"
fork = multiprocessing.get_context("fork")
Writer = Callable[[Path, int, int], None]
"""(folder, first number, pipe to acknowledge through): writes for ever."""


def winner(number: int) -> Winner:
    """A winner whose parts all carry ``number``."""
    step = KernelStep("matmul", (2, 3, 1), (128, 1, 1), (BufferArg("a"),))
    return Winner(
        workload=WORKLOAD, chip=CHIP, device="nvidia-h200", arch="sm_90a", template="t", template_hash="h",
        config=Config(number=number), plan=LaunchPlan((step,)), code=f"// {number}\n" * 2000,
        cubin=b"\x7fELF" + number.to_bytes(4, "little") * 20_000, source=SOURCE, seconds=1e-5, trials=number,
    )  # fmt: skip


def whole(found: Winner) -> bool:
    """Whether all parts of ``found`` are of the same publication."""
    number = int(found.config["number"])
    return found == winner(number)


def record(number: int) -> Record:
    """A record that carries ``number``."""
    candidate = Candidate("t", Config(number=number, padding="x" * (number % 3000)))
    return Record(WORKLOAD, CHIP, "h", Measurement(candidate, "ok", SOURCE, samples=(1e-5,)), float(number), "faults")


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
from gpu_tune.records import Records
told = lambda progress: os.write(1, b"+" * (progress.trials - told.seen)) and setattr(told, "seen", progress.trials)
told.seen = 0
home = Path(sys.argv[1])
store, records = gt.Store(home / "kernels"), Records(home / "records")
w = gt.Matmul(256, 256, 256, dtype="float32")
gt.tune(w, kind="modelled", trials=400, jobs=1, store=store, records=records, on_trial=told)
"""


def kill_tunings(kills: int, folder: Path, seed: int) -> dict[str, Any]:
    """A whole tuning (on the modelled device), killed and started again; each start resumes from the records."""
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


def full_disk(folder: Path) -> dict[str, Any]:
    """A file system of 2 MiB (a tmpfs of its own; needs root), filled by winners and records until they are refused."""
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        return {"skipped": "needs root, to mount a small file system"}
    try:
        home, log, published, appended, refused = Store(folder / "kernels"), Records(folder / "records"), 0, 0, []
        try:
            while published < 10_000:
                home.publish(replace(winner(published), workload=replace(WORKLOAD, m=64 + published)))
                published += 1
        except StoreError as error:
            refused.append(str(error))
        try:
            while appended < 100_000:
                log.append(record(appended))
                appended += 1
        except StoreError as error:
            refused.append(str(error))
        found = [home.get(replace(WORKLOAD, m=64 + i), CHIP, SOURCE) for i in range(published)]
        lost = sum(f is None for f in found) + appended - len(log.read(SOURCE))
        shutil.rmtree(home.path(WORKLOAD, CHIP, SOURCE))
        log.append(record(appended))  # with space again, it goes on
        lost += appended + 1 - len(log.read(SOURCE))
        corrupt = sum(f is not None and f.config["number"] != i for i, f in enumerate(found))
        clear = sum("free some space" in text for text in refused)
        return {
            "published": published,
            "appended": appended,
            "refused_clearly": clear,
            "lost": lost,
            "corrupt": corrupt,
        }
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def not_ours(folder: Path) -> dict[str, Any]:
    """Stores that are read-only or belong to somebody else, seen by a process that is not root."""
    if os.geteuid() != 0:
        return {"skipped": "needs root, to give folders away"}
    folder.mkdir(parents=True)
    for path in (folder, folder.parent):
        path.chmod(0o755)
    told = fork.Queue()

    def visitor() -> None:
        os.setegid(4321)
        os.seteuid(4321)
        mine, theirs = Store(folder / "readonly"), Store(folder / "foreign")
        told.put(("read", mine.get(WORKLOAD, CHIP, SOURCE) is not None))
        for name, attempt in (
            ("publish", lambda: mine.publish(winner(2))),
            ("append", lambda: Records(folder / "readonly").append(record(1))),
            ("foreign get", lambda: theirs.get(WORKLOAD, CHIP, SOURCE)),
            ("foreign publish", lambda: theirs.publish(winner(2))),
            ("foreign read", lambda: Records(folder / "foreign").read(SOURCE)),
        ):
            try:
                attempt()
                told.put((name, False))
            except StoreError as error:
                told.put((name, "GPU_TUNE_CACHE_DIR" in str(error)))

    for name, owner in (("readonly", 4321), ("foreign", 4322)):
        Store(folder / name).publish(winner(1))
        for path in (folder / name, *(folder / name).rglob("*")):
            os.chown(path, owner, owner)
            path.chmod(0o555 if path.is_dir() else 0o444)
    process = fork.Process(target=visitor)
    process.start()
    answers = dict(told.get(timeout=60) for _ in range(6))
    process.join()
    right = sum(bool(v) for v in answers.values())
    return {"asked": 6, "right": right, "wrong": sorted(k for k, v in answers.items() if not v)}


def hostile(count: int, folder: Path, seed: int) -> dict[str, Any]:
    """Damaged bytes in record lines and in all files of a winner: refused one by one, never believed, never a crash."""
    rng, refused, unchanged, corrupt = random.Random(seed), 0, 0, 0
    line = record(7).line().encode()
    for _ in range(count):
        try:
            known = parse(_damage(line, rng).decode(errors="replace"))
            unchanged += known == record(7)
        except CorruptData:
            refused += 1
    home = Store(folder)
    path = home.publish(winner(5))
    original = {p.name: p.read_bytes() for p in path.iterdir()}
    missed = 0
    for _ in range(count // 10):
        name = rng.choice(sorted(original))
        data = _damage(original[name], rng)
        (path / name).write_bytes(data)
        found = home.get(WORKLOAD, CHIP, SOURCE)
        missed += found is None
        corrupt += found is not None and data != original[name] and found != winner(5)
        (path / name).write_bytes(original[name])
    corrupt += home.get(WORKLOAD, CHIP, SOURCE) != winner(5)
    told = {"record_lines": count, "lines_refused": refused, "lines_with_harmless_damage": count - refused}
    return {**told, "winner_files": count // 10, "winners_refused": missed, "corrupt": corrupt}


def _damage(data: bytes, rng: random.Random) -> bytes:
    at, kind = rng.randrange(len(data)), rng.randrange(4)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + rng.randbytes(rng.randrange(1, 20)) + data[at:]
    return data[:at] + data[at + rng.randrange(1, 50) :]


def run(kills: int, only: Sequence[str], folder: Path, seed: int = 0) -> dict[str, Any]:
    """The figures of each part."""
    logging.disable(logging.WARNING)  # each damaged file is told in the log, thousands here
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "publish": lambda p: kill_publishers(kills, p, seed),
        "append": lambda p: kill_appenders(kills, p, seed),
        "tune": lambda p: kill_tunings(max(2, kills // 100), p, seed),
        "sixteen": lambda p: sixteen(max(0.5, kills / 200), p),
        "full": full_disk,
        "notours": not_ours,
        "hostile": lambda p: hostile(10 * kills, p, seed),
    }
    figures: dict[str, Any] = {}
    for name in only or parts:
        start = time.monotonic()
        figures[name] = parts[name](folder / name)
        figures[name]["seconds"] = round(time.monotonic() - start, 1)
        print(f"{name:8s} " + ", ".join(f"{k} {v}" for k, v in figures[name].items()), flush=True)
    logging.disable(logging.NOTSET)
    return figures


def faultless(figures: dict[str, Any]) -> bool:
    """Whether nothing was lost and nothing corrupt in any part, and strangers were refused as they should be."""
    clean = all(not f.get("lost") and not f.get("corrupt") and not f.get("left_after_gc") for f in figures.values())
    return clean and all(f.get("right") == f.get("asked") for f in figures.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when something was lost or corrupt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--only", default="", help="parts, by comma: publish, append, tune, sixteen, full, ...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "faults.json")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gpu_tune-faults-") as folder:
        figures = run(given.kills, [n for n in given.only.split(",") if n], Path(folder), given.seed)
    good = faultless(figures)
    print("nothing lost, nothing corrupt" if good else "SOMETHING WAS LOST OR CORRUPT")
    where = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}"}
    date = time.strftime("%Y-%m-%d", time.gmtime())
    given.json.write_text(json.dumps({"date": date, **where, "faultless": good, **figures}, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
