"""conv2d_igemm_mma: right on the emulator over layouts, strides, paddings, dilations, groups and dtypes; no spills."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gpu_tune import emulator
from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.templates.base import render
from gpu_tune.templates.conv2d_igemm_mma import TEMPLATE
from gpu_tune.templates.lib.mma.seeds import complete
from gpu_tune.workload import Conv2d
from tests.helpers import mma_sweep as sweep

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")
emulated = pytest.mark.skipif(not emulator.available(), reason=f"no emulator: {emulator.unavailable_reason()}")
A100, ADA = by_name("a100"), by_name("rtx-4090")
RESNET = {
    "C1": Conv2d(1, 3, 224, 224, 64, 7, 7, stride=2, padding=3, dtype="float16"),
    "C2": Conv2d(1, 64, 56, 56, 64, 3, 3, padding=1, dtype="float16", epilogue="scale+bias+relu"),
    "C7": Conv2d(16, 128, 28, 28, 256, 3, 3, stride=2, padding=1, dtype="bfloat16"),
    "C12": Conv2d(1, 512, 7, 7, 512, 3, 3, padding=1, dtype="float16", layout="nchw"),
    "C2 int8": Conv2d(1, 64, 56, 56, 64, 3, 3, padding=1, dtype="int8", out_dtype="float16", scales="row_col"),
    "C5 tf32": Conv2d(1, 64, 56, 56, 128, 1, 1, stride=2, dtype="float32", math=("tf32",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESNET)
@pytest.mark.parametrize("chip", sweep.CHIPS[::2], ids=lambda d: d.name)
def test_defaults_compile_without_spills(name: str, chip: Any) -> None:
    workload = RESNET[name]
    _, report = sweep.cubin(TEMPLATE, TEMPLATE.default(workload, chip), workload, chip)
    assert report.spill_bytes == report.stack_bytes == 0 and not report.notes, report


def test_seeds_compile_without_spills() -> None:
    seeds = TEMPLATE.seeds(RESNET["C2"], A100)
    assert len(seeds) >= 4
    for seed in seeds[::3]:
        _, report = sweep.cubin(TEMPLATE, seed, RESNET["C2"], A100)
        assert report.spill_bytes == report.stack_bytes == 0, (seed, report)


def test_sass_has_the_tensor_instructions(tmp_path: Path) -> None:
    tool = sweep.disassembler()
    if tool is None:
        pytest.skip("nvdisasm (wheel nvidia-cuda-nvdisasm) is not installed")
    data, _ = sweep.cubin(TEMPLATE, TEMPLATE.default(RESNET["C2"], A100), RESNET["C2"], A100)
    (tmp_path / "k.cubin").write_bytes(data)
    text = subprocess.run([tool, str(tmp_path / "k.cubin")], capture_output=True, text=True, check=True).stdout
    for name in ("HMMA.16816.F32", "LDSM.16.M88.4", "LDGSTS.E.BYPASS"):
        assert name in text, name


@emulated
@pytest.mark.parametrize(
    "iterator, fields",
    [
        ("analytic", dict(c=8, layout="nhwc", stride=2, padding=1)),
        ("masks", dict(c=64, layout="nhwc", padding=(0, 1, 2, 1), groups=2)),
        ("table", dict(c=3, layout="nhwc", padding=1)),
        ("table", dict(c=6, layout="nchw", dilation=2, padding=2, groups=2)),
        ("analytic", dict(c=5, layout="nchw", padding=1)),
    ],
)
def test_every_iterator_is_right(iterator: str, fields: dict[str, Any]) -> None:
    workload = Conv2d(2, h=7, w=9, k=18, r=3, s=3, dtype="float16", epilogue="bias+relu", **fields)
    config = complete(dict(iterator=iterator, block_k=32), workload, A100, TEMPLATE)
    assert config is not None and config["iterator"] == iterator
    sweep.right(TEMPLATE, config, workload, A100, 5)


def test_masks_are_one_step_instead_of_divisions() -> None:
    workload = RESNET["C2"]
    masks = TEMPLATE.default(workload, A100).replace(iterator="masks", block_k=32, stages=2)
    assert not TEMPLATE.violations(masks, workload, A100)
    assert "inside[i] >> tap & 1" in render(TEMPLATE, masks, workload, A100)
    assert "k / 192" in render(TEMPLATE, masks.replace(iterator="analytic"), workload, A100)


@emulated
def test_swizzled_shared_memory_has_no_bank_conflicts() -> None:
    workload = Conv2d(1, 32, 12, 12, 48, 3, 3, padding=1, dtype="float16")
    config = complete(
        dict(block_m=48, block_n=32, block_k=32, warp_m=16, warp_n=32, shared_layout="xor"), workload, A100, TEMPLATE
    )
    assert config is not None
    conflicts = sweep.right(TEMPLATE, config, workload, A100, 1).bank_conflicts
    assert conflicts.load_wavefronts and conflicts.load_extra == conflicts.store_extra == 0, conflicts


def test_refusals_name_the_reason() -> None:
    assert "tf32" in str(TEMPLATE.supported(Conv2d(1, 8, 8, 8, 8, 3, 3, dtype="float32"), A100))
    winograd = Conv2d(1, 8, 8, 8, 8, 3, 3, padding=1, dtype="float16", math=("winograd",), weights="pretransformed")
    assert "pretransformed" in str(TEMPLATE.supported(winograd, A100))


def test_accepts_random_legal_workloads(capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)
    asked = [sweep.random_conv2d(rng, rng.choice(sweep.DTYPES)) for _ in range(200)]
    taken = [w for w in asked if TEMPLATE.supported(w, ADA) is True]
    for workload in taken[:30]:
        assert not TEMPLATE.violations(TEMPLATE.default(workload, ADA), workload, ADA)
    with capsys.disabled():
        print(f" [conv2d_igemm_mma takes {len(taken)} of {len(asked)} random legal workloads] ", end="")
    assert len(taken) > 0.95 * len(asked)
