"""The way to L2: lines, and translations of pages."""

from __future__ import annotations

import dataclasses

import pytest

from gpu_tune.model.performance.constants import architecture
from gpu_tune.model.performance.memory import address_cycles
from gpu_tune.plan import Walk
from gpu_tune.templates.lib.common import matmul_walks
from gpu_tune.workload import Matmul


def test_a_part_of_a_line_is_asked_for_as_a_whole_one() -> None:
    sm = dataclasses.replace(architecture(80), line=2.0, pages=0)
    assert address_cycles([Walk(64, 32, 4096)], 1, sm) == address_cycles([Walk(64, 128, 4096)], 1, sm) == 128
    assert address_cycles([Walk(64, 256, 4096)], 1, sm) == 256
    assert address_cycles([], 4, sm) == 0


def test_where_lines_alone_bound_their_bytes_come_after_the_request() -> None:
    """A clock for each line that is asked for, and 128 bytes a clock."""
    sm = architecture(90)
    runs = [address_cycles([Walk(64, run, 4096)], 1, sm) / 64 for run in (32, 64, 128, 256)]
    assert runs == [1.25, 1.5, 2.0, 4.0]


def test_rows_far_apart_lack_translations_and_rows_close_together_do_not() -> None:
    sm = architecture(80)
    lines = 256 * sm.line
    near, far = (address_cycles([Walk(128, 64, stride)] * 2, 2, sm) for stride in (8 << 10, 256 << 10))
    assert lines < near < 1.5 * lines
    # eight rows of 64 bytes a load, 256 KB apart: 32 loads touch two pages each, and nearly all of those are lacked
    assert far == pytest.approx(lines + 64 * sm.translation, rel=0.02)
    wide = address_cycles([Walk(128, 128, 256 << 10)] * 2, 2, sm)
    assert (wide - lines) / 128 < 0.8 * (far - lines) / 64  # twice the bytes for each row: fewer translations a byte
    assert address_cycles([Walk(128, 64, 8 << 10)] * 2, 16, sm) > near  # more blocks, more pages in use


def test_walks_follow_the_layout() -> None:
    w = Matmul(4096, 2048, 1024, dtype="float16", layout="nt", lda=1056)
    a, b = matmul_walks(w, 128, 64, 32)
    assert (a, b) == (Walk(128, 64, 2112), Walk(64, 64, 2048))
    a, b = matmul_walks(Matmul(4096, 48, 1024, dtype="float16", layout="tn"), 128, 64, 32)
    assert (a, b) == (Walk(32, 256, 8192), Walk(32, 96, 96))
