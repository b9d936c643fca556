"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from gpu_tune.cuda import driver, nvrtc
from gpu_tune.measure import runtime
from gpu_tune.measure.compile import CompileResult, CompileStore, compile_key
from tests.helpers import virtual_gpu
from tests.helpers.cache import cache_folder

NEEDS_TORCH = Path(__file__).parent / "torch"
TORCH = importlib.util.find_spec("torch") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: the short ones then fill what is left of every process's time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without PyTorch what needs it is not even read."""
    return True if collection_path == NEEDS_TORCH and not TORCH else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line about what was left out."""
    asked = [Path(config.invocation_params.dir, argument.partition("::")[0]) for argument in config.args]
    if not TORCH and any(NEEDS_TORCH.is_relative_to(path.resolve()) for path in asked):
        terminalreporter.write_line("left out: tests/torch, for PyTorch is not installed; `make test-torch` runs them")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes of this run, and of every run with the same ``GPU_TUNE_TEST_SHARED``."""
    folder = Path(os.environ.get("GPU_TUNE_TEST_SHARED", "") or _of_all_workers(tmp_path_factory) / "shared")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _of_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def fake_libcuda(shared: Path) -> Path:
    """A CUDA driver whose GPU is virtual (tests/helpers/fake_cuda)."""
    library = virtual_gpu.build(shared)
    if library is None:
        pytest.skip("needs g++ and cuda.h (the nvidia-cuda-runtime wheel has it)")
    return library


@pytest.fixture
def fake_cuda(fake_libcuda: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The virtual GPU in place of the machine's, and the CuPy for it, in this process and in its children."""
    if others := [name for name in virtual_gpu.drivers() if name != str(fake_libcuda)]:
        pytest.skip(f"{others[0]} is loaded in this process, where tests ran on it; run them apart")
    for name, value in virtual_gpu.environment(fake_libcuda).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(virtual_gpu.FAKE_CUPY))
    real = _without_cupy()  # a machine that has CuPy imported it when tests/gpu was collected
    driver.library.cache_clear()
    runtime.cupy.cache_clear()
    yield fake_libcuda
    driver.library.cache_clear()
    runtime.cupy.cache_clear()
    _without_cupy()  # others would take it for the caller's own
    sys.modules.update(real)


def _without_cupy() -> dict[str, ModuleType]:
    """Takes CuPy out of the imported modules, and returns what was there of it."""
    return {n: sys.modules.pop(n) for n in list(sys.modules) if n.partition(".")[0] == "cupy"}


@pytest.fixture(scope="session")
def compiled_once(shared: Path) -> Path:
    """A folder of compiled candidates that all tests share; a name in it stands for source, options and compiler."""
    folder = shared / "compiled"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def compile_once(compiled_once: Path) -> Iterator[None]:
    """Cubins of ``nvrtc.to_cubin`` come from the shared folder where they are there."""
    store, compile_now = CompileStore(compiled_once), nvrtc.to_cubin

    def to_cubin(source: str, arch: str, *, options: Sequence[str] = ()) -> nvrtc.Compiled:
        key = compile_key(source, arch)
        found = None if options else store.get(key)
        if found is not None and found.status == "ok":
            return nvrtc.Compiled(found.cubin, found.log)
        made = compile_now(source, arch, options=options)
        if not options:
            store.put(key, CompileResult("ok", made.data, made.log))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvrtc, "to_cubin", to_cubin)
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled_once: Path) -> Path:
    """A cache folder of this test's own."""
    folder = cache_folder(tmp_path, compiled_once)
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(folder))
    return folder
