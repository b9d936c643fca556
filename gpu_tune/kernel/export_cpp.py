"""A C++ header that runs a winner's cubin from its launch plan, with nothing but the CUDA driver API.

For callers without Python: the header holds what ``launch.json`` says (steps, grids, shared memory, tensor maps,
argument order) as code, so that ``kernel.cubin`` and the header are enough.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from ..cuda.launch import PORTABLE_CLUSTER
from ..plan import BufferArg, KernelStep, LaunchPlan, MemsetStep, ScalarArg, TensorMapArg
from ..workload import View, Workload

_CTYPE = {
    "int32": ("int", ""),
    "uint32": ("unsigned", "u"),
    "int64": ("long long", "ll"),
    "uint64": ("unsigned long long", "ull"),
    "float32": ("float", "f"),
}
"""The type in C++ and the suffix of its literals."""


def header(plan: LaunchPlan, workload: Workload, *, chip: str = "", view: View | None = None) -> str:
    """C++ source (C++11, includes only <cuda.h> and <cstddef>) that loads a cubin and runs ``plan``.

    It defines, in ``namespace gpu_tune_<workload key>``: ``Buffers`` (device pointers and run-time scalars by the names
    of a call), ``workspace_bytes``, and ``Kernel`` with ``load``, ``run`` and ``unload``, which return a CUresult.
    """
    names = [*workload.arrays(), "workspace"]
    kernels = list(dict.fromkeys(step.kernel for step in plan.kernels))
    origin: Callable[[str], str] = view.origin if view else str
    space = "gpu_tune_" + re.sub(r"\W", "_", workload.key)
    zeroed = "holds zeros before the first run; every run leaves it so" if plan.workspace_zeroed else "any content"
    lines = [
        f"// {workload.key}" + (f" on {chip}" if chip else "") + ": runs kernel.cubin through the CUDA driver API.",
        "// Made by gpu_tune from the launch plan in launch.json.",
        "#pragma once",
        "#include <cuda.h>",
        "",
        "#include <cstddef>",
        "",
        f"namespace {space} {{",
        "",
        f"constexpr std::size_t workspace_bytes = {plan.workspace_bytes};"
        + (f"  // {zeroed}" if plan.workspace_bytes else ""),
        "",
        "struct Buffers {",
        *(f"    CUdeviceptr {n} = 0;{_describe(workload, n)}" for n in names),
        *(f"    float {n} = {'1.0f' if n == 'alpha' else '0.0f'};" for n in workload.scalars()),
        "};",
        "",
        "class Kernel {",
        "  public:",
        "    // cubin: the whole of kernel.cubin in memory. The context must be current.",
        "    CUresult load(const void* cubin) {",
        "        CUresult status = cuModuleLoadData(&module_, cubin);",
    ]
    shared = {k: max(s.shared_bytes for s in plan.kernels if s.kernel == k) for k in kernels}
    for name in kernels:
        lines.append(f'        if (status == CUDA_SUCCESS) status = cuModuleGetFunction(&{name}_, module_, "{name}");')
        if shared[name]:  # more than 48 KiB, static shared memory included, must be asked for
            lines += [
                "        if (status == CUDA_SUCCESS)",
                f"            status = cuFuncSetAttribute({name}_, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, "
                f"{shared[name]});",
            ]
        if any(math.prod(s.cluster) > PORTABLE_CLUSTER for s in plan.kernels if s.kernel == name):
            lines += [
                "        if (status == CUDA_SUCCESS)",
                "            status = cuFuncSetAttribute("
                f"{name}_, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1);",
            ]
    lines += [
        "        return status;",
        "    }",
        "",
        "    CUresult unload() { return cuModuleUnload(module_); }",
        "",
        "    // Asynchronous on stream; allocates nothing and may be captured into a graph.",
        "    CUresult run(const Buffers& buffers, CUstream stream) const {",
        "        CUresult status = CUDA_SUCCESS;",
    ]
    for number, step in enumerate(plan.steps):
        lines += _memset(step, origin) if isinstance(step, MemsetStep) else _launch(number, step, origin)
    lines += ["        return status;", "    }", "", "  private:", "    CUmodule module_ = nullptr;"]
    lines += [f"    CUfunction {name}_ = nullptr;" for name in kernels]
    return "\n".join([*lines, "};", "", f"}}  // namespace {space}", ""])


def _describe(workload: Workload, name: str) -> str:
    spec = workload.arrays().get(name)
    if spec is None:
        return ""
    contiguous = not spec.strides or spec.strides == type(spec)(spec.shape, spec.dtype).element_strides
    strides = "" if contiguous else f", strides {spec.strides} elements"
    return f"  // {spec.dtype} {spec.shape}{strides}"


def _memset(step: MemsetStep, origin: Callable[[str], str]) -> list[str]:
    where = f"buffers.{origin(step.buffer)}" + (f" + {step.offset}" if step.offset else "")
    return [
        "        if (status == CUDA_SUCCESS)",
        f"            status = cuMemsetD8Async({where}, {step.value}, {step.nbytes}, stream);",
    ]


def _launch(number: int, step: KernelStep, origin: Callable[[str], str]) -> list[str]:
    body, pointers = [], []
    for i, arg in enumerate(step.args):
        name = f"arg{i}"
        pointers.append(f"&{name}")
        if isinstance(arg, BufferArg):
            offset = f" + {arg.offset}" if arg.offset else ""
            body.append(f"CUdeviceptr {name} = buffers.{origin(arg.buffer)}{offset};")
        elif isinstance(arg, ScalarArg):
            value = f"buffers.{arg.name}" if arg.value is None else _literal(arg)
            body.append(f"{_CTYPE[arg.ctype][0]} {name} = {value};")
        else:
            body += _tensor_map(name, arg, origin(arg.buffer))
    dims = ", ".join(map(str, (*step.grid, *step.block)))
    body += [
        f"void* arguments[] = {{{', '.join(pointers)}}};",
        f"if (status == CUDA_SUCCESS)  // step {number + 1}"
        + (f", clusters of {step.cluster} are compiled in" if step.cluster != (1, 1, 1) else ""),
        f"    status = cuLaunchKernel({step.kernel}_, {dims}, {step.shared_bytes}, stream, arguments, nullptr);",
    ]
    return ["        {", *(f"            {line}" for line in body), "        }"]


def _literal(arg: ScalarArg) -> str:
    value = arg.value or 0
    return (repr(float(value)) if arg.ctype == "float32" else str(int(value))) + _CTYPE[arg.ctype][1]


def _tensor_map(name: str, arg: TensorMapArg, buffer: str) -> list[str]:
    rank = len(arg.shape)
    strides = arg.element_strides or (1,) * rank
    where = f"reinterpret_cast<void*>(buffers.{buffer}" + (f" + {arg.offset})" if arg.offset else ")")
    lines = [
        f"alignas(64) CUtensorMap {name};",
        f"const cuuint64_t {name}_shape[] = {{{_join(arg.shape)}}};",
        f"const cuuint64_t {name}_strides[] = {{{_join(arg.strides) or '0'}}};  // bytes, dimensions 1 and up",
        f"const cuuint32_t {name}_steps[] = {{{_join(strides)}}};",
    ]
    common = f"&{name}, CU_TENSOR_MAP_DATA_TYPE_{arg.dtype.upper()}, {rank}, {where}, {name}_shape, {name}_strides"
    swizzle = f"{arg.swizzle}B" if arg.swizzle else "NONE"
    promotion = f"L2_{arg.l2_promotion}B" if arg.l2_promotion else "NONE"
    tail = (
        f"CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_{swizzle}, CU_TENSOR_MAP_L2_PROMOTION_{promotion}, "
        f"CU_TENSOR_MAP_FLOAT_OOB_FILL_{'NAN_REQUEST_ZERO_FMA' if arg.oob_nan else 'NONE'}"
    )
    if arg.im2col is None:
        lines.append(f"const cuuint32_t {name}_box[] = {{{_join(arg.box)}}};")
        call = f"cuTensorMapEncodeTiled({common}, {name}_box, {name}_steps, {tail})"
    else:
        corner = arg.im2col
        lines.append(f"const int {name}_lower[] = {{{_join(corner.lower_corner)}}};")
        lines.append(f"const int {name}_upper[] = {{{_join(corner.upper_corner)}}};")
        call = (
            f"cuTensorMapEncodeIm2col({common}, {name}_lower, {name}_upper, {corner.channels_per_pixel}, "
            f"{corner.pixels_per_column}, {name}_steps, {tail})"
        )
    return [*lines, f"if (status == CUDA_SUCCESS) status = {call};"]


def _join(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
