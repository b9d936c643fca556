"""First steps on a GPU, simple ones first; each fails by itself and with the driver's own words.

The probes of ``probes/`` have one right answer, which the emulator gives as well (``tests/gpu/test_0_probes.py``): one
that fails here tells what the driver or the hardware does differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_tune
from gpu_tune.cuda import driver, nvml, nvrtc
from gpu_tune.cuda.device import Device, limits
from tests.gpu import probes

pytestmark = pytest.mark.gpu
Ask = Callable[..., Any]


def test_the_driver_has_every_function_that_is_called(gpu: Device):
    text = "".join(path.read_text() for path in Path(gpu_tune.__file__).parent.rglob("*.py"))
    names = set(re.findall(r'(?:call|_encoder)\(\s*"(cu[A-Z]\w+)"', text)) | {"cuLaunchKernelEx", "cuCtxGetDevice"}
    assert len(names) > 25
    missing = [n for n in sorted(names) if not int(driver.call("cuGetProcAddress", n.encode(), 12000, 0)[0])]
    assert not missing and driver.version() >= (12, 0), (missing, driver.version())


def test_nvrtc_and_driver_fit_each_other(gpu: Device):
    assert nvrtc.version()[0] <= driver.version()[0], (nvrtc.version(), driver.version(), nvrtc.library_path())
    assert gpu.cc in nvrtc.architectures(), (gpu.arch, nvrtc.architectures())


def test_the_limits_that_spaces_are_built_on_are_the_gpus(gpu: Device):
    table = limits(gpu.compute_capability)
    assert {n: getattr(gpu, n) for n in table} == table, "the table of device.py differs from what the driver says"
    assert gpu.clock_mhz > 300 and gpu.bandwidth > 1e10 and gpu.l2_bytes >= 1 << 19 and gpu.sm_count > 0


def test_nvml_knows_the_gpu_by_its_bus_id(gpu: Device):
    if not nvml.display_version():
        pytest.skip("NVML is not on this machine: clocks and temperatures are not recorded")
    found = nvml.sensors(driver.bus_id())
    assert nvml.display_version() and found.get("sm_clock_mhz", 0) > 0, found


def test_memory_comes_back_as_it_went(gpu: Device, alone: Ask):
    assert all(alone("memory_round_trip"))


def test_events_time_a_memset_at_a_plausible_rate(gpu: Device, alone: Ask, told: Callable[[str], None]):
    found = alone("bandwidth")
    told(f"memset {found['measured'] / 1e9:.0f} GB/s (driver's figure {found['expected'] / 1e9:.0f}); {found}")
    assert 0.2 < found["measured"] / found["expected"] < 1.5


@pytest.mark.parametrize("graph", [False, True], ids=["launched", "in-a-graph"])
@pytest.mark.parametrize("name", probes.PROBES)
def test_probe(gpu: Device, alone: Ask, name: str, graph: bool):
    least, make = probes.PROBES[name]
    if gpu.cc < least or (name.startswith(probes.HOPPER_ONLY) and gpu.cc != 90):
        pytest.skip(f"needs compute capability {least}")
    got, untouched = alone("probe", name=name, graph=graph)
    expected = make(gpu).expected
    wrong = np.argwhere(got != expected)
    words = [f"{tuple(map(int, i))}: {got[tuple(i)]}, not {expected[tuple(i)]}" for i in wrong[:12]]
    assert not words, f"{len(wrong)} of {expected.size} wrong: {'; '.join(words)}"
    assert untouched, "wrote outside the output"


def test_what_the_gpu_cannot_do_is_refused_in_words_and_costs_nothing(gpu: Device, alone: Ask):
    code, words, sticky = alone("refused", shared_bytes=gpu.shared_bytes_per_block + 1024)
    assert code and "cuFuncSetAttribute" in words and not sticky, words


def test_what_a_launch_in_a_long_graph_costs_is_told(gpu: Device, alone: Ask, told: Callable[[str], None]):
    seconds, host = alone("long_graph", launches=512)
    told(
        f"empty launch in a graph of 512: {seconds * 1e6:.2f} us; issuing the graph takes the host {host * 1e6:.0f} us"
    )
    assert seconds > 0 and host > 0  # told, not judged: it depends on the host


def test_cupy_shares_the_context(gpu: Device, alone: Ask):
    pytest.importorskip("cupy", reason="needs CuPy (gpu_tune[cuda13] or [cuda12])")
    assert alone("beside_cupy")
