"""``gpu-tune tune``: what it prints, its JSON, bad input, Ctrl-C, ranges. Real compiles, real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_tune.cli import options
from gpu_tune.errors import InvalidInput
from gpu_tune.workload import Conv2d, Matmul
from tests.helpers.command_line import ARGS, KEY, run
from tests.helpers.processes import python, started

CONV = ["conv2d", "--n", "1", "--c", "4", "--h", "3", "--w", "3", "--k", "4", "--r", "1", "--s", "1"]


@pytest.fixture
def home(no_gpu):
    return no_gpu


def test_tune_ends_with_a_table_and_the_path_of_the_kernel(tuned):
    folder, done = tuned
    path = Path(re.search(r"^kernel +(.*/kernel\.cu)$", done.stdout, re.MULTILINE)[1])
    assert path.is_file() and path.is_relative_to(folder / "kernels" / "predicted")
    for words in (
        "default config",
        "best found",
        "predicted; not judged for this kind of kernel",
        "limited by",
        "speed-up",
        "over the default",
        "5 in ",
        "executed by the emulator on the CPU",
        KEY,
    ):
        assert words in done.stdout
    assert (
        "times are predicted for nvidia-h200" in done.stderr and "checking and re-timing the finalists" in done.stderr
    )
    assert "\x1b[" not in done.stdout + done.stderr  # plain where there is no terminal


def test_tune_again_answers_from_the_store_as_json_alone(warm):
    result = run("tune", *ARGS, "--trials", "5", "--json")
    (found,) = json.loads(result.stdout)
    assert found["from_store"] and found["source"] == "predicted" and found["workload"] == KEY
    assert found["seconds"] is None and found["judged"] == ""  # this kind of kernel was judged nowhere
    assert found["config"] and Path(found["path"]).is_file() and found["ended"] == "trials"


def test_tune_of_a_range_shows_every_workload(home):
    shape = ["--m", "16:32:16", "--n", "16", "--k", "8", "--dtype", "float32"]
    result = run("tune", "matmul", *shape, "--trials", "1", "--jobs", "1")
    assert (
        "[2/2] matmul-32x16x8-float32-nn" in result.stderr
        and "matmul-16x16x8" in result.stdout
        and "not judged" in result.stdout
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
        (["matmul", "--m", "5..1", "--n", "2", "--k", "3"], "--m: '5..1' is no range from a least to a larger size"),
        (["matmul", "--m", "1:99999999", "--n", "2", "--k", "3"], "values; use a larger step"),
        (["matmul", "--m", "1:1000", "--n", "1:1000", "--k", "3"], "are more than 100000"),
        ([*ARGS, "--sizes", "1..9"], "--sizes: '1..9' is not a number, a list or a range; write the sizes to tune"),
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
            [*CONV, "--r", "5", "--s", "5"],
            "the filter does not fit into the padded image",
        ),
        (
            [*CONV, "--stride", "1xx2"],
            "--stride: '1xx2' is not a number",
        ),
        (
            [*CONV, "--padding", "1x2x3"],
            "Conv2d padding: (1, 2, 3) is not",
        ),
        (
            [*CONV, "--stride", "2,2"],
            "--stride: '2,2' is a list, whose every number would be a workload of its own; write 2x2 for one",
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


INTERRUPTED_DEFINITION = """
import sys
from gpu_tune.cli import main, tune
def interrupted(**options):
    raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()
tune.command.commands["matmul"].callback = interrupted
main(sys.argv[1:])
"""


def test_ctrl_c_while_a_library_defines_a_class_is_exit_code_130(home):
    with started(python(INTERRUPTED_DEFINITION, "tune", *ARGS)) as process:
        assert process.end() == 130, process.err
    assert process.err.splitlines() == ["interrupted"]


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
