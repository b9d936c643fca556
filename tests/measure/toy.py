"""A small matmul template of the tests' own: it compiles in 50 ms and can be told to go wrong in every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_tune.device import Device
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan, MemsetStep
from gpu_tune.space.constraint import Constraint
from gpu_tune.space.knob import Config, Knob
from gpu_tune.templates.base import Estimate, Template
from gpu_tune.workload import Matmul, Workload

SOURCE = """
extern "C" __global__ void __launch_bounds__({{ threads }})
toy(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c)
{
    {% if fault == "syntax" %}this is not C++;{% endif %}
    {% if fault == "shared" %}__shared__ float big[70000]; big[threadIdx.x] = 1;{% endif %}
    const int column = blockIdx.x * {{ threads }} + threadIdx.x;
    const int row = blockIdx.y * {{ rows }};
    {% if fault == "hang" %}volatile int forever = 1; while (forever) {}{% endif %}
    if (column >= {{ workload.n }}) return;
    float sum[{{ rows }}] = {};
    {% if unroll > 1 %}#pragma unroll {{ unroll }}{% else %}#pragma unroll 1{% endif %}

    for (int k = 0; k < {{ workload.k }}; ++k) {
        const float right = b[(long long)k * {{ workload.ldb }} + column];
        #pragma unroll
        for (int i = 0; i < {{ rows }}; ++i)
            if (row + i < {{ workload.m }}) sum[i] += a[(long long)(row + i) * {{ workload.lda }} + k] * right;
    }
    #pragma unroll
    for (int i = 0; i < {{ rows }}; ++i)
        if (row + i < {{ workload.m }}) {
            {% if fault == "illegal" %}*(float*)(1ull << 60) = sum[i];{% endif %}
            {% if fault == "trap" %}asm volatile("trap;");{% endif %}
            {% if fault == "guard" %}if (row + i == {{ workload.m - 1 }}) c[(long long){{ workload.m }} * {{ workload.ldc }} + 1] = 7;{% endif %}
            {% if fault == "partial" %}if (column == {{ workload.n - 1 }}) continue;{% endif %}
            {% if fault == "race" %}sum[i] += (clock64() & 1) * 1e-5f;{% endif %}
            c[(long long)(row + i) * {{ workload.ldc }} + column] = sum[i]{% if fault == "wrong" %} * 1.01f{% endif %};
        }
}
"""  # noqa: E501
FAULTS = ("none", "syntax", "shared", "hang", "illegal", "trap", "guard", "partial", "race", "wrong")


def supports(workload: Workload, device: Device) -> bool | str:
    assert isinstance(workload, Matmul)
    plain = workload.dtype == workload.out_dtype == "float32" and workload.layout == "nn" and not workload.epilogue
    plain = plain and workload.alpha == "1" and workload.beta == "0" and workload.batch == 1
    return True if plain else "computes plain float32 nn matmuls only"


def plan(config: Config, w: Any, device: Device) -> LaunchPlan:
    grid = (-(-w.n // int(config["threads"])), -(-w.m // int(config["rows"])), 1)
    step = KernelStep("toy", grid, (int(config["threads"]), 1, 1), tuple(BufferArg(n) for n in ("a", "b", "out")))
    clear = (MemsetStep("out", 4 * w.m * w.ldc),) if config["clear"] else ()
    return LaunchPlan((*clear, step))


def make(folder: Path) -> Template:
    """The template, its source written into ``folder``."""
    (folder / "toy.cu.j2").write_text(SOURCE)
    knobs = (
        Knob("threads", (32, 64, 128, 256), "threads of a block"),
        Knob("rows", (1, 2, 4, 8), "rows a thread computes"),
        Knob("unroll", (1, 2, 4), "K unrolling"),
        Knob("clear", (False, True), "clear the output first", False),
        Knob("fault", FAULTS, "what goes wrong", False),
    )
    small = Constraint(
        "small", ("threads", "rows"), lambda c, w, d: c["threads"] * c["rows"] <= 1024, "threads x rows <= 1024"
    )
    return Template(
        "toy",
        "matmul",
        "a toy",
        knobs,
        (small,),
        supports,
        lambda c, w, d: {},
        lambda c, w, d: Estimate(int(c["threads"]), 0, int(c["rows"])),
        plan,
        lambda w, d: config(),
        folder=folder,
    )


def config(**changes: Any) -> Config:
    """The default config, with ``changes``."""
    return Config(threads=64, rows=4, unroll=4, clear=False, fault="none").replace(**changes)
