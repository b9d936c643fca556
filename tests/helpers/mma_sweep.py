"""Random workloads, and runs of configs on the emulator against the reference; for the tests of the mma families."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_tune import reference
from gpu_tune.cuda import device as devices
from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.cubin import PtxasReport, read_log
from gpu_tune.cuda.device import Device
from gpu_tune.emulator import Report, run_plan
from gpu_tune.errors import InvalidInput
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import Template, render
from gpu_tune.workload import MATH, OUT_DTYPES, Conv2d, Matmul, Workload

DTYPES = ("float16", "bfloat16", "float32", "int8", "float8_e4m3", "float8_e5m2")
CHIPS = tuple(devices.by_name(n) for n in ("a100", "rtx-3090", "rtx-4090", "h200", "rtx-5090"))
"""One chip of each architecture claimed: sm_80, 86, 89, 90a, 120."""
MATMUL_EPILOGUES = (
    "",
    "bias+gelu",
    "row_bias+clamp(-1,1)+residual",
    "scale+bias+relu",
    "residual+silu",
    "row_bias+gelu_tanh",
)
CONV_EPILOGUES = ("", "bias+gelu", "scale+bias+residual+relu", "bias+clamp(0,6)", "residual+silu")


def size(rng: random.Random, largest: int) -> int:
    """Small, round or arbitrary."""
    kind = rng.random()
    if kind < 0.25:
        return rng.randint(1, 20)
    return rng.choice((16, 32, 48, 64, 80, 96, 112, 128)) if kind < 0.5 else rng.randint(1, largest)


def common(rng: random.Random, dtype: str, epilogues: Sequence[str], block_scales: bool) -> dict[str, Any]:
    """Fields that both operations have, every combination legal."""
    out = rng.choice(OUT_DTYPES[dtype])
    math = [p for p in MATH if dtype in MATH[p] and p != "winograd" and rng.random() < 0.5]
    if dtype == "float32" and not math:
        math = [rng.choice(("tf32", "tf32x3"))]
    fields: dict[str, Any] = dict(dtype=dtype, out_dtype=out, math=tuple(math), deterministic=rng.random() < 0.6)
    if rng.random() < 0.3:
        fields["alignment"] = rng.choice((1, 2, 4, 8))
    if out != "int32":
        fields["epilogue"] = rng.choice(epilogues)
        if dtype == "int8":
            fields["scales"] = rng.choice(("none", "tensor", "row_col"))
        elif dtype.startswith("float8"):
            fields["scales"] = rng.choice(("none", "tensor", "row_col", *(("block128",) if block_scales else ())))
    return fields


def random_matmul(rng: random.Random, dtype: str, layout: str = "", largest: int = 140) -> Matmul:
    """A legal matmul: odd sizes, padded rows, batches, any epilogue and scale."""
    while True:
        fields = common(rng, dtype, MATMUL_EPILOGUES, True)
        m, n, k = size(rng, largest), size(rng, largest), rng.choice((size(rng, 2 * largest), 8 * rng.randint(1, 40)))
        order = layout or rng.choice(("nn", "nt", "tn", "tt"))
        for name, columns in (("lda", k if order[0] == "n" else m), ("ldb", n if order[1] == "n" else k), ("ldc", n)):
            if rng.random() < 0.3:
                fields[name] = columns + rng.choice((1, 2, 3, 4, 8, 16))
        plain = fields["out_dtype"] == "int32"
        fields.update(
            alpha="1" if plain else rng.choice(("1", "any")),
            beta=rng.choice(("0", "1") if plain else ("0", "0", "1", "any")),
        )
        try:
            return Matmul(m, n, k, batch=rng.choice((1, 1, 2, 3)), layout=order, **fields)
        except InvalidInput:
            continue


def random_conv2d(rng: random.Random, dtype: str, layout: str = "") -> Conv2d:
    """A legal convolution: any stride, padding, dilation and groups."""
    while True:
        groups = rng.choice((1, 1, 1, 2, 4))
        r, s = rng.choice(((1, 1), (3, 3), (3, 3), (5, 5), (7, 1), (1, 7), (2, 2)))
        padding = rng.choice((0, (r // 2, s // 2), 1, tuple(rng.randint(0, 3) for _ in range(4))))
        try:
            return Conv2d(
                n=rng.choice((1, 2, 3)),
                c=groups * rng.choice((1, 3, 4, 5, 8, 16, 32, 64, 24)),
                h=rng.randint(1, 12),
                w=rng.randint(1, 12),
                k=groups * rng.choice((1, 3, 8, 16, 32, 48, 17)),
                r=r,
                s=s,
                stride=rng.choice((1, 1, 2, (2, 1), 3)),
                padding=padding,
                dilation=rng.choice((1, 1, 2, (1, 2))),
                groups=groups,
                layout=layout or rng.choice(("nhwc", "nchw")),
                **common(rng, dtype, CONV_EPILOGUES, False),
            )
        except InvalidInput:
            continue


def right(template: Template, config: Config, workload: Workload, device: Device, seed: int) -> Report:
    """Run the config on the emulator; assert that nothing was found and the result is the reference's."""
    kind = ("normal", "integer")[seed % 2]
    inputs = reference.example_inputs(workload, seed=seed, kind=kind)
    scalars = reference.example_scalars(workload, kind)
    out = reference.allocate(workload.arrays()["out"], 0)
    source, plan = render(template, config, workload, device), template.plan(config, workload, device)
    report = run_plan(
        source, plan, {**inputs, "out": out}, scalars=scalars, arch=device.arch, seed=seed, alignment=workload.alignment
    )
    what = f"{device.name} {workload.key} {config.key} seed {seed}"
    assert report.ok, (what, [str(f) for f in report.findings])
    numerics = template.numerics(config, workload)
    exact = kind == "integer" and numerics.exact_integers
    got = reference.compare(report.arrays["out"], workload, inputs, scalars, numerics=numerics, exact=exact)
    assert got.ok, (what, str(got))
    assert (
        max(report.shared_bytes_touched.values(), default=0)
        <= template.resources(config, workload, device).shared_bytes
    ), what
    return report


def cubin(template: Template, config: Config, workload: Workload, device: Device) -> tuple[bytes, PtxasReport]:
    """The cubin and ptxas's report on the main kernel."""
    compiled = nvrtc.to_cubin(render(template, config, workload, device), device.arch)
    return compiled.data, read_log(compiled.log)[template.name]


def disassembler() -> str | None:
    """NVIDIA's nvdisasm from its wheel or the PATH, None without it."""
    import shutil
    import sys

    for folder in sys.path:
        for path in Path(folder or ".").glob("nvidia/*/bin/nvdisasm"):
            return str(path)
    return shutil.which("nvdisasm")
