"""The compile pool: many at once, one bad source costs itself, nothing is compiled twice."""

from __future__ import annotations

import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from gpu_tune.cuda import cubin
from gpu_tune.errors import EnvironmentFault, InvalidInput
from gpu_tune.measure.compile import CompilePool, CompileResult, CompileStore, compile_key, default_jobs
from tests.helpers.processes import HANG, gone, wait_until, worker_pids

ARCH = "sm_80"


def source(n: int) -> str:
    return f'extern "C" __global__ void k(int* a) {{ a[threadIdx.x] = {n}; }}'


@pytest.fixture
def store(tmp_path: Path) -> CompileStore:
    return CompileStore(tmp_path / "compiled")


def faulty(request: tuple[str, str], note: object) -> object:
    """A stand-in for the compiler, told by the source what to do."""
    from gpu_tune.measure.compile import compile_request

    text = request[0]
    if "HANG" in text:
        signal.pause()
    if "KILL" in text:
        with Path(text.split("KILL")[1].split()[0]).open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    if "CRASH" in text:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "ONCE" in text:  # crash the first time only
        flag = Path(text.split("ONCE")[1].split()[0])
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return compile_request(request, note)  # type: ignore[arg-type]


FAULTY = "tests.measure.test_compile:faulty"


def test_sources_become_cubins_and_errors_keep_the_compilers_words(store: CompileStore):
    pool = CompilePool(store, 2)
    good = [pool.submit(source(i), ARCH) for i in range(6)]
    bad = pool.submit('extern "C" __global__ void k() { nonsense; }', ARCH)
    assert all(cubin.read(f.result(HANG).cubin).kernels["k"].registers > 0 for f in good)
    assert all("Used" in f.result().log for f in good)
    found = bad.result(HANG)
    assert (
        (found.status, found.cubin) == ("compile_error", b"") and "nonsense" in found.reason and "nonsense" in found.log
    )
    pool.close()


def test_equal_compiles_in_flight_are_one_and_stored_ones_are_read(
    store: CompileStore, monkeypatch: pytest.MonkeyPatch
):
    pool, both, get = CompilePool(store, 1), threading.Event(), store.get
    monkeypatch.setattr(store, "get", lambda key: get(key) if both.wait(HANG) else None)
    first, second = pool.submit(source(1), ARCH), pool.submit(source(1), ARCH)
    both.set()
    assert first is second
    fresh = first.result(HANG)
    again = pool.submit(source(1), ARCH).result(HANG)
    assert not fresh.cached and again.cached and again.cubin == fresh.cubin and again.log == fresh.log
    bad = "this fails"
    assert not pool.submit(bad, ARCH).result(HANG).cached and pool.submit(bad, ARCH).result(HANG).cached
    pool.close()


def test_the_key_tells_source_and_architecture_apart():
    assert (
        len({compile_key(source(1), "sm_80"), compile_key(source(2), "sm_80"), compile_key(source(1), "sm_90a")}) == 3
    )


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"junk" + b, lambda b: b[:40], lambda b: b"",
                                    lambda b: b.replace(b'"ok"', b'"no"', 1)])  # fmt: skip
def test_a_damaged_entry_is_a_miss(store: CompileStore, damage):
    key = "ab" * 16
    store.put(key, CompileResult("ok", b"\x7fELF body", "log"))
    assert store.get(key) is not None
    path = store.path(key)
    path.write_bytes(damage(path.read_bytes()))
    assert store.get(key) is None


def test_an_entry_under_another_key_is_a_miss(store: CompileStore):
    store.put("ab" * 16, CompileResult("ok", b"\x7fELF body"))
    store.path("ab" * 16).rename(store.path("ab" + "cd" * 15))
    assert store.get("ab" + "cd" * 15) is None


def test_a_timeout_is_not_kept_and_the_folder_is_private(store: CompileStore):
    store.put("ab" * 16, CompileResult("compile_timeout", reason="slow"))
    assert store.get("ab" * 16) is None
    store.put("ab" * 16, CompileResult("compile_error", reason="bad"))
    assert stat.S_IMODE(store.path("ab" * 16).parent.stat().st_mode) & 0o077 == 0


def test_a_hanging_compile_is_killed_and_the_others_go_on(store: CompileStore):
    pool = CompilePool(store, 1, timeout=HANG, entry=FAULTY)
    assert pool.submit(source(0), ARCH).result(HANG).status == "ok"
    pid = worker_pids(pool)[0]
    pool.timeout = 0.5
    assert pool.submit("// HANG", ARCH).result(HANG).status == "compile_timeout"
    assert gone(pid) and store.get(compile_key("// HANG", ARCH)) is None
    pool.timeout = HANG
    assert pool.submit(source(1), ARCH).result(HANG).status == "ok"
    pool.close()


