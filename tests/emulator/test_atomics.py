"""atom and red: every operation and type, scopes, return values, contention between blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.helpers.emulator.snippets import PRELUDE, messages, needs_emulator, needs_nvrtc, result, run

pytestmark = [needs_emulator, needs_nvrtc]

WORDS = {
    "u32": (np.uint32, "r", "u32"),
    "s32": (np.int32, "r", "int"),
    "b32": (np.uint32, "r", "u32"),
    "u64": (np.uint64, "l", "u64"),
    "s64": (np.int64, "l", "long long"),
    "b64": (np.uint64, "l", "u64"),
    "f32": (np.float32, "f", "float"),
    "f64": (np.float64, "d", "double"),
}
THREADS = 96


@dataclass(frozen=True)
class Operation:
    """{atom,red}.global.{name}.{type}: ``fold`` is what any order of all threads leaves behind."""

    name: str
    type: str
    fold: Callable[[Any, np.ndarray], Any]

    @property
    def key(self) -> str:
        return f"{self.name.replace('.', '_')}_{self.type}"

    def kernels(self) -> str:
        _, constraint, c = WORDS[self.type]
        text = ""
        for space in ("global", "shared"):
            address = '"l"(__cvta_generic_to_global(cell))' if space == "global" else '"r"(shared_address(&s))'
            ends = (
                ("", "")
                if space == "global"
                else (
                    f"__shared__ {c} s; if (threadIdx.x == 0) s = *cell; __syncthreads();",
                    "__syncthreads(); if (threadIdx.x == 0) *cell = s;",
                )
            )
            text += f"""
GLOBAL atom_{space}_{self.key}(const {c}* in, {c}* cell, {c}* old) {{
  {ends[0]} {c} r; asm volatile("atom.{space}.{self.name}.{self.type} %0, [%1], %2;"
    : "={constraint}"(r) : {address}, "{constraint}"(in[threadIdx.x]) : "memory"); old[threadIdx.x] = r; {ends[1]} }}
"""
            if self.name != "exch":
                text += f"""
GLOBAL red_{space}_{self.key}(const {c}* in, {c}* cell) {{
  {ends[0]}
  asm volatile("red.{space}.{self.name}.{self.type} [%0], %1;"
               :: {address}, "{constraint}"(in[threadIdx.x]) : "memory");
  {ends[1]} }}
"""
        return text


def _fold(function: Callable[..., Any]) -> Callable[[Any, np.ndarray], Any]:
    def apply(start: Any, values: np.ndarray) -> Any:
        with np.errstate(over="ignore"):
            for v in values:
                start = function(start, v)
        return start

    return apply


OPERATIONS = [
    *(Operation("add", t, _fold(lambda x, y: x + y)) for t in ("u32", "s32", "u64", "f32", "f64")),
    *(Operation("min", t, _fold(min)) for t in ("u32", "s32", "u64", "s64")),
    *(Operation("max", t, _fold(max)) for t in ("u32", "s32", "u64", "s64")),
    *(Operation("and", t, _fold(lambda x, y: x & y)) for t in ("b32", "b64")),
    *(Operation("or", t, _fold(lambda x, y: x | y)) for t in ("b32", "b64")),
    *(Operation("xor", t, _fold(lambda x, y: x ^ y)) for t in ("b32", "b64")),
    Operation("inc", "u32", _fold(lambda x, y: 0 * y if x >= y else x + type(x)(1))),
    Operation("dec", "u32", _fold(lambda x, y: y if x == 0 or x > y else x - type(x)(1))),
]
SOURCE = (
    PRELUDE
    + "".join(o.kernels() for o in OPERATIONS)
    + r"""
GLOBAL exchange(const u32* in, u32* cell, u32* old) { old[threadIdx.x] = atomicExch(cell, in[threadIdx.x]); }
GLOBAL swap_if(u32* cell, u32* old) { old[threadIdx.x] = atomicCAS(cell, threadIdx.x, threadIdx.x + 1); }
GLOBAL swap_if_64(u64* cell, u64* old) { old[threadIdx.x] = atomicCAS(cell, (u64)threadIdx.x, 7ull); }
GLOBAL half_pairs(const u32* in, u32* cell) {
  asm volatile("red.global.add.noftz.f16x2 [%0], %1;"
    :: "l"(__cvta_generic_to_global(cell)), "r"(in[threadIdx.x]) : "memory"); }
GLOBAL bf16_pairs(const u32* in, u32* cell) {
  asm volatile("red.global.add.noftz.bf16x2 [%0], %1;"
    :: "l"(__cvta_generic_to_global(cell)), "r"(in[threadIdx.x]) : "memory"); }
GLOBAL vector_add(const float4* in, float4* cell) {
  float4 v = in[threadIdx.x];
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};"
    :: "l"(__cvta_generic_to_global(cell)), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory"); }
GLOBAL vector_fetch(const float2* in, float2* cell, float2* old) {
  float2 v = in[threadIdx.x], r;
  asm volatile("atom.global.add.v2.f32 {%0, %1}, [%2], {%3, %4};"
    : "=f"(r.x), "=f"(r.y) : "l"(__cvta_generic_to_global(cell)), "f"(v.x), "f"(v.y) : "memory");
  old[threadIdx.x] = r; }
GLOBAL vector_halves(const uint2* in, uint2* cell) {
  uint2 v = in[threadIdx.x];
  asm volatile("red.global.add.noftz.v2.f16x2 [%0], {%1, %2};"
    :: "l"(__cvta_generic_to_global(cell)), "r"(v.x), "r"(v.y) : "memory"); }
