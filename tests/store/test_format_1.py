"""What an earlier version left: a miss that is said in one line, and files that stay as they are."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

import gpu_tune as gt
from gpu_tune.cuda import driver
from gpu_tune.errors import NotTuned
from gpu_tune.store.records import Records
from gpu_tune.store.store import Store
from tests.helpers import toy

FILES = Path(__file__).parents[1] / "data" / "format-1"
"""A winner and two records of each kind, as written at commit 0fc5959, where predicted was called modelled."""
WORKLOAD = gt.Matmul(20, 18, 16, dtype="float32")
CHIP = "nvidia-h200-132sm-141gb"


@pytest.fixture
def old(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder with files of format 1."""
    monkeypatch.setattr(driver, "library", lambda: None)
    shutil.copytree(FILES, home, dirs_exist_ok=True)
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return home


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("source", ["measured", "predicted"])
def test_a_winner_is_a_miss_said_in_one_line(old: Path, source: str, caplog: pytest.LogCaptureFixture):
    before = contents(old)
    assert Store().get(WORKLOAD, CHIP, source) is None
    (message,) = caplog.messages
    assert "format 1, and this version reads format 2" in message and "tune again" in message and CHIP in message
    assert contents(old) == before


@pytest.mark.parametrize("source", ["measured", "predicted"])
def test_records_are_misses_said_in_one_line(old: Path, source: str, caplog: pytest.LogCaptureFixture):
    before = contents(old)
    assert Records().read(source) == []
    (message,) = caplog.messages
    assert "format 1, and this version reads format 2" in message and "tune again" in message
    assert str(old / "records") in message
    assert contents(old) == before


def test_gc_leaves_them_and_says_so(old: Path, caplog: pytest.LogCaptureFixture):
    before = contents(old)
    assert Store().gc(older_than=-1) == (0, 0)
    (message,) = caplog.messages
    assert "format 1" in message and contents(old) == before
    (entry,) = Store().entries()
    assert entry.winner is None and not entry.damaged


def test_tuning_goes_on_beside_them(
    old: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    before = contents(old)
    monkeypatch.setenv("GPU_TUNE_STRICT", "1")
    with pytest.raises(NotTuned):
        gt.load(WORKLOAD, device="nvidia-h200")
    assert "tune again" in caplog.text
    kernel = gt.tune(WORKLOAD, trials=4, templates={"toy": toy.make(tmp_path)}, jobs=1, seed=1)
    assert kernel.winner.trials == 4 and len(Records().read("predicted")) == 4
    assert contents(old).items() >= before.items()


def test_a_new_winner_takes_the_place_of_an_old_one(old: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.ERROR):
        assert Store().get(WORKLOAD, CHIP) is None
    from tests.store.test_store import winner

    Store().publish(winner(WORKLOAD, source="measured"))
    assert Store().get(WORKLOAD, CHIP) is not None
