"""Users' folders for the command line: an empty one, and one in which a matmul has been tuned."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gpu_tune import paths
from gpu_tune.cuda import driver
from tests.helpers.command_line import ARGS
from tests.helpers.processes import HANG


@pytest.fixture
def no_gpu(home, monkeypatch):
    monkeypatch.setattr(driver, "library", lambda: None)
    monkeypatch.setenv("COLUMNS", "160")
    return home


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, compiled_once):
    """A user's folder in which one matmul has been tuned, by a real process."""
    from gpu_tune.emulator import build

    build.library()
    folder = tmp_path_factory.mktemp("tuned") / "home"
    folder.mkdir(mode=0o700)
    (folder / "emulator").symlink_to(paths.root() / "emulator")
    (folder / "compiled").symlink_to(compiled_once)
    env = {**os.environ, "GPU_TUNE_CACHE_DIR": str(folder), "GPU_TUNE_LIBCUDA": "/nonexistent", "COLUMNS": "160"}
    command = [sys.executable, "-m", "gpu_tune", "tune", *ARGS, "--trials", "5", "--jobs", "1"]
    command += ["--device", "nvidia-h200"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def warm(tuned, home, monkeypatch):
    """The tuned folder as the user's; tests here only read it."""
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(tuned[0]))
    return tuned[0]
