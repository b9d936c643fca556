"""The machine code reader agrees with NVIDIA's disassembler on every architecture."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gpu_tune.cuda import cubin, nvrtc, sass
from gpu_tune.cuda.operations import PIPES

from .test_cubin_code import nvdisasm

pytestmark = [
    pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed"),
    pytest.mark.usefixtures("compile_once"),
]

MMA = {  # PTX shape and types: registers of A, B and the sums; multiply-adds; data; from compute capability
    "m16n8k8.row.col.f32.f16.f16.f32": (2, 1, 4, 16 * 8 * 8, "fp16", 75),
    "m8n8k16.row.col.s32.s8.s8.s32": (1, 1, 2, 8 * 8 * 16, "int8", 75),
    "m16n8k16.row.col.f32.bf16.bf16.f32": (4, 2, 4, 16 * 8 * 16, "bf16", 80),
    "m16n8k16.row.col.f16.f16.f16.f16": (4, 2, 2, 16 * 8 * 16, "fp16", 80),
    "m16n8k8.row.col.f32.tf32.tf32.f32": (4, 2, 4, 16 * 8 * 8, "tf32", 80),
    "m16n8k4.row.col.f32.tf32.tf32.f32": (2, 1, 4, 16 * 8 * 4, "tf32", 80),
    "m16n8k32.row.col.s32.s8.s8.s32": (4, 2, 4, 16 * 8 * 32, "int8", 80),
    "m16n8k16.row.col.s32.s8.s8.s32": (2, 1, 4, 16 * 8 * 16, "int8", 80),
    "m16n8k32.row.col.f32.e4m3.e5m2.f32": (4, 2, 4, 16 * 8 * 32, "fp8", 89),
}


def mma(number: int, shape: str) -> str:
    a, b, c, *_ = MMA[shape]
    sums, operands = ",".join(f"%{i}" for i in range(c)), [f"%{i}" for i in range(c, c + a + b)]
    left, right = ",".join(operands[:a]), ",".join(operands[a:])
    kind, letter = ("float", "f") if ".f32." in shape and shape.endswith("f32") else ("unsigned", "r")
    outs = ",".join(f'"+{letter}"(d[{i}])' for i in range(c))
    ins = ",".join(f'"r"(p[{i}])' for i in range(a + b))
    return f"""extern "C" __global__ void mma{number}({kind}* o, const unsigned* p) {{
    {kind} d[{c}];
    for (int i = 0; i < {c}; ++i) d[i] = o[i];
    asm volatile("mma.sync.aligned.{shape} {{{sums}}},{{{left}}},{{{right}}},{{{sums}}};"
        : {outs} : {ins});
    for (int i = 0; i < {c}; ++i) o[i] = d[i];
}}
"""


MIXED = r"""
extern "C" __global__ void mixed(float* p, int* q, unsigned long long* r, int n) {
    __shared__ float s[256];
    s[threadIdx.x] = p[threadIdx.x];
    asm volatile("bar.sync 3, 128;");
    asm volatile("bar.arrive 4, 96;");
    asm volatile("bar.sync %0, 64;" :: "r"(n));
    __syncthreads();
    float f = 0;
    for (int i = 0; i < n; ++i) f += s[i] * p[i + 1];
    p[0] = sqrtf(f) / 3.5f;
    q[0] = atomicAdd(q + 1, n) + __popc(q[2]) + __clz(q[3]) + min(max(q[4], n), 7) + q[5] / n;
    q[6] = __shfl_xor_sync(~0u, q[7], 3) + (int)p[9] + (int)__ballot_sync(~0u, q[8]);
    r[0] = r[1] * r[2] + (r[3] >> n);
    p[10] = (float)((double)p[11] * 1.5 + n);
    ((float4*)p)[8] = ((const float4*)p)[9];
}
"""
ARCHITECTURES = ("sm_75", "sm_80", "sm_89", "sm_90a", "sm_100", "sm_120")


def source(arch: str) -> str:
    cc = int(re.sub(r"\D", "", arch))
    return MIXED + "".join(mma(i, shape) for i, shape in enumerate(MMA) if MMA[shape][5] <= cc)


def listing(image: bytes, folder: Path) -> dict[str, list[str]]:
    """The disassembler's text of every kernel, one entry an instruction."""
    (folder / "k.cubin").write_bytes(image)
    command = [nvdisasm(), "-c", str(folder / "k.cubin")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    for part in text.split(".section\t.text.")[1:]:
        lines = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", part)
        found[re.split(r"[,\s]", part)[0]] = lines
    return found


def name_of(line: str) -> str:
    return re.sub(r"^@!?U?P[\dT]\s+", "", line).split()[0]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_operations_guards_and_widths_are_those_of_the_disassembler(arch: str, tmp_path: Path) -> None:
    image = nvrtc.to_cubin(source(arch), arch).data
    programs, told = cubin.programs(image), listing(image, tmp_path)
    assert set(programs) == set(told)
    never = ("@!PT", "@!UPT")
    widths = {"128": 16, "64": 8, "U8": 1, "S8": 1, "U16": 2, "S16": 2}
    for name, lines in told.items():
        program = programs[name]
        for at, line in enumerate(lines):
            full, found = name_of(line), program.names[at]
            stem = full.split(".")[0]
            where = f"{arch} {name} {at}: {line}"
            if found == "U":
                assert stem.startswith(("U", "R2U", "VOTEU", "CS2UR", "LDCU")), where
            else:
                assert full.startswith(found) or (stem, found) in {("REDG", "RED")}, where
            assert program.guarded[at] == ((line.startswith("@") and not line.startswith(never)) or full == "BRA.U"), (
                where
            )
            assert program.never[at] == line.startswith(never), where
            if stem in ("LDG", "STG", "LDS", "STS", "LDGSTS"):
                parts = [p for p in full.split(".")[1:] if p in widths]
                assert program.width[at] == (widths[parts[-1]] if parts else 4), where


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_matrix_instructions_multiply_what_their_shape_says(arch: str) -> None:
    programs = cubin.programs(nvrtc.to_cubin(source(arch), arch).data)
    for number, (shape, (*_, macs, data, cc)) in enumerate(MMA.items()):
        if cc > programs["mixed"].cc:
            continue
        program = programs[f"mma{number}"]
        found = np.flatnonzero(program.pipe == PIPES.index("mma"))
        # where the hardware lacks the instruction, ptxas writes several of another kind
        small = shape.startswith("m8") and program.cc >= 100  # half of a larger one
        assert program.macs[found].sum() == macs * (2 if small else 1), (arch, shape)
        if len(found) == 1:
            assert sass.DATA[program.data[found[0]]] == data, (arch, shape)
            assert program.wide_sum[found[0]] == (".f16.f16.f16.f16" not in shape), (arch, shape)


@pytest.mark.parametrize("arch", ["sm_75", "sm_90a", "sm_120"])
def test_barriers_tell_their_number_and_threads(arch: str) -> None:
    program = cubin.programs(nvrtc.to_cubin(source(arch), arch).data)["mixed"]
    at = program.is_("BAR")
    told = list(zip(program.argument[at].tolist(), program.threads[at].tolist()))
    assert set(told) >= {(3, 128), (16 + 4, 96), (-1, 64), (0, 0)}


def test_dummies_and_constant_moves_are_told_apart() -> None:
    """ptxas writes ``@!PT LDS RZ, [RZ]`` before copies, and HFMA2 with a zero product to load a constant."""
    copies = """extern "C" __global__ void k(const float4* p, float4* q, int n) {
        extern __shared__ float4 s[];
        unsigned to = __cvta_generic_to_shared(s + threadIdx.x);
        for (int i = 0; i < n; ++i)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to + i * 4096), "l"(p + i * 256));
        asm volatile("cp.async.commit_group;" ::: "memory");
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        q[threadIdx.x] = s[threadIdx.x];
    }"""
    program = cubin.programs(nvrtc.to_cubin(copies, "sm_90a").data)["k"]
    dummies = (program.number == 0x184) & program.never
    assert dummies.sum() >= 3 and program.is_("LDS").sum() == 1
    assert (program.width[program.is_("LDGSTS")] == 16).all() and program.is_("LDGSTS").any()
    assert program.argument[program.is_("DEPBAR")].tolist() == [0]
    mixed = cubin.programs(nvrtc.to_cubin(source("sm_120"), "sm_120").data)["mixed"]
    moves = mixed.constant
    assert moves.any() and {mixed.name(i) for i in np.flatnonzero(moves)} == {"HFMA2"}


def test_code_of_no_whole_instructions_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        sass.decode(b"\0" * 24, 80)
