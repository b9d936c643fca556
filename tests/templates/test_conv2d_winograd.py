"""Winograd families: transforms and products on the emulator, with every layout, dtype and ragged tile."""

import dataclasses

import numpy as np
import pytest

from gpu_tune import emulator
from gpu_tune.cuda import cubin, nvrtc
from gpu_tune.cuda.device import KNOWN, by_name
from gpu_tune.reference import allocate, compare, example_inputs
from gpu_tune.space.knob import Config
from gpu_tune.templates.base import render
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import registry
from gpu_tune.workload import Conv2d

H200 = by_name("h200")
needs_emulator = pytest.mark.skipif(not emulator.available(), reason=emulator.unavailable_reason())
needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC on this machine (install gpu_tune[cuda13])")
FAMILIES = [
    ("conv2d_winograd", "float16", ()),
    ("conv2d_winograd", "bfloat16", ()),
    ("conv2d_winograd", "float32", ("tf32",)),
    ("conv2d_winograd_simt", "float32", ()),
    ("conv2d_winograd_simt", "float16", ()),
]


def run(name, workload, config, kind="normal", seed=0):
    template = registry()[name]
    assert not template.violations(config, workload, H200)
    arrays = example_inputs(workload, seed, kind)
    out = allocate(workload.arrays()["out"])
    source = render(template, config, workload, H200)
    report = emulator.run_plan(
        source, template.plan(config, workload, H200), {**arrays, "out": out}, arch="sm_90a", device=H200, seed=seed
    )
    assert not report.findings, report.findings[0].message
    numerics = template.numerics(config, workload)
    exact = kind == "integer" and numerics.exact_integers
    return compare(report.arrays["out"], workload, arrays, numerics=numerics, exact=exact)


@needs_emulator
@needs_nvrtc
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_pretransformed_filters_skip_a_step(layout):
    plain = Conv2d(1, 24, 10, 11, 16, 3, 3, padding=1, layout=layout, math=("winograd",), epilogue="bias")
    ahead = dataclasses.replace(plain, weights="pretransformed")
    template = registry()["conv2d_winograd"]
    config = template.default(ahead, H200)
    assert len(template.plan(config, ahead, H200).steps) + 1 == len(template.plan(config, plain, H200).steps)
    assert run("conv2d_winograd", ahead, config).ok


def test_filters_transformed_ahead_are_copied_as_their_alignment_allows():
    template = registry()["conv2d_winograd"]
    loose = Conv2d(
        1, 144, 14, 4, 16, 3, 3, 1, 2, layout="nchw", dtype="float16", math=("winograd",), weights="pretransformed",
        alignment=4,
    )  # fmt: skip
    config = template.default(loose, H200)
    assert config["copy_bytes"] == 4
    wide = Config({**config, "copy_bytes": 16})
    assert any("copy_bytes" in v for v in template.violations(wide, loose, H200))
    assert not template.violations(wide, dataclasses.replace(loose, alignment=16), H200)


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("name", ["conv2d_winograd", "conv2d_winograd_simt"])
def test_defaults_compile_without_spills_for_every_architecture(name):
    workload = Conv2d(1, 64, 56, 56, 64, 3, 3, padding=1, dtype="float16", math=("winograd",))
    template = registry()[name]
    for device in {d.arch: d for d in KNOWN.values() if d.cc >= template.min_cc}.values():
        config = template.default(workload, device)
        log = nvrtc.to_cubin(render(template, config, workload, device), device.arch).log
        for report in cubin.read_log(log).values():
            assert report.spill_bytes == 0 and not report.notes


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (dict(math=()), "permit 'winograd'"),
        (dict(stride=2), "stride 1"),
        (dict(r=5, s=5), "3x3"),
        (dict(groups=2), "one group"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason(fields, reason):
    sizes = dict(n=1, c=8, h=16, w=16, k=8, r=3, s=3, padding=1, math=("winograd",))
    answer = registry()["conv2d_winograd"].supported(Conv2d(**{**sizes, **fields}), H200)
    assert answer is not True and reason in answer


def test_bfloat16_is_never_offered_the_tile_that_it_cannot_round():
    workload = Conv2d(1, 16, 16, 16, 16, 3, 3, padding=1, dtype="bfloat16", math=("winograd",))
    space = BoundTemplate(registry()["conv2d_winograd"], workload, H200).space()
    assert {c["tile"] for c in space.sample(20, np.random.default_rng(0))} == {2}
    assert workload.winograd_tile == 2
