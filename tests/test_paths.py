"""How files are written: whole by one rename, or line by line into a file of one's own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from gpu_tune import paths
from gpu_tune.errors import StoreError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), paths.replacing(target) as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    with paths.replacing(target) as new:
        new.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]
    with pytest.raises(OSError), paths.replacing(tmp_path / "missing" / "file"):
        pass


def test_threads_share_one_file_of_whole_lines_and_a_closed_one_is_followed_by_another(tmp_path: Path):
    file = paths.LineFile(tmp_path / "lines")
    threads = [
        threading.Thread(target=lambda n=n: [file.append(f"{n} {i}\n", sync=i == 0) for i in range(50)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (path,) = (tmp_path / "lines").iterdir()
    assert sorted(path.read_text().splitlines()) == sorted(f"{n} {i}" for n in range(4) for i in range(50))
    file.close()
    file.append("more\n")
    assert len(list((tmp_path / "lines").iterdir())) == 2


def test_lines_are_not_written_where_others_can(tmp_path: Path):
    tmp_path.chmod(0o777)
    with pytest.raises(StoreError, match="written by others"):
        paths.LineFile(tmp_path).append("line\n")
