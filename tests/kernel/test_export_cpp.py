"""The C++ header is compiled and run against a stand-in driver that writes down every call it gets."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_tune.kernel.export_cpp import header, set_header
from gpu_tune.plan import BufferArg, Im2Col, KernelStep, LaunchPlan, MemsetStep, ScalarArg, TensorMapArg
from gpu_tune.plan.size import any_of, ceil_div
from gpu_tune.store.winner_set import SizeRange, WinnerSet
from gpu_tune.templates.registry import bind, registry
from gpu_tune.workload import Conv2d, Matmul
from tests.helpers.winners import H200, winner

INCLUDES = [str(p.parent) for folder in sys.path for p in Path(folder or ".").glob("nvidia/cu*/include/cuda.h")]
pytestmark = [
    pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler on this machine"),
    pytest.mark.skipif(not INCLUDES, reason="no cuda.h on this machine (install gpu_tune[cuda13])"),
]

DRIVER = r"""
#include <cuda.h>
#include <cstdio>
#include <cstring>
typedef unsigned long long u64;
static const char* name(CUfunction f) { return reinterpret_cast<const char*>(f); }
extern "C" {
CUresult cuModuleLoadData(CUmodule* m, const void*) { *m = (CUmodule)1; return CUDA_SUCCESS; }
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* f, CUmodule, const char* name) { *f = (CUfunction)name; return CUDA_SUCCESS; }
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
    std::printf("[\"attribute\", \"%s\", %d, %d]\n", name(f), (int)a, v);
    return CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, CUstream) {
    std::printf("[\"memset\", %llu, %d, %zu]\n", (u64)p, v, n);
    return CUDA_SUCCESS;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base,
                                const cuuint64_t* shape, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill) {
    static u64 made = 100;
    std::memset(map, 0, sizeof *map);
    std::memcpy(map, &++made, 8);
    std::printf("[\"tiled\", %d, %u, %llu, %llu, %llu, %u, %u, %d, %d, %d]\n", (int)type, rank, (u64)base,
                (u64)shape[1], (u64)strides[0], box[0], box[1], (int)swizzle, (int)promotion, (int)((size_t)map % 64));
    return CUDA_SUCCESS;
}
CUresult cuTensorMapEncodeIm2col(CUtensorMap*, CUtensorMapDataType, cuuint32_t rank, void*, const cuuint64_t*,
                                 const cuuint64_t*, const int* lower, const int* upper, cuuint32_t channels,
                                 cuuint32_t pixels, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    std::printf("[\"im2col\", %u, %d, %d, %u, %u]\n", rank, lower[0], upper[1], channels, pixels);
    return CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream, void** args, void**) {
    std::printf("[\"launch\", \"%s\", %u, %u, %u, %u, %u, %u, %u, %llu]\n", name(f), gx, gy, gz, bx, by, bz, shared,
                *(u64*)args[0]);
    return CUDA_SUCCESS;
}
}
"""


def calls(tmp_path, plan, workload, fill, **options):
    text = header(plan, workload, **options)
    return run_header(
        tmp_path,
        text,
        f"""    Kernel kernel; Buffers buffers;
    {fill}
    if (kernel.load("") || kernel.run(buffers, nullptr) || kernel.unload()) return 1;""",
    )


def run_header(tmp_path, text, body):
    (tmp_path / "kernel.hpp").write_text(text)
    (tmp_path / "driver.cpp").write_text(DRIVER)
    space = re.search(r"namespace (\w+)", text)[1]
    (tmp_path / "main.cpp").write_text(
        f'#include "kernel.hpp"\n#include <cstdio>\nint main() {{\n    using namespace {space};\n{body}\n}}\n'
    )
    command = [
        "g++",
        "-std=c++11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-isystem",
        INCLUDES[0],
        "driver.cpp",
        "main.cpp",
        "-o",
        "main",
    ]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr + text
    out = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def test_every_step_reaches_the_driver_as_the_plan_says(tmp_path):
    workload = Matmul(256, 128, 64, dtype="bfloat16", layout="nt", alpha="any", epilogue="bias")
    tile = TensorMapArg("a", "bfloat16", (64, 256), (128,), (64, 128), offset=16)
    main = KernelStep(
        "matmul", (2, 1, 1), (384, 1, 1), (tile, BufferArg("bias"), ScalarArg("alpha", "float32")), 200_000, (2, 1, 1)
    )
    reduce = KernelStep(
        "matmul_reduce", (8, 1, 1), (256, 1, 1), (BufferArg("workspace", 4), ScalarArg("n", "int64", 2**40))
    )
    plan = LaunchPlan((MemsetStep("workspace", 64, 0, 128), main, reduce), 4096, True).check()
    got = calls(tmp_path, plan, workload, "buffers.a = 4096; buffers.workspace = 8192; buffers.alpha = 2;")
    assert got == [
        ["attribute", "matmul", 8, 200_000],
        ["memset", 8320, 0, 64],
        ["tiled", 9, 2, 4112, 256, 128, 64, 128, 3, 2, 0],
        ["launch", "matmul", 2, 1, 1, 384, 1, 1, 200_000, 101],
        ["launch", "matmul_reduce", 8, 1, 1, 256, 1, 1, 0, 8196],
    ]


def test_a_view_speaks_in_the_names_of_the_call(tmp_path):
    conv = Conv2d(1, 64, 8, 8, 64, 1, 1)
    (view,) = conv.views()
    im2col = TensorMapArg("a", "float16", (64, 8, 8, 1), (128, 1024, 8192), (), im2col=Im2Col((-1, 0), (0, -2), 64, 32))
    plan = LaunchPlan((KernelStep("k", (1, 1, 1), (32, 1, 1), (BufferArg("b"), im2col)),)).check()
    got = calls(tmp_path, plan, conv, "buffers.w = 77; buffers.x = 5;", view=view)
    assert got == [["im2col", 4, -1, -2, 64, 32], ["launch", "k", 1, 1, 1, 32, 1, 1, 0, 77]]


def test_the_example_of_the_readme_compiles(tmp_path):
    workload = Matmul(4096, 4096, 4096, dtype="bfloat16", layout="nt")
    step = KernelStep("matmul", (132, 1, 1), (384, 1, 1), (BufferArg("a"), BufferArg("b"), BufferArg("out")), 200_000)
    (tmp_path / "kernel.hpp").write_text(header(LaunchPlan((step,)), workload))
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (tmp_path / "example.cpp").write_text(re.search(r"```cpp\n(.*?)```", readme, re.S)[1])
    command = ["g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-isystem", INCLUDES[0], "-c", "example.cpp"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_a_set_runs_the_kernel_of_each_size_and_no_other_size(tmp_path):
    """Every number of every size is what the plan of that size says."""
    workload = Matmul(any_of(1, 300), 96, 64, layout="nt")
    m = workload.open
    tile = TensorMapArg("a", "float16", (64, m), (128,), (64, 64))
    plans = []
    for rows in (16, 64):
        step = KernelStep(
            "k", (ceil_div(m, rows) * 3, 1, 1), (128, 1, 1), (BufferArg("a"), ScalarArg("m", "int32", m), tile)
        )
        plans.append(LaunchPlan((MemsetStep("workspace", m * 64, 1, 0), step), m * 64).check())
    kernels = tuple(winner(workload.at(8), 'extern "C" __global__ void k() {}', p, open=("m",)) for p in plans)
    ranges = (SizeRange(1, 20, 0), SizeRange(21, 250, 1), SizeRange(251, 300, 0))
    text = set_header(WinnerSet(workload, H200.chip, "predicted", kernels, ranges))
    images, counts = conv_set(), (1, 4, 5, 9)
    text += set_header(images)
    sizes = (1, 20, 21, 250, 251, 300)
    body = f"""    Kernels kernels; Buffers buffers;
    const void* cubins[] = {{"", ""}};
    if (kernels.load(cubins)) return 1;
    const long long inside[] = {{{", ".join(map(str, sizes))}}}, outside[] = {{0, -1, 301}};
    for (long long size : inside) {{
        buffers.m = size; buffers.a = 4096; buffers.workspace = 8192;
        if (kernels.run(buffers, nullptr)) return 2;
        std::printf("[\\"workspace\\", %zu]\\n", workspace_bytes(size));
    }}
    for (long long size : outside) {{
        buffers.m = size;
        if (kernels.run(buffers, nullptr) != CUDA_ERROR_INVALID_VALUE) return 3;
    }}
    namespace conv = gpu_tune_{re.sub(r"[^a-zA-Z0-9]", "_", images.workload.key)};
    conv::Kernels several; conv::Buffers call;
    if (several.load(cubins)) return 4;
    const long long counts[] = {{{", ".join(map(str, counts))}}};
    for (long long n : counts) {{
        call.n = n; call.x = 512; call.workspace = 8192;
        if (several.run(call, nullptr)) return 5;
        std::printf("[\\"workspace\\", %zu]\\n", conv::workspace_bytes(n));
    }}
    call.n = 10;
    if (several.run(call, nullptr) != CUDA_ERROR_INVALID_VALUE) return 6;
    return kernels.unload() || several.unload();"""
    got = run_header(tmp_path, text, body)
    expected = []
    for size in sizes:
        plan = plans[0 if size <= 20 or size > 250 else 1].at(size)
        x, y, z = plan.kernels[0].grid
        expected += [
            ["memset", 8192, 1, size * 64],
            ["tiled", 6, 2, 4096, size, 128, 64, 64, 3, 2, 0],
            ["launch", "k", x, y, z, 128, 1, 1, 0, 4096],
            ["workspace", size * 64],
        ]
    for n in counts:
        plan = images.kernels[0 if n <= 4 else 1].plan.at(n)
        for step in plan.kernels:
            first = {"x": 512, "workspace": 8192}[step.args[0].buffer]
            expected.append(["launch", step.kernel, *step.grid, *step.block, step.shared_bytes, first])
        expected.append(["workspace", plan.workspace_bytes])
    assert got == expected


def conv_set():
    """A set for 1 to 9 images, with the plans of real kernels; one of them adds parts of its sums in a second step."""
    workload = Conv2d(any_of(1, 9), 32, 9, 11, 8, 3, 3, padding=1, layout="nhwc")
    (bound,) = bind(workload, H200, {"conv2d_direct": registry()["conv2d_direct"]})
    plans = [bound.render(bound.default().replace(split_k=split)).open_plan for split in (1, 2)]
    assert [len(plan.kernels) for plan in plans] == [1, 2] and plans[1].workspace_bytes != 0
    kernels = tuple(winner(workload.at(4), 'extern "C" __global__ void k() {}', p, open=("n",)) for p in plans)
    return WinnerSet(workload, H200.chip, "predicted", kernels, (SizeRange(1, 4, 0), SizeRange(5, 9, 1)))
