"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_tune.cuda import driver

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def fake_libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CUDA driver whose GPU is virtual (tests/helpers/fake_cuda), compiled against NVIDIA's cuda.h."""
    headers = [h for folder in sys.path for h in Path(folder or ".").glob("nvidia/cu*/include/cuda.h")]
    headers += list(Path("/usr/local/cuda/include").glob("cuda.h"))
    if not headers or not shutil.which("g++"):
        pytest.skip("needs g++ and cuda.h (the nvidia-cuda-runtime wheel has it)")
    library = tmp_path_factory.mktemp("fake") / "libcuda.so"
    folders = (headers[0].parent, HERE / "helpers" / "fake_cuda", HERE / "helpers" / "fake_cuda" / "without_cublas")
    include = [option for folder in folders for option in ("-I", str(folder))]
    command = ["g++", "-std=c++17", "-O2", "-shared", "-fPIC", *include]
    sources = sorted(map(str, (HERE / "helpers" / "fake_cuda").glob("*.cpp")))
    subprocess.run([*command, *sources, "-o", str(library)], check=True)
    return library


@pytest.fixture
def fake_cuda(fake_libcuda: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The virtual GPU in place of the machine's, in this process and in its children."""
    for name in ("GPU_TUNE_LIBCUDA", "GPU_TUNE_CUBLAS", "GPU_TUNE_CUBLASLT"):
        monkeypatch.setenv(name, str(fake_libcuda))
    driver.library.cache_clear()
    yield fake_libcuda
    driver.library.cache_clear()


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of compiled candidates that all tests of a session share."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled_once: Path) -> Path:
    """An empty user's folder; the emulator's library and compiled sources, which take long to make, are shared."""
    from gpu_tune import paths
    from gpu_tune.emulator import build

    build.library()
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    (folder / "emulator").symlink_to(paths.root() / "emulator")
    (folder / "compiled").symlink_to(compiled_once)
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(folder))
    return folder
