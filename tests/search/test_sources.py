"""Who fills the slots of a batch: shares hold, and a source that ranks worse than chance loses its own until it is
better again."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_tune.search.sources import LEAST, WINDOW, Sources, deal, without

ROWS = np.arange(3 * WINDOW, dtype=np.uint16)[:, None]
TIMES = np.arange(1.0, 3 * WINDOW + 1)


def test_shares_hold_and_never_round_to_nothing() -> None:
    shares = {"smooth": 0.5, "trees": 0.3, "children": 0.1}
    dealt = [deal(shares, (np.arange(i, i + 4) * 0.6180339887498949) % 1.0) for i in range(0, 400, 4)]
    totals = {name: sum(d[name] for d in dealt) for name in shares}
    assert all(abs(totals[name] - 400 * share) <= 4 for name, share in shares.items())


def test_the_others_have_a_lost_share_in_proportion() -> None:
    left = without({"smooth": 0.5, "trees": 0.2, "children": 0.2}, ["smooth"])
    assert left == pytest.approx({"smooth": 0.0, "trees": 0.4, "children": 0.4})
    assert without({"smooth": 0.5, "trees": 0.2}, []) == {"smooth": 0.5, "trees": 0.2}


def test_a_source_is_judged_by_what_it_did_not_propose_and_may_earn_its_share_back() -> None:
    sources = Sources()
    wrong, right = ROWS[:LEAST], ROWS[LEAST : LEAST + WINDOW]
    sources.expect("trees", wrong, TIMES[:LEAST])  # expects most of the slowest
    assert sources.trusted("trees", wrong[:-1], TIMES[: LEAST - 1])
    assert not sources.trusted("trees", wrong, TIMES[:LEAST])
    sources.expect("trees", right, -TIMES[LEAST : LEAST + WINDOW], model=1)
    both = np.concatenate([wrong, right])
    assert sources.accuracy("trees", both, TIMES[: len(both)]) == 1.0
    sources.note("trees", wrong)
    assert sources.accuracy("trees", wrong, TIMES[:LEAST]) is None


def test_a_failure_is_the_slowest_and_scores_of_two_models_are_not_compared() -> None:
    sources = Sources()
    times = TIMES[:LEAST].copy()
    times[0] = np.nan
    sources.expect("smooth", ROWS[:1], [-1e9])
    sources.expect("smooth", ROWS[1:LEAST], -times[1:])
    assert sources.accuracy("smooth", ROWS[:LEAST], times) == 1.0
    sources = Sources()
    half = LEAST // 2
    sources.expect("smooth", ROWS[:half], -TIMES[:half])
    sources.expect("smooth", ROWS[half:LEAST], 1e3 - TIMES[half:LEAST], model=1)
    assert sources.accuracy("smooth", ROWS[:LEAST], TIMES[:LEAST]) == 1.0
