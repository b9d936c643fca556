"""A small matmul template of the tests' own: it compiles in 50 ms and can be told to go wrong in every way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gpu_tune.cuda.device import Device
from gpu_tune.plan import Arg, BufferArg, KernelStep, LaunchPlan, MemsetStep, ScalarArg
from gpu_tune.space.knob import Config, Constraint, Knob
from gpu_tune.templates.base import ResourceEstimate, Template
from gpu_tune.workload import Matmul, Workload

SOURCE = """
extern "C" __global__ void __launch_bounds__({{ threads }})
{{ launch.name }}(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c,
    int m, int n, int k, int lda, int ldb, int ldc)
{
    {% if fault == "syntax" %}this is not C++;{% endif %}

    const int column = blockIdx.x * {{ threads }} + threadIdx.x;
    const int row = blockIdx.y * {{ rows }};
    {% if fault == "hang" %}volatile int forever = 1; while (forever) {}{% endif %}

    if (column >= n) return;
    float sum[{{ rows }}] = {};
    #pragma unroll {{ unroll }}
    for (int i = 0; i < k; ++i) {
        const float right = b[(long long)i * ldb + column];
        #pragma unroll
        for (int r = 0; r < {{ rows }}; ++r)
            if (row + r < m) sum[r] += a[(long long)(row + r) * lda + i] * right;
    }
    {% if fault == "slower" %}
    float more = 0;  // two percent more of the same work
    #pragma unroll {{ unroll }}
    for (int i = 0; i < k / 50; ++i)
        #pragma unroll
        for (int r = 0; r < {{ rows }}; ++r)
            more += a[(long long)min(row + r, m - 1) * lda + i] * b[(long long)i * ldb + column];
    if (more == 1.2345e30f) c[0] = more;
    {% endif %}

    #pragma unroll
    for (int r = 0; r < {{ rows }}; ++r)
        if (row + r < m) {
            {% if fault == "illegal" %}*(float*)(1ull << 60) = sum[r];{% endif %}
            {% if fault in ("trap", "crash") %}asm volatile("trap;");{% endif %}
            {% if fault == "guard" %}if (row + r == m - 1) c[(m - 1) * ldc + n + 1] = 7;{% endif %}
            {% if fault == "partial" %}if (column == n - 1) continue;{% endif %}
            {% if fault == "race" %}if (row + r == 1) sum[r] += (clock64() >> 2 & 15) * 4e-6f;{% endif %}
            {% if fault == "wrong" %}if (row + r == m - 1) sum[r] += 0.1f;{% endif %}

            c[(long long)(row + r) * ldc + column] = sum[r];
        }
}
"""
_RUNNING = "hang crash illegal trap guard partial race wrong unstable slower"
FAULTS = ("none", "syntax", *_RUNNING.split(), "shared", "absent")
"""What may go wrong. ``crash`` and ``unstable`` need the virtual GPU, which goes by the kernel's name."""


def supports(workload: Workload, device: Device) -> bool | str:
    assert isinstance(workload, Matmul)
    plain = workload.dtype == workload.out_dtype == "float32" and workload.layout == "nn" and not workload.epilogue
    plain = plain and workload.alpha == "1" and workload.beta == "0" and workload.batch == 1
    return True if plain else "computes plain float32 nn matmuls only"


def name(config: Config) -> str:
    """The kernel's name tells the fault, but not the unrolling, which the compiler may make no difference of."""
    return f"toy_{config['fault']}"


def plan(config: Config, w: Any, device: Device) -> LaunchPlan:
    grid = (-(-w.n // int(config["threads"])), -(-w.m // int(config["rows"])), 1)
    sizes = tuple(ScalarArg(n, "int32", getattr(w, n)) for n in ("m", "n", "k", "lda", "ldb", "ldc"))
    kernel = "toy_elsewhere" if config["fault"] == "absent" else name(config)
    shared = 300_000 if config["fault"] == "shared" else 0
    args: tuple[Arg, ...] = (*(BufferArg(n) for n in ("a", "b", "out")), *sizes)
    step = KernelStep(kernel, grid, (int(config["threads"]), 1, 1), args, shared)
    clear = (MemsetStep("out", 4 * w.n),) if config["clear"] else ()
    return LaunchPlan((*clear, step))


def make(folder: Path) -> Template:
    """The template, its source written into ``folder``."""
    if folder != Path(__file__).parent:
        (folder / "toy.cu.j2").write_text(SOURCE)
        shutil.copy(__file__, folder / "toy.py")  # so that a process elsewhere finds the pair
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
        lambda c, w, d: {"name": name(c)},
        lambda c, w, d: ResourceEstimate(int(c["threads"]), 0, int(c["rows"])),
        plan,
        lambda w, d: config(),
        folder=folder,
    )


def config(**changes: Any) -> Config:
    """The default config, with ``changes``."""
    return Config(threads=64, rows=4, unroll=4, clear=False, fault="none").replace(**changes)


if (Path(__file__).parent / "toy.cu.j2").exists():
    TEMPLATE = make(Path(__file__).parent)
