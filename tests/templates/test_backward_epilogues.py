"""Backward epilogues by emulator: masks at every width and in every layout, saved values, the phases of a stride."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_tune.cuda import device
from gpu_tune.kernel.export_cpp import header
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import registry
from gpu_tune.verify.cases import Variant
from gpu_tune.verify.check import check_variant
from gpu_tune.workload import Conv2d, Matmul, Workload


def variant(family: str, chip: str, w: Workload, **knobs: Any) -> Variant:
    """The default of ``family`` with other ``knobs``."""
    where = device.by_name(chip)
    config = BoundTemplate(registry()[family], w, where).space().default()
    assert config is not None
    return Variant(family, w, where, type(config)({**config, **knobs}), 3)


HALF: dict[str, Any] = dict(dtype="float16", layout="nt")
IMAGE: dict[str, Any] = dict(dtype="float16", direction="dgrad")
CASES = {
    "bits of rows and batches": (
        "matmul_mma",
        "nvidia-a100",
        Matmul(40, 200, 64, batch=2, epilogue="drelu", **HALF),
    ),
    "bits of padded rows": ("matmul_wgmma", "nvidia-h200", Matmul(40, 72, 64, ldc=136, epilogue="drelu", **HALF)),
    "bits by one": ("matmul_simt", "nvidia-t4", Matmul(21, 37, 16, epilogue="drelu", dtype="int8", out_dtype="int8")),
    "saved values": ("matmul_mma", "nvidia-a100", Matmul(40, 72, 64, epilogue="dgelu+residual", **HALF)),
    "saved, staged": ("matmul_wgmma", "nvidia-h200", Matmul(72, 64, 64, epilogue="dgelu_tanh", **HALF)),
    "bits of channels first": (
        "conv2d_dgrad_simt",
        "nvidia-t4",
        Conv2d(2, 5, 7, 5, 4, 3, 3, layout="nchw", padding=1, epilogue="drelu", **IMAGE),
    ),
    "pixels that meet no tap": (
        "conv2d_dgrad_mma",
        "nvidia-a100",
        Conv2d(1, 64, 8, 8, 64, 1, 1, stride=2, layout="nhwc", epilogue="drelu(out)", **IMAGE),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_backward_epilogues_are_right_by_emulator(case: str) -> None:
    family, chip, w = CASES[case]
    outcome = check_variant(registry()[family], variant(family, chip, w))
    assert outcome.runs == 3 and not outcome.failures, outcome.failures


def test_what_is_exported_takes_the_saved_array() -> None:
    v = variant(*CASES["bits of padded rows"])
    plan = BoundTemplate(registry()[v.template], v.workload, v.device).render(v.config).plan
    assert "    CUdeviceptr aux = 0;  // uint8 (40, 16)\n" in header(plan, v.workload)
