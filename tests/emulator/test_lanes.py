"""What recorded lane addresses cost: wavefronts, sectors and L1 hits of patterns whose cost is known."""

from __future__ import annotations

import functools
import re
from collections import OrderedDict

import pytest

from gpu_tune.cuda import nvrtc
from gpu_tune.emulator.lanes import Access, record
from gpu_tune.plan import BUFFERS, BufferArg, KernelStep, LaunchPlan, ScalarArg
from tests.helpers.emulator.snippets import PRELUDE, needs_emulator, needs_nvrtc

pytestmark = [needs_emulator, needs_nvrtc]

SHARED = {  # an access of shared memory by lane t, and the wavefronts that a warp takes
    "word": ("F(t)", 1),
    "word, all lanes the same": ("F(5)", 1),
    "word, two lanes each": ("F(t / 2)", 1),
    "word, reversed": ("F(31 - t)", 1),
    "word, every second": ("F(2 * t)", 2),
    "word, a column of 32": ("F(32 * t)", 32),
    "word, a column of 33": ("F(33 * t)", 1),
    "word, a column of 36": ("F(36 * t)", 4),
    "8 bytes": ("F2(t)", 2),
    "8 bytes, all lanes the same": ("F2(3)", 1),
    "8 bytes, pairs the same": ("F2(t / 2)", 1),
    "8 bytes, every second": ("F2(2 * t)", 4),
    "16 bytes": ("F4(t)", 4),
    "16 bytes, all lanes the same": ("F4(3)", 2),
    "16 bytes, pairs the same": ("F4(t / 2)", 2),
    "16 bytes, lane and lane ^ 2 the same": ("F4((t & 1) + (t >> 2) * 2)", 2),
    "16 bytes, lane and lane ^ 4 the same": ("F4(t & 3)", 4),
    "16 bytes, rows of 128 bytes": ("F4(8 * t)", 32),
    "16 bytes, rows of 144 bytes": ("F4(9 * t)", 4),
    "16 bytes, rows of 128 bytes, swizzled": ("F4(8 * (t % 8) + ((t / 8) ^ (t % 8)))", 4),
    "byte": ("B(t)", 1),
    "byte, a column of 128": ("B(128 * t)", 32),
}
MATRIX = {  # rows of the four 8x8 matrices of an ldmatrix.x4 by lane t, as 16-byte pieces
    "ldmatrix, one row after the other": ("t", 4),
    "ldmatrix, rows of 128 bytes": ("8 * (t % 8) + t / 8", 32),
    "ldmatrix, rows of 144 bytes": ("9 * (t % 8) + t / 8", 4),
    "ldmatrix, rows of 128 bytes, swizzled": ("8 * (t % 8) + ((t / 8) ^ (t % 8))", 4),
    "ldmatrix, rows of 64 bytes": ("4 * (t % 8) + t / 8", 16),
}
GLOBAL = {  # an access of global memory, sectors and lines
    "global word": ("g[t]", 4, 1),
    "global word, every eighth": ("g[8 * t]", 32, 8),
    "global word, rows": ("g[4096 * t]", 32, 32),
    "global word, all lanes the same": ("g[7]", 1, 1),
    "global 16 bytes": ("sum4(((const float4*)g)[t])", 16, 4),
    "global word, one off": ("g[t + 1]", 5, 2),
}
SOURCE = (
    PRELUDE
    + """
DEVICE float sum4(float4 v) { return v.x + v.y + v.z + v.w; }
DEVICE float word(const float* p) {
  float x; asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(shared_address(p))); return x; }
DEVICE float two(const float* p) {
  float x, y;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x), "=f"(y) : "r"(shared_address(p))); return x + y; }
DEVICE float four(const float* p) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(shared_address(p)));
  return sum4(v); }
DEVICE float byte(const u8* p) {
  u32 x; asm volatile("ld.shared.u8 %0, [%1];" : "=r"(x) : "r"(shared_address(p))); return x; }
#define F(i) word(s + (i))
#define F2(i) two(s + 2 * (i))
#define F4(i) four(s + 4 * (i))
#define B(i) byte((u8*)s + (i))
GLOBAL shared(float* out) {
  __shared__ __align__(16) float s[2048];
  const int t = threadIdx.x;
  s[t] = t;
  __syncthreads();
  float v = 0;
"""
    + "".join(f"  v += {text};  // {name}\n" for name, (text, _) in SHARED.items())
    + "  u32 r[4];\n"
    + "".join(
        '  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), '
        f'"=r"(r[2]), "=r"(r[3]) : "r"(shared_address(s) + 16 * ({text})));\n'
        "  v += r[0] ^ r[1] ^ r[2] ^ r[3];\n"
        for name, (text, _) in MATRIX.items()
    )
    + """
  s[32 * t] = v;  // store column
  out[t] = v + s[t];
}
"""
    + "".join(
        f"GLOBAL global{n}(const float* g, float* out) {{\n"
        f"  const int t = threadIdx.x;\n  out[t] = {text};  // {name}\n}}\n"
        for n, (name, (text, _, _)) in enumerate(GLOBAL.items())
    )
    + """
GLOBAL reuse(const float* __restrict__ g, float* out, int n) {
  const int t = threadIdx.x + blockIdx.x * 64;
  float v = 0, w = 0;
  #pragma unroll 1
  for (int i = 0; i < n; ++i) {
    v += g[t];  // again
    v += g[1024 * 1024 + 64 * i + t];  // onwards
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(w) : "l"(g + t));  // past
    v += w;
    __syncthreads();
  }
  out[t] = v;
}
GLOBAL evicts(const float* __restrict__ g, float* out, int n) {
  const int t = threadIdx.x;
  float v = 0;
  #pragma unroll 1
  for (int i = 0; i < n; ++i) {
    const int line = (i * i * 7 + i) % 23, sector = i % 3;
    v += g[32 * line + 8 * sector + t % 16];  // two sectors of a line
  }
  out[t] = v;
}
GLOBAL copies(const float* g, float* out) {
  __shared__ __align__(16) float s[1024];
  const int t = threadIdx.x;
  const u32 to = shared_address(s + 4 * t);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(g + 1024 * t));  // copy
  asm volatile("cp.async.wait_all;" ::: "memory");
  out[t] = s[t];
  atomicAdd(out + t / 2, 1.f);  // atomic
}
GLOBAL turns(int* counter, float* out) {
  __shared__ float s[1024];
  const int t = threadIdx.x;
  s[t] = t;
  while (((volatile int*)counter)[0] != blockIdx.x) {}
  __syncthreads();
  if (atomicAdd(counter, 1) == 123456) {
    s[(t * 32) % 1024] = t;  // last
    __syncthreads();
  }
  out[t] = s[(t + 1) % 64];  // after
}
"""
)


