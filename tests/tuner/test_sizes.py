"""Tuning a workload that leaves a size open: a few sizes are tuned, every size is served, and all of it is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

import gpu_tune as gt
from gpu_tune.errors import InvalidInput, WrongResult
from gpu_tune.kernel.kernel_set import KernelSet
from gpu_tune.measure.finals import Check
from gpu_tune.plan.size import Size
from gpu_tune.store.records import Records
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.trial import Candidate
from gpu_tune.tuner import live, search_run, size_choice, sizes
from gpu_tune.tuner.search_run import Found
from gpu_tune.workload import Matmul
from tests.helpers.command_line import run
from tests.helpers.winners import H200, toy_set, toy_template

OPEN = Matmul(gt.any_of(1, 64), 96, 64, dtype="float32")


def test_a_set_is_tuned_kept_found_again_and_shown(home, templates, monkeypatch):
    templates = {"toy": replace(templates["toy"], open_sizes=("m",))}
    seen = []
    options = dict(device="nvidia-h200", trials=10, seed=0, sizes=[64, 8], templates=templates, jobs=1)
    kernels = gt.tune(OPEN, on_trial=seen.append, **options)
    assert isinstance(kernels, KernelSet) and kernels.match == "set" and {"m=64", "m=8"} <= {p.size for p in seen}
    winners = kernels.winners
    last = seen[-1]  # of all sizes together
    assert (last.phase, last.size, last.trials, last.statuses.total()) == ("done", "", winners.trials, winners.trials)
    assert "kernels for every size" in live.plain("title", last)
    assert winners.ranges[0].least == 1 and winners.ranges[-1].most == 64 and winners.complete
    assert {r.ours for r in winners.ranges} == {"unknown"} and set(winners.sizes) <= {8, 64}
    assert all(k.plan.open == Size("m", (1, 64)) and "m is an argument, 1 to 64" in k.code for k in winners.kernels)
    records = Records().read("predicted")
    assert {8, 64} <= {r.workload.m for r in records} <= {8, 64, *sizes.samples(OPEN.open)}  # a record says the size
    assert {r.template_hash for r in records} == {k.template_hash for k in winners.kernels}
    assert templates["toy"].hash() not in {r.template_hash for r in records}  # nor passes for one of an exact kernel
    more = gt.tune(OPEN, **{**options, "sizes": [32], "trials": 4}).winners  # added to what is there
    assert more.sizes == (8, 32, 64) and more.complete and more.budget["trials"] == 14
    assert {k.workload.m for k in more.kernels} >= {k.workload.m for k in winners.kernels} & {8, 64}
    assert more.trials > winners.trials
    monkeypatch.setattr(search_run, "open_measurer", None)
    assert gt.tune(OPEN, **options).winners == more
    winners = more
    one = gt.load(OPEN.at(33), device="nvidia-h200")
    assert one.match == "set" and one.plan.open is None and one.workload == OPEN.at(33)
    args = ("matmul", "--n", "96", "--k", "64", "--dtype", "float32", "--device", "nvidia-h200")
    told = json.loads(run("show", "kernel", *args, "--m", "1..64", "--json").stdout)
    assert [(r["least"], r["most"]) for r in told["ranges"]] == [(r.least, r.most) for r in winners.ranges]
    assert "tuned at m" in run("show", "kernel", *args, "--m", "1..64").stdout
    assert run("show", "kernel", *args, "--m", "33").stdout.strip() == one.source.strip()
    told = run("show", "kernel", *args, "--m", "1..64", "--explain", code=2).stderr
    assert "is a set of kernels, of which one is explained; name a size, as in --m 64" in told
    assert "is not tuned" in run("show", "kernel", *args, "--m", "65", code=1).stderr
    plain = ("tune", "matmul", "--k", "64", "--dtype", "float32")
    for options, said in (  # in the words of the options, before anything else is said
        (("--m", "8", "--n", "1..64"), "Error: --n: '1..64' leaves a size open, which only --m of a matmul can be"),
        (("--m", "1..64", "--n", "64", "--sizes", "8,65"), "Error: --sizes: [65] are not sizes that m may have"),
        (
            ("--m", "8", "--n", "64", "--sizes", "8"),
            "Error: --sizes: [8] choose among the values of an open size, and none is",
        ),
        (("--m", "1..64", "--n", "64", "--target", "3us"), "Error: --target: '3us' is of one size, and --m is open"),
    ):
        assert run(*plain, *options, code=2).stderr.startswith(said)


def test_wrong_requests_are_refused_before_anything_is_tuned(home, templates):
    toys = {"toy": replace(templates["toy"], open_sizes=("m",))}
    for options, said in (
        (dict(sizes=[65, 8]), r"sizes: \[65\] are not sizes that m may have; give some of 1\.\.64"),
        (dict(sizes=["8"]), "are not sizes that m may have"),
        (dict(sizes=16), "names no size"),
        (dict(sizes=[]), "names no size"),
        (dict(sizes="8"), "names no size"),
        (dict(target="3us"), "is of one size, and m is open"),
    ):
        with pytest.raises(InvalidInput, match=said):
            gt.tune(OPEN, device="nvidia-h200", templates=toys, **options)
    with pytest.raises(InvalidInput, match="of an open size, and none is open"):
        gt.tune(OPEN.at(8), device="nvidia-h200", sizes=[8])


@pytest.mark.parametrize("bounds", [(1, 2), (1, 16), (7, 9), (1, 8192), (1, 4096), (100, 130), (5000, 70000)])
def test_sizes_to_tune_and_samples_are_inside_and_end_at_the_largest(bounds):
    for size in (Size("m", bounds), Size("n", bounds)):
        check_sizes(size, bounds)


def check_sizes(size, bounds):
    tuned, ends = sizes.sizes_to_tune(size), sizes.samples(size)
    assert 1 <= len(tuned) <= sizes.MOST_SIZES and tuned == sorted(set(tuned)) and tuned[-1] == bounds[1]
    assert (
        ends == sorted(set(ends)) and ends[-1] == bounds[1] and all(bounds[0] <= s <= bounds[1] for s in tuned + ends)
    )


class Timed(sizes.SizedKernel):
    """A kernel whose time is a formula, timed at ``sizes``; ``winners`` may be none."""

    def __init__(self, winner, time, sizes, verdict=None):
        bound = BoundTemplate(toy_template(), winner.workload, H200, None, OPEN.open)
        build = SimpleNamespace(bound=bound, candidate=Candidate(winner.template, winner.config))
        super().__init__(build, winner.policy, {size: time(size) for size in sizes})
        self.time = time
        if verdict:
            self.winners = {winner.workload.m: replace(winner, verdict={"ours": verdict})}

    def predicted(self, size):
        return self.time(size) / 2  # the model is off by a factor, the same everywhere


def timed(*cases):
    made = toy_set(OPEN, [size for size, *_ in cases], [sizes.SizeRange(1, 64, 0)])
    return [Timed(w, time, [size], verdict) for w, (size, time, verdict) in zip(made.kernels, cases)]


def test_each_part_gets_the_fastest_and_a_wrong_kernel_is_left_out(monkeypatch):
    cases = ((8, lambda m: 1.0 + m / 16, "faster"), (32, lambda m: 2.0, "slower"), (64, lambda m: 2.01, "faster"))
    made, size = timed(*cases), OPEN.open
    wrong = None

    def check(bound, config, ends, seed):
        for end in ends:
            yield Check("result", "emulator", config != wrong, "far off", f"m={end}")

    monkeypatch.setattr(sizes.emulated, "check_sizes", check)
    monkeypatch.setattr(sizes, "unavailable_reason", lambda: "")
    kept, ranges = sizes._held(size, made, [8, 32, 64], 0)
    assert kept == made[:2] and [(r.least, r.most, r.kernel, r.ours, r.judged) for r in ranges] == [
        (1, 16, 0, "faster", (8,)), (17, 64, 1, "slower", (32, 64))]  # fmt: skip
    wrong = made[1].candidate.config
    kept, ranges = sizes._held(size, made, [8, 32, 64], 0)
    assert [k.size for k in kept] == [8, 64] and [(r.least, r.most, r.kernel) for r in ranges] == [
        (1, 16, 0),
        (17, 64, 1),
    ]
    wrong = made[0].candidate.config
    monkeypatch.setattr(sizes.emulated, "check_sizes", lambda *a: iter([Check("result", "emulator", False, "far off")]))
    with pytest.raises(WrongResult, match="no kernel of the set"):
        sizes._held(size, made, [8, 32, 64], 0)


def test_a_kernel_stays_where_it_is_as_good_and_one_that_won_nowhere_is_timed_where_it_serves():
    cases = ((8, lambda m: 1.0 if m <= 8 else 3.0, "tied"),
             (8, lambda m: 1.9 if 16 < m <= 32 else 4.0, ""),
             (64, lambda m: 1.995 if m <= 48 else 2.0, ""))  # fmt: skip
    first, between, slightly = made = timed(*cases)
    used, parts = size_choice.choose(OPEN.open, made, [8, 64])
    assert [(p.most, used[p.kernel]) for p in parts] == [(8, first), (16, slightly), (32, between), (64, slightly)]
    confirmed = []

    class At:
        def allows(self, size, candidate):
            return True

        def confirm(self, size, kernels):
            confirmed.append((size, [k.candidate for k in kernels]))
            best = min(kernels, key=lambda k: k.time(size))
            pairs = tuple((k.build, k.time(size)) for k in kernels)
            winner = replace(
                toy_set(OPEN, [size], [sizes.SizeRange(1, 64, 0)]).kernels[0], config=best.candidate.config
            )
            return Found(winner, best.build, pairs)

    tuning = sizes._Tuning(OPEN.open, "predicted", At(), {k.candidate: k for k in made}, [8, 64])
    tuning.confirm()
    assert [(size, asked[0]) for size, asked in confirmed] == [(64, slightly.candidate), (32, between.candidate)]
    assert between.timed[32] == 1.9 and set(between.winners) == {32}  # its winner says where it was timed


def test_the_next_size_is_where_a_seed_gains_most_else_in_the_widest_gap():
    cases = ((8, lambda m: 1.0 + m, "tied"), (64, lambda m: 60.0, "tied"), (32, lambda m: 20.0 + abs(m - 32), ""))
    made = timed(*cases)
    made[2].timed.clear()
    tuning = sizes._Tuning(OPEN.open, "predicted", None, {k.candidate: k for k in made}, [8, 64])
    assert tuning.next_size() == 32
    del tuning.kernels[made[2].candidate]
    assert tuning.next_size() == 16  # sqrt(8 * 64), rounded
    tuning.searched = [56, 64]
    assert tuning.next_size() is None


def test_under_another_driver_a_sets_kernels_are_timed_again_and_nothing_is_searched(caplog):
    stored = toy_set(OPEN, (8, 64), [sizes.SizeRange(1, 20, 0), sizes.SizeRange(21, 64, 1)])
    stored = replace(stored, trials=30, budget={"trials": 30})
    made = {w.workload.m: Timed(w, lambda m: 1.0 if m > 20 else 2.0 + m, [w.workload.m]) for w in stored.kernels}
    asked = []

    class At:
        def builds(self, pairs):
            return [made[size].build for size, _ in pairs]

        def confirm(self, size, kernels):
            asked.append((size, [k.candidate for k in kernels]))
            winner = next(w for w in stored.kernels if w.workload.m == size)
            return Found(replace(winner, seconds=9.0, trials=0), kernels[0].build, ((kernels[0].build, 9.0),))

    bound = [BoundTemplate(replace(toy_template(), open_sizes=("m",)), OPEN.at(64), H200, None, OPEN.open)]
    assert sizes.Earlier.of(stored, OPEN, bound, "") is None and "have changed since: tuned anew" in caplog.text
    earlier = sizes.Earlier(stored, "580.1")
    assert earlier.enough(None, sizes.Budget(trials=30)) and not earlier.enough([9], sizes.Budget(trials=30))
    assert not earlier.enough(None, sizes.Budget(trials=31)) and not earlier.enough(None, sizes.Budget())
    tuning = sizes._Tuning(OPEN.open, "predicted", At())
    tuning.join(earlier, [])
    assert "timed under driver 580.1: its kernels are timed again" in caplog.text
    assert [size for size, _ in asked] == [8, 64] and tuning.searched == [8, 64] and tuning.trials == 30
    assert {w.seconds for k in tuning.kernels.values() for w in k.winners.values()} == {9.0}
