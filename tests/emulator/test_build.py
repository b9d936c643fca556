"""How the library is built and kept, and what is said when that is impossible."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpu_tune import emulator, paths
from gpu_tune.cuda import nvrtc
from gpu_tune.emulator import build
from gpu_tune.emulator import module as modules
from gpu_tune.errors import CompilerMissing, EmulationError, StoreError
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
def test_a_build_is_said_once_on_standard_error(
    small_sources: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A first call from Python is silent for long otherwise; a caller that says it itself is not doubled."""
    monkeypatch.setattr(build, "_told", False)
    build._load(build._path())
    assert capsys.readouterr().err == build.ANNOUNCED + "\n"
    build._load(build._path())
    build._path().unlink()
    build._load(build._path())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(build, "_told", False)
    build._path().unlink()
    build.told()
    build._load(build._path())
    assert capsys.readouterr() == ("", "")


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


@needs_emulator
def test_a_cut_library_is_built_again_and_seen(small_sources: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A library is mapped into memory: one that is cut would be a bus error."""
    assert build.state() == "not built yet"
    path = build._path()
    assert build._load(path).answer() == 42 and build.state() == "built" and build.damaged() == []
    whole = path.read_bytes()
    object_file = next((path.parent / "objects").glob("two-*.o"))
    for kept in (whole[:5000], b"", whole[:-200] + b"\0" * 200):
        fresh = path.with_name("fresh.so")  # another file: a library that is loaded must not change
        fresh.write_bytes(kept)
        fresh.replace(path)
        object_file.write_bytes(object_file.read_bytes()[:100])
        assert build.state() == "damaged" and set(build.damaged()) == {path, object_file}
        assert build._load(path).answer() == 42 and path.read_bytes() == whole
    assert caplog.text.count("is damaged: it is built again") == 3


@needs_emulator
def test_where_nothing_can_be_kept_the_library_is_built_for_the_process(
    small_sources: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path) -> Path:
        raise OSError(28, "No space left on device")

    prepare = build.paths.prepare
    monkeypatch.setattr(build.paths, "prepare", lambda p: full(p) if build.folder() in p.parents else prepare(p))
    monkeypatch.setattr(build.paths, "_complained", set())
    for _ in range(2):
        assert build._load(build._path()).answer() == 42
    assert not build._path().exists() and caplog.text.count("cannot be kept") == 1


@needs_emulator
def test_cxx_may_have_arguments_and_an_unusable_one_is_said(
    small_sources: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = build._path()
    monkeypatch.setenv("CXX", "env g++ -DNOTHING")
    assert build.compiler()[1:] == ("g++", "-DNOTHING")
    assert build._path() != plain and build._load(build._path()).answer() == 42
    build._say_unusable.cache_clear()
    monkeypatch.setenv("CXX", "/nowhere/icpx -O2")
    for _ in range(2):
        assert build.compiler()
    assert caplog.text.count("CXX='/nowhere/icpx -O2' names no program") == 1


def test_each_compiler_has_its_own_version(tmp_path: Path) -> None:
    """What is kept of one compiler must not be found under the words of another, also within one process."""
    for name in ("first", "second"):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\necho {name} 1.0\n")
        script.chmod(0o755)
    told = [build._version((str(tmp_path / name), "-O2")) for name in ("first", "second", "first")]
    assert told == ["first 1.0\n", "second 1.0\n", "first 1.0\n"]


@needs_emulator
def test_a_library_that_cannot_be_built_is_tried_once_and_said(
    small_sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that is no compiler: asked for every kernel of a tuning, it would fail every time."""
    build.library.cache_clear()
    monkeypatch.setattr(build, "_failed", {})
    assert not build.ready() and emulator.available()
    (small_sources / "two.cpp").write_text("int two() { return nonsense; }\n")
    with pytest.raises(EmulationError, match="nonsense"):
        build.library()
    monkeypatch.setattr(build, "_load", None)
    with pytest.raises(EmulationError, match="nonsense"):
        build.library()
    assert build.ready() and "nonsense" in emulator.unavailable_reason()
    monkeypatch.setenv("CXX", "env g++")  # another compiler may do better
    assert emulator.available()


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    assert not emulator.available()
    assert "C++17 compiler" in emulator.unavailable_reason()
    with pytest.raises(CompilerMissing, match="apt install"):
        build.compiler()


@needs_emulator
@needs_nvrtc
def test_a_header_that_changes_is_read_again(tmp_path: Path) -> None:
    """What is kept by source and options would outlive the header."""
    source = '#include "value.cuh"\n' + PRELUDE + "GLOBAL k(u32* a) { a[threadIdx.x] = VALUE; }"
    for value in (3, 4):
        (tmp_path / "value.cuh").write_text(f"#define VALUE {value}\n")
        found = emulator.emulate(source, "k", grid=1, block=1, args=[np.zeros(1, np.uint32)], options=[f"-I{tmp_path}"])
        assert found.results[0][0] == value


@needs_emulator
@needs_nvrtc
def test_ptx_is_kept_by_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(tmp_path))
    source = PRELUDE + "GLOBAL k(u32* a) { a[threadIdx.x] = 1; }"
    ptx = modules.compile_ptx(source, "sm_80")
    kept = next(tmp_path.rglob("*.ptx"))
    whole = kept.read_bytes()
    kept.write_bytes(whole[:100])
    assert modules.compile_ptx(source, "sm_80") == ptx and kept.read_bytes() == whole  # cut: made again
    monkeypatch.setattr(paths, "_complained", set())
    monkeypatch.setattr(paths, "prepare", lambda folder: (_ for _ in ()).throw(StoreError("full")))
    for value in (3, 4):
        assert modules.compile_ptx(source.replace("= 1", f"= {value}"), "sm_80")
    assert caplog.text.count("PTX for the emulator cannot be kept") == 1
    monkeypatch.undo()
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(nvrtc, "to_ptx", None)  # any further compile fails
    assert modules.compile_ptx(source, "sm_80") == ptx
    assert modules.is_ptx(ptx) and not modules.is_ptx(source)
    with pytest.raises(TypeError):
        modules.compile_ptx(source, "sm_90")


@needs_emulator
def test_a_compiler_that_fails_without_a_word_is_told(small_sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(
        EmulationError, match=r"\(\S*false\); CXX names another compiler:\nit said nothing and ended with 1"
    ):
        build._load(build._path())
