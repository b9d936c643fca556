"""Which lanes execute an instruction together: member masks, barriers counted by lane, lanes that exit or are off."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.emulator.snippets import PRELUDE, messages, needs_emulator, needs_nvrtc, result, run

pytestmark = [needs_emulator, needs_nvrtc]

T = np.arange(32)
SOURCE = (
    PRELUDE
    + r"""
GLOBAL masks(const u32* a, u32* out) {  // one instruction, a member mask of its own for each half or quarter
  const u32 t = threadIdx.x, half = t < 16 ? 0xffffu : 0xffff0000u, quarter = 0xffu << (t & ~7u);
  out[t] = __ballot_sync(half, a[t] & 1);
  out[32 + t] = __reduce_add_sync(quarter, a[t]);
  out[64 + t] = __shfl_xor_sync(half, a[t], 5);
  out[96 + t] = __all_sync(quarter, a[t] < 17);
}
GLOBAL late_half(const u32* a, u32* out) {  // the upper half comes to the shuffle by a longer way
  const u32 t = threadIdx.x; u32 x = a[t];
  for (u32 i = 0; i < (t < 16 ? 1u : 9u); ++i) x = x * 3 + a[(t + i) & 31];
  const u32 half = t < 16 ? 0xffffu : 0xffff0000u;
  out[t] = x + __shfl_xor_sync(half, x, 1);
}
GLOBAL equal_values(u32* out, int n) {  // which lane's store comes last cannot be told
  __shared__ u32 s[4]; const u32 t = threadIdx.x;
  s[t / 32] = n + t / 32;
  __syncthreads();
  out[t] = s[t % 4];
  if (t < 32) out[128] = n;
}
GLOBAL other_values(u32* out, int n, u32 of) {
  __shared__ u32 s; const u32 t = threadIdx.x;
  s = n + t / of;
  __syncthreads();
  out[t] = s;
}
"""
)
HEAD = """.version 8.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 k_out)
{
.reg .b32 %t, %x, %l, %r<4>;
.reg .b64 %out;
.reg .pred %p, %q;
mov.u32 %t, %ntid.x;
mov.u32 %l, %tid.x;
mov.u32 %x, %ctaid.x;
mad.lo.u32 %t, %x, %t, %l;
mov.u32 %l, %laneid;
mov.u32 %x, %t;
"""
TAIL = """
ld.param.u64 %out, [k_out];
mad.wide.u32 %out, %t, 4, %out;
st.global.b32 [%out], %x;
ret;
}
"""


def lanes(body: str, count: int = 32, **launch: object) -> np.ndarray:
    """What ``body`` leaves in %x, by thread."""
    report = [run(HEAD + body + TAIL, "k", [np.zeros(count, np.uint32)], seed=s, **launch) for s in range(4)]  # type: ignore[arg-type]
    for r in report[1:]:
        assert np.array_equal(result(r, 0), report[0].arrays["a"])
    return result(report[0], 0)


def test_lanes_of_one_instruction_may_name_different_members() -> None:
    a = np.random.default_rng(0).integers(0, 20, 32).astype(np.uint32)
    got = result(run(SOURCE, "masks", [a, np.zeros(128, np.uint32)]), 1).reshape(4, 32)
    odd = [int(sum(1 << t for t in part if a[t] & 1)) for part in (T[:16], T[16:])]
    assert list(got[0]) == [odd[t // 16] for t in T]
    assert list(got[1]) == [a[t // 8 * 8 :][:8].sum() for t in T]
    assert list(got[2]) == list(a[T ^ 5])
    assert list(got[3]) == [(a[t // 8 * 8 :][:8] < 17).all() for t in T]


@pytest.mark.parametrize("seed", range(6))
def test_a_group_waits_for_its_own_members_alone(seed: int) -> None:
    a = np.arange(7, 39, dtype=np.uint32)
    x = a.copy()
    for i in range(9):
        x = np.where((T < 16) & (i > 0), x, x * 3 + a[(T + i) & 31]).astype(np.uint32)
    got = result(run(SOURCE, "late_half", [a, np.zeros(32, np.uint32)], seed=seed), 1)
    assert np.array_equal(got, x + x[T ^ 1])


def test_predicated_off_lanes_are_no_members() -> None:
    got = lanes("setp.lt.u32 %p, %l, 16;\n@%p shfl.sync.bfly.b32 %x, %t, 3, 31, 0xffff;")
    assert list(got) == [t ^ 3 if t < 16 else t for t in T]


def test_lanes_may_meet_at_two_warp_barriers() -> None:
    """PTX: bar.warp.sync waits until the members have executed *a* bar.warp.sync with that mask."""
    branches = """
setp.lt.u32 %p, %l, 8;
@%p bra LOW;
add.u32 %x, %x, 100;
bar.warp.sync 0xffffffff;
bra END;
LOW:
bar.warp.sync 0xffffffff;
add.u32 %x, %x, 7;
END:
"""
    assert list(lanes(branches)) == [t + 7 if t < 8 else t + 100 for t in T]
    report = run(HEAD + branches.replace("0xffffffff", "0x000000ff", 1) + TAIL, "k", [np.zeros(32, np.uint32)])
    assert "member mask" in messages(report)


def test_barriers_without_aligned_count_lanes() -> None:
    """Lanes of one warp may come one after the other; the last warp is not full; some have exited."""
    body = """
setp.lt.u32 %p, %l, 5;
@%p bra FEW;
barrier.cta.sync 0;
bra END;
FEW:
barrier.cta.sync 0;
END:
"""
    assert list(lanes(body, 48, block=48)) == list(range(48))
    leave = "setp.eq.u32 %q, %l, 3;\n@%q ret;\nbarrier.cta.sync 0;"
    assert list(lanes(leave, 48, block=48)) == [0 if t % 32 == 3 else t for t in range(48)]


def test_cluster_barriers_without_aligned_count_lanes() -> None:
    body = """
setp.lt.u32 %p, %l, 5;
@%p barrier.cluster.arrive;
add.u32 %x, %x, 1;
@!%p barrier.cluster.arrive;
@%p barrier.cluster.wait;
@%p add.u32 %x, %x, 10;
@%p barrier.cluster.arrive;
@!%p barrier.cluster.wait;
@!%p barrier.cluster.arrive;
barrier.cluster.wait;
"""
    assert list(lanes(body, 64, grid=2, cluster=2)) == [t + (11 if t % 32 < 5 else 1) for t in range(64)]


def test_predicated_off_aligned_instructions_may_follow_an_exit() -> None:
    body = "setp.gt.u32 %p, %t, 100;\nsetp.eq.u32 %q, %l, 3;\n@%q ret;\n@%p bar.sync 0;\n"
    assert list(lanes(body)) == [0 if t == 3 else t for t in T]


def test_stores_of_the_same_value_to_one_place_do_not_race() -> None:
    """Lanes of one warp, or warps at one instruction, in any order; what they store is told by none."""
    got = result(run(SOURCE, "equal_values", [np.zeros(129, np.uint32)], [5], block=128), 0)
    assert list(got[:128]) == [5 + t % 4 for t in range(128)] and got[128] == 5
    for block, of, races in ((32, 32, False), (32, 31, True), (128, 128, False), (128, 127, True), (128, 64, True)):
        report = run(SOURCE, "other_values", [np.zeros(block, np.uint32)], [5, of], block=block)
        assert {f.kind for f in report.findings} == ({"race"} if races else set()), (block, of, messages(report))
