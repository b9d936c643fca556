"""The ranker, the Gaussian process and the measures of a ranking."""

from __future__ import annotations

import numpy as np
import pytest

from bench.transfer.__main__ import LARGE, pooled
from gpu_tune.model.gaussian_process import GaussianProcess, TrendProcess, expected_improvement
from gpu_tune.model.ranker import MAX_QUERY_ROWS, POOLED, Ranker, Shape, grades, pairwise_accuracy, ranks, top_k
from gpu_tune.model.transfer import BEST_ROWS, GROUPS, OTHER_ROWS

RNG = np.random.default_rng(5)
X = RNG.random((60, 4))
TIME = 1.0 + (X[:, 0] - 0.3) ** 2 + 0.5 * X[:, 1]


def test_the_ranker_orders_unseen_configs_and_is_deterministic() -> None:
    fitted = [Ranker.fit(X, TIME, seed=3, names=["log2 a*b", "b, c", "c:d", "e"]) for _ in range(2)]
    assert fitted[0] is not None and fitted[1] is not None
    new = np.random.default_rng(6).random((300, 4))
    truth = 1.0 + (new[:, 0] - 0.3) ** 2 + 0.5 * new[:, 1]
    assert np.array_equal(fitted[0].score(new), fitted[1].score(new))
    assert pairwise_accuracy(fitted[0].score(new), truth) > 0.8
    gain = fitted[0].gain()
    assert sum(gain.values()) == pytest.approx(1.0) and next(iter(gain)) == "b, c"
    shap = fitted[0].contributions(new[:5])
    assert shap.shape == (5, 5) and np.allclose(shap.sum(axis=1), fitted[0].score(new[:5]))


def test_many_trials_of_many_groups_get_a_larger_model_and_a_search_never_does() -> None:
    assert pooled(GROUPS * (BEST_ROWS + OTHER_ROWS)) == POOLED and pooled(100_000) == LARGE
    rng = np.random.default_rng(8)
    x = rng.random((1200, 3))
    x[:, 2] = np.repeat(x[::30, 2], 30)  # what is best depends on the group
    times = 1.0 + np.abs(x[:, 0] - x[:, 2]) + 0.2 * x[:, 1]
    models = [Ranker.fit(x[:900], times[:900], [30] * 30, shape=LARGE, seed=1) for _ in range(2)]
    assert models[0] is not None and models[1] is not None
    score = models[0].score(x[900:])
    assert np.array_equal(score, models[1].score(x[900:]))
    accuracy = [pairwise_accuracy(score[i : i + 30], times[900 + i : 930 + i]) for i in range(0, 300, 30)]
    assert np.mean(accuracy) > 0.85


def test_failures_teach_the_ranker_to_avoid_their_kind() -> None:
    times = np.where(X[:, 2] > 0.5, np.nan, TIME)
    model = Ranker.fit(X, times)
    assert model is not None
    probe = np.tile([0.3, 0.1, 0.2, 0.5], (2, 1))
    probe[1, 2] = 0.9
    good, bad = model.score(probe)
    assert good > bad


def test_groups_are_compared_only_within_themselves() -> None:
    slow = 1000 * TIME  # the same order, a thousand times slower: pooled naively, feature 3 would explain everything
    both = np.concatenate([X, X])
    both[:60, 3], both[60:, 3] = 0.0, 1.0
    model = Ranker.fit(both, np.concatenate([TIME, slow]), [60, 60])
    assert model is not None and model.gain().get("Column_3", 0.0) < 0.05


def test_groups_in_which_everything_failed_teach_nothing() -> None:
    """rank_xendcg draws random targets for them."""
    x, failed = np.random.default_rng(9).random((300, 4)), np.full(300, np.nan)
    alone = Ranker.fit(X, TIME, [60])
    beside = Ranker.fit(np.concatenate([x, X]), np.concatenate([failed, TIME]), [30] * 10 + [60])
    assert alone is not None and beside is not None and np.array_equal(alone.score(x), beside.score(x))


@pytest.mark.parametrize("objective", ["rank_xendcg", "lambdarank"])
def test_the_order_in_which_a_groups_trials_are_given_does_not_count(objective: str) -> None:
    coarse, times = np.round(X, 1), np.where(X[:, 3] > 0.8, np.nan, np.round(TIME, 1))
    shape = Shape(objective=objective)
    models = []
    for seed in range(3):
        order = np.concatenate([np.random.default_rng(seed).permutation(30), 30 + np.arange(30)])
        models.append(Ranker.fit(coarse[order], times[order], [30, 30], shape=shape))
    assert models[0] is not None
    assert all(m is not None and np.array_equal(m.score(X), models[0].score(X)) for m in models[1:])


