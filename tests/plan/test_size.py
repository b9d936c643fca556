"""Expressions over an open size: Python, JSON and C agree with plain numbers, and what has no one answer is refused."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest

import gpu_tune as gt
from gpu_tune import text
from gpu_tune.errors import InvalidInput
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan, ScalarArg, TensorMapArg
from gpu_tune.plan.size import Size, ceil_div, fixed, greatest, least, lower, open_size, upper
from gpu_tune.workload import accepting, from_dict, to_dict, tune_command

M = Size("m", (3, 700))
FUNCTIONS = (
    lambda m: m * 4096 // 8,
    lambda m: ceil_div(m, 128) * 6,
    lambda m: -(-m // 64) + 7,
    lambda m: (m * 3) % 16,
    lambda m: least(ceil_div(m, 16) * 2, 40),
    lambda m: greatest(m * 2, 300) - 5,
    lambda m: ceil_div(m * 3, ceil_div(m, 32)),
    lambda m: m * 3_000_000 * 4096,
    lambda m: 1000 - m,
    lambda m: ceil_div(ceil_div(m, 32) * 96, 48) * 2,
)


@pytest.mark.parametrize("number", range(len(FUNCTIONS)))
def test_an_expression_is_what_numbers_give(number):
    function = FUNCTIONS[number]
    made = function(M)
    again = text.from_json(Size, json.loads(json.dumps(text.to_json(made))))
    assert again == made and open_size(made) == M
    for m in range(3, 701):
        assert made.at(m) == function(m) == again(m) == eval(made.python(), {"m": m, "min": min, "max": max})
        assert lower(made) <= function(m) <= upper(made)


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler on this machine")
def test_c_computes_the_same(tmp_path):
    lines = "".join(f'        std::printf("%lld\\n", (long long)({f(M)}));\n' for f in FUNCTIONS)
    (tmp_path / "main.cpp").write_text(
        "#include <algorithm>\n#include <cstdio>\nusing std::min; using std::max;\nint main() {\n"
        f"    for (int m = 3; m <= 700; ++m) {{\n{lines}    }}\n}}\n"
    )
    made = subprocess.run(["g++", "-o", "main", "main.cpp"], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    told = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert list(map(int, told)) == [f(m) for m in range(3, 701) for f in FUNCTIONS]


def test_a_comparison_answers_where_every_size_gives_the_same_answer():
    assert M and M > 2 and M <= 700 and not M < 3 and M * 2 >= 6 and M < 701
    assert M % 1 == 0 and (M * 64) % 32 == 0 and ceil_div(M, 1024) == 1 and M * 0 == 0
    with pytest.raises(InvalidInput, match=r"m compared with 5: has no one answer for 3\.\.700"):
        assert M < 5
    with pytest.raises(InvalidInput, match="no one answer"):
        assert (M % 16) > 0


@pytest.mark.parametrize(
    "data",
    [
        {"type": "size", "op": "exec", "args": [1, 2]},
        {"type": "size", "op": "m", "args": [0, 2]},
        {"type": "size", "op": "m", "args": [5, 2]},
        {"type": "size", "op": "//", "args": [{"type": "size", "op": "m", "args": [1, 9]}, 0]},
        {"type": "size", "op": "+", "args": [{"type": "size", "op": "m", "args": [1, 9]}]},
        {"type": "size", "op": "+", "args": [{"type": "size", "op": "m", "args": [1, 9]}, "import os"]},
        {"type": "size", "op": "+", "args": [{"type": "size", "op": o, "args": [1, 9]} for o in ("m", "n")]},
        {"type": "size", "op": "+", "args": [1, 2], "more": 1},
    ],
)
def test_json_that_is_no_expression_is_refused(data):
    with pytest.raises((TypeError, ValueError)):
        text.from_json(Size, data)


def test_a_plan_of_an_open_size_is_plain_data_and_fixed_for_each_size():
    tile = TensorMapArg("a", "float16", (64, M), (128,), (64, 64))
    step = KernelStep("k", (ceil_div(M, 64) * 3, 1, 1), (128, 1, 1), (BufferArg("a"), ScalarArg("m", "int32", M), tile))
    plan = LaunchPlan((step,), workspace_bytes=M * 256).check()
    assert LaunchPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan and plan.open == M
    one = plan.at(65)
    assert one.open is None and one.kernels[0].grid == (6, 1, 1) and one.workspace_bytes == 65 * 256
    assert one.kernels[0].args[1].value == 65 and one.kernels[0].args[2].shape == (64, 65)
    assert one.at(7) is one and fixed(one, 7) is one
    with pytest.raises(InvalidInput, match=r"m: 701 is not in 3\.\.700"):
        plan.at(701)
    with pytest.raises(InvalidInput, match="exceeds"):  # of the largest size
        LaunchPlan((KernelStep("k", (1, M * 100, 1), (32, 1, 1), ()),)).check()


def test_a_workload_with_an_open_size():
    w = gt.Matmul(gt.any_of(1, 8192), 512, 256, layout="nt", epilogue="row_bias+residual")
    assert w.key == "matmul-1..8192x512x256-float16-nt-epilogue=row_bias+residual" and w.at(5).open is None
    assert w.flops(7) == w.at(7).flops and w.bytes(7) == w.at(7).bytes
    assert fixed(tuple(w.arrays().values()), 33) == tuple(w.at(33).arrays().values())
    assert from_dict(json.loads(json.dumps(to_dict(w)))) == w == from_dict({**to_dict(w), "m": "1..8192"})
    assert "--m 1..8192" in tune_command(w) and hash(w) == hash(gt.Matmul(**{**w.__dict__}))
    assert gt.Conv2d(gt.any_of(1, 64), 8, 9, 9, 8, 3, 3).at(2) == gt.Conv2d(2, 8, 9, 9, 8, 3, 3)
    assert gt.any_of(np.int64(1), np.int32(64)) == gt.any_of(1, 64) and w.at(np.int64(5)) == w.at(5)
    turned = gt.Matmul(gt.any_of(1, 64), 8, 16, layout="tt")
    assert from_dict(json.loads(json.dumps(to_dict(turned)))) == turned and turned.key == "matmul-1..64x8x16-float16-tt"
    assert turned.at(9) == gt.Matmul(9, 8, 16, layout="tt") and "lda" not in tune_command(turned)
    for wrong, said in (
        (lambda: gt.any_of(5, 5), "any_of: (5, 5) are not a least and a larger size"),
        (lambda: gt.Matmul(8, gt.any_of(1, 5), 8), "Matmul n: '1..5' is open, which only m can be"),
        (lambda: gt.Matmul(gt.any_of(1, 5), 8, 8, layout="tn", lda=8), "lda: 8 is given for rows of A (k,m)"),
        (lambda: w.at(9000), "m: 9000 is not in 1..8192"),
        (lambda: w.at(5).at(5), "is asked of a workload whose sizes are numbers"),
    ):
        with pytest.raises(InvalidInput) as error:
            wrong()
        assert said in str(error.value)


def test_workloads_whose_kernels_accept_every_call():
    found = list(accepting(gt.Matmul(64, 64, 64, deterministic=False)))
    assert found[0] == gt.Matmul(64, 64, 64) and all(w.deterministic and w.alignment <= 16 for w in found)
    assert gt.Matmul(64, 64, 64, alignment=2, alpha="any", beta="any") in found
    assert all(w.beta == "1" for w in accepting(gt.Matmul(64, 64, 64, beta=1)))
