"""What the tests of the wgmma families check a config with: NVRTC, ptxas's report, cuobjdump, the emulator."""

from __future__ import annotations

import dataclasses
import functools
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gpu_tune import emulator, reference
from gpu_tune.cuda import device, nvrtc
from gpu_tune.cuda.cubin import PtxasReport, read_log
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import Template, render
from gpu_tune.templates.matmul_wgmma import FLAGSHIP
from gpu_tune.workload import ITEMSIZE, OUT_DTYPES, Matmul, Workload

H200 = device.by_name("nvidia-h200")
PLAIN: dict[str, Any] = dict(FLAGSHIP, block_n=128, stages=3, cluster_m=1, epilogue_store="direct", raster_group=2)
needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")
needs_emulator = pytest.mark.skipif(
    not nvrtc.available() or not emulator.available(), reason="NVRTC or a C++ compiler is not installed"
)


def config(dtype: str = "bfloat16", **changes: Any) -> Config:
    """PLAIN with ``changes``; block_k counts 16-bit elements and is rescaled to the dtype."""
    made = {**PLAIN, **changes}
    made["block_k"] = made["block_k"] * 2 // ITEMSIZE[dtype]
    return Config(made)


def chip(sms: int) -> device.Device:
    """A Hopper with few SMs, so that small problems walk over several units a block."""
    return dataclasses.replace(H200, sm_count=sms)


@functools.cache
def report(source: str) -> Mapping[str, PtxasReport]:
    return read_log(nvrtc.to_cubin(source, "sm_90a").log)


def assert_assembles_cleanly(template: Template, c: Config, workload: Workload) -> None:
    for kernel in report(render(template, c, workload, H200)).values():
        assert not kernel.notes, f"{c} for {workload.key}: {kernel.notes}"
        assert kernel.spill_bytes == 0 and kernel.stack_bytes == 0, f"{c} for {workload.key} spills: {kernel}"


def assert_computes(
    template: Template,
    c: Config,
    workload: Workload,
    sms: int = 3,
    seed: int = 0,
    kind: str = "integer",
    source: str = "",
) -> emulator.Report:
    """The emulator runs ``c`` without a finding and its result agrees with the reference."""
    small = chip(sms)
    assert not template.violations(c, workload, small)
    arrays, scalars = reference.example_inputs(workload, seed, kind), reference.example_scalars(workload, kind)
    out = reference.allocate(workload.arrays()["out"], 77)
    plan = template.plan(c, workload, small)
    result = emulator.run_plan(
        source or render(template, c, workload, small),
        plan,
        {**arrays, "out": out},
        scalars=scalars,
        arch="sm_90a",
        device=small,
        seed=seed,
    )
    assert result.ok, f"{c} for {workload.key}, seed {seed}: {[str(f) for f in result.findings[:3]]}"
    found = reference.compare(
        result.arrays["out"],
        workload,
        arrays,
        scalars,
        numerics=template.numerics(c, workload),
        exact=kind == "integer",
    )
    assert found.ok, f"{c} for {workload.key}, seed {seed}, {kind}: {found}"
    return result


def sass(template: Template, c: Config, workload: Workload, folder: Path) -> str:
    """The machine code of a config, as cuobjdump writes it."""
    tool = next(
        (str(p) for f in sys.path for p in Path(f or ".").glob("nvidia/cu*/bin/cuobjdump")), shutil.which("cuobjdump")
    )
    if tool is None:
        pytest.skip("cuobjdump is not installed (the nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm wheels have it)")
    assert not template.violations(c, workload, H200)
    cubin = folder / "k.cubin"
    cubin.write_bytes(nvrtc.to_cubin(render(template, c, workload, H200), "sm_90a").data)
    return subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout


def random_workload(r: random.Random) -> Matmul:
    """Any supported workload of up to a few tiles: every dtype, layout, output, scale, epilogue and row length."""
    dtype = r.choice(("bfloat16", "float16", "bfloat16", "float16", "float32", "float8_e4m3", "float8_e5m2", "int8"))
    row = 16 // ITEMSIZE[dtype]
    layout = r.choice(("nn", "nt", "tn", "tt") if ITEMSIZE[dtype] == 2 else ("nn", "nt", "nt", "tn", "tt"))
    m, n = (r.choice((r.randint(1, 40), r.randint(1, 300), r.choice((64, 128, 192, 256, 320)))) for _ in "mn")
    k = r.choice((r.randint(1, 64), r.randint(1, 400), 128, 256))
    lda, ldb = (
        -(-columns // row) * row + row * r.choice((0, 0, 1))
        for columns in (k if layout[0] == "n" else m, n if layout[1] == "n" else k)
    )
    out_dtype = r.choice(OUT_DTYPES[dtype])
    out_row = 16 // ITEMSIZE[out_dtype]
    scales = (
        r.choice({"int8": ("none", "tensor", "row_col")}.get(dtype, ("none", "tensor", "row_col", "block128")))
        if ITEMSIZE[dtype] == 1
        else "none"
    )
    operations = r.sample(
        ("scale", "bias", "row_bias", "residual", "relu", "gelu", "gelu_tanh", "silu", "clamp(-1,2)"),
        r.choice((0, 0, 1, 2, 4)),
    )
    math = {"float32": ("tf32",)}.get(
        dtype, ("fast_accumulate",) if dtype.startswith("float8") and r.random() < 0.4 else ()
    )
    exact = out_dtype == "int32"
    return Matmul(
        m,
        n,
        k,
        r.choice((1, 1, 2, 3)),
        dtype,
        out_dtype,
        layout,
        lda,
        ldb,
        r.choice((n, n + 3, -(-n // out_row) * out_row)),
        alpha="1" if exact else r.choice(("1", "any")),
        beta=r.choice(("0", "1") if exact else ("0", "0", "1", "any")),
        epilogue="" if exact else "+".join(operations),
        scales="none" if exact else scales,
        math=math,
    )
