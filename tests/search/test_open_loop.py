"""The open loop in strangers' hands: spaces, times, history and calls that are not as expected."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_tune as gt
from gpu_tune.errors import InvalidConfig, InvalidInput, TemplateError
from gpu_tune.model.transfer import HistoryGroup, gather
from gpu_tune.search.history import History
from gpu_tune.search.search import Search, Tuner
from gpu_tune.space.grid_space import GridSpace
from gpu_tune.space.knob import Config, Knob
from gpu_tune.space.space import Space
from gpu_tune.store.interchange import save_kernel_tuner, save_t4
from gpu_tune.store.interchange.files import MAX_VALUES  # what files may hold, a knob holds
from gpu_tune.store.recorded_space import Recorded, RecordedSpace, RecordedTrial
from gpu_tune.store.records import Record
from gpu_tune.trial import Candidate, Measurement
from gpu_tune.workload import Matmul
from tests.helpers.searching import result, toy_space


def blocks(name: str = "mine") -> GridSpace:
    """Two knobs that matter and one that does not."""
    values = {"block": (16, 32, 64, 128, 256, 512), "items": (1, 2, 4, 8), "order": ("row", "column")}
    return GridSpace(
        name, values, [lambda block, items: block * items <= 1024], default={"block": 32, "items": 1, "order": "row"}
    )


def cost(config: Any) -> float:
    return 1e-3 * (1 + abs(math.log2(config["block"] / 256)) + abs(math.log2(config["items"] / 2)))


def drive(search: Search, trials: int, time: Callable[[Any], float] = cost) -> None:
    while len(search.observations) < trials and (batch := search.ask()):
        search.tell([Measurement.of(c, time(c.config)) for c in batch])


def test_a_leading_space_that_runs_out_leaves_its_slots_to_the_others() -> None:
    small, large = GridSpace("small", {"a": range(6)}), GridSpace("large", {"a": range(1000)})
    search = Search([small, large], seed=0)
    drive(search, 48, lambda config: 1.0)
    names = [m.candidate.template for m in search.observations]
    assert names.count("small") == 6 and names.count("large") >= 42
    search = Search([small, GridSpace("other", {"a": range(3)})], seed=0)
    drive(search, 20, lambda config: 1.0)
    assert len(search.observations) == 9 and search.ask() == []  # all of both, and only then none


@pytest.mark.parametrize("seconds", [math.nan, 0.0, -1e-3, math.inf])
def test_a_time_that_is_none_is_refused_where_it_is_made(seconds: float) -> None:
    candidate = Candidate("mine", blocks().sample(1, np.random.default_rng(0))[0])
    for make in (lambda: Measurement.of(candidate, seconds), lambda: Measurement.of(candidate, (1e-3, seconds))):
        with pytest.raises(InvalidInput, match="not positive and finite"):
            make()
    assert Measurement.of(candidate, np.array([1e-3, 3e-3, 2e-3], dtype=np.float32)).time == pytest.approx(2e-3)
    failed = Measurement.failed(candidate, "segmentation fault")
    assert not failed.ok and failed.reason == "segmentation fault"
    with pytest.raises(InvalidInput, match="no number"):
        Measurement.of(candidate, "fast")  # type: ignore[arg-type]
    for told in ("1", b"1", True, np.True_, 10**400, (1e-3, True), [True]):
        with pytest.raises(InvalidInput, match="are no number, nor several; tell seconds"):
            Measurement.of(candidate, told)  # type: ignore[arg-type]


def hidden(keeps: Callable[[tuple[int, ...]], bool]) -> GridSpace:
    """One predicate over all of eight knobs of ten values."""
    return GridSpace("one predicate", {f"k{i}": range(10) for i in range(8)}, [_over_all(keeps)])


def _over_all(keeps: Callable[[tuple[int, ...]], bool]) -> Callable[..., bool]:
    def one(k0: int, k1: int, k2: int, k3: int, k4: int, k5: int, k6: int, k7: int) -> bool:
        calls.append(1)
        return keeps((k0, k1, k2, k3, k4, k5, k6, k7))

    return one


calls: list[int] = []


def test_one_predicate_over_all_knobs_costs_a_bounded_number_of_calls_and_says_what_to_split(
    caplog: pytest.LogCaptureFixture,
) -> None:
    space = hidden(lambda k: sum(a * 37**i for i, a in enumerate(k)) % 997 == 1)  # one point in a thousand
    search = Search([space], seed=0)
    calls.clear()
    seen = []
    for _ in range(4):
        before, batch = len(calls), search.ask()
        seen += batch
        assert len(batch) >= 8 and len(calls) - before < 60_000
        search.tell([Measurement.of(c, 1.0 + c.config["k0"]) for c in batch])  # type: ignore[operator]
    assert len(set(seen)) == len(seen) and all(c.config in space for c in seen)
    assert "over 8 knobs" in caplog.text and "Split it" in caplog.text
    one = (3, 1, 4, 1, 5, 9, 2, 6)
    nowhere = hidden(lambda k: k == one)
    calls.clear()
    with pytest.raises(InvalidInput, match=r"'one' over 8 knobs hides the valid configs.*split it"):
        Search([nowhere]).ask()
    assert len(calls) < 60_000
    told = Search([nowhere])
    told.tell([Measurement.of(Candidate(nowhere.name, Config({f"k{i}": v for i, v in enumerate(one)})), 1.0)])
    assert told.ask() == [] and len(calls) < 120_000  # what is known was found by someone else
    beside = (*one[:7], 7)
    found = Search([hidden(lambda k: k in (one, beside, (8, 0, 2, 2, 7, 4, 9, 1)))])
    found.tell(told.observations)
    assert [tuple(c.config.values()) for c in found.ask()] == [beside] and found.ask() == []


def test_a_predicate_over_more_points_than_64_bits_number_works() -> None:
    knobs = {f"k{i}": range(10) for i in range(24)}
    names = ", ".join(knobs)
    space = GridSpace("wide", knobs, [eval(f"lambda {names}: ({' + '.join(knobs)}) % 2 == 0")])
    search = Search([space], seed=0)
    batch = search.ask()
    assert len(batch) >= 8 and all(sum(c.config.values()) % 2 == 0 for c in batch)  # type: ignore[arg-type]
    assert 0.4 < next(iter(space.removed().values())).points / space.grid.raw < 0.6


def test_the_plateau_counts_configs_and_ends_a_run_in_which_everything_fails() -> None:
    space = GridSpace("many", {"a": range(5000)})
    search = Search([space])
    first, *others = (Candidate("many", Config(a=i)) for i in range(600))
    for _ in range(400):
        search.tell([Measurement.of(first, 1.0)])
    assert not search.plateau(0.05)  # one config, told often
    search = Search([space])
    search.tell([Measurement.failed(c, "no") for c in others[:200]])
    assert not search.plateau(0.05)
    search.tell([Measurement.failed(c, "no") for c in others[200:]])
    assert search.plateau(0.05)


def test_what_is_told_is_taken_in_whole_or_not_at_all() -> None:
    search = Search([blocks()])
    good = Measurement.of(search.ask()[0], 2e-3)
    breaks = Measurement.of(Candidate("mine", Config(block=512, items=8, order="row")), 1e-9)
    unknown = Measurement.of(Candidate("mine", Config(block=7, items=1, order="row")), 1e-9)
    foreign = Measurement.of(Candidate("other", Config(a=1)), 1e-9)
    for bad, words in (
        (breaks, "breaks constraint 1"),
        (unknown, "not one of"),
        (foreign, "not searched"),
        (3.0, "no measurement"),
    ):
        with pytest.raises(InvalidInput, match=words):
            search.tell([good, bad])  # type: ignore[list-item]
        assert search.best is None and search.observations == []

    def broken() -> Iterable[Measurement]:
        yield good
        raise OSError("the network is gone")

    with pytest.raises(OSError):
        search.tell(broken())
    assert search.observations == []
    search.tell([good])
    assert search.best is good
    recorded = RecordedSpace(Recorded("r", "d", (Knob("a", (1, 2, 3)),), (RecordedTrial(Config(a=1), "ok", 1.0),)))
    with pytest.raises(InvalidInput, match="none of the listed"):
        Search([recorded]).tell([Measurement.of(Candidate("r", Config(a=2)), 1.0)])


def contradictory() -> GridSpace:
    return GridSpace("s", {"a": (1, 2), "b": (1, 2)}, [lambda a, b: a < b, lambda a, b: a > b])


def test_bad_declarations_are_named() -> None:
    knob = Knob("a", (1, 2))
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: Space("s", []), "knobs of space s.*none"),
        (lambda: Space("s", [knob, Knob("b", (1,)), knob]), "share a name"),
        (lambda: Space("s", ["a"]), "no Knob"),  # type: ignore[list-item]
        (lambda: Knob("a", tuple(range(70_000))), "70,000 of at most 65,536"),
        (lambda: Knob("a", ()), "none"),
        (lambda: Knob("a", "abc"), "no list"),  # type: ignore[arg-type]
        (lambda: Knob("a b", (1,)), "identifier"),
        (lambda: Knob("a", (1, None)), "no finite number"),  # type: ignore[arg-type]
        (lambda: Knob("a", (1.0, math.nan)), "no finite number"),
        (lambda: Knob("a", (1, np.int64(1))), "twice"),  # type: ignore[arg-type]
        (lambda: GridSpace("s", {"a": (1, 2)}, [lambda b: b > 1]), "not all knobs"),
        (lambda: GridSpace("s", {"a": (1, 2)}, [lambda: True]), "not all knobs"),
        (lambda: GridSpace("s", {"a": (1, 2)}, [3]), "no function"),  # type: ignore[list-item]
        (lambda: GridSpace("s", {"a": (1, 2)}, [max]), "does not tell its parameters"),
        (lambda: GridSpace("s", {"a": (1, 2)}, [lambda a: a < 2], default={"a": 2}), "breaks constraint 1"),
        (lambda: GridSpace("s", {"a": (1, 2)}, seeds=[{"b": 2}]), "unknown or missing"),
        (lambda: Tuner(spaces=blocks()), r"spaces=\[mine\]"),  # type: ignore[arg-type]
        (lambda: Tuner(spaces=[3]), "no space"),  # type: ignore[list-item]
        (lambda: Tuner(spaces=[blocks()], history=[1]), "no Record or History"),  # type: ignore[list-item]
        (lambda: Tuner(spaces=[blocks()], history=3), "no list"),  # type: ignore[arg-type]
        (lambda: GridSpace("s", {"a": (1, 2)}, lambda a: a > 1), "constraints of space s"),  # type: ignore[arg-type]
        (lambda: GridSpace("s", {"a": (1, 2)}, seeds=3), "seeds of space s"),  # type: ignore[arg-type]
        (lambda: GridSpace("s", {"a": (10**400, 1)}), "more than 1e"),
        (lambda: GridSpace("s", {"a": (1, 2)}, [lambda a: a > 2]), "constraint 1 holds for no values of a: no valid"),
        (lambda: Tuner(spaces=[contradictory()]), "search space: 's' has no valid config"),
        (lambda: Knob("a", {1, 2}), "values of knob a: are a set"),  # type: ignore[arg-type]
        (lambda: GridSpace("s", {"a": frozenset((1, 2))}), "values of knob a: are a set"),  # type: ignore[dict-item]
        (lambda: Knob("a", (1, True, 1.0)), "one value twice: 1 and True and 1.0"),
        (lambda: Tuner(spaces=[blocks()]).tell(None), "no list of measurements"),  # type: ignore[arg-type]
        (lambda: Measurement.of("s", 1.0), "no candidate"),  # type: ignore[arg-type]
        (lambda: Measurement.of(Candidate("s", {"a": 1}), 1.0), "no candidate with a Config"),  # type: ignore[arg-type]
        (lambda: Tuner(spaces=[blocks()]).plateau("now"), "no number"),  # type: ignore[arg-type]
        (lambda: Tuner(spaces=[blocks()]).final(-1), "no whole number"),
        (lambda: History("s", (Config(a=1),), (None,)), "no positive time"),  # type: ignore[arg-type]
        (lambda: History.of([1]), "no measurement"),  # type: ignore[list-item]
        (lambda: History.load(3), "no path"),  # type: ignore[arg-type]
        *((lambda n=n: Tuner(spaces=[blocks()]).ask(n), "no whole number") for n in ("4", -1, 2.5, True)),  # type: ignore[misc]
    ]
    for make, words in cases:
        with pytest.raises(InvalidInput, match=words):
            make()
    assert len(Knob("a", tuple(range(MAX_VALUES))).values) == MAX_VALUES


def test_a_predicate_that_raises_is_named_with_what_it_was_asked() -> None:
    with pytest.raises(TemplateError, match=r"'constraint 1' raised ZeroDivisionError .* for \{'a': 0, 'b': 1\}"):
        GridSpace("s", {"a": (0, 1), "b": (1, 2)}, [lambda a, b: b % a == 0]).count()
    with pytest.raises(TemplateError, match="raised KeyError"):
        GridSpace("s", {"a": (0, 1)}, [lambda a: {0: True}[a]]).count()


def test_numpy_values_are_the_numbers_they_hold() -> None:
    space = GridSpace("s", {"a": np.arange(4), "b": np.array([0.5, 1.0]), "c": (np.bool_(True), False)})  # type: ignore[dict-item]
    config = Config(a=np.int64(2), b=np.float64(0.5), c=np.bool_(True))  # type: ignore[arg-type]
    assert config in space and config == Config(a=2, b=0.5, c=True) and config.key == '{"a":2,"b":0.5,"c":true}'
    with pytest.raises(InvalidConfig, match="a=9"):
        space.rows([Config(a=9, b=0.5, c=True)])


def test_a_larger_ask_than_a_batch_is_cut_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    tuner = Tuner(spaces=[GridSpace("s", {"a": range(500)})])
    assert len(tuner.ask(64)) <= 16 and "batch=64" in caplog.text
    assert tuner.ask(0) == []
    wide = Tuner(spaces=[GridSpace("s", {"a": range(500)})], batch=64)
    caplog.clear()
    wide.tell([Measurement.of(c, 1.0) for _ in range(8) for c in wide.ask()])
    assert len(wide.ask(64)) == 64 and not caplog.text


def records(space: Space, n: int) -> list[Record]:
    configs = space.sample(n, np.random.default_rng(0))
    here = Matmul(64, 64, 64, dtype="float32")
    return [Record(here, "my machine", "", Measurement.of(Candidate(space.name, c), cost(c))) for c in configs]


def recorded(space: Space, **more: Any) -> Recorded:
    trials = tuple(RecordedTrial(c, "ok", cost(c)) for c in space.sample(30, np.random.default_rng(1)))
    return Recorded("mine", "another GPU", space.knobs, trials, **more)


def test_own_spaces_learn_from_records_and_from_files(tmp_path: Path) -> None:
    space = blocks()
    save_t4(recorded(space), tmp_path / "t4.json")
    save_kernel_tuner(recorded(space), tmp_path / "kt.json.gz")
    told = Tuner(spaces=[space])
    drive(told, 24)
    for history in (
        records(space, 30),
        [History.load(tmp_path / "t4.json")],
        [History.load(tmp_path / "kt.json.gz")],
        [History.of(told.observations, "yesterday")],
    ):
        tuner = Tuner(spaces=[space], history=history)
        prior = tuner.space_searches["mine"].prior
        assert prior is not None
        rows = space.grid.all()
        assert rows is not None
        order = np.argsort(-prior.predict(space.describe(rows)[0]))
        times = np.array([cost(c) for c in space.configs(rows)])
        assert times[order[:4]].mean() < np.median(times)  # it knows what is fast before anything was tried
        drive(tuner, 16)
        assert tuner.best is not None and tuner.best.time <= 2e-3


def test_of_configs_that_history_cannot_tell_apart_it_picks_any() -> None:
    space = GridSpace("half known", {"a": range(8), "b": range(8), "c": range(60)})
    known = [Config(a=a, b=b) for a in range(8) for b in range(8)]
    history = History("half known", tuple(known), tuple(1e-3 * (2 + c["a"] + c["b"]) for c in known))  # type: ignore[operator]
    own = Tuner(spaces=[space], history=[history]).space_searches["half known"]
    assert own.prior is not None
    pool = own._described(space.grid.all(own.space.listing))  # type: ignore[arg-type]
    assert pool.prediction is not None
    picked = own._by_history(pool, 8, np.random.default_rng(0))
    expected = own.prior.predict(space.describe(picked)[0])
    assert (expected == pool.prediction.max()).all() and len(np.unique(picked[:, 2])) > 4


def test_a_feature_of_a_knob_that_history_lacks_is_unknown() -> None:
    space = GridSpace("s", {"a": (1, 2, 4), "b": (1, 2, 4), "c": (1, 2, 4), "d": range(1, 12)})
    history = History("s", tuple(Config(a=a) for a in (1, 2, 4)), (1.0, 2.0, 3.0))
    (group,) = history.groups([space])
    known = np.isfinite(group.features).all(axis=0)
    assert [name for name, has in zip(group.names, known) if has] == ["log2 a"]  # not b/c, which 1/1 and 4/4 make one


def test_recorded_times_and_repeats_of_different_runs_are_never_mixed() -> None:
    space = GridSpace("r", {"a": range(3)})
    one, two, three = (Config(a=i) for i in range(3))
    same = [RecordedTrial(one, "ok", 2.0, (1.0, 3.0)), RecordedTrial(two, "ok", 4.0, (4.0, 4.0, 4.0))]
    for last, repeats in (
        (RecordedTrial(three, "run_error", None), True),
        (RecordedTrial(three, "ok", 5.0), False),
        (RecordedTrial(three, "ok", 5.0, (9.0, 9.5)), False),
    ):
        found = RecordedSpace(Recorded("r", "d", space.knobs, (*same, last)))
        assert [len(found.measurement(c).samples) for c in (one, two)] == ([2, 3] if repeats else [1, 1])
        assert found.measurement(one).time == 2.0 and len(found.measurement(two, repeats=False).samples) == 1


def test_history_that_fits_in_part_is_used_in_part_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    old = GridSpace("mine", {"block": (16, 64, 256, 1024), "items": (1, 2, 4, 8), "vector": (1, 4)})
    known = [Measurement.of(Candidate("mine", c), cost(c)) for c in old.sample(32, np.random.default_rng(0))]
    search = Tuner(spaces=[blocks()], history=[History.of(known)])
    assert search.space_searches["mine"].prior is not None
    assert "8 of 32 configs have values that the space does not list" in caplog.text
    assert "says nothing of the knobs ['order']" in caplog.text
    caplog.clear()
    assert Tuner(spaces=[blocks()], history=[History.of(known[:4])]).space_searches["mine"].prior is None
    assert "tells no two configs of a draw apart" in caplog.text
    caplog.clear()
    space = blocks()
    group = HistoryGroup.of(space, [r.measurement for r in records(space, 20)], "there")
    times = group.times.copy()
    times[3] = 0.0
    odd = HistoryGroup("mine", "odd", group.features[:, :-1], group.names[:-1], times, group.configs)
    found = gather([odd], [space])["mine"]
    assert [len(g.times) for g in found] == [19] and "1 of 20 times are not positive" in caplog.text
    assert Search([space], history=[odd]).space_searches["mine"].prior is not None
    assert "1 of" in caplog.text and "features are unknown" in caplog.text
    caplog.clear()
    strange = HistoryGroup("mine", "strange", group.features[:, :1], ("weather",), group.times, group.configs)
    assert Search([space], history=[strange]).space_searches["mine"].prior is None
    assert "none of the features" in caplog.text
    Search([space], history=[History("theirs", (Config(a=1),), (1.0,))])
    assert "left aside: the spaces are ['mine']" in caplog.text
    with pytest.raises(InvalidInput, match="no positive time"):
        History("mine", (Config(a=1),), (0.0,))


def test_repeats_are_pooled_and_finalists_confirm_the_best() -> None:
    space = toy_space()
    search = Search([space], seed=0)
    one, two = (Candidate("toy", c) for c in space.sample(2, np.random.default_rng(0)))
    search.tell([result(one, 1.0), result(two, 2.0)])
    assert search.best is not None and search.best.candidate == one
    assert search.finalists(2, 2) == [one, two]
    search.tell([result(one, 5.0), result(two, 2.2)])
    assert search.best.candidate == two and search.best.samples == (2.0, 2.2)  # the first was luck
    assert search.finalists(2, 2) == [] and search.finalists(1, 3) == [two]
    assert search.space_searches["toy"].best == pytest.approx(2.1)
    search.tell([Measurement.failed(two, "once")])
    assert search.best.time == pytest.approx(2.1)  # a time counts where another attempt failed
    for bad in (0, -1, 2.0):
        with pytest.raises(InvalidInput):
            search.finalists(bad)  # type: ignore[arg-type]


def test_confirmed_finalists_are_nearer_to_the_best_than_the_luckiest_sample() -> None:
    space = GridSpace("noisy", {"a": range(1, 33), "b": range(1, 9)})

    def true(config: Any) -> float:
        return 1.0 + 0.02 * abs(config["a"] - 20) + 0.03 * abs(config["b"] - 3)

    lucky, confirmed = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)

        def noisy(config: Any, rng: np.random.Generator = rng) -> float:
            return float(true(config) * np.exp(0.2 * rng.normal()))

        tuner = Tuner(spaces=[space], seed=seed)
        drive(tuner, 64, noisy)
        assert tuner.best is not None
        lucky.append(1.0 / true(tuner.best.candidate.config))
        while finalists := tuner.finalists():
            tuner.tell([Measurement.of(c, noisy(c.config)) for c in finalists])
        confirmed.append(1.0 / true(tuner.best.candidate.config))
        assert tuner.best.time > min(m.time for m in tuner.observations)
    assert np.mean(confirmed) > np.mean(lucky)


def test_the_public_names_are_there() -> None:
    assert (gt.Knob, gt.GridSpace, gt.Measurement, gt.History) == (Knob, GridSpace, Measurement, History)
