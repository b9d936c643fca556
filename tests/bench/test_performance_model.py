"""The judge of the performance model, on a tiny log and variants that no compiler made."""

from __future__ import annotations

import ctypes
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.performance_model import __main__ as BENCH
from bench.performance_model import compiled, heuristics, judged, learned, metrics, tables
from bench.performance_model.variants import Variant, alignment, is_held, is_listed, requests, variant
from bench.transfer.autoheuristic import Shape
from gpu_tune.cuda.device import by_name
from gpu_tune.workload import Matmul

CONFIGS = [(m, k, n, stages, 4) for m in (32, 64, 128) for n in (32, 64, 128) for k in (32, 64) for stages in (2, 3)]


def shape(m: int, n: int, k: int, dtype: str = "float16", layout: str = "nt", chip: str = "nvidia-a100") -> Shape:
    """A shape whose time is padded work, with a little that no model knows."""
    s = Shape(Matmul(m, n, k, dtype=dtype, layout=layout), by_name(chip))
    for i, (bm, bk, bn, stages, warps) in enumerate(CONFIGS):
        work = math.ceil(m / bm) * math.ceil(n / bn) * (bm * bn + 2000) * (1 + 1 / (stages * bk))
        s.runs[bm, bk, bn, stages, warps] = [1e-9 * work * k * (1 + 0.001 * i)]
    return s


def test_shapes_share_a_variant_only_where_a_compile_cannot_tell_them_apart() -> None:
    config = CONFIGS[0]
    one = variant(shape(512, 512, 2048), config)
    assert variant(shape(1024, 4096, 4096, "bfloat16"), config) == one
    others = [
        shape(512, 512, 2048, "float32"),
        shape(512, 512, 2048, layout="nn"),
        shape(512, 500, 2048),
        shape(512, 512, 2052),
        shape(512, 512, 64),
        shape(512, 512, 2048, chip="nvidia-h100"),
        Shape(Matmul(512, 512, 2048, dtype="float16", layout="nt", lda=2052), by_name("nvidia-a100")),
    ]
    assert one not in [variant(s, config) for s in others]
    assert len({variant(s, config).name for s in others}) == len(others)
    assert [alignment(size) for size in (4096, 24, 4, 10)] == [16, 8, 4, 2]


@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("align", [16, 8, 4, 2])
def test_a_request_has_the_alignment_and_the_remainder_of_its_variant(layout: str, align: int) -> None:
    for even in (True, False):
        v = Variant(80, "16", layout, align, 16, align, 16, 8, even, 256, (64, 32, 64, 3, 4))
        request = v.request()
        a_row, a_col, b_row, b_col = request["strides"]
        assert min(a_row, a_col) == min(b_row, b_col) == 1
        assert alignment(2 * max(a_row, a_col)) == align and alignment(2 * max(b_row, b_col)) == 16
        assert max(a_row, a_col) >= (request["m"] if layout[0] == "t" else request["k"])
        assert alignment(2 * request["n"]) == 8 and (request["k"] % 32 == 0) == even


def test_the_list_and_its_split() -> None:
    assert is_listed(shape(512, 512, 2048)) and is_listed(shape(512, 512, 2048, "float32"))
    assert not is_listed(shape(512, 512, 2052)) and not is_listed(shape(512, 512, 2048, "float32", chip="nvidia-h100"))
    few = shape(512, 512, 2048)
    few.runs = dict(list(few.runs.items())[:10])
    assert not is_listed(few)
    held = [is_held(Matmul(128 * i, 256, 512, dtype="float16")) for i in range(1, 200)]
    assert 0.2 < np.mean(held) < 0.4
    names = [r["name"] for r in requests([shape(512, 512, 2048), shape(1024, 512, 4096), shape(64, 64, 64)])]
    assert len(names) == len(set(names)) == 2 * len(CONFIGS)