@functools.cache
def recorded(kernel: str, pointers: int, scalars: int = 0, grid: int = 1, threads: int = 32) -> tuple[Access, ...]:
    args = [BufferArg(name) for name in BUFFERS[:pointers]] + [ScalarArg("n", "int32", 1000)] * scalars
    plan = LaunchPlan((KernelStep(kernel, (grid, 1, 1), (threads, 1, 1), tuple(args)),))
    return record(ptx(), plan, dict.fromkeys(BUFFERS[:pointers], 2**33))[kernel]


@functools.cache
def ptx() -> str:
    return nvrtc.to_ptx(SOURCE, "sm_80", lineinfo=True).data.decode()


def at(mark: str, accesses: tuple[Access, ...], kind: str = "") -> list[Access]:
    """The accesses that the PTX has for the source line which ends in ``mark``."""
    line = next(n for n, text in enumerate(SOURCE.split("\n"), 1) if text.endswith(f"// {mark}"))
    of, now = {}, 0
    for number, text in enumerate(ptx().split("\n"), 1):
        if match := re.match(r"\s*\.loc\s+\d+ (\d+) ", text):
            now = int(match[1])
        of[number] = now
    return [a for a in accesses if of[a.line] == line and kind in ("", a.kind)]


@pytest.mark.parametrize("name", SHARED)
def test_wavefronts_of_shared_loads(name: str) -> None:
    loads = [a for a in recorded("shared", 1) if a.kind == "load"]  # in the order of the source: they are volatile
    assert loads[list(SHARED).index(name)].wavefronts == SHARED[name][1]


