"""conv2d_igemm_wgmma: the gather by the copy engine at every border, stride and dilation; what it refuses; its code."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_tune.errors import InvalidInput
from gpu_tune.plan import TensorMapArg
from gpu_tune.space.knob import Config
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.conv2d_igemm_wgmma import TEMPLATE
from gpu_tune.workload import ITEMSIZE, OUT_DTYPES, Conv2d
from tests.helpers import wgmma_checks as checks
from tests.helpers.wgmma_checks import H200, needs_emulator, needs_nvrtc

assert_assembles_cleanly = functools.partial(checks.assert_assembles_cleanly, TEMPLATE)
assert_computes = functools.partial(checks.assert_computes, TEMPLATE)
RESNET = Conv2d(16, 256, 14, 14, 256, 3, 3, padding=1, dtype="float16", epilogue="scale+bias+relu")
SMALL = Conv2d(2, 72, 9, 7, 40, 3, 3, padding=1, dtype="float16")


def config(dtype: str = "float16", **changes: Any) -> Config:
    return checks.config(dtype, **{"producer_registers": 56, **changes})


def random_workload(r: random.Random) -> Conv2d:
    """Any supported convolution of up to a few tiles: shapes, strides, paddings, dilations, dtypes, epilogues."""
    dtype = r.choice(("float16", "bfloat16", "float16", "bfloat16", "int8", "float8_e4m3", "float32"))
    out_dtype = r.choice(OUT_DTYPES[dtype])
    exact = out_dtype == "int32"
    operations = r.sample(("scale", "bias", "residual", "relu", "gelu", "silu", "clamp(-1,2)"), r.choice((0, 1, 2, 3)))
    groups = r.choice((1, 1, 1, 2, 3))
    while True:
        try:
            return Conv2d(
                n=r.choice((1, 1, 2, 3)),
                c=16 // ITEMSIZE[dtype] * (groups * 8 if groups > 1 else r.choice((1, 2, 3, 8, 9, 16))),
                h=r.randint(1, 18),
                w=r.randint(1, 18),
                k=groups * 32 if groups > 1 else r.choice((8, 24, 33, 64, 72, 100)),
                r=r.choice((1, 2, 3, 3, 5)),
                s=r.choice((1, 2, 3, 3, 7)),
                stride=r.choice((1, 1, 2, (2, 1), (1, 3))),
                padding=r.choice((0, 1, 2, (1, 0), (0, 1, 2, 3))),
                dilation=r.choice((1, 1, 2, (1, 2))),
                groups=groups,
                dtype=dtype,
                out_dtype=out_dtype,
                epilogue="" if exact else "+".join(operations),
                scales=r.choice(("none", "tensor", "row_col")) if ITEMSIZE[dtype] == 1 and not exact else "none",
                math=("tf32",) if dtype == "float32" else (),
            )
        except InvalidInput:
            continue  # the filter did not fit into the image


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(layout="nchw"), "layout 'nhwc' only"),
        (dict(groups=2), "groups=2: a group must have input channels in multiples of 128 bytes"),
        (dict(groups=2, c=128, k=24), "output channels in multiples of 8"),
        (dict(c=36), "c=36 is 72 bytes"),
        (dict(dtype="float32"), "permission math=('tf32',)"),
        (dict(stride=9, h=40, w=40), "stride ends at 8"),
        (dict(padding=129), "bounding box"),
        (dict(dilation=130, h=300, w=300), "bounding box"),
    ],
)
def test_unsupported_workloads_get_the_reason(changes: dict[str, Any], reason: str) -> None:
    base: dict[str, Any] = dict(n=1, c=64, h=20, w=20, k=64, r=3, s=3, dtype="float16")
    assert reason in str(TEMPLATE.supported(Conv2d(**{**base, **changes}), H200))


def test_the_image_map_walks_the_output_pixels() -> None:
    workload = Conv2d(3, 64, 30, 20, 64, 3, 5, stride=(2, 1), padding=(1, 2, 3, 4), dilation=(2, 1), dtype="float16")
    plan = TEMPLATE.plan(config(cluster_n=2), workload, H200)
    image = plan.kernels[0].args[0]
    assert isinstance(image, TensorMapArg) and image.im2col is not None
    assert image.shape == (64, 20, 30, 3) and image.element_strides == (1, 1, 2, 1)
    assert image.im2col.lower_corner == (-3, -1) and image.im2col.upper_corner == (0, -2)
    assert image.im2col.pixels_per_column == 64  # two blocks of the cluster load half the rows each


@needs_nvrtc
def test_default_and_seeds_assemble_without_spills_or_notes() -> None:
    assert not TEMPLATE.violations(TEMPLATE.default(RESNET, H200), RESNET, H200)
    seeds = list(TEMPLATE.seeds(RESNET, H200))
    assert len(seeds) > 5
    for c in seeds[::4]:
        assert_assembles_cleanly(c, RESNET)


@needs_nvrtc
def test_random_configs_assemble_without_spills_or_notes() -> None:
    r = random.Random(3)
    for i in range(3):
        workload = random_workload(r)
        for c in BoundTemplate(TEMPLATE, workload, H200).space().sample(1, np.random.default_rng(i)):
            assert_assembles_cleanly(c, workload)


@needs_nvrtc
def test_the_machine_code_gathers_with_the_copy_engine(tmp_path: Path) -> None:
    text = checks.sass(TEMPLATE, config(cluster_n=2, block_n=64), RESNET, tmp_path)
    assert "UTMALDG.4D.IM2COL.MULTICAST" in text and "UTMALDG.3D" in text and "HGMMA.64x64x16.F32" in text


FEATURES: dict[str, tuple[dict[str, Any], Conv2d]] = {
    "tail of channels": (dict(), SMALL),
    "cluster": (dict(cluster_m=2, cluster_n=2, block_n=64), SMALL),
    "pingpong": (dict(schedule="pingpong", block_m=64, block_n=48, epilogue_store="staged_shared"), SMALL),
    "split K": (dict(split_k=3), SMALL),
    "transposed": (dict(swap_ab=True, block_m=32, epilogue_store="staged_tile"), SMALL),
    "two spans a slice": (dict(block_k=128, stages=2), SMALL),
    "groups": (dict(block_n=32, cluster_m=2), Conv2d(1, 192, 7, 6, 96, 3, 3, padding=1, groups=3, dtype="float16")),
    "groups of 128, transposed": (
        dict(block_n=64, consumers=1, swap_ab=True, block_m=24, split_k=2),
        Conv2d(1, 256, 5, 6, 128, 3, 2, padding=1, groups=2, dtype="float16"),
    ),
    "one pixel": (dict(), Conv2d(1, 8, 1, 1, 8, 1, 1, dtype="bfloat16", epilogue="residual")),
    "seven by one": (dict(block_n=64), Conv2d(1, 16, 17, 9, 24, 7, 1, padding=(3, 3, 0, 0), dtype="bfloat16")),
}


@needs_emulator
@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_computes_the_convolution(name: str) -> None:
    changes, workload = FEATURES[name]
    assert_computes(config(**changes), workload, sms=4, seed=len(name))