def test_metrics_are_what_they_are_called() -> None:
    times = np.array([4.0, 2.0, 1.0, np.nan, 3.0])
    assert metrics.top(np.array([1.0, 2, 3, 4, 5]), times, 1) == 0.25
    assert metrics.top(np.array([1.0, 2, 3, 4, 5]), times, 2) == 0.5
    assert metrics.top(np.array([3.0, 2, 4, 1, 5]), times, 1) == metrics.MISS
    assert metrics.rank_correlation(np.array([4.0, 2, 1, 0, 3]), times) == pytest.approx(1)
    assert metrics.rank_correlation(np.array([np.inf, 2, 1, 0, 3]), times) == pytest.approx(1)
    assert metrics.rank_correlation(np.ones(5), times) == 0
    rng = np.random.default_rng(0)
    for k in (1, 2, 3):
        drawn = [np.log(metrics.top(rng.random(5), times, k)) for _ in range(4000)]
        assert math.log(metrics.chance(times, k)) == pytest.approx(np.mean(drawn), abs=0.04)
    low, high = metrics.interval(rng.normal(1, 1, 400), range(400))
    assert low < 1 < high and high - low < 0.3
    good, bad = (metrics.Scores.of([p], [times]) for p in (times, -times))
    gap = metrics.paired(good, bad, ["one"])
    assert gap["top1"]["mean"] > 0 and gap["rank_correlation"]["mean"] > 0


class _Cubins:
    """Covers everything."""

    def covers(self, s: Shape) -> bool:
        return True


@pytest.mark.slow
def test_the_command_judges_and_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = [shape(256 * i, 1024, 512 * (1 + i % 3), layout=("nt", "nn")[i % 2]) for i in range(1, 30)]

    def predicted(of: list[Shape], *_: object) -> list[compiled.Predicted]:
        noise = np.random.default_rng(1)
        out = []
        for s in of:
            seconds = s.times() * 0.8 * noise.lognormal(0, 0.1, len(s.runs))
            terms = [{"seconds": float(t), "iteration": 500.0, "resident": 2.0, "dram cycles": 1.0} for t in seconds]
            out.append(compiled.Predicted(seconds, terms, ["tensor"] * len(terms)))
        return out

    monkeypatch.setattr(BENCH.autoheuristic, "read", lambda logs: shapes)
    monkeypatch.setattr(BENCH.Cubins, "open", lambda folder: _Cubins())
    monkeypatch.setattr(BENCH, "predictions", predicted)
    files = {name: str(tmp_path / f"{name}.json") for name in ("json", "picks", "publish")}
    command = ["log.txt", "--cubins", "none", *(w for name, path in files.items() for w in (f"--{name}", path))]
    assert BENCH.main(command) == 0
    found = json.loads(Path(files["json"]).read_text())
    (chip,) = found["chips"].values()
    static, random = chip["rows"][-1], chip["rows"][0]
    assert found["split"] == "development" and static["shapes"] == sum(not is_held(s.workload) for s in shapes)
    assert random["top1"] < static["top1"] < 1 and static["rank_correlation"] > 0.8
    every, tensor = chip["intervals"]["mma"]
    assert tensor["limiter"] == "tensor" and tensor["low"] < 1.25 < tensor["high"] and every["times"] == 0
    assert 0.85 < chip["interval"]["coverage"] == tensor["coverage"] and 1 < chip["interval"]["width"] < 1.6
    (row,) = json.loads(Path(files["publish"]).read_text())["rows"]
    assert row["instruction"] == "mma" and row["copies"] == "cp.async" and row["split"] == "development"
    assert [i["limiter"] for i in row["intervals"]] == ["tensor"]
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())
    assert BENCH.main(["log.txt", "--cubins", "none", "--held", "--against", files["picks"], "--learn", "5"]) == 0
    printed = capsys.readouterr().out
    assert "other chip" not in printed and "5 own: features, from static" in printed
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_a_start_score_is_corrected_not_replaced() -> None:
    shapes = [shape(256 * i, 1024, 512) for i in range(1, 12)]
    few = ["tensor"] + ["l2"] * (len(CONFIGS) - 1)
    known = [
        compiled.Predicted(s.times(), [{"seconds": t, "iteration": 1, "resident": 1} for t in s.times()], few)
        for s in shapes
    ]
    rows = learned.Learned(shapes, known).rows(shapes[:5], shapes[5:])
    times = [s.times() for s in shapes[5:]]
    scores = {name: metrics.Scores.of(found, times).row(name) for name, found in rows.items()}
    assert scores["features, from static"]["top1"] > 0.97
    for way in ("features, from static", "features + static + order"):
        assert scores[way]["rank_correlation"] >= scores["features"]["rank_correlation"]
    assert len(tables.rows("x", list(scores.values())).splitlines()) == 5
    rows = judged.told(shapes, known, {"": (0.9, 1.1), "l2": (1.1, 1.2)})
    assert [(r["limiter"], r["times"], r["coverage"]) for r in rows] == [
        ("", len(shapes), 1.0),
        ("l2", len(shapes) * (len(CONFIGS) - 1), 0.0),
    ]
    assert judged.overall(rows) == {"width": pytest.approx(1.2 / 1.1), "coverage": pytest.approx(1 / len(CONFIGS))}


