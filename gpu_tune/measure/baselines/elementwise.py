"""One elementwise kernel that does what a library could not fuse: scales, alpha, beta, epilogue, cast."""

from __future__ import annotations

from dataclasses import replace

from ... import nvrtc
from ...device import Device
from ...plan import BufferArg, KernelStep, LaunchPlan
from ...templates import base
from ...templates.arguments import epilogue_args
from ...workload import ITEMSIZE, Matmul

THREADS = 256
_SOURCE = """
{% import "parts/numeric.cuh.j2" as numeric %}
{% import "parts/epilogue.cuh.j2" as epilogue %}
{% set acc = epilogue.acc_type(w) %}
{{ epilogue.conversions(w, device, [given]) }}
{{ epilogue.functions(w, device, v, acc, "n", true) }}
extern "C" __global__ void __launch_bounds__({{ threads }})
finish(const {{ numeric.ctype(given) }}* given, {{ epilogue.parameters(w) }}) {
    const long long item = (long long)blockIdx.x * {{ threads }} + threadIdx.x;
    if (item >= {{ w.batch * w.m * (w.n // v) }}ll) return;
    const int col = (int)(item % {{ w.n // v }}) * {{ v }};
    const long long line = item / {{ w.n // v }};
    const int row = (int)(line % {{ w.m }});
    const long long at = line * {{ w.ldc }} + col;
    {{ acc }} sums[{{ v }}];
{% if v > 1 %}
{% set word_t = {16: "uint4", 8: "uint2", 4: "unsigned"}[v * item] %}
    const {{ word_t }} words = *(const {{ word_t }}*)(given + at);
{% endif %}
{% for i in range(v) %}
{% if v > 1 %}
{% set word = "words" if v * item == 4 else "words." ~ "xyzw"[i * item // 4] %}
    sums[{{ i }}] = ({{ acc }}){{ numeric.unpack(given, word, i * item % 4 // item) }};
{% else %}
    sums[0] = ({{ acc }}){{ numeric.to_float(given, "given[at]") if acc == "float" else "given[at]" }};
{% endif %}
{% endfor %}
    {{ epilogue.value_type(w) }} values[{{ v }}];
    epilogue(sums, values, at, row, col{{ epilogue.operands(w) }});
    store_out(out + at, values);
}
"""


def vector_width(workload: Matmul, given: str) -> int:
    """Elements a thread handles: as many as 16 bytes hold, if rows and addresses allow it."""
    for width in (16 // ITEMSIZE[given], 8 // ITEMSIZE[given], 4 // ITEMSIZE[given]):
        room = max(ITEMSIZE[given], ITEMSIZE[workload.out_dtype]) * width
        if width > 1 and workload.n % width == 0 and workload.ldc % width == 0 and workload.alignment >= min(16, room):
            return width
    return 1


def source(workload: Matmul, given: str, device: Device) -> str:
    """CUDA source of the kernel ``finish(given, out, ...)``: ``given`` is the plain product in dtype ``given``."""
    width = vector_width(workload, given)
    plain = replace(workload, scales="tensor") if workload.scales == "block128" else workload
    names = {"w": plain, "device": device, "given": given, "v": width, "item": ITEMSIZE[given], "threads": THREADS}
    return base._environment(base.FOLDER).from_string(_SOURCE).render(names)


def plan(workload: Matmul, given: str) -> LaunchPlan:
    """Its launch: the product is the buffer ``workspace``, the rest as in every plan."""
    items = workload.batch * workload.m * (workload.n // vector_width(workload, given))
    grid = (-(-items // THREADS), 1, 1)
    return LaunchPlan(
        (KernelStep("finish", grid, (THREADS, 1, 1), (BufferArg("workspace"), *epilogue_args(workload))),)
    )


def compile_cubin(workload: Matmul, given: str, device: Device) -> bytes:
    """The kernel's cubin, compiled here and now (about 0.1 s)."""
    return nvrtc.to_cubin(source(workload, given, device), device.arch).data
