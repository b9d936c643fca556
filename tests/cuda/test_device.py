"""Devices: names, limits and peaks of known chips, and what is taken for unknown ones."""

import pytest

from gpu_tune.cuda.device import DEFAULT, KNOWN, by_name, from_driver, limits
from gpu_tune.errors import InvalidInput

ASKED = ("a100", "a10", "rtx-3090", "rtx-4090", "l40s", "h100", "h100-pcie", "h200", "b200", "rtx-5090")


@pytest.mark.parametrize("name", ASKED)
def test_known_chips_are_found_under_short_long_and_product_names(name):
    device = by_name(name)
    assert (
        device is by_name(f"nvidia-{name}") is by_name(device.product) is by_name(device.chip) is by_name(name.upper())
    )


def test_an_unknown_chip_is_refused_with_a_suggestion():
    with pytest.raises(InvalidInput, match=r"h2000.*h200.*rtx-5090"):
        by_name("h2000")


def test_published_peaks_follow_from_the_table():
    # dense TFLOP/s with float32 accumulation, from the products' data sheets
    for name, kind, tflops in (
        ("a100", "fp16", 312),
        ("rtx-4090", "fp16", 165),
        ("l40s", "fp8", 733),
        ("h200", "fp8", 1979),
        ("rtx-3090", "fp32", 35.6),
        ("a10", "int8", 250),
    ):
        assert by_name(name).peak_flops(kind) / 1e12 == pytest.approx(tflops, rel=0.09)


def test_three_kinds_of_h100_are_three_chips():
    sxm, pcie = by_name("h100"), by_name("h100-pcie")
    slice_ = from_driver(sxm.product, dict(compute_capability=(9, 0), sm_count=60, memory_bytes=40 * 2**30))
    assert len({sxm.chip, pcie.chip, slice_.chip}) == 3
    assert slice_.flops_per_clock == sxm.flops_per_clock and slice_.known


def test_a_product_outside_the_table_gets_the_limits_of_its_capability():
    attributes = dict(
        compute_capability=(8, 9),
        sm_count=46,
        memory_bytes=12 * 2**30,
        l2_bytes=36 * 2**20,
        clock_mhz=2500,
        bandwidth=504e9,
    )
    device = from_driver("NVIDIA GeForce RTX 4070", attributes)
    assert device.name == "nvidia-rtx-4070" and not device.known
    assert device.shared_bytes_per_block == 101376 and device.arch == "sm_89" and device.peak_flops("fp16") > 0


def test_a_capability_outside_the_table_gets_the_limits_of_the_one_below():
    """10.7, which compilers know since 13.4."""
    attributes = dict(compute_capability=(10, 7), sm_count=160, memory_bytes=288 * 2**30, l2_bytes=128 * 2**20)
    device = from_driver("NVIDIA R100", attributes)
    assert device.arch == "sm_107" and device.chip == "nvidia-r100-160sm-288gb" and not device.known
    assert device.shared_bytes_per_block == 232448 and device.peak_flops("fp16") > 0


def test_occupancy_is_bounded_by_threads_registers_shared_memory_and_blocks():
    d = by_name("h200")
    assert d.resident_blocks(1024, 32, 0) == 2
    assert d.resident_blocks(256, 255, 0) == 1
    assert d.resident_blocks(32, 16, 0) == 32
    assert d.resident_blocks(128, 32, 100_000) == 2
    assert d.resident_blocks(128, 32, 232_448) == 1 and d.resident_blocks(128, 32, 232_449) == 0
    assert by_name("rtx-4090").resident_blocks(128, 32, 101_376) == 1


def test_default_exists_and_architectures_are_exact_where_wgmma_needs_it():
    assert by_name(DEFAULT).arch == "sm_90a" and by_name("b200").arch == "sm_100"
    assert {limits(d.compute_capability)["threads_per_sm"] for d in KNOWN.values()} <= {1024, 1536, 2048}


@pytest.mark.parametrize(
    "product, mib, chip",
    [
        ("NVIDIA H200", 143156, "nvidia-h200-132sm-141gb"),
        ("NVIDIA H200", 143771, "nvidia-h200-132sm-141gb"),
        ("NVIDIA H100 80GB HBM3", 81004, "nvidia-h100-132sm-80gb"),
        ("NVIDIA H100 80GB HBM3", 81559, "nvidia-h100-132sm-80gb"),
        ("NVIDIA H100 80GB HBM3", 40448, "nvidia-h100-132sm-40gb"),
    ],
)
def test_what_drivers_say_of_the_memory_makes_no_other_chip_of_the_same_product(product, mib, chip):
    device = from_driver(product, dict(compute_capability=(9, 0), sm_count=132, memory_bytes=mib * 2**20))
    assert device.chip == chip and device.memory_bytes == mib * 2**20


def test_a_driver_that_tells_no_clock_gets_one_of_the_table():
    attributes = dict(compute_capability=(12, 1), sm_count=48, memory_bytes=119 * 2**30, l2_bytes=24 * 2**20)
    device = from_driver("NVIDIA GB10", attributes)
    assert device.clock_mhz > 0 and 0 < device.bandwidth < 1.8e12 and not device.known