@pytest.mark.parametrize("name", MATRIX)
def test_wavefronts_of_ldmatrix(name: str) -> None:
    found = [a for a in recorded("shared", 1) if a.kind == "ldmatrix"][list(MATRIX).index(name)]
    assert found.wavefronts == MATRIX[name][1] and found.width == 16


def test_wavefronts_of_a_store() -> None:
    (found,) = at("store column", recorded("shared", 1))
    assert (found.kind, found.wavefronts, found.sectors) == ("store", 32, None)


@pytest.mark.parametrize("number", range(len(GLOBAL)), ids=list(GLOBAL))
def test_sectors_and_lines_of_global_loads(number: int) -> None:
    name = list(GLOBAL)[number]
    (load,) = at(name, recorded(f"global{number}", 2), "load")
    assert (load.sectors, load.lines, load.wavefronts) == (*GLOBAL[name][1:], None) and load.hits == 0
    (store,) = at(name, recorded(f"global{number}", 2), "store")
    assert (store.sectors, store.lines) == (4, 1)


def test_a_loop_is_left_after_a_few_rounds_and_l1_serves_what_comes_again() -> None:
    found = recorded("reuse", 2, 1, grid=3, threads=64)
    again, onwards, past = (at(mark, found, "load") for mark in ("again", "onwards", "past"))
    assert [a.count for a in (*again, *onwards, *past)] == [6, 6, 6]  # two warps, three rounds of a thousand
    assert (again[0].hits, onwards[0].hits, past[0].hits) == (1, 0, 0)


def test_an_l1_that_is_too_small_keeps_what_was_used_last() -> None:
    args = (BufferArg("a"), BufferArg("b"), ScalarArg("n", "int32", 1000))
    plan = LaunchPlan((KernelStep("evicts", (1, 1, 1), (32, 1, 1), args),))
    lines = 8
    found = record(ptx(), plan, {"a": 2**20, "b": 2**20}, l1_bytes=128 * lines, rounds=80)["evicts"]
    (load,) = at("two sectors of a line", found, "load")
    kept: OrderedDict[int, set[int]] = OrderedDict()
    hits = []
    for i in range(load.count):
        line, sectors = (i * i * 7 + i) % 23, {i % 3, i % 3 + 1}
        hits.append(len(kept.get(line, set()) & sectors))
        kept[line] = kept.pop(line, set()) | sectors
        if len(kept) > lines:
            kept.popitem(last=False)
    assert load.count >= 80 and load.sectors == 2 and 0 < sum(hits) < load.count
    assert load.hits == sum(hits[1:]) / (2 * (load.count - 1))  # the first time does not count


def test_a_copy_reads_global_memory_and_writes_shared_memory() -> None:
    found = recorded("copies", 2)
    (copy,) = at("copy", found, "copy")
    assert (copy.wavefronts, copy.sectors, copy.lines, copy.width, copy.hits) == (4, 32, 32, 16, 0)
    (atomic,) = at("atomic", found, "atomic")
    assert (atomic.sectors, atomic.lanes) == (2, 32)


def test_nobody_waits_for_other_blocks_and_ways_that_nobody_takes_are_looked_at() -> None:
    found = recorded("turns", 2, grid=9, threads=64)
    (after,) = at("after", found, "load")
    assert after.count == 2 and after.wavefronts == 1
    (last,) = at("last", found, "store")
    assert last.wavefronts == 32


def test_merged_accesses_are_counted_at_the_width_that_is_wanted() -> None:
    plan = LaunchPlan((KernelStep("global0", (1, 1, 1), (32, 1, 1), (BufferArg("a"), BufferArg("b"))),))
    (load,) = at("global word", recorded("global0", 2), "load")
    found = record(ptx(), plan, {"a": 4096, "b": 4096}, wanted={"global0": [(load.line, 16), (load.line, 4)]})[
        "global0"
    ]
    assert [(a.width, a.sectors) for a in found] == [(4, 4), (16, 4)]
    assert record(ptx(), plan, {"a": 4096, "b": 4096}, wanted={"global0": [(1, 4)]}) == {"global0": ()}
