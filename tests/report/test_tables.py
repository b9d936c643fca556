"""Tables on narrow terminals: nothing is broken that can be told whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from gpu_tune.cuda.device import by_name
from gpu_tune.report import summary
from gpu_tune.report.summary import Row
from gpu_tune.report.tables import Table
from gpu_tune.workload import Matmul

KEYS = [f"matmul-4096x4096x{k}-bfloat16-nt-epilogue=bias+gelu_tanh+residual" for k in (1, 2)]
COLUMNS = ("workload", "chip", "template", "trials", "ended")


def shown(table: object, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def table(**options: object) -> Table:
    rows = [
        (KEYS[0], "nvidia-h200", "matmul_simt", "7", "7 ok"),
        (KEYS[0], "nvidia-h200", Text("matmul_mma"), "1234", ", ".join(f"{n} status{n}" for n in range(9))),
        (KEYS[1], "nvidia-h200", "matmul_mma", "5", "5 ok"),
    ]
    return Table(COLUMNS, rows, "title", right=("trials",), apart=("workload", "chip"), **options)  # type: ignore


@pytest.mark.parametrize("framed", [True, False])
def test_a_long_key_has_a_line_of_its_own_where_the_terminal_is_narrow(framed: bool):
    lines = shown(table(framed=framed), 80)
    assert max(map(len, lines)) <= 80
    assert [lines.count(f"{key}  nvidia-h200") for key in KEYS] == [1, 1], "once for the rows that it holds for"
    assert lines[0] == "title" and lines[1].split() == ["template", "trials", "ended"]
    row = next(line for line in lines if "matmul_mma" in line)
    assert row.startswith("  matmul_mma     1234  0 status0"), "numbers stand to the right"
    assert all(any(f"{n} status{n}" in line for line in lines) for n in range(9)), "long texts go on below"


def test_a_wide_terminal_shows_one_table():
    lines = shown(table(), 230)
    assert sum(KEYS[0] in line and "matmul_" in line for line in lines) == 2 and len(lines) == 8


def test_a_benchmark_is_read_at_80_columns():
    times = {"cublas": 3e-6, "cublaslt": 2.4e-6, "torch": 2.5e-6}
    label = "Llama-3-70B gate_up m=4096 fp8"
    rows = [Row(label, Matmul(64, 64, 64), 2e-6, times, 1.1, 1.3, True, predicted=1.6e-6, host=1e-6)]
    lines = shown(summary.table(rows, by_name("nvidia-h200"), "the suite"), 80)
    assert label in lines and max(map(len, lines)) <= 80
    assert all(
        any(pair in line for line in lines) for pair in ("ours 2 us", "ratio 1.200 [1.10, 1.30]", "host us 1 / -")
    )
