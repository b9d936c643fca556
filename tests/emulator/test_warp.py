"""Warp-wide instructions: shuffles, votes, match, reductions, elect, ldmatrix and stmatrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.helpers.emulator.snippets import PRELUDE, messages, needs_emulator, needs_nvrtc, result, run

pytestmark = [needs_emulator, needs_nvrtc]

LANES = np.arange(32)
SOURCE = (
    PRELUDE
    + r"""
GLOBAL shuffles(const int* in, int* out, int amount) {
  int l = threadIdx.x, v = in[l];
  out[l] = __shfl_sync(~0u, v, (l * amount) & 31);
  out[32 + l] = __shfl_up_sync(~0u, v, amount);
  out[64 + l] = __shfl_down_sync(~0u, v, amount);
  out[96 + l] = __shfl_xor_sync(~0u, v, amount);
  out[128 + l] = __shfl_sync(~0u, v, amount, 8);
  out[160 + l] = __shfl_up_sync(~0u, v, amount, 16);
  out[192 + l] = __shfl_down_sync(~0u, v, amount, 8);
  out[224 + l] = __shfl_xor_sync(~0u, v, amount, 16);
}
GLOBAL half_warps(const int* in, int* out) {
  int l = threadIdx.x;
  if (l < 16) out[l] = __shfl_xor_sync(0xFFFFu, in[l], 3);
  else out[l] = __shfl_xor_sync(0xFFFF0000u, in[l], 5) + 1000;
}
GLOBAL votes(const int* in, u32* out) {
  int l = threadIdx.x;
  out[l] = __ballot_sync(~0u, in[l] > 0);
  out[32 + l] = __any_sync(~0u, in[l] > 90);
  out[64 + l] = __all_sync(~0u, in[l] > -1000);
  out[96 + l] = __activemask();
  out[128 + l] = __match_any_sync(~0u, in[l] & 3);
  int same; out[160 + l] = __match_all_sync(~0u, in[l] & 0, &same) + same;
}
GLOBAL reductions(const int* in, u32* out) {
  int l = threadIdx.x;
  out[l] = __reduce_add_sync(~0u, in[l]);
  out[32 + l] = __reduce_max_sync(~0u, in[l]);
  out[64 + l] = __reduce_min_sync(~0u, (u32)in[l]);
  out[96 + l] = __reduce_and_sync(~0u, (u32)in[l]);
  out[128 + l] = __reduce_or_sync(~0u, (u32)in[l]);
  out[160 + l] = __reduce_xor_sync(~0u, (u32)in[l]);
}
GLOBAL elect(u32* out) {
  u32 p;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(p));
  out[threadIdx.x] = p;
}
GLOBAL nanosleep_and_clock(u32* out) { __nanosleep(20); out[threadIdx.x] = clock64() >= 0; }
#define STAGED __shared__ __align__(16) u32 s[1024]; int l = threadIdx.x; \
  for (int i = l; i < 1024; i += 32) s[i] = in[i]; \
  __syncthreads();
#define LDM(NAME, MOD) GLOBAL NAME(const u32* in, const u32* where, u32* out) { \
  STAGED \
  u32 r[4] = {0, 0, 0, 0}; \
  asm volatile("ldmatrix.sync.aligned.m8n8." MOD ".shared.b16 {%0, %1, %2, %3}, [%4];" \
    : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(s) + where[l]) : "memory"); \
  for (int q = 0; q < 4; ++q) out[q * 32 + l] = r[q]; }
LDM(ldm4, "x4")
LDM(ldm4t, "x4.trans")
#define LDM2(NAME, MOD) GLOBAL NAME(const u32* in, const u32* where, u32* out) { \
  STAGED \
  u32 a, b; asm volatile("ldmatrix.sync.aligned.m8n8." MOD ".shared.b16 {%0, %1}, [%2];" \
    : "=r"(a), "=r"(b) : "r"(shared_address(s) + where[l]) : "memory"); out[l] = a; out[32 + l] = b; }
LDM2(ldm2, "x2")
LDM2(ldm2t, "x2.trans")
#define LDM1(NAME, MOD) GLOBAL NAME(const u32* in, const u32* where, u32* out) { \
  STAGED \
  u32 a; asm volatile("ldmatrix.sync.aligned.m8n8." MOD ".shared.b16 {%0}, [%1];" \
    : "=r"(a) : "r"(shared_address(s) + where[l]) : "memory"); out[l] = a; }
LDM1(ldm1, "x1")
LDM1(ldm1t, "x1.trans")
#define STM(NAME, MOD) GLOBAL NAME(const u32* in, const u32* where, u32* out) { \
  __shared__ __align__(16) u32 s[1024]; int l = threadIdx.x; \
  for (int i = l; i < 1024; i += 32) s[i] = 0; \
  __syncthreads(); \
  asm volatile("stmatrix.sync.aligned.m8n8." MOD ".shared.b16 [%0], {%1, %2, %3, %4};" \
    :: "r"(shared_address(s) + where[l]), "r"(in[l]), "r"(in[32 + l]), "r"(in[64 + l]), "r"(in[96 + l]) : "memory"); \
  __syncthreads(); for (int i = l; i < 1024; i += 32) out[i] = s[i]; }
