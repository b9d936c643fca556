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
from ..plan.size import Size
from ..store.winner_set import WinnerSet
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
    origin: Callable[[str], str] = view.origin if view else str
    lines = [
        f"// {workload.key}" + (f" on {chip}" if chip else "") + ": runs kernel.cubin through the CUDA driver API.",
        "// Made by gpu_tune from the launch plan in launch.json.",
        *_opening(workload),
        f"constexpr std::size_t workspace_bytes = {plan.workspace_bytes};"
        + (f"  // {_content(plan)}" if plan.workspace_bytes else ""),
        "",
        *_buffers(workload),
        "",
        *_class("Kernel", "kernel.cubin", plan, origin),
        *_closing(workload),
    ]
    return "\n".join(lines)


def set_header(winners: WinnerSet) -> str:
    """C++ source (C++11, includes only <cuda.h> and <cstddef>) that loads the cubins of a set and runs any size of it.

    As :func:`header`, with a class ``Kernels`` whose ``load`` takes the contents of ``0.cubin`` ... in this order, and
    whose ``run`` chooses by ``Buffers::m`` (or n); another size than the set's is CUDA_ERROR_INVALID_VALUE, and nothing
    is launched. ``workspace_bytes(m)`` is what a run needs; the workspace of each kernel is its own.
    """
    workload, name = winners.workload, winners.size.name
    numbers, (low, high) = range(len(winners.kernels)), winners.size.bounds
    plans = [kernel.plan for kernel in winners.kernels]
    bytes_ = [_number(plan.workspace_bytes, "std::size_t") for plan in plans]
    needs = [f"    if (kernel_of({name}) == {i}) return {needed};" for i, needed in enumerate(bytes_)]
    zeroed = [str(i) for i, p in enumerate(plans) if p.workspace_zeroed]
    note = f"  // of kernel {', '.join(zeroed)}: zeros before its first run; every run leaves it so" if zeroed else ""
    lines = [
        f"// {workload.key} on {winners.chip}: runs the cubins of the set through the CUDA driver API.",
        "// Made by gpu_tune from the launch plans beside it.",
        *_opening(workload),
        "inline long long min(long long a, long long b) { return a < b ? a : b; }",
        "inline long long max(long long a, long long b) { return a > b ? a : b; }",
        "",
        f"constexpr int kernel_count = {len(plans)};",
        f"constexpr long long least_{name} = {low}, most_{name} = {high};",
        "",
        f"// The kernel that serves {name}, by bisection of the ranges; -1 outside {low}..{high}.",
        f"inline int kernel_of(long long {name}) {{",
        f"    constexpr long long ends[] = {{{', '.join(str(r.most) for r in winners.ranges)}}};",
        f"    constexpr int kernels[] = {{{', '.join(str(r.kernel) for r in winners.ranges)}}};",
        f"    if ({name} < least_{name} || {name} > most_{name}) return -1;",
        f"    int first = 0, last = {len(winners.ranges) - 1};",
        "    while (first < last) {",
        "        const int middle = (first + last) / 2;",
        f"        if ({name} <= ends[middle]) last = middle; else first = middle + 1;",
        "    }",
        "    return kernels[first];",
        "}",
        "",
        f"inline std::size_t workspace_bytes(long long {name}) {{{note}",
        *needs,
        "    return 0;",
        "}",
        "",
        *_buffers(workload),
        "",
    ]
    for i, plan in enumerate(plans):
        lines += [*_class(f"Kernel{i}", f"{i}.cubin", plan, str), ""]
    lines += [
        "class Kernels {",
        "  public:",
        "    // cubins: the whole of 0.cubin, 1.cubin ... in memory. The context must be current.",
        "    CUresult load(const void* const (&cubins)[kernel_count]) {",
        "        CUresult status = CUDA_SUCCESS;",
        *(f"        if (status == CUDA_SUCCESS) status = kernel{i}_.load(cubins[{i}]);" for i in numbers),
        "        return status;",
        "    }",
        "",
        "    CUresult unload() {",
        "        CUresult status = CUDA_SUCCESS, failed;",
        *(f"        if ((failed = kernel{i}_.unload()) != CUDA_SUCCESS) status = failed;" for i in numbers),
        "        return status;",
        "    }",
        "",
        "    // Asynchronous on stream; allocates nothing and may be captured into a graph.",
        "    CUresult run(const Buffers& buffers, CUstream stream) const {",
        f"        switch (kernel_of(buffers.{name})) {{",
        *(f"            case {i}: return kernel{i}_.run(buffers, stream);" for i in numbers),
        "            default: return CUDA_ERROR_INVALID_VALUE;",
        "        }",
        "    }",
        "",
        "  private:",
        *(f"    Kernel{i} kernel{i}_;" for i in numbers),
        "};",
        *_closing(workload),
    ]
    return "\n".join(lines)


def _opening(workload: Workload) -> list[str]:
    return ["#pragma once", "#include <cuda.h>", "", "#include <cstddef>", "", f"namespace {_space(workload)} {{", ""]


def _closing(workload: Workload) -> list[str]:
    return ["", f"}}  // namespace {_space(workload)}", ""]


def _space(workload: Workload) -> str:
    return "gpu_tune_" + re.sub(r"\W", "_", workload.key)


