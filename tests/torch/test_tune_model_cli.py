"""``gpu-tune tune-model``: what it prints, one clear error for each bad input, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import sys

import pytest

from gpu_tune.cuda import driver
from gpu_tune.store.records import Records
from gpu_tune.store.store import Store
from gpu_tune.tuner.together import Run
from tests.helpers.command_line import run

MODELS = """
import torch
from torch import nn
import torch.nn.functional as F

class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)
    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 16)
    def forward(self, x):
        y = F.gelu(self.first(x))
        return self.second(F.scaled_dot_product_attention(y, y, y))

X = torch.zeros(1, 16, 32)
def attention(): return Attention().eval(), (X,)
def branch(): return Branch(), (torch.zeros(2, 16),)
def wrong_shape(): return Attention(), (torch.zeros(2, 7),)
def no_inputs(): return Attention()
def no_model(): return "weights.bin", (X,)
def fails(): raise FileNotFoundError("weights.bin")
"""


@pytest.fixture
def models(home, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "library", lambda: None)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "some_models.py").write_text(MODELS)
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield home
    for name in ("some_models", "needs_more"):
        sys.modules.pop(name, None)


def test_what_is_found_is_listed_without_compiling(models):
    out = run("tune-model", "some_models:attention", "--list").stdout
    assert "2 workloads in 2 calls are 60.0 % of 81920 FLOP a pass" in " ".join(out.split())
    assert "matmul-16x32x32-float32-nt-epilogue=bias+gelu" in out and "scaled_dot_product_attention, 40.0 %" in out
    assert max(map(len, out.splitlines())) <= 80 and not (models / "records").exists()
    facts = json.loads(run("tune-model", "some_models.py:attention", "--list", "--json").stdout)
    assert [v["count"] for v in facts["layers"]] == [1, 1] and facts["left_out"][0]["flops"] == 32768


@pytest.mark.parametrize(
    "target, words",
    [
        ("no_such_module:f", "cannot be imported: there is no such module"),
        ("no_such_file.py:f", "is in no_such_file.py, which is no file"),
        ("needs_more:f", "cannot be imported: needs a_package_that_is_not_there; pip install"),
        ("some_models", "names no function; write MODULE:FUNCTION"),
        ("some_models:missing", "it has attention, branch, fails, no_inputs, no_model, wrong_shape"),
        ("some_models:no_inputs", "returned Attention, not a model and its example inputs"),
        ("some_models:no_model", "model: 'weights.bin' is no PyTorch model"),
        ("some_models:fails", "raised FileNotFoundError: weights.bin"),
        ("some_models:wrong_shape", "cannot be exported"),
        ("some_models:branch", "cannot be exported at some_models.py:11: its control flow depends on the values"),
    ],
)
def test_bad_input_is_one_clear_error(models, target, words):
    error = run("tune-model", target, "--trials", "4", "--json", code=2).stderr
    assert words in error and len(error.splitlines()) == 1 and error.startswith("Error: model: ")
    assert not (models / "records").exists()


@pytest.mark.slow
def test_ctrl_c_in_the_middle_loses_nothing_and_the_same_command_goes_on(models, monkeypatch, tmp_path):
    command = ("tune-model", "some_models:attention", "--trials", "4", "--jobs", "1")
    going = Run._slice

    def stop(self, session, *rest):
        if self.joint.slices:
            raise KeyboardInterrupt
        going(self, session, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_slice", stop)
        cut = run(*command, code=130)
    assert "interrupted: the same command goes on" in cut.stderr and "not tuned" in cut.stdout
    kept = len(Records().read("predicted"))
    assert kept >= 1 and len(list(Store().entries())) == 1
    out = run(*command, "--export", str(tmp_path / "export")).stdout
    assert "undecided" in out and "predicted, not measured" in out and "all trials used" in out
    assert len(Records().read("predicted")) == 4 > kept and max(map(len, out.splitlines()[:-1])) <= 80
    assert "2 winners" in run("export", "--check", str(tmp_path / "export")).stdout
    again = json.loads(run(*command, "--json").stdout)
    assert again["slices"] == [] and again["trials"] == 4 and again["complete"] and again["source"] == "predicted"
