"""Programs of a cubin: their loops are those of NVIDIA's disassembler; damaged files are refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_tune.cuda import cubin, nvrtc
from gpu_tune.errors import CorruptData

SOURCE = """
extern "C" __global__ void __launch_bounds__(256) k(float* a, const float4* __restrict__ b, int n) {
    __shared__ float4 s[512];
    float acc[8] = {};
    #pragma unroll 1
    for (int i = 0; i < n; ++i) {
        s[threadIdx.x] = b[i * 256 + threadIdx.x];
        __syncthreads();
        for (int j = 0; j < 8; ++j) {
            float4 x = s[(threadIdx.x + 32 * j) & 511];
            acc[j] += x.x * x.y; acc[j] += x.z * x.w;
        }
        __syncthreads();
    }
    for (int j = 0; j < 8; ++j) a[j * 256 + threadIdx.x] = acc[j];
}
extern "C" __global__ void tensor(unsigned* o, const unsigned* p, int n) {
    float d[4] = {};
    for (int i = 0; i < n; ++i)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(p[i]), "r"(p[i+1]), "r"(p[i+2]), "r"(p[i+3]), "r"(p[i+4]), "r"(p[i+5]));
    o[threadIdx.x] = __float_as_uint(d[0] + d[1] + d[2] + d[3]);
}
"""  # noqa: E501
NAMES = {"FFMA", "LDS", "STS", "LDG", "STG", "BAR", "BRA", "FADD", "HMMA"}


def nvdisasm() -> str:
    found = [str(p) for folder in sys.path for p in Path(folder or ".").glob("nvidia/cu*/bin/nvdisasm")]
    tool = shutil.which("nvdisasm") or (found[0] if found else None)
    if tool is None:
        pytest.skip("needs nvdisasm (the nvidia-cuda-nvdisasm wheel has it)")
    return tool


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_120"])
def test_operations_and_loops_are_those_of_the_disassembler(arch: str, tmp_path: Path):
    image = nvrtc.to_cubin(SOURCE, arch).data
    (tmp_path / "k.cubin").write_bytes(image)
    listing = subprocess.run(
        [nvdisasm(), "-c", str(tmp_path / "k.cubin")], capture_output=True, text=True, check=True
    ).stdout
    programs = cubin.programs(image)
    for name in ("k", "tensor"):
        part = listing.split(f".text.{name}:")[1].split(".section")[0]
        expected, labels, branches = [], {}, []
        for line in part.splitlines():
            if label := re.match(r"(\.L_x_\d+):", line):
                labels[label[1]] = len(expected)
            elif code := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[\dT]\s+)?([A-Z0-9]+)[.\s;]", line):
                if code[1] == "BRA" and (target := re.search(r"`\((\.L_x_\d+)\)", line)):
                    branches.append((len(expected), target[1]))
                expected.append(code[1] if code[1] in NAMES else "")
        program = programs[name]
        assert [o if o in NAMES else "" for o in program.names][: len(expected)] == expected
        backwards = [(labels[t], at) for at, t in branches if labels[t] < at]
        assert [x for x in program.loops if x[1] < len(expected)] == backwards and backwards


def test_the_hottest_loop_is_found_and_counted():
    programs = cubin.programs(nvrtc.to_cubin(SOURCE, "sm_90a").data)
    first, last = programs["k"].hot_loop
    body = programs["k"].names[first : last + 1]
    assert body.count("FFMA") == 16 and body.count("BAR") == 2
    assert programs["k"].width[first : last + 1][[n in ("LDS", "STS") for n in body]].sum() == 9 * 16
    first, last = programs["tensor"].hot_loop
    assert "HMMA" in programs["tensor"].names[first : last + 1]


@pytest.mark.parametrize("data", [b"", b"not an ELF", b"\x7fELF\x02\x01" + b"\xff" * 90])
def test_what_is_no_cubin_is_corrupt(data: bytes):
    with pytest.raises(CorruptData):
        cubin.programs(data)
