"""What the tests of the wgmma families check a config with: NVRTC, ptxas's report, cuobjdump, the emulator."""

from __future__ import annotations

import dataclasses
import functools
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
from gpu_tune.workload import ITEMSIZE, Workload

H200 = device.by_name("nvidia-h200")
PLAIN: dict[str, Any] = dict(
    block_m=128,
    block_n=128,
    block_k=64,
    consumers=2,
    schedule="cooperative",
    stages=3,
    cluster_m=1,
    cluster_n=1,
    producer_registers=40,
    epilogue="direct",
    raster_group=2,
    grid="all",
    split_k=1,
    reduction="kernel",
    swap_ab=False,
    min_blocks=1,
    l2_keep="both",
)
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
    template.check(c, workload, small)
    arrays, scalars = reference.example_inputs(workload, seed, kind), reference.example_scalars(workload, kind)
    out = reference.allocate(workload.arrays()["out"], 77)
    plan = template.plan(c, workload, small)
    result = emulator.emulate(
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
    template.check(c, workload, H200)
    cubin = folder / "k.cubin"
    cubin.write_bytes(nvrtc.to_cubin(render(template, c, workload, H200), "sm_90a").data)
    return subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
