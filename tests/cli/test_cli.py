"""The command line: every command, what it prints, its JSON and its exit codes. Real compiles, real processes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpu_tune import paths
from gpu_tune.cli import main, options
from gpu_tune.cuda import driver
from gpu_tune.errors import InvalidInput
from gpu_tune.store.store import Store
from gpu_tune.workload import Conv2d, Matmul
from tests.helpers.processes import HANG, python, started

ARGS = ["matmul", "--m", "32", "--n", "32", "--k", "32", "--dtype", "float32"]
KEY = "matmul-32x32x32-float32-nn"


@pytest.fixture
def home(home, monkeypatch):
    monkeypatch.setattr(driver, "library", lambda: None)
    monkeypatch.setenv("COLUMNS", "160")
    return home


def run(*args, code=0):
    result = CliRunner().invoke(main, list(args))
    assert "Traceback" not in result.output and (result.exception is None or isinstance(result.exception, SystemExit))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, compiled_once):
    """A user's folder in which one matmul has been tuned, by a real process."""
    from gpu_tune.emulator import build

    build.library()
    folder = tmp_path_factory.mktemp("tuned") / "home"
    folder.mkdir(mode=0o700)
    (folder / "emulator").symlink_to(paths.root() / "emulator")
    (folder / "compiled").symlink_to(compiled_once)
    env = {**os.environ, "GPU_TUNE_CACHE_DIR": str(folder), "GPU_TUNE_LIBCUDA": "/nonexistent", "COLUMNS": "160"}
    command = [
        sys.executable,
        "-m",
        "gpu_tune",
        "tune",
        *ARGS,
        "--trials",
        "5",
        "--jobs",
        "1",
        "--device",
        "nvidia-h200",
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def warm(tuned, home, monkeypatch):
    """The tuned folder as the user's; tests here only read it."""
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(tuned[0]))
    return tuned[0]


# --- tune -----------------------------------------------------------------------------------------------------------


def test_tune_ends_with_a_table_and_the_path_of_the_kernel(tuned):
    folder, done = tuned
    path = Path(re.search(r"^kernel +(.*/kernel\.cu)$", done.stdout, re.MULTILINE)[1])
    assert path.is_file() and path.is_relative_to(folder / "kernels" / "predicted")
    for words in (
        "default config",
        "best found",
        "(estimate, not a measurement)",
        "speed-up",
        "over the default",
        "5 in ",
        "executed by the emulator on the CPU",
        KEY,
    ):
        assert words in done.stdout
    assert "times are estimates" in done.stderr and "checking and re-timing the finalists" in done.stderr
    assert "\x1b[" not in done.stdout + done.stderr  # plain where there is no terminal


def test_tune_again_answers_from_the_store_as_json_alone(warm):
    result = run("tune", *ARGS, "--trials", "5", "--json")
    (found,) = json.loads(result.stdout)
    assert found["from_store"] and found["source"] == "predicted" and found["workload"] == KEY and found["seconds"] > 0
    assert found["config"] and Path(found["path"]).is_file() and found["ended"] == "trials"


def test_tune_of_a_range_shows_every_workload(home):
    result = run(
        "tune",
        "matmul",
        "--m",
        "16:32:16",
        "--n",
        "16",
        "--k",
        "8",
        "--dtype",
        "float32",
        "--trials",
        "1",
        "--jobs",
        "1",
    )
    assert (
        "[2/2] matmul-32x16x8-float32-nn" in result.stderr
        and "matmul-16x16x8" in result.stdout
        and "TFLOP/s" in result.stdout
    )


