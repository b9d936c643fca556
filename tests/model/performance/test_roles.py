"""Warp-specialised kernels: roles found in machine code, and an order that published kernels confirm.

Seconds are not judged for this kind of kernel: no public timings of its variants exist. What is checked is the order of
steps that authors publish for their own kernels, written as configs of ours.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from gpu_tune.cuda import cubin, nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.model.performance import Prediction, block, native, player, predict, prediction, roles
from gpu_tune.model.performance.costs import ACQUIRE, FILL, GIVE, PASS, TAKE, TURN
from gpu_tune.space.knob import Config
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.matmul_wgmma import FLAGSHIP, TEMPLATE
from gpu_tune.workload import Matmul

pytestmark = [
    pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed"),
    pytest.mark.usefixtures("compile_once"),
]
H100 = by_name("nvidia-h100")
PINGPONG = {"schedule": "pingpong", "block_m": 64, "cluster_m": 1}


def large(k: int) -> Matmul:
    return Matmul(8192, 8192, k, dtype="bfloat16", layout="nt")


@functools.cache
def built(k: int, **knobs: Any) -> tuple[Any, bytes]:
    bound = BoundTemplate(TEMPLATE, large(k), H100)
    rendered = bound.render(Config({**FLAGSHIP, **knobs}))
    return rendered, nvrtc.to_cubin(rendered.source, H100.arch).data


def predicted(k: int = 8192, **knobs: Any) -> Prediction:
    rendered, code = built(k, **knobs)
    return predict(code, rendered.plan, rendered.estimate, large(k), H100)


def kernel(k: int = 8192, **knobs: Any) -> block.Kernel:
    rendered, code = built(k, **knobs)
    threads = rendered.plan.kernels[0].threads
    return block.Kernel(cubin.programs(code)["matmul_wgmma"], H100, threads // 32, None, rendered.estimate.loop)


@pytest.mark.parametrize(
    "knobs",
    [{}, PINGPONG, PINGPONG | {"epilogue_store": "staged_shared", "stages": 5}],
    ids=["cooperative", "pingpong", "pingpong, boxes shared"],
)
def test_every_mbarrier_operation_of_the_roles_gets_its_meaning(knobs: dict[str, Any]) -> None:
    found = kernel(**knobs).roles
    assert found is not None
    kinds = list(found.meaning.values())
    turns = 1 if knobs else 0
    assert [kinds.count(k) for k in (ACQUIRE, FILL, TAKE, TURN, PASS)] == [1, 2, 1, turns, turns]
    assert kinds.count(GIVE) == 2  # of the stage before, and of the last one behind the loop
    assert found.takes == found.fills == 1 and found.iterations(128) == 128


@pytest.mark.parametrize("knobs", [{}, PINGPONG], ids=["cooperative", "pingpong"])
def test_the_twins_play_roles_alike(knobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if native.library() is None:
        pytest.skip("needs a C++ compiler")
    found = []
    for library in (native.library(), None):
        monkeypatch.setattr(native, "library", lambda library=library: library)
        k = kernel(**knobs)
        assert k.roles is not None
        found.append(k.roles.play(k.roles.costs(k._table(1), k.sm), k.sm, 3, 6, 1))
    for name in ("times", "causes", "busy"):
        np.testing.assert_allclose(getattr(found[0], name), getattr(found[1], name), rtol=1e-12)


def test_a_step_takes_at_least_its_products_and_a_short_ring_starves() -> None:
    """128 x 256 x 64 multiply-adds of bfloat16 are 1024 cycles of an H100's tensor cores."""
    four, two = predicted(), predicted(stages=2)
    assert four.iteration == pytest.approx(1024, rel=0.05) and four.shares["mma"] > 0.9
    assert two.seconds > 1.3 * four.seconds and two.limiter in ("l2", "latency", "barrier")


def test_a_k_of_few_steps_is_unrolled_and_still_played() -> None:
    assert predicted(256).seconds > 2 * 8192 * 8192 * 256 / H100.peak_flops("fp16")


def test_where_only_copying_is_a_loop_there_are_no_roles_and_a_fill_is_waited_for() -> None:
    few = kernel(128, block_m=64, block_n=16, block_k=64, consumers=1, stages=2, grid="one_per_tile", cluster_m=1)
    assert few.program.hot_loop is not None and few.roles is None
    assert few.wave(1, 1.0, 1).cycles > few.pace(1).cycles(1.0) + 500  # DRAM's latency


def test_what_does_not_fit_together_is_played_without_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(*args: object, **options: object) -> None:
        raise player.Stuck("as planted")

    whole = predicted(k=2048)
    monkeypatch.setattr(prediction, "_players", {})
    monkeypatch.setattr(roles.Roles, "play", stuck)
    found = predicted(k=2048)
    assert 0 < found.seconds != whole.seconds and found.trips > 1


def test_the_order_of_a_published_ladder() -> None:
    """fast.cu (github.com/pranjalssh/fast.cu, README, 8192^3 on an H100): three consumers of a 192 x 192 tile 635
    TFLOP/s; persistent 658, and 777 with cheaper barriers; 128 x 256 by two consumers in clusters of two 799."""
    three = {"block_m": 192, "block_n": 192, "consumers": 3, "cluster_m": 1, "epilogue_store": "direct"}
    ladder = [
        predicted(**three, grid="one_per_tile"),
        predicted(**three, grid="all"),
        predicted(epilogue_store="direct", grid="all"),
    ]
    times = [p.seconds for p in ladder]
    assert times == sorted(times, reverse=True) and times[0] > 1.05 * times[-1]


def test_speed_grows_with_k_as_published() -> None:
    """TileLang (8192 x 8192 x K in half precision on an H800, autotuned): 386, 628, 736 and 766 TFLOP/s at K of 256,
    1024, 4096 and 16384."""
    speeds = [k / predicted(k).seconds for k in (256, 1024, 8192)]
    assert speeds == sorted(speeds) and speeds[0] < 0.8 * speeds[-1]