STM(stm4, "x4")
STM(stm4t, "x4.trans")
"""
)


def ints(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 100, count).astype(np.int32)


@pytest.mark.parametrize("amount", [0, 1, 3, 7, 16, 31])
def test_shuffles(amount: int) -> None:
    x = ints(32, amount)
    got = result(run(SOURCE, "shuffles", [x, np.zeros(256, np.int32)], [amount]), 1).reshape(8, 32)

    def take(index: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return np.where(valid, x[np.clip(index, 0, 31)], x)

    everything = np.ones(32, bool)
    width = lambda w: LANES // w * w  # noqa: E731
    expected = [
        x[(LANES * amount) & 31],
        take(LANES - amount, amount <= LANES),
        take(LANES + amount, LANES + amount < 32),
        take(LANES ^ amount, everything),
        x[width(8) + (amount & 7)],
        take(LANES - amount, LANES - amount >= width(16)),
        take(LANES + amount, LANES + amount < width(8) + 8),
        take(LANES ^ amount, (LANES ^ amount) < width(16) + 16),
    ]
    for i, row in enumerate(expected):
        assert np.array_equal(got[i], row), i


def test_shuffles_within_diverged_halves() -> None:
    x = ints(32)
    got = result(run(SOURCE, "half_warps", [x, np.zeros(32, np.int32)]), 1)
    assert np.array_equal(got, np.where(LANES < 16, x[LANES ^ 3], x[LANES ^ 5] + 1000))


def test_votes_and_match() -> None:
    x = ints(32)
    got = result(run(SOURCE, "votes", [x, np.zeros(192, np.uint32)]), 1).reshape(6, 32)
    ballot = sum(1 << i for i in range(32) if x[i] > 0)
    assert (got[0] == ballot).all() and (got[1] == int((x > 90).any())).all() and (got[2] == 1).all()
    assert (got[3] == 0xFFFFFFFF).all()
    groups = [sum(1 << j for j in range(32) if x[j] & 3 == x[i] & 3) for i in range(32)]
    assert np.array_equal(got[4], np.array(groups, np.uint32))
    assert (got[5] == 0).all()  # all lanes (2^32 - 1) plus the predicate wraps to 0


def test_reductions() -> None:
    x = ints(32, 3)
    got = result(run(SOURCE, "reductions", [x, np.zeros(192, np.uint32)]), 1).reshape(6, 32)
    u = x.view(np.uint32)
    rows = [
        x.sum(dtype=np.int32).view(np.uint32),
        x.max().view(np.uint32),
        u.min(),
        np.bitwise_and.reduce(u),
        np.bitwise_or.reduce(u),
        np.bitwise_xor.reduce(u),
    ]
    for i, row in enumerate(rows):
        assert (got[i] == row).all(), i


def test_elect_picks_one_lane() -> None:
    assert result(run(SOURCE, "elect", [np.zeros(32, np.uint32)]), 0).sum() == 1


def test_sleep_and_clock() -> None:
    assert result(run(SOURCE, "nanosleep_and_clock", [np.zeros(32, np.uint32)]), 0).all()


def matrices(words: np.ndarray, where: np.ndarray, count: int) -> np.ndarray:
    """The 8x8 16-bit matrices at the row addresses of lanes 8i..8i+7."""
    raw = words.view(np.uint16)
    return np.array([[raw[where[8 * i + r] // 2 : where[8 * i + r] // 2 + 8] for r in range(8)] for i in range(count)])


def fragment(matrix: np.ndarray) -> np.ndarray:
    """Lane l holds row l / 4, columns 2 (l % 4) and the next, low half first."""
    return np.array(
        [int(matrix[i >> 2, 2 * (i & 3)]) | int(matrix[i >> 2, 2 * (i & 3) + 1]) << 16 for i in range(32)], np.uint32
    )


@pytest.mark.parametrize(
    ("kernel", "count"), [("ldm1", 1), ("ldm2", 2), ("ldm4", 4), ("ldm1t", 1), ("ldm2t", 2), ("ldm4t", 4)]
)
def test_ldmatrix(kernel: str, count: int) -> None:
    rng = np.random.default_rng(count)
    words = rng.integers(0, 2**32, 1024, dtype=np.uint32)
    where = (rng.permutation(256)[:32] * 16).astype(np.uint32)
    got = result(run(SOURCE, kernel, [words, where, np.zeros(32 * count, np.uint32)]), 2).reshape(count, 32)
    for i, matrix in enumerate(matrices(words, where, count)):
        assert np.array_equal(got[i], fragment(matrix.T if kernel.endswith("t") else matrix)), i


@pytest.mark.parametrize("kernel", ["stm4", "stm4t"])
def test_stmatrix(kernel: str) -> None:
    rng = np.random.default_rng(9)
    registers = rng.integers(0, 2**32, 128, dtype=np.uint32)
    where = (rng.permutation(256)[:32] * 16).astype(np.uint32)
    got = result(run(SOURCE, kernel, [registers, where, np.zeros(1024, np.uint32)]), 2)
    for i, matrix in enumerate(matrices(got, where, 4)):
        assert np.array_equal(
            fragment(matrix.T if kernel.endswith("t") else matrix), registers[32 * i : 32 * i + 32]
        ), i
    assert np.count_nonzero(got) <= 128


def test_ldmatrix_wants_16_byte_rows() -> None:
    where = (np.arange(32) * 16 + 8).astype(np.uint32)
    report = run(SOURCE, "ldm4", [np.zeros(1024, np.uint32), where, np.zeros(128, np.uint32)])
    assert not report.ok and "align" in messages(report)


def test_same_inputs_for_every_seed() -> None:
    x = ints(32)
    runs: list[Callable[[], np.ndarray]] = [
        lambda s=s: result(run(SOURCE, "shuffles", [x, np.zeros(256, np.int32)], [5], seed=s), 1) for s in range(4)
    ]
    assert all(np.array_equal(runs[0](), r()) for r in runs[1:])