def test_a_source_that_crashes_the_compiler_twice_is_an_error_and_once_is_an_accident(
    store: CompileStore, tmp_path: Path
):
    pool = CompilePool(store, 1, entry=FAULTY)
    crash = pool.submit("// CRASH", ARCH).result(HANG)
    assert crash.status == "compile_error" and "SIGSEGV" in crash.reason
    assert store.get(compile_key("// CRASH", ARCH)) is None, "that may be the machine"
    once = pool.submit(f"// ONCE{tmp_path}/flag \n{source(3)}", ARCH).result(HANG)
    assert once.status == "ok"
    pool.close()


def test_a_compile_that_the_machine_kills_is_not_the_sources_fault(
    store: CompileStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    pool = CompilePool(store, 2, entry=FAULTY)
    killed = [f"// KILL{tmp_path}/{i} " for i in range(2)]
    futures = [pool.submit(text, ARCH) for text in killed]
    for i, future in enumerate(futures):
        with pytest.raises(EnvironmentFault, match=r"lost 3 times, the last time alone.*SIGKILL"):
            future.result(HANG)
        assert (tmp_path / str(i)).read_text() == "xxx" and store.get(compile_key(killed[i], ARCH)) is None
    assert caplog.text.count("a compile worker was lost") == 1
    assert pool.submit(source(0), ARCH).result(HANG).status == "ok"
    pool.close()


def test_a_json_py_in_the_working_directory_is_not_run(
    store: CompileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("json", "pickle", "socket", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    pool = CompilePool(store, 1)
    assert pool.submit(source(0), ARCH).result(HANG).status == "ok" and not (tmp_path / "run").exists()
    pool.close()


def test_a_killed_worker_is_replaced_and_nothing_is_lost(store: CompileStore):
    pool = CompilePool(store, 2)
    futures = [pool.submit(source(i), ARCH) for i in range(40)]
    for _ in range(3):
        assert wait_until(lambda: bool(worker_pids(pool)))
        for pid in worker_pids(pool):
            os.kill(pid, signal.SIGKILL)
        next(f for f in futures if not f.done() or f is futures[-1]).result(HANG)
    assert [f.exception(HANG) for f in futures].count(None) >= 38, "only what was hit three times may be lost"
    assert {f.result().status for f in futures if not f.exception()} == {"ok"}
    pool.close()


def test_closing_ends_workers_and_waiting_compiles():
    pool = CompilePool(None, 1, entry=FAULTY)
    hang, waiting = pool.submit("// HANG", ARCH), pool.submit(source(1), ARCH)
    assert wait_until(lambda: bool(worker_pids(pool)))
    pids = worker_pids(pool)
    pool.close()
    assert waiting.cancelled() and (hang.cancelled() or hang.exception() is not None)
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(RuntimeError):
        pool.submit(source(1), ARCH)


def test_a_store_that_cannot_be_written_costs_nothing_but_the_keeping(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    pool = CompilePool(CompileStore(tmp_path / "file" / "compiled"), 1)
    assert pool.submit(source(1), ARCH).result(HANG).status == "ok"
    pool.close()


def test_the_number_of_compile_jobs_is_a_count_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_TUNE_COMPILE_JOBS", "3")
    assert default_jobs() == 3
    monkeypatch.setenv("GPU_TUNE_COMPILE_JOBS", "")
    assert default_jobs() >= 1
    for wrong in ("abc", "0", "-1", "²", "1e3", "99999"):
        monkeypatch.setenv("GPU_TUNE_COMPILE_JOBS", wrong)
        with pytest.raises(InvalidInput, match="GPU_TUNE_COMPILE_JOBS"):
            default_jobs()


def test_a_worker_that_cannot_be_started_costs_the_compile_alone(monkeypatch):
    def full(*arguments, **options):
        raise OSError(24, "Too many open files")

    pool = CompilePool(jobs=1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("gpu_tune.measure.worker.tempfile.TemporaryFile", full)
            with pytest.raises(EnvironmentFault, match="Too many open files"):
                pool.submit("__global__ void k() {}", "sm_80").result(60)
        assert pool.submit("__global__ void k() {}", "sm_80").result(60).status == "ok"
    finally:
        pool.close()
