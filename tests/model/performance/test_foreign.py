"""``gpu_tune.predict`` plays a kernel that is none of ours, and refuses what is no launch of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import gpu_tune as gt
from gpu_tune.cuda import nvrtc
from gpu_tune.errors import CorruptData, InvalidInput

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")
SOURCE = """
extern "C" __global__ void sums(const float* a, float* out, int n) {
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum = fmaf(a[i], sum, 1.0f);
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
"""


@pytest.fixture(scope="module")
def cubin() -> bytes:
    return nvrtc.to_cubin(SOURCE, "sm_80").data


def test_more_work_takes_longer(cubin: bytes, tmp_path: Path) -> None:
    def seconds(grid: int, trips: float, dram: float = 0.0) -> float:
        return gt.predict(cubin, grid, 256, trips=trips, dram_bytes=dram, device="nvidia-a100").seconds

    assert 0 < seconds(108, 10) < seconds(108, 1000) < seconds(108 * 64, 1000)
    assert seconds(108, 10, 1e9) > 1e9 / 2.1e12, "no launch moves bytes faster than DRAM does"
    (tmp_path / "sums.cubin").write_bytes(cubin)
    whole = gt.predict(tmp_path / "sums.cubin", (54, 2), (16, 16), kernel="sums", trips=10, device="nvidia-a100")
    assert whole.seconds == seconds(108, 10) and whole.judged == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "nvidia-h200"}, "of compute capability 8.0, nvidia-h200 has 9.0"),
        ({"kernel": "other"}, "is none of sums"),
        ({"grid": 0}, "is not one to three positive integers"),
        ({"grid": (1, 2, 3, 4)}, "is not one to three positive integers"),
        ({"block": 2048}, "is more than 1024 threads"),
        ({"trips": float("nan")}, "trips: nan is no finite number"),
        ({"dram_bytes": -1}, "dram_bytes: -1 is no finite number"),
    ],
)
def test_what_is_no_launch_is_refused(cubin: bytes, options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        gt.predict(cubin, **{"grid": 1, "block": 32, "device": "nvidia-a100", **options})


def test_what_is_no_cubin_is_damaged_data() -> None:
    with pytest.raises(CorruptData):
        gt.predict(b"\x7fELF nothing", 1, 32)
