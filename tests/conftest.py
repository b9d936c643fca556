"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_tune import driver

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def fake_libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CUDA driver whose GPU is virtual (tests/fake_cuda), compiled against NVIDIA's cuda.h."""
    headers = [h for folder in sys.path for h in Path(folder or ".").glob("nvidia/cu*/include/cuda.h")]
    headers += list(Path("/usr/local/cuda/include").glob("cuda.h"))
    if not headers or not shutil.which("g++"):
        pytest.skip("needs g++ and cuda.h (the nvidia-cuda-runtime wheel has it)")
    library = tmp_path_factory.mktemp("fake") / "libcuda.so"
    command = ["g++", "-std=c++17", "-O2", "-shared", "-fPIC", "-I", str(headers[0].parent)]
    subprocess.run([*command, str(HERE / "fake_cuda" / "cuda.cpp"), "-o", str(library)], check=True)
    return library


@pytest.fixture
def fake_cuda(fake_libcuda: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The virtual GPU in place of the machine's, in this process and in its children."""
    monkeypatch.setenv("GPU_TUNE_LIBCUDA", str(fake_libcuda))
    driver.library.cache_clear()
    yield fake_libcuda
    driver.library.cache_clear()
