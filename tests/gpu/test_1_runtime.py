"""The worker's use of CuPy, on CuPy: the tests of ``tests/measure/test_runtime.py`` again, on this machine's GPU."""

from __future__ import annotations

import pytest

from gpu_tune.cuda.device import Device
from gpu_tune.measure import runtime
from tests.measure import test_runtime
from tests.measure.test_runtime import *  # noqa: F403

pytestmark = pytest.mark.gpu
pytest.importorskip("cupy", reason="needs CuPy (gpu_tune[cuda13] or [cuda12])")
del test_a_gpu_host_without_cupy_gets_one_error_that_names_the_extra  # noqa: F821  (it would forget the real one)
assert test_runtime.W


@pytest.fixture
def started(gpu: Device) -> None:
    runtime.start(0)