def test_a_group_above_lightgbms_limit_is_cut(capfd: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(4).random((MAX_QUERY_ROWS + 500, 2))
    times = 1.0 + x[:, 0]
    for groups in (None, [len(times)]):
        model = Ranker.fit(x, times, groups, shape=Shape(trees=20))
        assert model is not None and pairwise_accuracy(model.score(x[:300]), times[:300]) > 0.8
    assert "Fatal" not in "".join(capfd.readouterr())


def test_nothing_to_learn_is_none() -> None:
    assert Ranker.fit(X, np.full(60, np.nan)) is None and Ranker.fit(X[:1], TIME[:1]) is None


def test_features_of_one_name_are_learned_from_apart() -> None:
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    x[:, 0] = 1
    model = Ranker.fit(x, np.arange(1.0, 21.0), names=["log2 threads", "log2 threads"])
    assert model is not None and model.names == ["log2 threads", "log2 threads"]
    assert model.gain() == {"log2 threads": 1.0} and model.score(x)[0] > model.score(x)[-1]


def test_grades_put_failures_last_and_the_best_first() -> None:
    assert grades(np.array([2.0, 1.0, np.nan, np.inf, 100.0])).tolist() == [15, 30, 0, 0, 0]


def test_ranks_tell_near_equals_apart() -> None:
    times = np.array([1.001, np.nan, 1.0, 50.0, 1.002, np.inf])
    assert ranks(times).tolist() == [25, 0, 30, 15, 20, 0] and grades(times).tolist() == [29, 0, 30, 0, 29, 0]
    assert ranks(np.full(3, np.nan)).tolist() == [0, 0, 0]


def test_the_gaussian_process_predicts_from_two_dozen_trials_and_knows_its_doubt() -> None:
    x = RNG.random((24, 3))
    y = np.sin(3 * x[:, 0]) + x[:, 1]
    model = GaussianProcess(x, y)
    new = RNG.random((200, 3))
    truth = np.sin(3 * new[:, 0]) + new[:, 1]
    assert np.corrcoef(model.predict(new), truth)[0, 1] > 0.95
    mean, cov = model.posterior(np.concatenate([x[:1], [[5.0, 5.0, 5.0]]]))
    assert cov[0, 0] < 0.1 * cov[1, 1] and abs(mean[0] - y[0]) < 0.2
    assert np.allclose(model.predict(new), model.posterior(new)[0], atol=1e-3)
    assert model.length[2] > model.length[0]  # the third coordinate does nothing


def test_a_batch_of_picks_is_spread() -> None:
    x = RNG.random((12, 2))
    model = GaussianProcess(x, -((x[:, 0] - 0.5) ** 2))
    pool = np.concatenate([np.repeat([[0.5, 0.5]], 50, axis=0), RNG.random((50, 2))])
    picks = model.pick(pool, 6, 0.0)
    assert len(set(picks)) == 6 and sum(p < 50 for p in picks) <= 2  # copies of one point teach nothing more


def test_more_is_picked_as_long_as_a_gain_is_expected() -> None:
    x = np.random.default_rng(5).random((12, 2))
    model, pool = GaussianProcess(x, x[:, 0]), np.random.default_rng(6).random((40, 2))
    every = model.pick(pool, 12, 0.9)
    assert model.pick(pool, 2, 0.9, more=10) == every
    assert model.pick(pool, 2, 0.9, more=10, least=1.0) == every[:2]  # nothing is expected to gain 1
    mean, cov = model.posterior(pool)
    first = expected_improvement(mean - 0.9, np.sqrt(np.diag(cov))).max()
    some = model.pick(pool, 0, 0.9, more=12, least=0.5 * first)
    assert some == every[: len(some)] and 0 < len(some) < 12


def test_a_pick_keeps_away_from_what_is_being_tried() -> None:
    x = np.array([0.0, 0.2, 0.8, 1.0])[:, None]
    model = GaussianProcess(x, np.sin(9 * x[:, 0]))
    rows = np.linspace(0, 1, 41)[:, None]
    first = model.pick(rows, 1, 1.0)[0]
    second = model.pick(rows, 1, 1.0, pending=rows[[first]])[0]
    assert second != first and model.pick(rows, 2, 1.0) == [first, second]
    assert model.pick(rows, 1, 1.0, pending=rows[:0]) == [first]


def test_few_trials_tell_what_a_trend_is_worth() -> None:
    x, new = RNG.random((10, 3)), RNG.random((200, 3))
    truth = lambda rows: np.sin(9 * rows[:, 0]) * rows[:, 1]  # noqa: E731
    plain = TrendProcess(x, truth(x))
    assert np.array_equal(plain.predict(new), GaussianProcess(x, truth(x)).predict(new))
    assert plain.pick(new, 4, 1.0) == GaussianProcess(x, truth(x)).pick(new, 4, 1.0)
    told = TrendProcess(x, truth(x), 0.3 * truth(x))
    assert np.corrcoef(told.predict(new, 0.3 * truth(new)), truth(new))[0, 1] > 0.99
    assert np.corrcoef(plain.predict(new), truth(new))[0, 1] < 0.95
    first = told.pick(new, 1, 0.0, 0.3 * truth(new))[0]
    assert truth(new)[first] > np.quantile(truth(new), 0.9)
    lied = TrendProcess(x, truth(x), RNG.random(10))
    assert np.isfinite(lied.predict(new, RNG.random(200))).all()


def test_the_gradient_of_the_likelihood_is_the_slope() -> None:
    model = GaussianProcess(X, TIME)
    theta = np.array([-0.5, 0.1, 0.3, 0.0, -3.0])
    _, gradient = model._loss(theta)
    for i in range(5):
        step = np.eye(5)[i] * 1e-5
        slope = (model._loss(theta + step)[0] - model._loss(theta - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_expected_improvement_matches_a_simulation() -> None:
    gap, sd = np.array([-1.0, 0.0, 0.5]), np.array([0.7, 1.0, 0.2])
    draws = np.maximum(0, gap + sd * np.random.default_rng(1).standard_normal((400_000, 3))).mean(axis=0)
    assert np.allclose(expected_improvement(gap, sd), draws, atol=4e-3)


def test_measures_of_a_ranking() -> None:
    times = np.array([4.0, 2.0, np.nan, 1.0])
    assert top_k(np.array([3.0, 2.0, 1.0, 0.0]), times, 1) == 0.25
    assert top_k(np.array([3.0, 2.0, 1.0, 0.0]), times, 2) == 0.5
    assert top_k(np.array([0.0, 0.0, 9.0, 0.0]), times, 1) == 0.0
    assert pairwise_accuracy(-np.array([4.0, 2.0, 9.0, 1.0]), times) == 1.0
    assert pairwise_accuracy(np.zeros(4), times) == 0.5
