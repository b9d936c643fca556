"""What is kept on a disk: writers killed at any moment, many at once, and a full disk lose and damage nothing.

``GPU_TUNE_FAULT_ROUNDS`` sets how often writers are killed (default 8).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from gpu_tune.measure.compile import CompileStore
from tests.helpers.processes import HANG, python, started

ROUNDS = int(os.environ.get("GPU_TUNE_FAULT_ROUNDS", "8"))
HERE = Path(__file__).parents[2]


WRITER = """
import sys
from pathlib import Path
from gpu_tune.measure.compile import CompileStore, CompileResult
store = CompileStore(Path(sys.argv[1]))
n = int(sys.argv[2])
store.put(f"{n % 97:032x}", CompileResult("ok", bytes([n % 256]) * 200_000, "log", seconds=n))
print("ready", flush=True)
while True:
    n += 1
    store.put(f"{n % 97:032x}", CompileResult("ok", bytes([n % 256]) * 200_000, "log", seconds=n))
"""


def test_writers_killed_at_any_moment_leave_whole_entries_or_none(tmp_path: Path):
    rng = random.Random(0)
    killed = 0
    for r in range(ROUNDS):
        with started(python(WRITER, str(tmp_path), str(r * 1000))) as process:
            process.line(lambda text: text == "ready\n")
            time.sleep(rng.uniform(0.0, 0.03))
            process.kill()
        killed += 1
    store = CompileStore(tmp_path)
    entries = [store.get(p.stem) for p in tmp_path.glob("??/*.bin")]
    assert entries and all(e is not None and len(set(e.cubin)) == 1 and len(e.cubin) == 200_000 for e in entries)
    print(f"{killed} writers killed, {len(entries)} entries, none damaged")


def test_sixteen_writers_on_one_store_agree(tmp_path: Path):
    script = WRITER.replace("while True:", "for _ in range(60):")
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(i)], stdout=subprocess.DEVNULL)
                 for i in range(16)]  # fmt: skip
    assert all(p.wait(HANG) == 0 for p in processes)
    store = CompileStore(tmp_path)
    paths = list(tmp_path.glob("??/*.bin"))
    assert len(paths) >= 75 and all(store.get(p.stem) is not None for p in paths)
    assert not list(tmp_path.glob("??/.new-*"))


FULL = """
import resource, signal, sys
sys.path.insert(0, {here!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from tests.helpers import toy
from pathlib import Path
from gpu_tune.measure.select import make_measurer
from gpu_tune.trial import Candidate
from gpu_tune.workload import Matmul
root = Path(sys.argv[1])
templates = {{"toy": toy.make(root)}}
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))  # from here on every file is full after 64 bytes
m = make_measurer(Matmul(20, 18, 16, dtype="float32"), kind="gpu", templates=templates, store=root, jobs=1)
ends = [m.submit(Candidate("toy", toy.config(rows=r))).result(300) for r in (2, 4)]
m.close()
print(*(e.status for e in ends))
"""


def test_a_full_disk_costs_what_cannot_be_kept_and_no_trial(fake_cuda: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", FULL.format(here=str(HERE)), str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout.split() == ["ok", "ok"], done.stderr
    assert "cannot be kept" in done.stderr and "cannot be noted" in done.stderr
    assert not list((tmp_path / "compiled").glob("??/*")), "nothing half-written stays"
    assert done.returncode == 0