class _Kernel(ctypes.Structure):
    """As the package has it."""

    _fields_ = [
        *((name, ctypes.c_uint16 * 3) for name in ("cta", "warp", "instr")),
        ("splitK", ctypes.c_uint16),
        *((name, ctypes.c_uint8) for name in ("loadStages", "gridSwizzle", "ctaOrder")),
        ("cluster", ctypes.c_uint8 * 2),
    ]


def heuristics_package() -> SimpleNamespace:
    """Estimates a nanosecond for each element of a block's tile, for the chip and precision that it was made for."""

    class Interface:
        nvmmhKernelConfiguration = _Kernel
        handle, target, hardware_descriptor = 1, 2, None

        def __init__(self, backend: int, gpu: str) -> None:
            assert (backend, gpu) == (2, "A100")

        def loadInternalDiscoverySet(self, layout: object, precision: str) -> None:
            assert (layout, precision) == ((False, True), "HSH")

        def makeNvMatmulHeuristicsProblem(self, m: int, n: int, k: int, layout: object) -> ctypes.c_int:
            return ctypes.c_int(m * n * k)

        def nvMatmulHeuristicsEstimateRuntime(self, handle: int, precision: bytes, *args: Any) -> float:
            kernel = args[2]._obj
            m, n = kernel.cta[:2]
            assert kernel.warp[0] * kernel.warp[1] * 4 == m * n and kernel.warp[0] >= 16
            return m * n * 1e-9

    return SimpleNamespace(
        NvMatmulHeuristicsInterfaceEx=Interface,
        NvMatmulHeuristicsTarget=SimpleNamespace(TRITON=2),
        NvMatmulHeuristicsNvidiaGpu={"A100_SXM_80GB": "A100"},
        boolsToNvMatmulHeuristicsLayout=lambda a, b: (a, b),
    )


def test_nvidias_estimates_are_asked_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvMatmulHeuristics", None)
    assert not heuristics.installed()
    heuristics._interface.cache_clear()
    monkeypatch.setitem(sys.modules, "nvMatmulHeuristics", heuristics_package())
    assert heuristics.installed()
    asked = [heuristics.estimate(shape(512, 512, 2048), c) for c in CONFIGS]
    assert asked == [c[0] * c[2] * 1e-9 for c in CONFIGS]  # tiles, not depths
    heuristics._interface.cache_clear()


def test_a_folder_without_an_index_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(BENCH.autoheuristic, "read", lambda logs: [shape(512, 512, 2048)])
    assert BENCH.main(["log.txt", "--cubins", str(tmp_path)]) == 2
    assert "has no index.jsonl" in capsys.readouterr().out
    (tmp_path / "index.jsonl").write_text("")
    assert BENCH.main(["log.txt", "--cubins", str(tmp_path)]) == 2
    assert "covers no shape of the logs" in capsys.readouterr().out
