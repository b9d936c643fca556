"""Predicted times beside records: trials of the own chip correct their order, and nothing else does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gpu_tune.cuda.device import by_name
from gpu_tune.model.foreseen import order_score, scores
from gpu_tune.model.transfer import NEVER, HistoryGroup, predicted_columns
from gpu_tune.space.knob import Config
from gpu_tune.templates.bound import BoundTemplate, TemplateSpace
from gpu_tune.templates.registry import registry
from gpu_tune.trial import Candidate
from gpu_tune.workload import Matmul
from tests.helpers.searching import result


def space_of(m: int, device: str) -> TemplateSpace:
    workload = Matmul(m, 512, 1024, dtype="float32", layout="nn")
    return BoundTemplate(registry()["matmul_simt"], workload, by_name(device)).space()


def foretold(config: Config) -> dict[str, float]:
    """The model likes large tiles a little, and errs: those of 128 rows take 1.6 times as long as it says."""
    tile = int(config["block_m"]) * int(config["block_n"])
    return {"seconds": 1e-3 / tile**0.2, "iteration": 100.0, "resident": 2.0, "issue cycles": 9e3, "tail cycles": 3e3}


def true_time(config: Config) -> float:
    return foretold(config)["seconds"] * (1.6 if config["block_m"] == 128 else 1)


def timed(space: TemplateSpace, seed: int, told: bool = True) -> HistoryGroup:
    configs = space.sample(80, np.random.default_rng(seed))
    trials = [result(Candidate(space.name, c), true_time(c)) for c in configs]
    told_of = [replace(t, prediction=foretold(t.candidate.config) if told else {}) for t in trials]
    return HistoryGroup.of(space, told_of, "")


def test_columns_compare_within_a_workload_and_say_what_does_not_fit() -> None:
    causes = {"l2 cycles": 30.0, "dram cycles": 10.0, "tail cycles": 8.0}
    one = {"seconds": 2e-3, "iteration": 400.0, "resident": 4.0, **causes}
    found = predicted_columns([one, {**one, "seconds": 1e-3}, {}, {"seconds": math.inf}])
    assert found[0].tolist() == [1.0, math.log2(100), 4.0, 0.2, 0.25, 0.0]
    assert found[1, 0] == 0 and np.isnan(found[2]).all() and (found[3] == NEVER).all()
    score = order_score(found)
    assert score[1] > score[0] > score[2] == score[3]


def test_trials_of_the_own_chip_correct_the_predicted_order_and_others_do_not() -> None:
    target = space_of(1024, "nvidia-a100")
    configs = target.sample(120, np.random.default_rng(9))
    told = {c: foretold(c) for c in configs}
    plain = order_score(predicted_columns(list(told.values())))

    def quality(score: np.ndarray) -> float:
        best = [configs[i] for i in np.argsort(-score, kind="stable")[:8]]
        return min(map(true_time, configs)) / float(np.mean([true_time(c) for c in best]))

    assert np.array_equal(scores(target, told, (), 0), plain)
    others = [timed(space_of(512, "nvidia-h100"), 1), timed(space_of(512, "nvidia-a100"), 2, told=False)]
    assert others[1].predicted is None and others[0].chip == by_name("nvidia-h100").chip
    assert np.array_equal(scores(target, told, others, 0), plain)
    own = [timed(space_of(m, "nvidia-a100"), m) for m in (512, 2048)]
    corrected = scores(target, told, [*others, *own], 0)
    assert np.array_equal(corrected, scores(target, told, [*others, *own], 0))
    assert quality(corrected) > quality(plain) + 0.04
    few = own[0]._only(np.arange(3))
    assert few.predicted is not None and few.predicted.shape == (3, 6) and len(few.times) == 3
    assert quality(scores(target, told, [few], 0)) == pytest.approx(quality(plain), abs=0.1)
