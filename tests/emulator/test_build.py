"""How the library is built and kept, and what is said when that is impossible."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_tune import emulator
from gpu_tune.cuda import nvrtc
from gpu_tune.emulator import build
from gpu_tune.emulator import module as modules
from gpu_tune.errors import CompilerMissing, EmulationError
from tests.helpers.emulator.snippets import PRELUDE, needs_emulator, needs_nvrtc
from tests.helpers.processes import HANG


@pytest.fixture
def small_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small sources in place of the emulator's, and an empty store."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "one.hpp").write_text("int two();\n")
    (sources / "one.cpp").write_text('#include "one.hpp"\nextern "C" int answer() { return 40 + two(); }\n')
    (sources / "two.cpp").write_text('#include "one.hpp"\nint two() { return 2; }\n')
    monkeypatch.setattr(build, "FOLDERS", (sources,))
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(tmp_path / "store"))
    return sources


@needs_emulator
def test_built_once_and_again_after_a_change(small_sources: Path) -> None:
    first = build._path()
    build._build(first)
    assert ctypes.CDLL(str(first)).answer() == 42
    objects = {p.name: p.stat().st_mtime_ns for p in (build.folder() / "objects").iterdir()}
    (small_sources / "two.cpp").write_text('#include "one.hpp"\nint two() { return 3; }\n')
    second = build._path()
    assert second != first
    build._build(second)
    assert ctypes.CDLL(str(second)).answer() == 43
    after = {p.name: p.stat().st_mtime_ns for p in (build.folder() / "objects").iterdir()}
    assert len(after) == 3 and objects.items() <= after.items(), "an unchanged source was compiled again"


@needs_emulator
def test_a_compiler_error_is_shown(small_sources: Path) -> None:
    (small_sources / "two.cpp").write_text("int two() { return nonsense; }\n")
    with pytest.raises(EmulationError, match="nonsense"):
        build._build(build._path())
    assert not [p for p in build.folder().rglob("*") if p.is_file() and not p.name.startswith("one-")]


@needs_emulator
def test_two_processes_build_at_once(small_sources: Path) -> None:
    script = (
        "import sys, ctypes; from pathlib import Path; from gpu_tune.emulator import build;"
        "build.FOLDERS = (Path(sys.argv[1]),); path = build._path(); build._build(path);"
        "sys.exit(ctypes.CDLL(str(path)).answer())"
    )
    started = [subprocess.Popen([sys.executable, "-c", script, str(small_sources)]) for _ in range(2)]
    assert [p.wait(HANG) for p in started] == [42, 42]


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    assert not emulator.available()
    assert "C++17 compiler" in emulator.unavailable_reason()
    with pytest.raises(CompilerMissing, match="apt install"):
        build.compiler()


@needs_emulator
@needs_nvrtc
def test_ptx_is_kept_by_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(tmp_path))
    source = PRELUDE + "GLOBAL k(u32* a) { a[threadIdx.x] = 1; }"
    ptx = modules.compile_ptx(source, "sm_80")
    monkeypatch.setattr(nvrtc, "to_ptx", None)  # any further compile fails
    assert modules.compile_ptx(source, "sm_80") == ptx
    assert modules.is_ptx(ptx) and not modules.is_ptx(source)
    with pytest.raises(TypeError):
        modules.compile_ptx(source, "sm_90")
