"""Reports: ratios, means per decade, losses, the page, and the live line."""

from __future__ import annotations

import io
import math
import re
import time

import pytest

from gpu_tune.cuda.device import by_name
from gpu_tune.report import html
from gpu_tune.report import summary as report
from gpu_tune.report.summary import Row
from gpu_tune.space.knob import Config
from gpu_tune.trial import Candidate, Measurement
from gpu_tune.tuner.budget import Budget, Progress
from gpu_tune.tuner.live import Live, plain, render
from gpu_tune.workload import Matmul
from tests.helpers.processes import wait_until

H200 = by_name("nvidia-h200")
ROWS = [
    Row("small", Matmul(64, 64, 64), 2e-6, {"cublas": 3e-6, "cublaslt": 2.4e-6}, 1.1, 1.3, True, predicted=1.6e-6),
    Row("large", Matmul(4096, 4096, 4096), 3e-4, {"cublas": 2.7e-4}, 0.88, 0.92, True),
    Row("<odd>", Matmul(4096, 4096, 2048), 2e-4, {"cublas": 1.999e-4}, 0.98, 1.02, False),
    Row("lost", Matmul(8, 8, 8), None, {}, note="not tuned"),
]


def test_a_ratio_is_against_the_best_baseline_and_a_loss_must_be_decided():
    summary = report.summarise(ROWS)
    assert ROWS[0].best == ("cublaslt", 2.4e-6) and ROWS[0].ratio == pytest.approx(1.2)
    assert summary.shapes == 3 and summary.share == pytest.approx(1 / 3) and summary.losses == ("large",)
    assert summary.geomean == pytest.approx((1.2 * 0.9 * 0.9995) ** (1 / 3))
    assert summary.decades[5] == (1, pytest.approx(1.2)) and summary.decades[11][0] + summary.decades[10][0] == 2
    assert summary.worst == ("large", pytest.approx(0.9)) and 0.9 < summary.quantile < 0.9995
    assert "decidedly slower on 1: large" in report.text(summary)
    assert report.summarise(ROWS[3:]) is None


def test_the_roofline_is_arithmetic_or_memory():
    big, thin = Matmul(8192, 8192, 8192), Matmul(1, 8192, 8192)
    assert report.roofline(big, H200) == pytest.approx(big.flops / H200.peak_flops("fp16"))
    assert report.roofline(thin, H200) == pytest.approx(thin.bytes / H200.bandwidth)
    strict, tf32 = (Matmul(8192, 8192, 8192, dtype="float32", math=m) for m in ((), ("tf32",)))
    assert report.roofline(tf32, H200) < report.roofline(strict, H200)


def test_the_table_shows_every_shape_and_marks_decided_ratios():
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=140).print(report.table(ROWS, H200, "title"))
    text = out.getvalue()
    for words in (
        "small",
        "2 us",
        "1.200 [1.10, 1.30]",
        "0.900",
        "not tuned",
        "cublaslt",
        "title",
        "/ predicted",
        "1.25",
    ):
        assert words in text


def test_the_page_stands_alone_and_escapes(tmp_path):
    pytest.importorskip("matplotlib")
    text = html.benchmark_page(ROWS, H200, "Ours <b>against</b> theirs", {"device": H200.product})
    assert text.count("data:image/png;base64,") == 2 and "http" not in text
    assert "<b>against" not in text and "&lt;odd&gt;" in text and "NVIDIA H200" in text
    pictures = html.benchmark_plots(ROWS, H200)
    assert set(pictures) == {"Speed-up", "Roofline"} and all(p.startswith(b"\x89PNG") for p in pictures.values())
    assert set(html.benchmark_plots(ROWS[3:], H200)) == set()


def progress(source="predicted", environment=None, **more):
    p = Progress(Matmul(64, 64, 64), H200, source, Budget(trials=10))
    p.phase = "search"
    default, best = (
        Measurement(Candidate("t", Config(x=x)), "ok", source, samples=(s,), environment=environment or {})
        for x, s in ((1, 2e-6), (2, 1e-6))
    )
    for m in (default, best, Measurement(Candidate("t", Config(x=3)), "wrong", "predicted", "off")):
        p.note(m, frozenset({default.candidate}))
    for name, value in more.items():
        setattr(p, name, value)
    return p


def test_progress_lines_say_how_far_what_was_found_and_what_of_a_prediction_may_be_told():
    begin = "title: 3/10 trials, 0 s; best "
    rest = ", 2.00x the default; 2 ok, 1 wrong"
    assert plain("title", progress()).startswith(f"{begin}predicted; not judged for this kind of kernel{rest}")
    judged = {"judged": "on public timings", "low": 6e-7, "high": 2e-6}
    assert plain("title", progress(environment=judged)).startswith(f"{begin}1 us predicted (600 ns to 2 us){rest}")
    assert plain("title", progress(source="measured")).startswith(f"{begin}1 us, 0.524 TFLOP/s{rest}")
    assert plain("title", progress(phase="prepare")) == "title: preparing the search"
    assert "finalists" in plain("title", progress(phase="finals"))
    assert progress().curve == [(1, 2e-6), (2, 1e-6)]


def test_the_live_line_fits_the_terminal_and_ticks_between_trials():
    for width in (40, 120):
        assert max(map(len, render("t" * 200, progress(), width).plain.split("\n")[:1])) <= width

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Live("title", stream=stream) as live:
        live.update(progress(started=time.monotonic() - 7))
        seconds = re.compile(r"(\d+) s\b")
        assert wait_until(lambda: len(set(seconds.findall(stream.getvalue()))) >= 2)
    assert "3/10 trials" in stream.getvalue() and min(map(int, seconds.findall(stream.getvalue()))) >= 7


def test_plain_lines_are_few_and_quiet_is_silent():
    stream = io.StringIO()
    with Live("title", stream=stream) as live:
        for _ in range(50):
            live.update(progress())
    assert stream.getvalue().count("\n") == 1
    silent = io.StringIO()
    with Live("title", stream=silent, quiet=True) as live:
        live.update(progress())
    assert silent.getvalue() == ""


def test_quantile_and_geomean_by_hand():
    def of(*ratios):
        return report.summarise([Row(str(x), Matmul(64, 64, 64), 1e-6, {"cublas": x * 1e-6}) for x in ratios])

    assert of(3, 1, 2).quantile == pytest.approx(1.1) and of(1).quantile == pytest.approx(1)
    assert of(1, 4).geomean == pytest.approx(2) and math.isclose(of(2).geomean, 2)
