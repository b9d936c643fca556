"""Calls through pointers: tables of device functions."""

from __future__ import annotations

import numpy as np
import pytest

import gpu_tune as gt
from gpu_tune import emulator
from gpu_tune.errors import EmulationError
from tests.helpers.emulator.snippets import needs_emulator, needs_nvrtc

pytestmark = needs_emulator

TABLE = """.version 8.7
.target sm_90a
.address_size 64
.func (.param .b32 r) twice (.param .b32 x);
.global .align 8 .u64 table[3] = {twice, square, 64};
.func (.param .b32 r) twice (.param .b32 x) {
.reg .b32 %v; ld.param.b32 %v, [x]; shl.b32 %v, %v, 1; st.param.b32 [r], %v; ret; }
.func (.param .b32 r) square (.param .b32 x) {
.reg .b32 %v; ld.param.b32 %v, [x]; mul.lo.u32 %v, %v, %v; st.param.b32 [r], %v; ret; }
.func (.param .b32 r) two (.param .b32 x, .param .b32 y) { ret; }
.visible .entry k(.param .u64 a, .param .u32 which) {
.reg .b64 %p, %f, %i; .reg .b32 %t, %v, %w; .reg .pred %q;
ld.param.u64 %p, [a]; ld.param.u32 %w, [which];
mov.u32 %t, %tid.x; mul.wide.u32 %i, %t, 4; add.u64 %p, %p, %i;
and.b32 %v, %t, 1; add.u32 %v, %v, %w; mul.wide.u32 %i, %v, 8;
mov.u64 %f, table; add.u64 %f, %f, %i; ld.global.u64 %f, [%f];
{ .param .b32 arg; .param .b32 back;
st.param.b32 [arg], %t;
prototype_0 : .callprototype (.param .b32 _) _ (.param .b32 _);
call (back), %f, (arg), prototype_0;
ld.param.b32 %v, [back]; }
st.global.b32 [%p], %v;
ret; }
"""


def test_lanes_call_different_functions_of_a_table() -> None:
    text = TABLE.replace("= {twice, square, 64}", "= {twice, square, twice}").replace(
        ".global .align 8", ".func (.param .b32 r) square (.param .b32 x);\n.global .align 8"
    )
    report = gt.emulate(text, "k", block=32, args=[np.zeros(32, np.uint32), 0])
    assert not report.findings
    lanes = np.arange(32)
    assert np.array_equal(report.results[0], np.where(lanes % 2, lanes**2, 2 * lanes))


def test_a_call_of_what_is_no_function_is_found() -> None:
    text = TABLE.replace(".global .align 8", ".func (.param .b32 r) square (.param .b32 x);\n.global .align 8")
    report = gt.emulate(text, "k", block=32, args=[np.zeros(32, np.uint32), 1])
    assert [f.kind for f in report.findings] == ["bounds"] and "no function" in str(report.findings[0])


def test_an_unknown_name_in_a_table_is_refused() -> None:
    with pytest.raises(EmulationError, match="table"):
        emulator.Module.load(TABLE)


SOURCE = """
typedef int (*Op)(int);
__device__ __noinline__ int plus(int x) { return x + 100; }
__device__ __noinline__ int minus(int x) { return x - 100; }
__device__ Op ops[2] = {plus, minus};
extern "C" __global__ void k(int* a) { a[threadIdx.x] = ops[threadIdx.x / 5 % 2](threadIdx.x); }
"""


@needs_nvrtc
def test_compiled_function_pointers() -> None:
    report = gt.emulate(SOURCE, "k", block=64, args=[np.zeros(64, np.int32)])
    lanes = np.arange(64)
    assert not report.findings and np.array_equal(report.results[0], lanes + np.where(lanes // 5 % 2, -100, 100))