@pytest.mark.parametrize(
    "args, said",
    [
        (["matmul", "--m", "-3", "--n", "2", "--k", "3"], "Matmul m: -3 is not an integer from 1 to"),
        (
            ["matmul", "--m", "x", "--n", "2", "--k", "3"],
            "--m: 'x' is not a number, a list or a range; write 512, or 1,2,4, or",
        ),
        (["matmul", "--m", "9:1", "--n", "2", "--k", "3"], "--m: '9:1' is not"),
        (["matmul", "--m", "1:99999999", "--n", "2", "--k", "3"], "values; use a larger step"),
        (["matmul", "--m", "1:1000", "--n", "1:1000", "--k", "3"], "are more than 100000"),
        ([*ARGS[:7], "--dtype", "float65"], "Matmul dtype: 'float65' is not a known dtype; use one of float32"),
        ([*ARGS, "--epilogue", "bias+swish"], "has an unknown operation 'swish'"),
        ([*ARGS, "--layout", "xy"], "Matmul layout: 'xy' is unknown; use one of nn"),
        ([*ARGS, "--math", "winograd"], "is no permission of this operation"),
        ([*ARGS, "--device", "h2000"], "device: 'h2000' is unknown (did you mean"),
        ([*ARGS, "--trials", "0"], "trials: 0 is not a positive integer"),
        ([*ARGS, "--seconds", "-1"], "seconds: -1.0 is not a positive number"),
        ([*ARGS, "--seed", "-1"], "seed: -1 is not a non-negative integer"),
        ([*ARGS, "--trials", "many"], "Invalid value for '--trials'"),
        (["matmul", "--m", "1", "--n", "2"], "Missing option '--k'"),
        (
            ["conv2d", *["--n", "1", "--c", "4", "--h", "3", "--w", "3", "--k", "4", "--r", "5", "--s", "5"]],
            "the filter does not fit into the padded image",
        ),
        (
            [
                "conv2d",
                *[
                    "--n",
                    "1",
                    "--c",
                    "4",
                    "--h",
                    "3",
                    "--w",
                    "3",
                    "--k",
                    "4",
                    "--r",
                    "1",
                    "--s",
                    "1",
                    "--stride",
                    "1xx2",
                ],
            ],
            "--stride: '1xx2' is not a number",
        ),
        (
            [
                "conv2d",
                *[
                    "--n",
                    "1",
                    "--c",
                    "4",
                    "--h",
                    "3",
                    "--w",
                    "3",
                    "--k",
                    "4",
                    "--r",
                    "1",
                    "--s",
                    "1",
                    "--padding",
                    "1x2x3",
                ],
            ],
            "Conv2d padding: (1, 2, 3) is not",
        ),
        ([*ARGS, "--target", "fast"], "target: 'fast' is neither a ratio to the vendor library nor a time"),
        ([*ARGS, "--target", "0.00035"], "or a time with its unit, as in 350us"),
        ([*ARGS, "--target", "1.03"], "compares with a vendor library, whose time cannot be predicted"),
    ],
)
def test_bad_input_is_one_clear_error_and_exit_code_2(home, args, said):
    result = run("tune", *args, code=2)
    assert said in result.stderr and result.stdout == ""
    assert sorted(os.listdir(home)) == ["compiled", "emulator"]