def _content(plan: LaunchPlan) -> str:
    return "holds zeros before the first run; every run leaves it so" if plan.workspace_zeroed else "any content"


def _buffers(workload: Workload) -> list[str]:
    size = workload.open
    return [
        "struct Buffers {",
        *(f"    CUdeviceptr {n} = 0;{_describe(workload, n)}" for n in (*workload.arrays(), "workspace")),
        *(f"    float {n} = {'1.0f' if n == 'alpha' else '0.0f'};" for n in workload.scalars()),
        *([f"    long long {size.name} = 0;"] if size is not None else []),
        "};",
    ]


def _class(name: str, file: str, plan: LaunchPlan, origin: Callable[[str], str]) -> list[str]:
    """The class that loads ``file`` and runs ``plan``."""
    kernels = list(dict.fromkeys(step.kernel for step in plan.kernels))
    lines = [
        f"class {name} {{",
        "  public:",
        f"    // cubin: the whole of {file} in memory. The context must be current.",
        "    CUresult load(const void* cubin) {",
        "        CUresult status = cuModuleLoadData(&module_, cubin);",
    ]
    shared = {k: max(s.shared_bytes for s in plan.kernels if s.kernel == k) for k in kernels}
    for kernel in kernels:
        found = f'cuModuleGetFunction(&{kernel}_, module_, "{kernel}")'
        lines.append(f"        if (status == CUDA_SUCCESS) status = {found};")
        if shared[kernel]:  # more than 48 KiB, static shared memory included, must be asked for
            lines += [
                "        if (status == CUDA_SUCCESS)",
                f"            status = cuFuncSetAttribute({kernel}_, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, "
                f"{shared[kernel]});",
            ]
        if any(math.prod(s.cluster) > PORTABLE_CLUSTER for s in plan.kernels if s.kernel == kernel):
            lines += [
                "        if (status == CUDA_SUCCESS)",
                "            status = cuFuncSetAttribute("
                f"{kernel}_, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1);",
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
    if plan.open is not None:
        lines.append(f"        const long long {plan.open.name} = buffers.{plan.open.name};")
    for number, step in enumerate(plan.steps):
        lines += _memset(step, origin) if isinstance(step, MemsetStep) else _launch(number, step, origin)
    lines += ["        return status;", "    }", "", "  private:", "    CUmodule module_ = nullptr;"]
    return [*lines, *(f"    CUfunction {kernel}_ = nullptr;" for kernel in kernels), "};"]


def _number(value: int | Size, type_: str) -> str:
    """A number, or an expression over the open size as one of ``type_``."""
    return f"static_cast<{type_}>({value})" if isinstance(value, Size) else str(value)


def _describe(workload: Workload, name: str) -> str:
    spec = workload.arrays().get(name)
    if spec is None:
        return ""
    contiguous = not spec.strides or spec.strides == type(spec)(spec.shape, spec.dtype).element_strides
    strides = "" if contiguous else f", strides {spec.strides} elements"
    shape = f"({', '.join(map(str, spec.shape))}{',' if len(spec.shape) == 1 else ''})"
    written = ", written" if name != "out" and name in workload.outputs else ""
    return f"  // {spec.dtype} {shape}{strides}{written}"


def _memset(step: MemsetStep, origin: Callable[[str], str]) -> list[str]:
    where = f"buffers.{origin(step.buffer)}" + (f" + {step.offset}" if step.offset else "")
    return [
        "        if (status == CUDA_SUCCESS)",
        f"            status = cuMemsetD8Async({where}, {step.value}, {_number(step.nbytes, 'std::size_t')}, stream);",
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
    dims = ", ".join(_number(d, "unsigned") for d in (*step.grid, *step.block))
    body += [
        f"void* arguments[] = {{{', '.join(pointers)}}};",
        f"if (status == CUDA_SUCCESS)  // step {number + 1}"
        + (f", clusters of {step.cluster} are compiled in" if step.cluster != (1, 1, 1) else ""),
        f"    status = cuLaunchKernel({step.kernel}_, {dims}, {step.shared_bytes}, stream, arguments, nullptr);",
    ]
    return ["        {", *(f"            {line}" for line in body), "        }"]


def _literal(arg: ScalarArg) -> str:
    if isinstance(arg.value, Size):
        return _number(arg.value, _CTYPE[arg.ctype][0])
    value = arg.value or 0
    return (repr(float(value)) if arg.ctype == "float32" else str(int(value))) + _CTYPE[arg.ctype][1]


def _tensor_map(name: str, arg: TensorMapArg, buffer: str) -> list[str]:
    rank = len(arg.shape)
    strides = arg.element_strides or (1,) * rank
    shape, apart = _join(arg.shape, "cuuint64_t"), _join(arg.strides, "cuuint64_t") or "0"
    where = f"reinterpret_cast<void*>(buffers.{buffer}" + (f" + {arg.offset})" if arg.offset else ")")
    lines = [
        f"alignas(64) CUtensorMap {name};",
        f"const cuuint64_t {name}_shape[] = {{{shape}}};",
        f"const cuuint64_t {name}_strides[] = {{{apart}}};  // bytes, dimensions 1 and up",
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


def _join(values: tuple[int, ...], type_: str = "") -> str:
    return ", ".join(_number(v, type_) for v in values)