GLOBAL vector_largest(const uint2* in, uint2* cell) {
  uint2 v = in[threadIdx.x];
  asm volatile("red.global.max.noftz.v2.bf16x2 [%0], {%1, %2};"
    :: "l"(__cvta_generic_to_global(cell)), "r"(v.x), "r"(v.y) : "memory"); }
GLOBAL scopes(u32* cell) {
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;\nred.release.gpu.global.add.u32 [%0], 1;\n"
               "red.relaxed.cta.global.add.u32 [%0], 1;\nred.relaxed.sys.global.add.u32 [%0], 1;"
    :: "l"(cell) : "memory");
  u32 r; asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;\natom.acquire.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(r) : "l"(cell) : "memory"); }
GLOBAL grid_counter(u32* cell, u32* seen) { u32 r = atomicAdd(cell, 1u); atomicAdd(seen + r, 1u); }
"""
)


def inputs(operation: Operation) -> tuple[np.ndarray, np.ndarray]:
    rng, dtype = np.random.default_rng(len(operation.key)), WORDS[operation.type][0]
    if operation.type[0] == "f":
        return rng.integers(-50, 50, THREADS).astype(dtype), np.array([3], dtype)
    if operation.name in ("inc", "dec"):
        return np.full(THREADS, 40, dtype), np.array([3], dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, THREADS, dtype=dtype, endpoint=True), rng.integers(
        0, info.max, 1, dtype=dtype
    )


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.key)
def test_operation(operation: Operation, space: str) -> None:
    values, start = inputs(operation)
    expected = operation.fold(start[0], values)
    report = run(SOURCE, f"atom_{space}_{operation.key}", [values, start.copy(), np.zeros_like(values)], block=THREADS)
    assert result(report, 1)[0] == expected
    assert start[0] in result(report, 2)  # whoever came first saw the start
    assert result(run(SOURCE, f"red_{space}_{operation.key}", [values, start.copy()], block=THREADS), 1)[0] == expected


def test_exchange_hands_every_value_on() -> None:
    values = np.arange(100, 132, dtype=np.uint32)
    report = run(SOURCE, "exchange", [values, np.array([5], np.uint32), np.zeros(32, np.uint32)])
    everything = np.concatenate([result(report, 1), result(report, 2)])
    assert sorted(everything) == [5, *values]


def test_compare_and_swap_chains() -> None:
    report = run(SOURCE, "swap_if", [np.array([0], np.uint32), np.full(32, 99, np.uint32)])
    cell, old = int(result(report, 0)[0]), result(report, 1)
    assert 1 <= cell <= 32 and (old[:cell] == np.arange(cell)).all()
    report = run(SOURCE, "swap_if_64", [np.array([3], np.uint64), np.zeros(32, np.uint64)])
    assert result(report, 0)[0] == 7


@pytest.mark.parametrize(("kernel", "kind"), [("half_pairs", "float16"), ("bf16_pairs", "bfloat16")])
def test_packed_halves(kernel: str, kind: str) -> None:
    import ml_dtypes

    dtype: Any = np.float16 if kind == "float16" else ml_dtypes.bfloat16
    values = np.random.default_rng(1).integers(-3, 4, 64).astype(dtype)
    out = result(run(SOURCE, kernel, [values.view(np.uint32), np.zeros(1, np.uint32)]), 1).view(dtype)
    assert np.array_equal(out.astype(np.float32), values.reshape(32, 2).astype(np.float32).sum(0))


def test_vector_reduction() -> None:
    values = np.random.default_rng(1).integers(-9, 10, (32, 4)).astype(np.float32)
    assert np.array_equal(result(run(SOURCE, "vector_add", [values, np.zeros(4, np.float32)]), 1), values.sum(0))


def test_vector_atomics_return_what_was_there() -> None:
    values = np.random.default_rng(1).integers(1, 10, (32, 2)).astype(np.float32)
    report = run(SOURCE, "vector_fetch", [values, np.zeros(2, np.float32), np.zeros((32, 2), np.float32)])
    assert np.array_equal(result(report, 1), values.sum(0))
    old = result(report, 2)
    for column in range(2):  # each saw the sum of those before it
        order = np.argsort(old[:, column])
        before = np.concatenate([[0], np.cumsum(values[order, column])[:-1]])
        assert np.array_equal(old[order, column], before)


def test_vectors_of_packed_halves() -> None:
    import ml_dtypes

    values = np.random.default_rng(2).integers(-3, 4, (32, 4)).astype(np.float16)
    out = result(run(SOURCE, "vector_halves", [values.view(np.uint32), np.zeros(2, np.uint32)]), 1).view(np.float16)
    assert np.array_equal(out, values.sum(0))
    wide = values.astype(ml_dtypes.bfloat16)
    out = result(run(SOURCE, "vector_largest", [wide.view(np.uint32), np.full(2, 0xC000C000, np.uint32)]), 1)
    assert np.array_equal(out.view(ml_dtypes.bfloat16).astype(np.float32), wide.astype(np.float32).max(0))


def test_scopes_and_orders() -> None:
    assert result(run(SOURCE, "scopes", [np.zeros(1, np.uint32)], grid=3), 0)[0] == 3 * 32 * 6


def test_a_ticket_is_handed_out_once_over_blocks() -> None:
    report = run(SOURCE, "grid_counter", [np.zeros(1, np.uint32), np.zeros(256, np.uint32)], grid=4, block=64)
    assert (result(report, 1) == 1).all()


def test_misaligned_atomic_is_reported() -> None:
    source = PRELUDE + "GLOBAL k(unsigned char* p) { atomicAdd((u32*)(p + 2), 1u); }"
    report = run(source, "k", [np.zeros(16, np.uint8)])
    assert not report.ok and "align" in messages(report)
