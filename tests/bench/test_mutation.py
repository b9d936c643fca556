"""Mutation testing: which mutants there are, and when a survivor is called equivalent."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"

PTX = """
 st.shared.u32 [%r1], %r2;
 bar.sync 0;
 ld.shared.u32 %r3, [%r4];
 bar.sync 0;
 ld.shared.u32 %r5, [%r6];
 cp.async.commit_group;
 cp.async.wait_group 0;
 bar.sync 0;
 st.shared.u32 [%r1], %r3;
 cp.async.ca.shared.global [%r1], [%rd1], 16;
 cp.async.commit_group;
 cp.async.wait_group 0;
 mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r7], %r8;
 mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r9], %r8;
 ret;
""".strip().splitlines()


@pytest.fixture
def mutation(monkeypatch: pytest.MonkeyPatch) -> Any:
    return importlib.import_module("bench.mutation.__main__")


def verdict(mutation: Any, line: int, kind: str, useful: frozenset[int] = frozenset({12, 13, 14})) -> tuple[bool, str]:
    code = mutation.Code(PTX, frozenset(range(1, 16)), useful)
    found = next(m for m in mutation.mutants(PTX, frozenset({line})) if m.kind == kind)
    equivalent, reason = mutation.explain(found, code)
    return equivalent, reason


@pytest.mark.parametrize(
    ("line", "kind", "equivalent", "word"),
    [
        (2, "drop bar.sync", False, ""),  # a store before, a load after
        (4, "drop bar.sync", True, "no conflicting"),  # loads on both sides
        (8, "drop bar.sync", False, ""),  # a load before, a store after
        (6, "drop cp.async.commit_group", True, "empty"),
        (11, "drop cp.async.commit_group", False, ""),
        (7, "drop cp.async.wait_group", True, "in flight"),
        (12, "drop cp.async.wait_group", False, ""),
        (13, "drop mbarrier wait", True, "right after it"),
        (14, "drop mbarrier wait", False, ""),
    ],
)
def test_survivors_are_equivalent_only_for_a_reason(
    mutation: Any, line: int, kind: str, equivalent: bool, word: str
) -> None:
    found, reason = verdict(mutation, line, kind)
    assert found is equivalent and word in reason


def test_code_that_never_ran_does_not_count(mutation: Any) -> None:
    code = mutation.Code(PTX, frozenset(range(1, 16)) - {1}, frozenset())
    assert code.redundant_barrier(2)


def test_every_synchronisation_instruction_has_mutants(mutation: Any) -> None:
    lines = [
        "@%p1 bar.sync 1, 128;",
        "mbarrier.init.shared::cta.b64 [%r1], 4;",
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], %r2;",
        "wgmma.wait_group.sync.aligned 1;",
        "red.release.gpu.global.add.u32 [%rd1], 1;",
        "add.u32 %r1, %r2, %r3;",
    ]
    kinds = {m.line: set[str]() for m in mutation.mutants(lines, frozenset(range(1, 7)))}
    for m in mutation.mutants(lines, frozenset(range(1, 7))):
        kinds[m.line].add(m.kind)
        assert m.text != m.before
    assert kinds[1] == {"drop bar.sync", "barrier count + 32"}
    assert kinds[2] == {"drop mbarrier.init", "arrivals expected + 1", "arrivals expected - 1"}
    assert kinds[3] >= {"bytes expected + 16", "bytes expected - 16"}
    assert kinds[4] == {"drop wgmma.wait_group", "wait one group less"}
    assert kinds[5] == {"weaken .release to .relaxed"} and 6 not in kinds
    assert list(mutation.mutants(lines, frozenset())) == []
