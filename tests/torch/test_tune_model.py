"""A model is tuned, its report adds up, and what comes out travels. Kernels are the toy's: they compile in no time."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gpu_tune as gt
from gpu_tune.cuda import driver
from gpu_tune.errors import InvalidInput, NotTuned
from gpu_tune.store.records import Records
from gpu_tune.torch.extraction import Forward
from gpu_tune.torch.forward import compare, why_not
from tests.helpers.winners import toy_template

CHIP = "nvidia-h200-132sm-141gb"


class Products(nn.Module):
    """Three products of two workloads that the toy computes, attention, and a product that the toy does not."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(32, 32))
        self.second = nn.Parameter(torch.zeros(32, 48))

    def forward(self, x):
        y = (x @ self.first) @ self.first
        y = F.scaled_dot_product_attention(y, y, y)
        return y @ self.second, F.linear(x, self.second.t())


X = torch.zeros(2, 20, 32)
WORKLOADS = {gt.Matmul(40, 32, 32, dtype="float32"): 2, gt.Matmul(40, 48, 32, dtype="float32"): 2}


@pytest.fixture(autouse=True)
def no_gpu(home, monkeypatch):
    monkeypatch.setattr(driver, "library", lambda: None)
    return home


def tune(trials=40, **more):
    return gt.tune_model(Products(), (X,), trials=trials, templates={"toy": toy_template()}, jobs=1, **more)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, compiled_once):
    """One tuning that tests only read."""
    from tests.helpers.cache import cache_folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "library", lambda: None)
        patch.setenv("GPU_TUNE_CACHE_DIR", str(cache_folder(tmp_path_factory.mktemp("model"), compiled_once)))
        told = []
        made = tune(on_trial=lambda p: told.append((p.phase, p.trials, p.speedup)))
        records = Records().read("predicted")
        loaded = {w: gt.load(w).winner for w in made.kernels}
    return made, told, records, loaded


def test_every_layer_gets_a_checked_kernel_from_one_budget(tuned):
    made, told, records, loaded = tuned
    assert {r.layer.workload: r.layer.count for r in made.results} == WORKLOADS
    assert made.trials == len(records) == sum(n for _, n in made.slices) == 40 and made.complete
    assert loaded == {w: k.winner for w, k in made.kernels.items()} and len(loaded) == 2
    assert all(any(c["ok"] for c in k.verdict["checks"]) for k in made.kernels.values())
    assert told[-1][0] == "done" and told[-1][2] >= 1.0


def test_without_a_gpu_everything_is_marked_predicted_and_nothing_is_decided(tuned):
    made, text = tuned[0], str(tuned[0])
    assert made.source == "predicted" and made.chip == CHIP and made.totals() is None and made.forward is None
    assert {r.chosen for r in made.results} == {"undecided"} and all(r.seconds is None for r in made.results)
    assert all(r.speedup is None and r.kernel.verdict["default"]["speedup"] for r in made.results)
    assert {layer["speedup"] for layer in made.to_json()["layers"]} == {None}  # it follows from seconds not told
    assert "predicted, not measured" in text and "not judged" in text and "no pass was timed" in text
    assert {k.winner.source for k in made.kernels.values()} == {"predicted"}


def test_shares_add_up_and_what_is_left_out_is_named(tuned):
    made, text = tuned[0], str(tuned[0])
    assert sum(made.share(r) for r in made.results) == pytest.approx(1.0)
    found = made.extraction
    left = [(p.operation, p.flops) for p in found.left_out]
    assert left == [("scaled_dot_product_attention", 4 * 2 * 20 * 20 * 32)]
    assert found.flops == 2 * 2 * 40 * 32 * 32 + 2 * 2 * 40 * 48 * 32 + left[0][1]
    assert "left out" in text and "scaled_dot_product_attention, 20.0 % of the FLOPs" in text
    data = json.loads(json.dumps(made.to_json()))
    assert [v["workload"] for v in data["layers"]] == [r.layer.workload.key for r in made.results]
    assert data["layers"][0]["figure"].startswith("predicted; not judged") and data["left_out"][0]["count"] == 1


def test_a_report_fits_a_terminal_of_80_columns(tuned):
    import io

    from rich.console import Console

    from gpu_tune.tuner.model_text import show

    file = io.StringIO()
    show(tuned[0], Console(file=file, width=80))
    assert max(map(len, file.getvalue().splitlines())) <= 80 and "matmul-40x48x32-float32-nn" in file.getvalue()


