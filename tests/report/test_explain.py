"""What limits a kernel and what its neighbours change: played, consistent with itself, readable at 80 columns."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gpu_tune.cuda.device import by_name
from gpu_tune.errors import InvalidInput
from gpu_tune.report import explain, html
from gpu_tune.templates.registry import bind
from gpu_tune.trial import Candidate
from gpu_tune.workload import Matmul

A100 = by_name("nvidia-a100")


@pytest.fixture(scope="module")
def found(tmp_path_factory, compiled_once):
    folder = tmp_path_factory.mktemp("explain")
    (folder / "compiled").symlink_to(compiled_once)
    (bound,) = [b for b in bind(Matmul(64, 64, 256, dtype="float32"), A100) if b.name == "matmul_simt"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explain, "MOST", 8)
        return explain.explain(bound, Candidate(bound.name, bound.default()), store=folder)


def test_neighbours_are_the_best_of_what_was_played(found):
    assert found.played == 8 and len(found.neighbours) == explain.BEST
    ratios = [n.ratio for n in found.neighbours]
    assert ratios == sorted(ratios) and all(r > 0 for r in ratios)
    assert 0 <= found.faster <= found.played and (found.faster > 0) == (ratios[0] < 1 - explain.SAME)
    for near in found.neighbours:
        moved = sum(share for name, share in near.moved.items() if name != "tail")
        assert near.ratio - found.beside == pytest.approx((1 - found.beside) * (1 + moved), rel=0.05)
        assert near.changes and all(found.candidate.config[k] == a and a != b for k, (a, b) in near.changes.items())


def test_shares_add_up_and_occupancy_names_what_limits(found):
    assert sum(v for k, v in found.causes.items() if k != "tail") == pytest.approx(1.0)
    assert all(0 <= share <= 1.0 + 1e-9 for share in found.pipes.values())
    assert f"{found.prediction.resident} block" in found.occupancy
    assert explain.occupancy(A100, 256, 255, 0).endswith("limited by registers")
    assert explain.occupancy(A100, 128, 32, 60000).endswith("limited by shared memory")
    assert explain.occupancy(A100, 1024, 16, 0).endswith("limited by threads or blocks of an SM")


def test_blocks_that_walk_over_tiles_say_so_and_how_the_last_are_split(found):
    assert found.walk == "" and "tiles" not in dict(explain.text(found))
    workload = Matmul(4096, 3584, 3584, dtype="bfloat16", layout="nt")
    (bound,) = [b for b in bind(workload, A100) if b.name == "matmul_mma"]
    tail = next(c for c in bound.space().seeds() if c["grid"] == "split_tail")
    tail = tail.replace(block_m=128, block_n=128, min_blocks=2, split_k=6)  # 896 tiles: four waves of 216, and 32
    said = explain.walk(bound.render(tail).estimate.loop, 216)
    assert said == "896: a block computes 4, then parts of the last 32, whose K is split by 6"
    loop = bound.render(tail.replace(grid="all", split_k=1, reduction="workspace")).estimate.loop
    assert explain.walk(loop, 216) == "896: a block computes up to 5"
    assert explain.walk(loop, 896) == ""
    assert dict(explain.text(replace(found, walk=said)))["tiles"] == said


def test_it_is_told_in_words_in_json_and_on_a_page(found):
    names = [name for name, _ in explain.text(found)]
    assert names[0] == "predicted" and "limited by" in names and "neighbours" in names
    facts = json.loads(json.dumps(found.to_json()))
    assert facts["source"] == "predicted" and len(facts["neighbours"]) == 3 and "seconds" not in facts
    pytest.importorskip("matplotlib")
    page = html.kernel_page(found)
    assert page.count("data:image/png;base64,") == 2 and "predicted, not measured" in page


def test_a_kernel_that_does_not_fit_is_refused(compiled_once, tmp_path, monkeypatch):
    (bound,) = [b for b in bind(Matmul(64, 64, 256, dtype="float32"), A100) if b.name == "matmul_simt"]
    real = explain.prediction_of
    monkeypatch.setattr(explain, "MOST", 0)
    monkeypatch.setattr(explain, "prediction_of", lambda build: replace(real(build), resident=0))
    (tmp_path / "compiled").symlink_to(compiled_once)
    with pytest.raises(InvalidInput, match="does not fit on nvidia-a100"):
        explain.explain(bound, Candidate(bound.name, bound.default()), store=tmp_path)