def test_an_unwritable_store_is_exit_code_2(home, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("tune", *ARGS, "--store", str(tmp_path / "file" / "store"), code=2)
    assert "Not a directory" in result.stderr and "GPU_TUNE_CACHE_DIR" in result.stderr


def test_a_real_process_fails_without_a_traceback(home):
    done = subprocess.run(
        [sys.executable, "-m", "gpu_tune", "tune", *ARGS, "--layout", "no"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("Error: Matmul layout") and done.stderr.count("\n") == 1


def test_ctrl_c_ends_a_range_and_keeps_what_was_found(home):
    command = [sys.executable, "-m", "gpu_tune", "tune", "matmul", "--m", "16:48:16", "--n", "16", "--k", "8"]
    command += ["--dtype", "float32", "--jobs", "1", "--trials", "500", "--device", "a100"]
    with started(command) as process:
        process.line(lambda line: " ok" in line, "err")
        process.interrupt()
        assert process.end() == 130, process.err
    assert "interrupted: 2 workloads were not tuned" in process.err and "Traceback" not in process.err
    path = re.search(r"^kernel +(.*/kernel\.cu)$", process.out, re.MULTILINE)[1]
    assert Path(path).is_file() and "(interrupted)" in process.out


COMPILES_NOTHING = """
import sys
from concurrent.futures import Future
from gpu_tune.cli import main
from gpu_tune.measure.compile import CompilePool
CompilePool.submit = lambda self, source, arch: Future()
main(sys.argv[1:])
"""


def test_ctrl_c_before_anything_was_timed_is_exit_code_130(home):
    with started(python(COMPILES_NOTHING, "tune", *ARGS)) as process:
        process.line(lambda line: "preparing" in line, "err")
        process.interrupt()
        assert process.end() == 130, process.err
    assert process.err.splitlines()[-1] == "interrupted"


def test_ranges_and_pairs_mean_what_they_say():
    found = options.expand("matmul", {"m": "1,16:48:16", "n": "8", "k": "4:6", "dtype": "fp16,bf16"})
    assert [w.m for w in found[::6]] == [1, 16, 32, 48] and len(found) == 24 and found[3].dtype == "bfloat16"
    (conv,) = options.expand(
        "conv2d", dict(zip("nchwkrs", ["1", "4", "9", "9", "8", "3", "3"])) | {"padding": "0x1x2x1", "stride": "2x1"}
    )
    assert conv == Conv2d(1, 4, 9, 9, 8, 3, 3, padding=(0, 1, 2, 1), stride=(2, 1))
    (gemm,) = options.expand(
        "matmul", {"m": "8", "n": "8", "k": "8", "dtype": "float32", "math": "tf32+tf32x3", "epilogue": "clamp(0,6)"}
    )
    assert gemm == Matmul(8, 8, 8, dtype="float32", math=("tf32", "tf32x3"), epilogue="clamp(0,6)")
    with pytest.raises(InvalidInput):
        options.numbers("--m", "1:2:0")


# --- show -----------------------------------------------------------------------------------------------------------


def test_show_space_tells_knobs_and_what_each_constraint_removes(home):
    result = run("show", "space", *ARGS)
    for words in ("matmul_simt", "knob", "constraint", "removes", "valid configs"):
        assert words in result.stdout
    facts = json.loads(run("show", "space", *ARGS, "--json").stdout)
    space = next(s for s in facts["spaces"] if s["template"] == "matmul_simt")
    assert 0 < space["valid"] < space["raw"] and all(k["meaning"] for k in space["knobs"]) and space["default"]
    assert any(c["removes"] > 0 for c in space["constraints"])


def test_show_search_proposes_and_show_kernel_prints_the_source(warm, tmp_path):
    facts = json.loads(run("show", "search", *ARGS, "--json").stdout)
    page = tmp_path / "page.html"
    assert str(page) in run("show", "search", *ARGS, "--report", str(page)).stdout
    assert "data:image/png;base64," in page.read_text() and "not measurements" in page.read_text()
    assert "does not exist" in run("show", "search", *ARGS, "--report", str(tmp_path / "no" / "a.html"), code=2).stderr
    assert facts["trials"] == 5 and facts["next"] and facts["best"]["seconds"] > 0 and facts["spaces"]["matmul_simt"]
    assert "next:" in run("show", "search", *ARGS).stdout
    source = run("show", "kernel", *ARGS).stdout
    assert source.startswith("/* Generated by gpu_tune.") and "__global__" in source
    assert "<<<(" in run("show", "kernel", *ARGS, "--plan").stdout
    assert json.loads(run("show", "kernel", *ARGS, "--json").stdout)["key"] == KEY


def test_show_kernel_of_what_is_not_tuned_says_how_to_tune_it(home):
    result = run("show", "kernel", *ARGS, code=1)
    assert (
        "is not tuned" in result.stderr and "gpu-tune tune matmul --m 32 --n 32 --k 32 --dtype float32" in result.stderr
    )


# --- records, replay, export, gc --------------------------------------------------------------------------------------


def test_records_are_listed_exported_and_imported(warm, tmp_path, monkeypatch):
    assert KEY in run("records").stdout and "(est.)" in run("records").stdout
    (group, *_) = json.loads(run("records", "--json").stdout)["groups"]
    assert group["source"] == "predicted" and group["trials"] >= 1
    rows = list(csv.DictReader(io.StringIO(run("records", "--csv", "-").stdout)))
    assert len(rows) == 5 and rows[0]["workload"] == KEY
    template = rows[0]["template"]
    for flag, name in (("--t4", "t4.json"), ("--kernel-tuner", "kt.json")):
        run("records", flag, str(tmp_path / name), "--template", template, "--workload", KEY)
        assert "recorded configs" in run("replay", str(tmp_path / name), "--runs", "1", "--trials", "3").stdout
    segment = next((warm / "records" / "predicted").glob("*.jsonl"))
    run("records", "--csv", str(tmp_path / "all.csv"))
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(tmp_path / "table"))
    assert "5 records added" in run("records", "--import", str(tmp_path / "all.csv")).stdout
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(tmp_path / "other"))
    assert "no records" in run("records").stdout
    assert "5 records added" in run("records", "--import", str(segment)).stdout
    assert "0 records added" in run("records", "--import", str(segment)).stdout
    assert len(list(csv.DictReader(io.StringIO(run("records", "--csv", "-").stdout)))) == 5


def test_records_and_replay_refuse_what_they_cannot_read(home, tmp_path):
    (tmp_path / "junk.jsonl").write_text("junk\n")
    (tmp_path / "junk.json").write_text("{}")
    for args, said in (
        (["records", "--import", str(tmp_path / "none")], "cannot be read"),
        (["records", "--import", str(tmp_path / "junk.jsonl")], "holds no record"),
        (["records", "--t4", str(tmp_path / "t4.json")], "records: there are none of that kind"),
        (["records", "--csv", str(tmp_path / "none" / "x.csv")], "cannot be written"),
        (["replay", str(tmp_path / "none.json")], "none.json"),
        (["replay", str(tmp_path / "junk.json")], "neither a Kernel Tuner cache file"),
        (["replay", str(tmp_path / "junk.jsonl")], "there are none"),
    ):
        assert said in run(*args, code=2).stderr


def test_replay_compares_the_search_with_random_order(warm, tmp_path):
    run("records", "--t4", str(tmp_path / "t4.json"), "--workload", KEY, "--template", "matmul_simt")
    facts = json.loads(run("replay", str(tmp_path / "t4.json"), "--runs", "2", "--trials", "50", "--json").stdout)
    assert facts["rows"][-1]["search"] == facts["rows"][-1]["random"] == 1.0 and facts["configs"] <= 5


def test_export_publishes_winners_and_writes_a_header_for_cpp(warm, tmp_path):
    assert "there are predicted ones: --predicted" in run("export", "--to", str(tmp_path / "out"), code=1).stderr
    result = run("export", "--to", str(tmp_path / "out"), "--predicted", "--cpp")
    path = Path(result.stdout.strip())
    assert sorted(os.listdir(path)) == ["kernel.cu", "kernel.cubin", "kernel.hpp", "launch.json"]
    (entry,) = Store(tmp_path / "out").entries()
    assert entry.winner.workload.key == KEY
    assert "is not a folder" in run("export", "--to", str(path / "kernel.cu"), code=2).stderr


def test_gc_frees_what_nobody_needs_and_keeps_winners_and_records(tuned, home, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(tuned[0], tmp_path / "copy", symlinks=True)
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(tmp_path / "copy"))
    os.chmod(tmp_path / "copy", 0o700)
    left = tmp_path / "copy" / "kernels" / "predicted" / "chip" / ".tmp-host-1-abc"
    left.mkdir(parents=True)
    os.utime(left, (1, 1))
    facts = json.loads(run("gc", "--keep-days", "0", "--json").stdout)
    assert facts["winner_directories"] == 1 and facts["compiled_files"] > 0 and not left.exists()
    assert run("show", "kernel", *ARGS).stdout and "5 trials" in run("records").stdout
    assert "removed" in run("gc").stdout
    journal = tmp_path / "copy" / "started"
    journal.mkdir()
    end = {"event": "ended", "hash": "abc", "status": "run_timeout", "lost": True}
    begin = {"event": "started", "hash": "abc", "what": "the bad one"}
    (journal / "x.jsonl").write_text(json.dumps(begin) + "\n" + json.dumps(end) + "\n")
    assert "the bad one (hung)" in run("doctor").stdout
    run("gc", "--quarantine")
    assert "the bad one" not in run("doctor").stdout


# --- bench, verify, doctor, help ---


def test_bench_without_a_gpu_says_that_nothing_is_compared_and_shows_what_would_run(home):
    result = run("bench", "squares", "--select", "^(?!.*16384)")
    assert (
        "nothing to compare with" in result.stdout
        and "On a GPU this would run" in result.stdout
        and "matmul_" in result.stdout
    )
    facts = json.loads(run("bench", "squares", "--json").stdout)
    assert (
        facts["compared"] is False
        and len(facts["would_run"]) == 13
        and all(r["roofline_seconds"] > 0 for r in facts["would_run"])
    )
    assert "headline" in run("bench", "--list").stdout
    assert any(s["name"] == "llm" for s in json.loads(run("bench", "--list", "--json").stdout))


def test_bench_refuses_bad_input(home, tmp_path):
    for args, said in (
        (["squaers"], "did you mean squares?"),
        (["squares", "--select", "("], "is not a regular expression"),
        (["squares", "--select", "nothing"], "matches none of the 13 shapes"),
        (["squares", "--dtype", "float65"], "float65"),
        (["squares", "--report", str(tmp_path / "none" / "r.html")], "is in a folder that does not exist"),
    ):
        assert said in run("bench", *args, code=2).stderr


def test_verify_checks_an_emitted_kernel_and_finds_an_edited_one_wrong(warm, tmp_path):
    import shutil

    source = Path(json.loads(run("show", "kernel", *ARGS, "--json").stdout)["path"])
    assert "all right" in run("verify", str(source / "kernel.cu"), "--variants", "1").stdout
    copy = shutil.copytree(source, tmp_path / "copy")
    (copy / "kernel.cu").write_text((copy / "kernel.cu").read_text().replace("+=", "-="))
    result = run("verify", str(copy / "kernel.cu"), "--variants", "1", "--json", code=1)
    assert json.loads(result.stdout)["failures"]


def test_verify_refuses_bad_input(home, tmp_path):
    assert "is unknown; use one of" in run("verify", "matmul_none", code=2).stderr
    assert "does not exist" in run("verify", str(tmp_path / "kernel.cu"), code=2).stderr
    (tmp_path / "kernel.cu").write_text("")
    assert "launch.json" in run("verify", str(tmp_path / "kernel.cu"), code=2).stderr
    assert "Invalid value" in run("verify", "matmul_simt", "--variants", "0", code=2).stderr


def test_doctor_says_what_was_found_and_what_is_missing(warm):
    result = run("doctor")
    for words in ("python", "none: times are predicted", "nvrtc", "templates", "1 winners", "5 predicted"):
        assert words in result.stdout
    facts = json.loads(run("doctor", "--json").stdout)
    assert facts["able"] and {f["name"] for f in facts["findings"]} >= {
        "gpu",
        "nvrtc",
        "store",
        "records",
        "quarantine",
    }


def test_doctor_without_a_compiler_says_that_tuning_cannot_work(home):
    env = {**os.environ, "GPU_TUNE_NVRTC": "/nonexistent"}
    done = subprocess.run([sys.executable, "-m", "gpu_tune", "doctor"], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "no NVRTC; install it with" in done.stdout


def test_every_command_has_help_and_the_version_is_told():
    for name in ("tune", "bench", "show", "records", "replay", "verify", "export", "doctor", "gc"):
        assert "Usage:" in run(name, "--help").stdout
        assert name in run("--help").stdout
    assert run("--version").stdout.startswith("gpu-tune, version")
    assert "No such command" in run("tunee", code=2).stderr


def test_help_and_bad_input_need_neither_lightgbm_nor_a_gpu_package():
    code = (
        "import sys, gpu_tune.cli as c\ntry: c.main(['tune', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('lightgbm', 'cupy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
