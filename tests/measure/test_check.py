"""Wrong results are found wherever they are wrong, on the virtual GPU, and described by what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_tune.measure import check, runtime
from gpu_tune.measure.check import describe_errors
from gpu_tune.measure.device_data import DeviceData
from gpu_tune.measure.worker import no_note
from gpu_tune.plan import LaunchPlan
from gpu_tune.reference import Numerics, bounds, example_inputs, reference, results
from gpu_tune.workload import Matmul

W = Matmul(9, 10, 8, dtype="float32", ldc=12)


@pytest.fixture
def data(stream: runtime.Stream) -> Iterator[DeviceData]:
    made = DeviceData(W, 0, 1 << 16)
    yield made
    made.close()


def kernel(run: Any) -> Any:
    return SimpleNamespace(run=run, plan=LaunchPlan(()), numerics=Numerics(), workspace=0)


def checked(
    data: DeviceData, stream: runtime.Stream, write: Callable[[np.ndarray], None], **more: bool
) -> check.CheckResult:
    """What the checker says about a kernel that leaves what ``write`` makes of the memory of the right result."""
    right = reference(W, data.arrays).astype(np.float32)
    calls = [0]

    def run(buffers, scalars, on) -> None:
        runtime.synchronize()  # a kernel comes after what is in the stream
        flat = runtime.download(buffers["out"] - 64, data.nbytes("out") + 128).view(np.float32)
        body = np.lib.stride_tricks.as_strided(flat[16:], W.arrays()["out"].shape, (4 * W.ldc, 4))
        body[...] = right
        calls[0] += 1
        write(flat if not more.get("second") or calls[0] > 1 else flat[:0])
        runtime.upload(buffers["out"] - 64, flat)

    return check.Checker(data, stream).check(kernel(run), no_note)


def test_a_right_result_passes_and_its_error_is_told(data: DeviceData, stream: runtime.Stream):
    found = checked(data, stream, lambda flat: None)
    assert found.status == "ok" and 0 < found.error["max_abs"] < 1e-5


def put(index: int, value: float) -> Callable[[np.ndarray], None]:
    def write(flat: np.ndarray) -> None:
        if flat.size:
            flat[index] = value

    return write


@pytest.mark.parametrize("index, second, words", [
    (16 + 3, False, "1 of 90 elements wrong, first at (0, 3)"), (15, False, "outside the output"),
    (-1, False, "outside the output"), (16 + 10, False, "gaps between rows"), (16 + 3, True, "differ between two runs"),
])  # fmt: skip
def test_one_wrong_element_is_found_wherever_it_is(
    data: DeviceData, stream: runtime.Stream, index: int, second: bool, words: str
):
    found = checked(data, stream, put(index, 0.125), second=second)
    assert found.status == "wrong" and words in found.reason


SAVES = Matmul(9, 10, 8, dtype="float32", epilogue="relu(aux)")


@pytest.mark.parametrize("index, second, words", [
    (None, False, ""), (64 + 1, False, "elements of aux wrong, first at (0, 8): got"),
    (63, False, "outside the output"), (-1, False, "outside the output"), (64 + 1, True, "elements of aux differ"),
    (64 + 15, False, ""),  # beyond the ten bits of a row
])  # fmt: skip
def test_a_second_result_is_checked_as_the_first_is(
    stream: runtime.Stream, index: int | None, second: bool, words: str
):
    data, calls = DeviceData(SAVES, 0, 1 << 16), [0]
    right = results(SAVES, data.arrays)

    def run(buffers, scalars, on) -> None:
        runtime.synchronize()
        runtime.upload(buffers["out"], right["out"])
        bytes_ = runtime.download(buffers["aux"] - 64, right["aux"].nbytes + 128)
        bytes_[64:-64] = right["aux"].reshape(-1)
        calls[0] += 1
        if index is not None and calls[0] > second:
            bytes_[index] ^= 1
        runtime.upload(buffers["aux"] - 64, bytes_)

    checker = check.Checker(data, stream)
    found = checker.check(kernel(run), no_note)
    assert (found.status, words in found.reason) == ("wrong" if words else "ok", True), found
    assert words or set(found.error) == {"max_abs", "max_abs of aux"}
    checker.close()
    data.close()


def test_bounds_have_room_for_another_order_of_summation_and_no_more(stream: runtime.Stream):
    w = Matmul(16, 16, 300, dtype="float32")
    arrays = example_inputs(w, 0)
    limits = bounds(w, arrays)
    forward = (arrays["a"] @ arrays["b"]).astype(np.float32)
    compare, address = check.HostCompare(w.arrays()["out"]), runtime.allocate(forward.nbytes)
    runtime.upload(address, forward)
    assert compare.inspect(address, compare.place(limits)).wrong == 0
    forward[2, 3] += 0.01
    runtime.upload(address, forward)
    assert compare.inspect(address, compare.place(limits)).first == (2, 3)


def mask(shape: tuple[int, ...], *index: object) -> np.ndarray:
    made = np.zeros(shape, bool)
    made[tuple(index)] = True  # type: ignore[index]
    return made


def test_all_one_and_a_tail():
    assert describe_errors(np.ones((64, 32), bool)) == "rows all, columns all"
    assert describe_errors(mask((64, 32), 5, 7)) == "rows 5 of 64, columns 7 of 32"
    assert describe_errors(mask((64, 30), slice(None), slice(24, None))) == "rows all, columns 24-29 of 30"


def test_a_repeated_place_shows_its_modulus():
    rows, columns = np.arange(128), np.arange(256)
    wrong = (rows % 16 >= 8)[:, None] & (columns % 64 < 8)[None, :]
    assert describe_errors(wrong) == "rows 8-127 of 128 (8-15 mod 16), columns 0-199 of 256 (0-7 mod 64)"
    assert describe_errors(mask((8, 64), slice(None), slice(1, None, 2))) == "rows all, columns 1-63 of 64 (1 mod 2)"


def test_other_axes_are_rows_and_poison_is_counted():
    wrong = mask((2, 3, 4), 1, 2)
    assert describe_errors(wrong, wrong) == "rows 5 of 6, columns all, 4 of them not written"
