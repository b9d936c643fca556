"""Figures of lane addresses find the machine instructions that they are about."""

from __future__ import annotations

import pytest

from gpu_tune.cuda import cubin as cubins
from gpu_tune.cuda import lines, nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.errors import CorruptData
from gpu_tune.model.performance import line_table
from gpu_tune.model.performance.lanes import KernelLanes, lanes_of
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import registry
from gpu_tune.workload import Matmul
from tests.helpers.emulator.snippets import needs_emulator, needs_nvrtc

pytestmark = [needs_emulator, needs_nvrtc]

SOURCE = """
extern "C" __global__ void k(const float* __restrict__ a, float* b) {
    __shared__ __align__(16) float s[32 * 36];
    const int t = threadIdx.x;
    float sum = 0;
    #pragma unroll 1
    for (int i = 0; i < 100; ++i) {
        #pragma unroll
        for (int j = 0; j < 4; ++j) s[t * 36 + j] = a[i * 4096 + t * 4 + j];
        __syncthreads();
        #pragma unroll
        for (int j = 0; j < 4; ++j) sum += s[t * 36 + j];
        __syncthreads();
    }
    b[t * 8] = sum;
}
extern "C" __global__ void textured(float* b) {
    float x;
    asm volatile("tex.1d.v4.f32.s32 {%0, _, _, _}, [%1, {%2}];" : "=f"(x) : "l"(7ull), "r"(3));
    b[threadIdx.x] = x;
}
"""


def plan(kernel: str, *buffers: str) -> LaunchPlan:
    step = KernelStep(kernel, (5, 1, 1), (32, 1, 1), tuple(BufferArg(name) for name in buffers))
    return LaunchPlan((step,))


@pytest.fixture(scope="module")
def figures() -> tuple[KernelLanes, cubins.Program]:
    cubin = nvrtc.to_cubin(SOURCE.split('extern "C" __global__ void textured')[0], "sm_80", options=("-lineinfo",)).data
    found = lanes_of(cubin, plan("k", "a", "b"), {"a": 2**22, "b": 2**12})
    return found["k"], cubins.programs(cubin)["k"]


def of(operation: str, figures: tuple[KernelLanes, cubins.Program], what: str) -> dict[int, set[float]]:
    """The figures of an operation by bytes a lane."""
    lanes, program = figures
    found: dict[int, set[float]] = {}
    for instruction in program:
        if instruction.operation == operation and instruction.index in getattr(lanes, what):
            found.setdefault(instruction.width, set()).add(getattr(lanes, what)[instruction.index])
    return found


def test_accesses_that_the_assembler_merged_count_as_merged(figures: tuple[KernelLanes, cubins.Program]) -> None:
    assert of("LDS", figures, "shared") == of("STS", figures, "shared") == {16: {4.0}}  # one by one 4 words take 16
    assert of("LDG", figures, "sectors") == {4: {16.0}} and of("LDG", figures, "lines") == {4: {4.0}}
    assert of("STG", figures, "sectors") == {4: {32.0}} and of("STG", figures, "lines") == {4: {8.0}}
    lanes, program = figures
    assert lanes.matched == lanes.accesses == 7 and lanes.hot == lanes.hot_matched == 6 and not lanes.reason
    loads = program.is_("LDG").nonzero()[0]  # of the four words of a sector, what is loaded first misses L1
    assert sorted(lanes.hits[i] for i in loads) == [0.0, 1.0, 1.0, 1.0]


def test_a_cubin_without_line_information_says_so() -> None:
    cubin = nvrtc.to_cubin(SOURCE.split('extern "C" __global__ void textured')[0], "sm_80").data
    found = lanes_of(cubin, plan("k", "a", "b"), {"a": 2**22, "b": 2**12})
    assert "compile it with -lineinfo" in found["k"].reason and found["k"].accesses == 0


