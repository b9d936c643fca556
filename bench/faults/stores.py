"""Stores that are full, read-only, somebody else's, or damaged."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.faults.samples import CHIP, SOURCE, WORKLOAD, record, winner
from gpu_tune.errors import CorruptData, StoreError
from gpu_tune.store.records import Records, parse
from gpu_tune.store.store import Store

fork = multiprocessing.get_context("fork")


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
