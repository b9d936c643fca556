"""Backward epilogues, and those that save for them, by emulator: masks at every width and in every layout, saved
values, the phases of a stride."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpu_tune.cuda import device
from gpu_tune.kernel.export_cpp import header
from gpu_tune.plan import MemsetStep
from gpu_tune.plan.size import any_of
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
    "saves bits by lanes": (
        "matmul_mma",
        "nvidia-a100",
        Matmul(32, 32, 64, batch=2, ldc=40, epilogue="relu(aux)+residual", **HALF),
        dict(epilogue_store="direct"),
    ),
    "saves bits, transposed": (
        "matmul_wgmma",
        "nvidia-h200",
        Matmul(64, 64, 64, epilogue="bias+relu(aux)", dtype="float16", out_dtype="float32", layout="nt"),
        dict(swap_ab=True, block_n=64),
    ),
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
    "sums of warps": (
        "matmul_mma",
        "nvidia-a100",
        Matmul(75, 45, 64, epilogue="scale+drelu(out)+dbias", dtype="float16", out_dtype="float32", layout="nt"),
        dict(block_m=64, block_n=32, warp_m=32, warp_n=16, epilogue_store="direct", raster_group=1),
    ),
    "sums of parts": (
        "matmul_mma",
        "nvidia-a100",
        Matmul(40, 72, 64, batch=2, epilogue="drelu+dbias", **HALF),
        dict(block_k=32, split_k=2, epilogue_store="direct"),
    ),
    "sums of staged float32": (
        "matmul_wgmma",
        "nvidia-h200",
        Matmul(72, 72, 64, epilogue="bias+dbias", dtype="float16", out_dtype="float32", layout="nt"),
        dict(epilogue_store="staged"),
    ),
    "sums, transposed": (
        "matmul_wgmma",
        "nvidia-h200",
        Matmul(40, 72, 64, batch=2, epilogue="drelu+dbias", **HALF),
        dict(swap_ab=True, block_n=64),
    ),
    "sums of plain units": ("matmul_simt", "nvidia-t4", Matmul(37, 45, 32, epilogue="residual+dbias", dtype="float32")),
    "sums of phases": (
        "conv2d_dgrad_mma",
        "nvidia-a100",
        Conv2d(2, 40, 7, 7, 64, 3, 3, stride=2, padding=1, epilogue="drelu+dbias", **IMAGE),
    ),
    "sums of pixels, channels first": (
        "conv2d_igemm_mma",
        "nvidia-a100",
        Conv2d(2, 16, 7, 7, 40, 3, 3, groups=2, layout="nchw", epilogue="dbias", **FORWARD),
        dict(epilogue_store="direct"),
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


@pytest.mark.parametrize("case, found, planted, said", [
    ("staged", "if (passed) atomicOr(", "if (passed && threadIdx.x % 128 != 5) atomicOr(", "elements of aux wrong"),
    ("staged", "1u) << i;", "1u) << (i ^ 1);", "elements of aux wrong"),
    ("staged", "if (passed) atomicOr((unsigned*)aux +", "if (passed) atomicOr((unsigned*)aux - 1 +", "buffer"),
    ("transposed", "passed, 16)", "passed, 4)", "elements of aux wrong"),
])  # fmt: skip
def test_a_mask_that_is_saved_wrong_is_found(case: str, found: str, planted: str, said: str) -> None:
    family, chip, w, *knobs = CASES[f"saves bits, {case}"]
    v = variant(family, chip, w, **dict(*knobs))
    rendered = BoundTemplate(registry()[v.template], v.workload, v.device).render(v.config)
    # bits are added to zeros; whole bytes need none
    assert found in rendered.source and isinstance(rendered.plan.steps[0], MemsetStep) == (
        "atomicOr" in rendered.source
    )
    assert ("atomicOr" in rendered.source) == (case == "staged")
    outcome = Outcome()
    run_checks(outcome, rendered.source.replace(found, planted), Problem.of(rendered, v), 3)
    assert any(said in failure.message for failure in outcome.failures), outcome.failures


@pytest.mark.parametrize("case, found, planted", [
    ("sums of parts", "row < last; ++row", "row < last - 1; ++row"),
    ("sums of parts", "* (part + 1) / 64", "* (part + 1) / 64 + (part < 63)"),
    ("sums of parts", "part < 64; ++part", "part < 63; ++part"),
    ("sums of warps", "first_sum = ", "first_sum = 1 ^ "),
    ("sums of warps", "threadIdx.x & 8 ?", "threadIdx.x & 4 ?"),
    ("sums of rows and batches", "(z * 3 + tile_m)", "(z * 2 + tile_m)"),
])  # fmt: skip
def test_sums_that_leave_out_or_repeat_a_row_are_found(case: str, found: str, planted: str) -> None:
    family, chip, w, *knobs = CASES[case]
    v = variant(family, chip, w, **dict(*knobs))
    rendered = BoundTemplate(registry()[family], w, v.device).render(v.config)
    assert found in rendered.source
    outcome = Outcome()
    run_checks(outcome, rendered.source.replace(found, planted), Problem.of(rendered, v), 3)
    assert any("elements of dbias wrong" in failure.message for failure in outcome.failures), outcome.failures


def test_sums_are_one_step_behind_a_kernel_that_leaves_them_else_two_and_part_of_the_kernels_identity() -> None:
    steps = {"sums of parts": ["sum_columns", "add_column_sums"], "sums behind counters": ["add_column_sums"]}
    for case, added in steps.items():
        family, chip, w, knobs = CASES[case]
        v = variant(family, chip, w, **knobs)
        bound, plain = (BoundTemplate(registry()[family], one, v.device) for one in (w, w.unsummed()))
        rendered, before = bound.render(v.config), plain.render(v.config)
        names = [[step.kernel for step in found.plan.kernels] for found in (rendered, before)]
        assert names[0] == names[1] + added
        assert rendered.source.startswith(before.source) == (len(added) == 2)
        assert rendered.plan.zeroed_span == before.plan.zeroed_span
        assert rendered.estimate.workspace_bytes == rendered.plan.workspace_bytes > before.plan.workspace_bytes
        assert bound.hash != plain.hash and plain.hash == registry()[family].hash()
    assert before.plan.zeroed_span > 0  # of counters


def test_sums_of_an_open_size_are_as_many_as_its_tiles() -> None:
    w = Matmul(40, 72, 64, epilogue="drelu+dbias", **HALF)
    found = BoundTemplate(registry()["matmul_mma"], w, device.by_name("nvidia-a100"), open=any_of(1, 100))
    rendered = found.render(variant("matmul_mma", "nvidia-a100", w).config)
    assert rendered.open_plan is not None and rendered.plan == rendered.open_plan.at(40)
    rows = [rendered.open_plan.at(m).workspace_bytes // (4 * 72) for m in (16, 17, 100)]
    assert rows == [1, 2, 7]
    outcome = Outcome()
    for m in (1, 33):
        problem = Problem(rendered.open_plan.at(m), replace(w, m=m), found.device, rendered.numerics)
        run_checks(outcome, rendered.source, problem, 3)
    assert outcome.runs == 6 and not outcome.failures, outcome.failures


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
