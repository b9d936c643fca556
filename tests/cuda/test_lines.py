"""Lines of machine instructions: as nvdisasm gives them, and damaged tables are refused."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest

from gpu_tune.cuda import lines, nvrtc
from gpu_tune.cuda.cubin import Elf, identity, programs
from gpu_tune.errors import CorruptData
from tests.cuda.test_cubin_code import nvdisasm

SOURCE = """
__device__ __forceinline__ float twice(const float* p, int i) {
    return p[i] * 2.f;  // inner
}
__device__ __forceinline__ float pair(const float* p, int i) {
    return twice(p, i) + twice(p, i + 32);  // outer
}
extern "C" __global__ void first(const float* a, float* b, int n) {
    __shared__ float s[32][33];
    int t = threadIdx.x;
    for (int i = 0; i < n; i += 32) {
        s[t / 32][t % 32] = pair(a, i + t);  // store
        __syncthreads();
        b[i + t] = pair(&s[0][0], t) + s[t % 32][t / 32];  // read
        __syncthreads();
    }
}
extern "C" __global__ void second(const float* a, float* b) {
    b[threadIdx.x] = pair(a, threadIdx.x);  // only
}
"""
ACCESSES = {"LDS": "ld.shared", "STS": "st.shared", "LDG": "ld.global", "STG": "st.global"}

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC")


@pytest.fixture(scope="module", params=["sm_80", "sm_90a", "sm_120"])
def cubin(request: pytest.FixtureRequest) -> bytes:
    if int(request.param[3:].rstrip("a")) not in nvrtc.architectures():
        pytest.skip(f"this NVRTC does not know {request.param}")
    return nvrtc.to_cubin(SOURCE, request.param, options=("-lineinfo",)).data


def line_of(mark: str) -> int:
    return next(n for n, text in enumerate(SOURCE.split("\n"), 1) if text.endswith(f"// {mark}"))


def test_line_information_leaves_the_code_as_it_is(cubin: bytes) -> None:
    elf = Elf(cubin)
    arch = {80: "sm_80", 90: "sm_90a", 120: "sm_120"}[elf.cc]
    plain = Elf(nvrtc.to_cubin(SOURCE, arch).data)
    assert {n: elf.bytes_of(s) for n, s in elf.texts()} == {n: plain.bytes_of(s) for n, s in plain.texts()}
    assert lines.ptx_lines(plain.data) == lines.source_lines(plain.data) == {} and lines.ptx_text(plain.data) == ""
    other = nvrtc.to_cubin(SOURCE.replace("2.f", "3.f"), arch).data
    assert identity(plain.data) == identity(cubin) != identity(other) and identity(b"no cubin") != identity(b"another")


def test_every_access_names_the_ptx_instruction_that_it_was_made_of(cubin: bytes) -> None:
    text, found = lines.ptx_text(cubin).split("\n"), 0
    table = lines.ptx_lines(cubin)
    assert set(table) == {"first", "second"}
    for name, program in programs(cubin).items():
        assert len(program) == len(table[name])
        for instruction, line in zip(program, table[name]):
            if instruction.operation in ACCESSES:
                assert text[line - 1].strip().startswith(ACCESSES[instruction.operation])
                found += 1
    assert found >= 10


def test_places_name_the_calls_that_inlined_them(cubin: bytes) -> None:
    inner, outer = line_of("inner"), line_of("outer")
    seen = {kernel: set() for kernel in ("first", "second")}  # type: dict[str, set[tuple[int, ...]]]
    for kernel, places in lines.source_lines(cubin).items():
        seen[kernel] = {tuple(line for _, line in place) for place in places}
        assert {file.rsplit("/", 1)[-1] for place in places for file, _ in place} == {"kernel.cu"}
    assert {(inner, outer, line_of("store")), (inner, outer, line_of("read")), (line_of("read"),)} <= seen["first"]
    assert (inner, outer, line_of("only")) in seen["second"]


def _printed(option: str, cubin: bytes, folder: object) -> dict[tuple[str, int], tuple[int, ...]]:
    """The lines that nvdisasm prints above an instruction, by kernel and index (it prints them where they change)."""
    path = f"{folder}/k.cubin"
    with open(path, "wb") as file:
        file.write(cubin)
    out = subprocess.run([nvdisasm(), option, "-c", path], capture_output=True, text=True, check=True).stdout
    found: dict[tuple[str, int], tuple[int, ...]] = {}
    kernel, above = "", []  # type: str, list[int]
    for line in out.split("\n"):
        if match := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            kernel = match[1]
        elif match := re.match(r'\s*//## File "[^"]+", line (\d+)', line):
            above.append(int(match[1]))
        elif match := re.match(r"\s*/\*([0-9a-f]{4,})\*/ ", line):
            if above:
                found[kernel, int(match[1], 16) // 16] = tuple(above)
            above = []
    return found


@pytest.mark.slow
def test_lines_are_those_that_nvdisasm_prints(cubin: bytes, tmp_path: object) -> None:
    ptx, source = _printed("-gp", cubin, tmp_path), _printed("-gi", cubin, tmp_path)
    assert len(ptx) > 40 and len(source) > 20
    ours = lines.ptx_lines(cubin)
    assert {at: (ours[at[0]][at[1]],) for at in ptx} == ptx
    places = lines.source_lines(cubin)
    assert {at: tuple(line for _, line in places[at[0]][at[1]]) for at in source} == source


def test_damaged_tables_are_corrupt_or_read_and_nothing_else(cubin: bytes) -> None:
    rng, elf = np.random.default_rng(0), Elf(cubin)
    spans = [(s.offset, s.size) for s in elf.sections if "debug_line" in s.name and s.size]
    refused = 0
    for _ in range(300):
        data = bytearray(cubin)
        offset, size = spans[rng.integers(len(spans))]
        for at in rng.integers(size, size=3):
            data[offset + int(at)] = int(rng.integers(256))
        for read in (lines.ptx_lines, lines.source_lines):
            try:
                read(bytes(data))
            except CorruptData:
                refused += 1
    assert refused > 50
    for cut in (0, 64, 1000, len(cubin) // 2):
        with pytest.raises(CorruptData):
            lines.source_lines(cubin[:cut])
