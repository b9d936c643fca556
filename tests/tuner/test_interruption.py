"""Ctrl-C and kill -9, with real processes: the best is kept, and the same call resumes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import gpu_tune as gt
from gpu_tune.store.records import Records
from tests.helpers import toy
from tests.helpers.processes import python, started
from tests.helpers.tuning import WORKLOAD

SCRIPT = """
import sys
sys.path.insert(0, {here!r})
import pathlib, gpu_tune as gt
from gpu_tune.cuda import driver
from tests.helpers import toy
driver.library = lambda: None
folder = pathlib.Path({folder!r})
folder.mkdir(exist_ok=True)
templates = {{"toy": toy.make(folder)}}
def say(p):
    print(p.phase, p.trials, flush=True)
kernel = gt.tune(gt.Matmul(20, 18, 16, dtype="float32"), trials={trials}, templates=templates, jobs=1, on_trial=say)
print("winner", kernel.winner.trials, kernel.winner.complete, kernel.config.key, flush=True)
"""


def start(tmp_path, trials=60):
    here, folder = str(Path(toy.__file__).parents[2]), str(tmp_path / "toy")
    return started(python(textwrap.dedent(SCRIPT).format(here=here, folder=folder, trials=trials)))


def searched(process, n):
    """How many trials are told as soon as that is at least ``n``."""
    words = process.line(lambda line: line.startswith("search ") and int(line.split()[1]) >= n).split()
    return int(words[1])


def test_ctrl_c_keeps_the_best_and_says_that_the_search_was_cut_short(home, tmp_path):
    with start(tmp_path, trials=1000) as process:
        searched(process, 8)
        process.interrupt()
        assert process.end() == 0, process.err
    words = process.out.split("winner ")[1].split()
    assert 8 <= int(words[0]) < 1000 and words[1] == "False"
    assert gt.load(WORKLOAD).config.key == words[2]


def test_kill_9_loses_at_most_the_trials_in_flight_and_the_same_call_resumes(home, tmp_path):
    with start(tmp_path) as process:
        told = searched(process, 8)
        process.kill()
    kept = len(Records().read("predicted"))
    assert kept >= told
    with start(tmp_path) as process:
        process.end()
    assert "winner 60 True" in process.out, process.out + process.err
    records = Records().read("predicted")
    assert len(records) == 60 and len({r.measurement.candidate for r in records}) == 60
