"""Who may touch the registers of a wgmma in flight, and when they are free again."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_tune.emulator import Report
from tests.helpers.emulator.snippets import messages, needs_emulator, run

pytestmark = needs_emulator

DONE = "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;"
FENCE = "wgmma.fence.sync.aligned;"
OPCODE = "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3"
FIRST = f"{OPCODE} {{%d0, %d1, %d2, %d3}}, %at, %at, 0, 1, 1;"
SECOND = f"{OPCODE} {{%e0, %e1, %e2, %e3}}, %at, %at, 0, 1, 1;"
FROM_A = f"{OPCODE} {{%d0, %d1, %d2, %d3}}, {{%a0, %a1, %a2, %a3}}, %at, 0, 1, 1;"
FROM_B = f"{OPCODE} {{%e0, %e1, %e2, %e3}}, {{%b0, %b1, %b2, %b3}}, %at, 0, 1, 1;"
COMMIT = "wgmma.commit_group.sync.aligned;"


def launch(body: str, seed: int = 0) -> Report:
    """128 threads, 2 KiB of e4m3 ones in shared memory, %at their descriptor; ``body`` leaves a float in %f."""
    text = f"""
.version 8.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 k_out)
.maxntid 128
{{
.reg .b32 %d<4>, %e<4>, %a<4>, %b<4>, %f, %t, %x, %s;
.reg .b64 %at, %out;
.reg .pred %p, %never;
.shared .align 128 .b8 tile[2048];
mov.u32 %t, %tid.x;
mov.u32 %x, 0x38383838;
mad.lo.u32 %s, %t, 16, tile;
st.shared.v4.b32 [%s], {{%x, %x, %x, %x}};
fence.proxy.async.shared::cta;
bar.sync 0;
mov.u32 %x, tile;
shr.u32 %x, %x, 4;
cvt.u64.u32 %at, %x;
or.b64 %at, %at, 0x1000080000;
setp.eq.u32 %p, %t, %t;
setp.ne.u32 %never, %t, %t;
{"".join(f"mov.b32 %{n}{q}, 0x38383838;" for n in "ab" for q in range(4))}
mov.b32 %f, 0;
{FENCE}
{body}
ld.param.u64 %out, [k_out];
mad.wide.u32 %out, %t, 4, %out;
st.global.b32 [%out], %f;
ret;
}}
"""
    return run(text, "k", [np.zeros(128, np.float32)], block=128, seed=seed)


def check(report: Report, wanted: float) -> None:
    assert report.ok, messages(report)
    assert (report.arrays["a"] == wanted).all(), report.arrays["a"][:8]


@pytest.mark.parametrize("seed", range(4))
def test_partial_sums_added_before_their_wait_are_reported(seed: int) -> None:
    """What Triton 3.9 makes of fp8 products with max_num_imprecise_acc on Hopper: true, not a false alarm.

    PTX (wgmma.wait_group): accessing the accumulator registers of a wgmma.mma_async without first performing a
    wgmma.wait_group that waits on a wgmma-group including it is undefined. ptxas repairs such code: it injects the
    waits and runs the wgmma one after the other (notes C7517 and C7514), so that on a GPU results are right and late.
    """
    report = launch(f"{FIRST}\nadd.f32 %f, %f, %d0;\n{SECOND}\nadd.f32 %f, %f, %e0;\n{DONE}", seed)
    assert {f.kind for f in report.findings} == {"wgmma"}, messages(report)
    lines = {f.message.split("`")[1] for f in report.findings}
    assert lines == {"add.f32 %f, %f, %d0;", "add.f32 %f, %f, %e0;"}
    assert "no wgmma.wait_group" in messages(report)


def test_partial_sums_added_after_their_wait() -> None:
    check(launch(f"{FIRST}\n{DONE}\nadd.f32 %f, %f, %d0;\n{FENCE}\n{SECOND}\n{DONE}\nadd.f32 %f, %f, %e0;"), 64)


def test_groups_free_their_own_accumulators() -> None:
    """The first group's sums may be read while the second is in flight, the second's not."""
    body = f"{FIRST}\n{COMMIT}\n{SECOND}\n{COMMIT}\nwgmma.wait_group.sync.aligned 1;\nadd.f32 %f, %f, %d0;\n"
    check(launch(body + "wgmma.wait_group.sync.aligned 0;\nadd.f32 %f, %f, %e0;"), 64)
    report = launch(body.replace("%d0;\n", "%e0;\n") + "wgmma.wait_group.sync.aligned 0;")
    assert [f.kind for f in report.findings] == ["wgmma"], messages(report)


@pytest.mark.parametrize(
    "write",
    [
        "mov.b32 %a2, 0;",
        "ld.shared.v2.b32 {%a1, %a2}, [tile];",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a0, %a1, %a2, %a3}, [%s];",
    ],
)
def test_fragments_written_in_flight_are_reported(write: str) -> None:
    """A loop that loads the next step's fragment of A before the wgmma that reads this one is complete."""
    report = launch(f"{FROM_A}\n{COMMIT}\n{write}\nwgmma.wait_group.sync.aligned 0;\nmov.b32 %f, %d0;")
    assert [f.kind for f in report.findings] == ["wgmma"] and "fragment" in messages(report), messages(report)
    check(launch(f"{FROM_A}\n{COMMIT}\nwgmma.wait_group.sync.aligned 0;\n{write}\nmov.b32 %f, %d0;"), 32)


def test_groups_free_their_own_fragments() -> None:
    body = f"{FROM_A}\n{COMMIT}\n{FROM_B}\n{COMMIT}\nwgmma.wait_group.sync.aligned 1;\nmov.b32 %a0, 0;\n"
    last = "wgmma.wait_group.sync.aligned 0;\nadd.f32 %f, %d0, %e0;"
    check(launch(body + last), 64)
    assert "fragment" in messages(launch(body.replace("%a0, 0", "%b0, 0") + last))
    both = body.replace("%b", "%a")  # the second reads them too
    assert "fragment" in messages(launch(both + last))


def test_accumulators_in_flight_are_no_fragment() -> None:
    chained = FROM_B.replace("%b0, %b1, %b2, %b3", "%d0, %d1, %d2, %d3")
    report = launch(f"{FIRST}\n{chained}\n{DONE}\nmov.b32 %f, %e0;")
    assert [f.kind for f in report.findings] == ["wgmma"] and "fragment" in messages(report), messages(report)


def test_what_is_predicated_off_touches_nothing() -> None:
    body = f"{FIRST}\n@GUARD mov.b32 %d0, 0;\n{DONE}\nadd.f32 %f, %f, %d0;"
    check(launch(body.replace("GUARD", "%never")), 32)
    assert [f.kind for f in launch(body.replace("GUARD", "%p")).findings] == ["wgmma"]
