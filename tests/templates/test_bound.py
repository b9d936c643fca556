"""A bound template: what it renders, and how often."""

from __future__ import annotations

from dataclasses import is_dataclass

import pytest

from gpu_tune.cuda.device import by_name
from gpu_tune.errors import InvalidConfig, Unsupported
from gpu_tune.templates.registry import bind, registry
from gpu_tune.workload import Conv2d, Matmul

H200 = by_name("nvidia-h200")
WORKLOADS = (
    Matmul(512, 384, 256, dtype="float16", layout="nt", epilogue="bias+gelu"),
    Conv2d(2, 64, 14, 14, 64, 3, 3, padding=1, layout="nhwc", dtype="float16"),
)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.op)
def test_source_and_plan_of_a_config_share_what_is_derived(workload: Matmul | Conv2d) -> None:
    counted = [b for b in bind(workload, H200) if hasattr(b.template.derive, "cache_info")]
    assert len(counted) >= 3
    for bound in counted:
        before = bound.template.derive.cache_info().misses  # type: ignore[attr-defined]
        config = bound.default().replace()
        rendered = bound.render(config)
        assert bound.template.derive.cache_info().misses <= before + 1  # type: ignore[attr-defined]
        assert rendered.plan.kernels[0].kernel in rendered.source


def test_a_view_is_computed_where_the_workload_itself_is_not() -> None:
    pointwise = Conv2d(2, 64, 14, 14, 128, 1, 1, layout="nhwc", dtype="float16")
    by = {b.name: b for b in bind(pointwise, H200)}
    matmul, direct = by["matmul_mma"], by["conv2d_direct"]
    assert matmul.workload == direct.computed == pointwise and isinstance(matmul.computed, Matmul)
    assert direct.view is None and matmul.view is not None and matmul.view.workload == matmul.computed
    assert matmul.space().bound is matmul and matmul.on(WORKLOADS[0]).computed == WORKLOADS[0]
    with pytest.raises(Unsupported, match="no template computes"):
        bind(pointwise, H200, {})


def test_an_invalid_config_is_refused_with_every_rule_it_breaks() -> None:
    bound = bind(WORKLOADS[0], H200)[0]
    with pytest.raises(InvalidConfig, match=f"{bound.name} config .*unknown knob 'typo'"):
        bound.render(bound.default().replace(typo=1))


DEPTHWISE = Conv2d(1, 64, 14, 14, 64, 3, 3, padding=1, groups=64, layout="nhwc", dtype="float16")
WINOGRAD = Conv2d(2, 64, 14, 14, 64, 3, 3, padding=1, layout="nhwc", dtype="float16", math=("winograd",))
GRADIENTS = [
    Conv2d(2, 64, 14, 14, 64, 3, 3, padding=1, groups=groups, layout="nhwc", dtype="float16", direction=direction)
    for direction in ("dgrad", "wgrad")
    for groups in (1, 64)
]


def test_what_reaches_a_source_has_named_fields_that_say_what_they_are() -> None:
    """No untyped dict of more than ten keys; layout, storage, pipeline and launch read as one line each."""
    seen = set()
    for workload in (*WORKLOADS, DEPTHWISE, WINOGRAD, *GRADIENTS):
        for bound in bind(workload, H200):
            g = bound.template.derive(bound.default(), bound.computed, H200)
            seen.add(bound.name)
            if isinstance(g, dict):
                assert len(g) <= 10, bound.name
                continue
            assert is_dataclass(g) and g.__dataclass_params__.frozen  # type: ignore[attr-defined]
            for one in getattr(g, "phases", (g,)):  # several products, or the one
                parts = [getattr(one, n) for n in ("layout", "storage", "pipeline", "launch") if hasattr(one, n)]
                assert len(parts) >= 3 and all(is_dataclass(p) and p.__dataclass_params__.frozen for p in parts)
                assert all(len(str(p)) < 250 and "(" not in str(p) and "\n" not in str(p) for p in parts), bound.name
    assert seen == set(registry())
