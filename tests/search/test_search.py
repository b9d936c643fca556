"""The search: valid, without repeats, reproducible, better than chance, and fair between sources and spaces."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_tune.cuda.device import by_name
from gpu_tune.errors import InvalidInput
from gpu_tune.model.transfer import ROWS, HistoryGroup, gather
from gpu_tune.report.html import search_page, search_plots
from gpu_tune.report.search_facts import explain, judgement
from gpu_tune.search.search import Search
from gpu_tune.search.sources import CHILDREN, HISTORY, SMOOTH, TREES, deal
from gpu_tune.search.space_search import GOLDEN, Part, Settings
from gpu_tune.space.knob import Config, Knob
from gpu_tune.space.space import Space
from gpu_tune.store.interchange import RecordedSpace, load
from gpu_tune.store.records import Record
from gpu_tune.templates.bound import BoundTemplate, TemplateSpace
from gpu_tune.templates.registry import registry
from gpu_tune.trial import MEASURED, PREDICTED, Candidate
from gpu_tune.workload import Matmul
from tests.helpers.searching import result, toy_space

DATA = Path(__file__).parents[1] / "data"


@functools.cache
def synthetic(chip: str) -> RecordedSpace:
    return RecordedSpace(load(DATA / f"synthetic-{chip}.json.gz"))


def replay(search: Search, space: RecordedSpace, trials: int) -> list[float]:
    while len(search.observations) < trials:
        batch = search.ask(min(trials - len(search.observations), search.batch))
        if not batch:
            break
        search.tell([space.measurement(c.config, repeats=False) for c in batch])
    return [m.time if m.ok else math.inf for m in search.observations]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1000), st.lists(st.integers(1, 20), min_size=1, max_size=30), st.floats(0, 0.9), st.integers(0, 2)
)
def test_asked_configs_are_valid_and_never_repeat_whatever_is_told(
    seed: int, sizes: list[int], failing: float, late: int
) -> None:
    space, rng = toy_space(), np.random.default_rng(seed)
    search = Search([space], seed=seed)
    seen: list[Candidate] = []
    flight: list[list[Candidate]] = []
    for n in [*sizes, *[16] * 8]:
        batch = search.ask(n)
        assert len(batch) <= min(n, 16)
        seen += batch
        flight.append(batch)
        if len(flight) > late:
            search.tell([result(c, math.inf if rng.random() < failing else 1e-3 * rng.random()) for c in flight.pop(0)])
    assert all(c.config in space for c in seen) and len(set(seen)) == len(seen)
    assert len(seen) == space.count().valid  # small enough to have been asked for whole
    assert search.ask() == []


def test_the_same_seed_and_records_give_the_same_proposals() -> None:
    space = synthetic("a")
    first, second, other = (Search([space], seed=s) for s in (4, 4, 5))
    for search in (first, second, other):
        replay(search, space, 60)
    asked = [[m.candidate for m in s.observations] for s in (first, second, other)]
    assert asked[0] == asked[1] != asked[2]
    resumed = Search([space], seed=4)
    resumed.tell(first.observations)  # as after a restart: told, never asked
    assert resumed.ask() == first.ask()


@pytest.mark.slow
def test_it_beats_random() -> None:
    space, trials = synthetic("b"), 100
    rng = np.random.default_rng(0)
    picks = [rng.permutation(len(space))[:trials] for _ in range(200)]
    chance = float(np.mean([space.optimum / space.times()[p].min() for p in picks]))
    guided = np.mean([space.optimum / min(replay(Search([space], seed=s), space, trials)) for s in range(8)])
    assert guided > chance + 0.02


def test_failures_are_learned_from() -> None:
    space = Space("half", [Knob(f"k{i}", tuple(range(1, 9)), "") for i in range(4)])
    search = Search([space], seed=1)
    failures: list[float] = []
    while len(search.observations) < 120:
        batch = search.ask()
        bad = [c.config["k1"] > 4 for c in batch]  # type: ignore[operator]
        failures += bad
        search.tell(
            [result(c, math.inf if b else 1.0 + sum(map(float, c.config.values())) / 100) for c, b in zip(batch, bad)]
        )
    assert np.mean(failures[:16]) >= 0.25 and np.mean(failures[40:]) < 0.25


@pytest.mark.parametrize(("names", "initial"), [(("x",), 12), (("x", "y"), 8)])
def test_models_choose_once_enough_trials_are_spread_over_a_space(names: Sequence[str], initial: int) -> None:
    search = Search([toy_space(name) for name in names], seed=0)
    own = search.space_searches["x"]
    for _ in range(5):
        tried, by_models = len(own.trials()[0]), len(own.sources._proposed)
        search.tell([result(c, 1e-3 * (1 + float(c.config["m"]))) for c in search.ask()])
        beyond = max(0, len(own.trials()[0]) - max(tried, initial))
        assert min(1, beyond) <= len(own.sources._proposed) - by_models <= beyond


def test_every_source_keeps_its_share_even_in_batches_of_one() -> None:
    space = synthetic("b")
    for size in (1, 16):
        search = Search([space], seed=0, settings=Settings(early_until=0))
        own = search.space_searches[space.name]
        counts = np.zeros(3)
        asked = 0
        while asked < 160:
            slots = deal(own._shares(Part(None, *own.trials())), own._sequence(size, GOLDEN))
            counts += [slots[SMOOTH], slots[TREES], slots[CHILDREN]]
            own.taken.update(bytes([asked % 256, asked // 256, i]) for i in range(size))
            asked += size
        shares = [search.settings.gaussian_process, search.settings.trees, search.settings.children]
        assert np.allclose(counts / 160, shares, atol=0.02)


class Started(Space):
    def default(self) -> Config:
        return Config(m=2, n=2, kind="p")

    def seeds(self) -> list[Config]:
        return [Config(m=4, n=4, kind="q"), Config(m=2, n=2, kind="p")]


def test_defaults_seeds_and_given_starts_come_first_once() -> None:
    a = Started("a", toy_space().knobs, toy_space().constraints)
    b = Started("b", toy_space().knobs, toy_space().constraints)
    extra = Config(m=8, n=1, kind="r")
    invalid = Config(m=16, n=8, kind="r")
    batch = Search([a, b], starts={"b": [invalid, extra]}).ask()
    assert [(c.template, dict(c.config)) for c in batch[:5]] == [
        ("a", {"m": 2, "n": 2, "kind": "p"}),
        ("b", {"m": 2, "n": 2, "kind": "p"}),
        ("a", {"m": 4, "n": 4, "kind": "q"}),
        ("b", {"m": 4, "n": 4, "kind": "q"}),
        ("b", dict(extra)),
    ]
    assert len(set(batch)) == len(batch)


def test_trials_flow_to_the_space_that_earns_them() -> None:
    spaces = [
        Space(n, [Knob(f"k{i}", tuple(range(1, 9)), "") for i in range(4)])
        for n in ("good", "close", "hopeless", "broken")
    ]
    factor = {"good": 1.0, "close": 1.03, "hopeless": 4.0, "broken": math.inf}
    search = Search(spaces, seed=2)
    while len(search.observations) < 160:
        search.tell(
            [result(c, factor[c.template] * (1 + sum(map(float, c.config.values())) / 100)) for c in search.ask()]
        )
    tried = {name: len(own.taken) for name, own in search.space_searches.items()}
    assert tried["hopeless"] < 16 and tried["broken"] < 16  # left after a few
    assert tried["good"] > tried["hopeless"] and tried["close"] > 25
    assert search.best is not None and search.best.candidate.template == "good"


@functools.cache
def history_of(chip: str, seed: int = 0) -> HistoryGroup:
    space = synthetic(chip)
    search = Search([space], seed=seed)
    replay(search, space, 100)
    return HistoryGroup.of(space, search.observations, chip)


def test_history_of_other_chips_speeds_up_the_start_and_never_takes_all_slots() -> None:
    space, history = synthetic("a"), [history_of("b"), history_of("c")]
    cold = [space.optimum / min(replay(Search([space], seed=s), space, 24)) for s in range(3)]
    warm = [space.optimum / min(replay(Search([space], seed=s, history=history), space, 24)) for s in range(3)]
    assert np.mean(warm) > np.mean(cold) + 0.02
    search = Search([space], seed=0, history=history)
    first = [c.config for c in search.ask()]
    assert [history[i].winners(1)[0] in first for i in (0, 1)] == [True, True]
    own = search.space_searches[space.name]
    prior, by_history = own.prior, list(own.sources._proposed.values()).count(HISTORY)
    assert prior is not None and by_history == 2 and len(first) == 8  # four of eight are spread, whatever history says
    expected = prior.predict(space.describe(space.grid.all(20_000))[0])  # type: ignore[arg-type]
    random = space.rows([c.config for c in Search([space], seed=0).ask()])
    assert (prior.predict(space.describe(random)[0]) < np.quantile(expected, 0.9)).any()


def test_misleading_history_is_overcome() -> None:
    space = synthetic("b")
    liar = history_of("a")
    upside_down = HistoryGroup(liar.name, liar.group, liar.features, liar.names, 1.0 / liar.times, liar.configs)
    search = Search([space], seed=0, history=[upside_down])
    warm = space.optimum / min(replay(search, space, 120))
    cold = space.optimum / min(replay(Search([space], seed=0), space, 120))
    assert not search.space_searches[space.name]._trusted(HISTORY)
    assert warm > cold - 0.08  # its first batches were wasted


def template_space(m: int, device: str = "nvidia-h200") -> TemplateSpace:
    workload, chip = Matmul(m, 512, 1024, dtype="float32", layout="nn"), by_name(device)
    return BoundTemplate(registry()["matmul_simt"], workload, chip).space()


def records(space: TemplateSpace, source: str, n: int = 12) -> list[Record]:
    configs = space.sample(n, np.random.default_rng(1))
    return [
        Record(
            space.workload,
            space.device.chip,
            space.bound.hash,
            result(Candidate(space.name, c), 1e-3 / int(c["thread_m"]), source),
        )
        for c in configs
    ]


def test_records_become_groups_and_predicted_ones_never_teach_beside_measured_ones() -> None:
    target, near, far = template_space(512), template_space(1024), template_space(8192, "nvidia-a100")
    history = [*records(far, MEASURED), *records(near, MEASURED), *records(target, MEASURED), *records(near, PREDICTED)]
    groups = gather(history, [target])["matmul_simt"]
    assert [g.group for g in groups] == [
        f"{s.workload.key} on {s.device.chip}" for s in (near, far)
    ]  # nearest first, own left out
    assert all(g.source == MEASURED for g in groups) and len(groups[0].times) == 12
    assert gather(records(near, PREDICTED), [target])["matmul_simt"][0].source == PREDICTED
    assert gather(records(near, PREDICTED), [target], source=MEASURED) == {}
    search = Search([target], history=history)
    batch = search.ask()
    assert all(c.config in target for c in batch)
    assert search.space_searches["matmul_simt"].prior is not None


def test_slices_of_a_known_chip_are_learned_from_and_unknown_chips_are_not() -> None:
    target, near = template_space(512), template_space(1024)
    mig = [replace(r, chip="nvidia-h200-16sm-18gb") for r in records(near, MEASURED)]
    strange = [replace(r, chip="nvidia-rtx9090-300sm-64gb") for r in records(near, MEASURED)]
    (group,) = gather([*mig, *strange], [target])["matmul_simt"]
    assert group.group.endswith("on nvidia-h200-16sm-18gb")
    column = list(group.names).index("SMs")
    assert set(group.features[:, column]) == {16.0} and len(group.times) == 12


@pytest.mark.slow
def test_much_history_is_thinned_to_what_can_be_described_in_time() -> None:
    target = template_space(512)
    shapes = [template_space(512 * i) for i in range(2, 8)]
    history = [r for s in shapes for r in records(s, MEASURED, 300)]
    groups = gather(history, [target])["matmul_simt"]
    assert len(groups) == 6 and sum(len(g.times) for g in groups) <= ROWS < len(history)
    for group, space in zip(groups, shapes):
        mine = [r.measurement.time for r in history if r.workload == space.workload]
        assert min(mine) in group.times and len(group.times) >= 150  # the best ones, and some of the others
        assert len(set(group.times)) > 2


def test_a_template_space_is_searched_with_hardware_features() -> None:
    space = template_space(512)
    search = Search([space], seed=0)
    seen: list[Candidate] = []
    for _ in range(4):
        batch = search.ask()
        seen += batch
        search.tell([result(c, 1e-3 * (1 + abs(math.log2(int(c.config["block_m"]) / 64)))) for c in batch])
    assert seen[0].config == space.default() and len(set(seen)) == len(seen)
    assert all(space.bound.violations(c.config) == [] for c in seen)
    late = [int(c.config["block_m"]) for c in seen[-8:]]
    assert late.count(64) >= 3


def test_bad_arguments_and_foreign_measurements_get_clear_errors() -> None:
    space = toy_space()
    cases: list[dict[str, Any]] = [{"spaces": []}, {"spaces": [space, toy_space()]}]
    for bad in [*cases, {"spaces": [space], "seed": -1}, {"spaces": [space], "batch": 0}]:
        with pytest.raises(InvalidInput):
            Search(**bad)
    search = Search([space])
    with pytest.raises(InvalidInput, match="not searched"):
        search.tell([result(Candidate("other", Config(m=1)), 1.0)])
    with pytest.raises(InvalidInput, match="unknown or missing"):
        search.tell([result(Candidate("toy", Config(m=1)), 1.0)])


def test_the_last_descent_tries_every_neighbour_of_the_best_and_ends() -> None:
    space: Space = toy_space()
    search = Search([space], seed=0)
    search.tell(
        [
            result(Candidate("toy", Config(m=4, n=4, kind="q")), 1.0),
            result(Candidate("toy", Config(m=1, n=1, kind="p")), 9.0),
        ]
    )
    asked = search.final(4)
    assert all(sum(c.config[k] != v for k, v in {"m": 4, "n": 4, "kind": "q"}.items()) == 1 for c in asked)
    while more := search.final():
        asked += more
    neighbours = space.configs(space.steps(space.rows([Config(m=4, n=4, kind="q")])[0]))
    assert {c.config for c in asked} == set(neighbours) and len(asked) == len(neighbours)


def test_a_search_explains_itself() -> None:
    space = synthetic("a")
    search = Search([space], seed=0)
    replay(search, space, 96)
    told = explain(search)
    assert told["trials"] == 96 == sum(told["statuses"].values()) == len(told["curve"])
    assert told["curve"][-1] == min(t for t in told["curve"] if t is not None)
    own = told["spaces"][space.name]
    assert sum(own["gain"].values()) == pytest.approx(1.0) and own["pairwise_accuracy"] > 0.6
    assert own["rank_correlation"] > 0.3 and own["top"]["1"] <= own["top"]["5"] <= 1.0
    assert set(own["gain"]) <= set(space.describe(space.grid.sample(1, np.random.default_rng(0)))[1])
    assert next(iter(own["gain"])) in own["shap"]
    assert [p["seconds"] for p in told["points"]] == [m.time if m.ok else None for m in search.observations]
    assert sum(f["count"] for f in told["failures"]) == 96 - told["statuses"]["ok"]
    ranks: Sequence[int] = own["predicted"]
    assert sorted(ranks) == sorted(own["measured"]) == list(range(len(ranks)))
    facts = {"workload": "w", "device": "d", "source": MEASURED, "records": 0, "best": None, **told}
    drawn = search_plots(facts)
    assert len(drawn) == 2 and all(png.startswith(b"\x89PNG") for png in drawn.values())
    page = search_page(facts)
    assert page.count("<img") == 2 and judgement(space.name, own) in page
    assert explain(Search([space]))["spaces"][space.name] == {"trials": 0, "best": None}
