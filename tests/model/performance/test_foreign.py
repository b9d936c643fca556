"""``gpu_tune.predict`` plays a kernel that is none of ours, and refuses what is no launch of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_tune as gt
from gpu_tune.cuda import cubin as cubins
from gpu_tune.cuda import nvrtc
from gpu_tune.errors import CorruptData, InvalidInput
from gpu_tune.model.performance import foreign
from tests.helpers.emulator.snippets import needs_emulator

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
        ({"device": "nvidia-h200"}, r"capability 8.0, nvidia-h200 has 9.0; .* \(device='nvidia-a100'\)"),
        ({"kernel": "other"}, "is no kernel of the cubin; name one of sums"),
        ({"kernel": 3}, "kernel: 3 is no name"),
        ({"grid": 0}, "is not one to three positive integers"),
        ({"grid": 1.5}, "is not one to three positive integers"),
        ({"grid": (1, 2, 3, 4)}, "is not one to three positive integers"),
        ({"block": (64, 32)}, "is more than 1024 threads"),
        ({"block": (1, 1, 128)}, r"block: .* is more than \(1024, 1024, 64\) of x, y and z"),
        ({"grid": (1, 70000)}, r"grid: .* is more than \(2147483647, 65535, 65535\)"),
        ({"device": 5}, "device: 5 is neither a name nor a Device"),
        ({"trips": float("nan")}, "trips: nan is no number in 0.."),
        ({"dram_bytes": -1}, "dram_bytes: -1 is no number in 0.."),
        ({"dram_bytes": 1e300}, r"dram_bytes: 1e\+300 is no number in 0.."),
    ],
)
def test_what_is_no_launch_is_refused(cubin: bytes, options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        gt.predict(cubin, **{"grid": 1, "block": 32, "device": "nvidia-a100", **options})


@pytest.mark.parametrize(
    ("facts", "error", "said"),
    [
        ({"static_shared_bytes": 10**9}, CorruptData, "cubin: .* declares 1,000,000,000 bytes of static shared memory"),
        (None, InvalidInput, "cubin: has no kernel; compile one"),
    ],
)
def test_what_no_compiler_makes_is_not_the_callers_launch(
    cubin: bytes, facts: dict[str, int] | None, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = cubins.read(cubin)
    kernels = {name: replace(kernel, **facts) for name, kernel in read.kernels.items()} if facts else {}
    monkeypatch.setattr(cubins, "read", lambda data: replace(read, kernels=kernels))
    with pytest.raises(error, match=said):
        gt.predict(cubin, 1, 32, device="nvidia-a100")


@pytest.mark.parametrize("cubin", ["missing.cubin", ".", "a\0b", 3])
def test_a_file_that_cannot_be_read_is_named(cubin: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cubin: .* (cannot be read|is neither bytes nor a file's name)"):
        gt.predict(cubin if cubin == 3 else tmp_path / str(cubin), 1, 32)  # type: ignore[arg-type]


STRIDED = """
extern "C" __global__ void strided(const float* a, float* out, int stride, int n) {
    __shared__ float s[32 * PITCH];
    float sum = 0;
    #pragma unroll 1
    for (int i = 0; i < n; ++i) {
        s[threadIdx.x * PITCH + i % 32] = a[(i * 32 + threadIdx.x) * stride];
        __syncwarp();
        sum += s[threadIdx.x * PITCH + (i + 1) % 32];
    }
    out[blockIdx.x * 32 + threadIdx.x] = sum;
}
"""


@needs_emulator
def test_arguments_tell_what_lanes_share(cubin: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Rows of 32 floats meet one bank, and a stride of 32 floats scatters the load: machine code says neither."""
    lined = {
        pitch: nvrtc.to_cubin(f"#define PITCH {pitch}\n{STRIDED}", "sm_80", options=("-lineinfo",)).data
        for pitch in (32, 33)
    }

    def iteration(pitch: int, *arguments: int | np.generic) -> float:
        given = {"arguments": arguments} if arguments else {}
        return gt.predict(lined[pitch], 108 * 32, 32, trips=100, device="nvidia-a100", **given).iteration

    unknown = iteration(33)
    free, conflicts, scattered = (
        iteration(pitch, 2**26, 2**20, np.int32(stride), np.int32(100))
        for pitch, stride in ((33, 1), (32, 1), (33, 32))
    )
    assert free == pytest.approx(unknown, rel=0.1)
    assert conflicts > 1.5 * unknown and scattered > 1.1 * free
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="gpu_tune"):
        found = gt.predict(cubin, 108, 256, device="nvidia-a100", arguments=(2**20, 2**20, np.int32(9)))
    assert found.terms() == gt.predict(cubin, 108, 256, device="nvidia-a100").terms()
    assert "no line information" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((2**20, 2**20), "are not the 3 parameters of kernel 'sums'"),
        ((2**20, 2**20, 2**20), "argument 2: 1048576 is the size of an array, .* the parameter has 4"),
        ((2**20, 2**20, 9.5), r"neither a size nor a NumPy scalar; .* np.float32\(...\)"),
        (5, "arguments: 5 are no list"),
        ({"a": 1, "out": 2, "n": 3}, "are no list"),
        ((2**20, 2**20, np.int64(9)), "takes 8 bytes, the parameter has 4"),
        ((2**20, -1, np.int32(9)), "argument 1: -1 is neither a size nor a NumPy scalar"),
        ((2**20, 2**20, np.int16(9)), "is no number of 4 or 8 bytes"),
        (
            (2**20, 10**15, np.int32(9)),
            "argument 1: 1000000000000000 bytes do not fit.* of nvidia-a100; give the bytes",
        ),
    ],
)
def test_arguments_that_are_not_the_kernels_are_refused(cubin: bytes, arguments: tuple[object, ...], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        gt.predict(cubin, 1, 32, device="nvidia-a100", arguments=arguments)


def test_shared_memory_that_no_launch_has_is_refused(cubin: bytes) -> None:
    for given, said in (
        (10**9, r"block: 32 threads of \d+ registers and 10\d+ bytes .*; launch smaller"),
        (1.5, "is no whole"),
    ):
        with pytest.raises(InvalidInput, match=said):
            gt.predict(cubin, 1, 32, device="nvidia-a100", shared_bytes=given)  # type: ignore[arg-type]


def test_bytes_of_any_kind_arrays_and_numbers_of_numpy_are_taken(cubin: bytes) -> None:
    ask: dict[str, Any] = {"trips": np.int64(7), "device": "nvidia-a100"}
    arrays = (np.zeros(2**10, np.float32), np.zeros(2**10, np.float32), np.int32(9))
    found = [gt.predict(bytearray(cubin), 1, 32, arguments=arrays, **ask), gt.predict(memoryview(cubin), 1, 32, **ask)]
    assert found[0].terms() == found[1].terms() == gt.predict(cubin, 1, 32, trips=7, device="nvidia-a100").terms()


def test_a_kernel_of_cpp_is_named_as_in_its_source() -> None:
    names = ["plain", "_Z3addIfEvPT_", "_ZN1a3subIfEvPT_", "_ZN1b3subIfEvPT_"]
    assert foreign._named("add<float>", names) == foreign._named("add", names) == names[1]
    assert foreign._named("plain", names) == "plain"
    for kernel, said in (
        ("sub", "fits several kernels of the cubin; name one of _ZN1a3subIfEvPT_, _ZN1b"),
        ("dd", "is no kernel of the cubin"),
        (None, "is not named, and the cubin has plain, _Z3add"),
    ):
        with pytest.raises(InvalidInput, match=said):
            foreign._named(kernel, names)


def test_what_other_compilers_make_is_named() -> None:
    ptx = b"//\n.version 8.0\n.target sm_80\n"
    for given, said in ((ptx, "PTX"), (b"\x50\xed\x55\xba rest", "a fat binary"), (SOURCE, "source code")):
        with pytest.raises(InvalidInput, match=f"{said}, not a cubin"):
            gt.predict(given, 1, 32)


def test_what_is_no_cubin_is_damaged_data() -> None:
    with pytest.raises(CorruptData):
        gt.predict(b"\x7fELF nothing", 1, 32)