def test_a_tuned_model_travels_as_one_folder(tuned, tmp_path):
    made = tuned[0]
    folder = made.export(tmp_path / "export", cpp=True)
    store = gt.open_export(folder)
    for workload, kernel in made.kernels.items():
        assert gt.load(workload, store=store, strict=True).winner == kernel.winner
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["chips"] == [CHIP] and manifest["models"][0]["model"] == "Products"
    assert manifest["models"][0]["left_out"][0]["operation"] == "scaled_dot_product_attention"
    assert (folder / "CMakeLists.txt").is_file() and len(list(folder.glob("predicted/*/*/kernel.hpp"))) == 2


def test_layers_that_no_family_computes_are_left_out_with_the_reason(no_gpu):
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
    with pytest.raises(NotTuned, match="no kernel family computes any layer of Sequential on nvidia-h200"):
        gt.tune_model(model, X, trials=4, templates={"toy": toy_template()})
    assert not (no_gpu / "records").exists()


def test_an_epilogue_that_no_family_has_is_left_to_pytorch(no_gpu):
    from gpu_tune.cuda.device import by_name
    from gpu_tune.torch.extract import extract
    from gpu_tune.tuner.tune_model import supported

    class Model(Products):
        def forward(self, x):
            return F.relu(x @ self.first), x @ self.first

    found = extract(Model(), X)
    assert [layer.workload.epilogue for layer in found.layers] == ["relu", ""]
    cut, weights = supported(found, by_name("nvidia-h200"), {"toy": toy_template()})
    assert [(layer.workload.epilogue, layer.count) for layer in cut.layers] == [("", 2)]
    assert weights == {gt.Matmul(40, 32, 32, dtype="float32"): 2.0} and cut.flops == found.flops


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(seconds=0), "seconds: 0 is not a positive number"),
        (dict(trials=0), "trials: 0 is not a positive integer"),
        (dict(math=("fast",)), "math: ['fast'] are no permissions"),
        (dict(fuse="all"), "fuse: 'all' is unknown"),
        (dict(device="h300"), "device: 'h300' is unknown"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(no_gpu, arguments, words):
    with pytest.raises(InvalidInput) as error:
        gt.tune_model(Products(), (X,), **arguments)
    assert words in str(error.value) and not (no_gpu / "records").exists()


def test_a_pass_is_timed_in_turns_and_the_model_is_as_it_was():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    kinds, seen = [type(m) for m in model], []

    def timed(call):
        call()
        seen.append(type(model[0]) is nn.Linear)
        return 4.0 - len(seen) % 3

    forward = compare(model, torch.zeros(2, 8), None, rounds=3, timed=timed)
    assert forward == Forward(3.0, 2.0, 4.0, 3, 2)
    assert seen == [True, False, True] * 6 and [type(m) for m in model] == kinds
    assert "PyTorch sees no GPU" in why_not(model, torch.zeros(2, 8), None) or torch.cuda.is_available()


def test_measured_layers_say_who_runs_them_and_what_a_pass_takes(tuned):
    from dataclasses import replace

    from gpu_tune.kernel.kernel import TunedKernel
    from gpu_tune.tuner.tuned_model import weight_of

    def measured(result, ours, vendor, verdict):
        finalists = [{"name": "cublas", "seconds": vendor}]
        facts = {"ours": verdict, "vendor": "cublas", "finalists": finalists, "default": {"speedup": 1.5}}
        kernel = TunedKernel(replace(result.kernel.winner, source="measured", seconds=ours, verdict=facts))
        return replace(result, kernel=kernel, weight=weight_of(result.layer, kernel))

    made = tuned[0]
    first, second = made.results
    results = (measured(first, 1e-5, 2e-5, "faster"), measured(second, 3e-5, 2.5e-5, "slower"))
    forward = Forward(1e-3, 8e-4, 5e-4, 20, 2)
    there = replace(made, results=results, source="measured", forward=forward, no_forward="")
    assert [r.chosen for r in there.results] == ["ours", "vendor"]
    assert there.totals() == pytest.approx({"ours": 8e-5, "vendor": 9e-5, "chosen": 7e-5})
    assert [there.share(r) for r in there.results] == pytest.approx([2 / 7, 5 / 7])
    text = str(there)
    assert "ours 80 us, vendor 90 us, chosen 70 us a pass" in text and "predicted" not in text
    assert "1 ms before, 800 us (1.25x) with 2 layers replaced, 500 us (2.00x) rewritten" in text
    unknown = replace(results[0], kernel=None, reason="nothing was right", weight=None)
    partly = replace(there, results=(unknown, results[1]))
    assert partly.totals() is None and unknown.chosen == "vendor" and "nothing was right" in str(partly)
