"""Backward epilogues, and those that save for them, by emulator: masks at every width and in every layout, saved
values, the phases of a stride."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_tune.cuda import device
from gpu_tune.kernel.export_cpp import header
from gpu_tune.plan import MemsetStep
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import registry
from gpu_tune.verify.cases import Variant
from gpu_tune.verify.check import Outcome, Problem, check_variant, run_checks
from gpu_tune.workload import Conv2d, Matmul, Workload


def variant(family: str, chip: str, w: Workload, **knobs: Any) -> Variant:
    """The default of ``family`` with other ``knobs``."""
    where = device.by_name(chip)
    config = BoundTemplate(registry()[family], w, where).space().default()
    assert config is not None
    return Variant(family, w, where, type(config)({**config, **knobs}), 3)


HALF: dict[str, Any] = dict(dtype="float16", layout="nt")
IMAGE: dict[str, Any] = dict(dtype="float16", direction="dgrad")
FORWARD: dict[str, Any] = dict(dtype="float16", padding=1)
CASES: dict[str, Any] = {
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
    "saves bits by eight": ("matmul_mma", "nvidia-a100", Matmul(20, 72, 64, batch=2, epilogue="relu(aux)", **HALF)),
    "saves bits of tails": ("matmul_mma", "nvidia-a100", Matmul(20, 77, 64, ldc=80, epilogue="relu(aux)", **HALF)),
    "saves bits, staged": ("matmul_wgmma", "nvidia-h200", Matmul(72, 64, 64, epilogue="bias+relu(aux)", **HALF)),
    "saves values of padded rows": (
        "matmul_wgmma",
        "nvidia-h200",
        Matmul(40, 77, 64, ldc=136, epilogue="bias+gelu(aux)", **HALF),
    ),
    "saves bits, channels first": (
        "conv2d_direct",
        "nvidia-t4",
        Conv2d(2, 5, 7, 5, 6, 3, 3, layout="nchw", epilogue="relu(aux)+residual", **FORWARD),
    ),
    "saves values of an image": (
        "conv2d_igemm_mma",
        "nvidia-a100",
        Conv2d(2, 16, 7, 5, 24, 3, 3, epilogue="bias+silu(aux)", **FORWARD),
    ),
    "sums of rows and batches": (
        "matmul_mma",
        "nvidia-a100",
        Matmul(40, 72, 64, batch=2, epilogue="drelu+dbias", **HALF),
    ),
    "sums behind counters": (
        "matmul_mma",
        "nvidia-a100",
        Matmul(40, 21, 256, ldc=24, epilogue="dbias", dtype="bfloat16", layout="nt"),
        dict(split_k=2, reduction="last_arrival", stages=2),
    ),
    "sums of channels first": (
        "conv2d_dgrad_simt",
        "nvidia-t4",
        Conv2d(2, 5, 7, 5, 4, 3, 3, layout="nchw", padding=1, epilogue="dsilu+dbias", **IMAGE),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_backward_epilogues_are_right_by_emulator(case: str) -> None:
    family, chip, w, *knobs = CASES[case]
    outcome = check_variant(registry()[family], variant(family, chip, w, **dict(*knobs)))
    assert outcome.runs == 3 and not outcome.failures, outcome.failures


@pytest.mark.parametrize("found, planted, said", [
    ("if (passed) atomicOr(", "if (passed && threadIdx.x % 128 != 5) atomicOr(", "elements of aux wrong"),
    ("1u) << i;", "1u) << (i ^ 1);", "elements of aux wrong"),
    ("if (passed) atomicOr((unsigned*)aux +", "if (passed) atomicOr((unsigned*)aux - 1 +", "buffer"),
])  # fmt: skip
def test_a_mask_that_is_saved_wrong_is_found(found: str, planted: str, said: str) -> None:
    v = variant(*CASES["saves bits, staged"])
    rendered = BoundTemplate(registry()[v.template], v.workload, v.device).render(v.config)
    assert found in rendered.source and isinstance(rendered.plan.steps[0], MemsetStep)
    outcome = Outcome()
    run_checks(outcome, rendered.source.replace(found, planted), Problem.of(rendered, v), 3)
    assert any(said in failure.message for failure in outcome.failures), outcome.failures


@pytest.mark.parametrize("found, planted", [
    ("row < last; ++row", "row < last - 1; ++row"), ("* (part + 1) / 64", "* (part + 1) / 64 + (part < 63)"),
    ("part < 64; ++part", "part < 63; ++part"),
])  # fmt: skip
def test_sums_that_leave_out_or_repeat_a_row_are_found(found: str, planted: str) -> None:
    family, chip, w = CASES["sums of rows and batches"]
    v = variant(family, chip, w)
    rendered = BoundTemplate(registry()[family], w, v.device).render(v.config)
    assert found in rendered.source
    outcome = Outcome()
    run_checks(outcome, rendered.source.replace(found, planted), Problem.of(rendered, v), 3)
    assert any("elements of dbias wrong" in failure.message for failure in outcome.failures), outcome.failures


def test_sums_are_two_steps_behind_any_familys_and_part_of_the_kernels_identity() -> None:
    family, chip, w, knobs = CASES["sums behind counters"]
    v = variant(family, chip, w, **knobs)
    bound, plain = (BoundTemplate(registry()[family], one, v.device) for one in (w, w.unsummed()))
    rendered, before = bound.render(v.config), plain.render(v.config)
    assert rendered.source.startswith(before.source) and rendered.plan.steps[:-2] == before.plan.steps
    assert [step.kernel for step in rendered.plan.kernels[-2:]] == ["sum_columns", "add_column_sums"]
    assert rendered.plan.zeroed_span == before.plan.zeroed_span > 0
    assert rendered.estimate.workspace_bytes == rendered.plan.workspace_bytes > before.plan.workspace_bytes
    assert bound.hash != plain.hash and plain.hash == registry()[family].hash()


def test_what_no_family_fills_is_refused() -> None:
    w = Conv2d(1, 64, 8, 8, 64, 1, 1, stride=2, epilogue="relu(aux)", **IMAGE)
    answer = registry()["conv2d_dgrad_mma"].supported(w, device.by_name("nvidia-a100"))
    assert answer == "sets pixels that meet no filter tap to zero, which an epilogue would change or save"


def test_what_is_exported_takes_the_saved_array() -> None:
    v = variant(*CASES["bits of padded rows"])
    plan = BoundTemplate(registry()[v.template], v.workload, v.device).render(v.config).plan
    assert "    CUdeviceptr aux = 0;  // uint8 (40, 16)\n" in header(plan, v.workload)


def test_what_is_exported_says_what_a_run_writes() -> None:
    v = variant(*CASES["saves bits, staged"])
    text = header(BoundTemplate(registry()[v.template], v.workload, v.device).render(v.config).plan, v.workload)
    assert "    CUdeviceptr aux = 0;  // uint8 (72, 16), written\n" in text
    assert "status = cuMemsetD8Async(buffers.aux, 0, 1152, stream);" in text
