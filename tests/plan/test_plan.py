"""Launch plans: kept as JSON, legal or refused with the rule that is broken."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_tune.errors import CorruptData, InvalidInput
from gpu_tune.plan import BufferArg, Im2Col, KernelStep, LaunchPlan, MemsetStep, ScalarArg, TensorMapArg

MAP = TensorMapArg("b", "float16", (64, 64), (128,), (64, 8), im2col=Im2Col((0, 0), (1, 1), 64, 32))
ARGS = (BufferArg("a"), ScalarArg("alpha", "float32"), ScalarArg("m", "int32", 7), MAP)
PLAN = LaunchPlan(
    (MemsetStep("workspace", 64), KernelStep("kernel", (4, 1, 1), (128, 1, 1), ARGS, 1024, (2, 1, 1))), 64, True
)


def test_a_plan_survives_json():
    assert LaunchPlan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN.check()
    assert PLAN.kernels[0].threads == 128 and PLAN.kernels[0].blocks == 4


def paths(node, here=()):
    yield here
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from paths(value, (*here, key))


PATHS = [p for p in paths(PLAN.to_json()) if p]


@given(st.sampled_from(PATHS), st.sampled_from([None, "x", -1, 1.5, [], {}, [[]], {"type": "kernel"}, True]))
@settings(max_examples=200, deadline=None)
def test_a_damaged_plan_is_refused_or_still_a_legal_plan(path, junk):
    data = copy.deepcopy(PLAN.to_json())
    node = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = junk
    try:
        plan = LaunchPlan.from_json(data)
    except CorruptData as error:
        assert "launch plan" in str(error)
    else:
        assert plan.check() is plan


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (KernelStep("k", (3, 1, 1), (32, 1, 1), (), cluster=(2, 1, 1)), "multiple of the cluster"),
        (KernelStep("k", (1, 1, 1), (2048, 1, 1), ()), "1024"),
        (KernelStep("k", (1, 70000, 1), (32, 1, 1), ()), "65535"),
        (KernelStep("k;", (1, 1, 1), (32, 1, 1), ()), "identifier"),
        (KernelStep("k", (0, 1, 1), (32, 1, 1), ()), "positive"),
        (KernelStep("k", (1, 1, 1), (32, 1, 1), (BufferArg("d"),)), "'d'"),
        (KernelStep("k", (1, 1, 1), (32, 1, 1), (ScalarArg("gamma", "float32"),)), "gamma"),
        (KernelStep("k", (1, 1, 1), (32, 1, 1), (ScalarArg("m", "half", 1),)), "half"),
        (MemsetStep("workspace", 0), "nbytes"),
    ],
)
def test_illegal_steps_are_refused(step, said):
    with pytest.raises(InvalidInput, match=said):
        LaunchPlan((KernelStep("k", (1, 1, 1), (32, 1, 1), ()), step)).check()
    with pytest.raises(InvalidInput, match="no kernel"):
        LaunchPlan((MemsetStep("workspace", 4),)).check()