def test_what_the_emulator_refuses_is_unknown_and_named() -> None:
    cubin = nvrtc.to_cubin(SOURCE, "sm_80", options=("-lineinfo",)).data
    found = lanes_of(cubin, plan("textured", "b"), {"b": 2**12})["textured"]
    assert "tex" in found.reason and not found.shared and not found.sectors
    both, sizes = LaunchPlan((*plan("k", "a", "b").steps, *plan("textured", "b").steps)), {"a": 2**22, "b": 2**12}
    one, all_of_them = lanes_of(cubin, both, sizes, kernels={"k"}), lanes_of(cubin, both, sizes)
    assert list(one) == ["k"] and list(all_of_them) == ["k", "textured"] and one["k"] == all_of_them["k"]


def test_lines_read_in_cpp_are_those_read_in_python() -> None:
    cubin = nvrtc.to_cubin(SOURCE, "sm_80", options=("-lineinfo",)).data
    counts = {name: len(program) for name, program in cubins.programs(cubin).items()}

    def ours(cubin: bytes) -> dict[str, tuple[int, ...]]:
        found = {name: line_table.ptx_lines(cubin, name, count) for name, count in counts.items()}
        return {name: tuple(of.tolist()) for name, of in found.items() if of is not None}

    assert ours(cubin) == lines.ptx_lines(cubin) and len(ours(cubin)) == 2
    elf = cubins.Elf(cubin)
    body = cubin.index(next(elf.bytes_of(s) for s in elf.sections if s.name == lines.PTX_TABLE))
    for place in [*range(body, body + 400, 7), *range(0, 64), *range(len(cubin) - 2000, len(cubin), 41)]:
        damaged = cubin[:place] + bytes([cubin[place] ^ 0x5A]) + cubin[place + 1 :]  # both refuse the same ones
        answers = []
        for read in (ours, lines.ptx_lines):
            try:
                answers.append(read(damaged))
            except CorruptData as error:
                answers.append({"": (str(error),)})
        assert answers[0] == answers[1], place


LOOKS_UP = """
extern "C" __global__ void k(const int* __restrict__ a, float* b) {
    __shared__ int s[64];
    s[threadIdx.x] = a[threadIdx.x] + (int)threadIdx.x * 2;
    __syncthreads();
    const float data = b[threadIdx.x] * 3.0f;
    b[4096 + 32 * s[threadIdx.x]] = data;
}
"""


def test_addresses_that_come_from_memory_are_followed() -> None:
    cubin = nvrtc.to_cubin(LOOKS_UP, "sm_80", options=("-lineinfo",)).data
    found, program = lanes_of(cubin, plan("k", "a", "b"), {"a": 2**12, "b": 2**18})["k"], cubins.programs(cubin)["k"]
    (store,) = program.is_("STG").nonzero()[0]
    assert found.sectors[store] == 32.0 and found.lines[store] == 32.0  # every second row of 128 bytes, by s[]


@pytest.mark.parametrize(
    "family, device, dtype",
    [("matmul_simt", "nvidia-a100", "float32"), ("matmul_mma", "nvidia-a100", "float16"),
     ("matmul_wgmma", "nvidia-h200", "bfloat16")],
)  # fmt: skip
def test_every_access_of_a_default_kernel_is_known(family: str, device: str, dtype: str) -> None:
    workload, chip = Matmul(m=2048, n=2048, k=2048, dtype=dtype), by_name(device)
    bound = BoundTemplate(registry()[family], workload, chip)
    rendered = bound.render(bound.default())
    cubin = nvrtc.to_cubin(rendered.source, chip.arch, options=("-lineinfo",)).data
    sizes = {name: array.nbytes for name, array in workload.arrays().items()}
    for name, found in lanes_of(cubin, rendered.plan, sizes).items():
        assert found.matched == found.accesses > 0, (name, found)
        program = cubins.programs(cubin)[name]
        for index, wavefronts in found.shared.items():
            least = 1 if program.name(index) in ("LDS", "STS") else program.width[index] / 4
            assert wavefronts >= least
            if program.name(index) in ("LDSM", "LDGSTS"):  # these layouts are free of conflicts
                assert wavefronts == program.width[index] / 4, (name, index)
