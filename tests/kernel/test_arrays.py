"""Arrays that are not what their shape and dtype say: each is refused with one clear error, none computed wrongly."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_tune.errors import InvalidInput
from gpu_tune.kernel import arrays
from gpu_tune.workload import ArraySpec

EYE = np.eye(2, dtype=np.float32)


def interface(**changes: Any) -> SimpleNamespace:
    """An object of the CUDA array interface, with changes; None leaves a key out."""
    facts = {"typestr": "<f4", "shape": (2, 2), "data": (4096, False), "version": 3, **changes}
    return SimpleNamespace(__cuda_array_interface__={k: v for k, v in facts.items() if v is not None})


def field() -> np.ndarray:
    """A float32 field of records of six bytes."""
    return np.zeros(4, dtype=[("x", "f4"), ("pad", "i2")])["x"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (EYE.astype(">f4"), "byte order of another machine"),
        (field(), "no multiples of the 4 bytes"),
        (interface(strides=(6, 4)), "no multiples of the 4 bytes"),
        (interface(typestr="<f"), "no type of elements"),
        (interface(data=None), "malformed __cuda_array_interface__"),
        (interface(data=("x", False)), "malformed __cuda_array_interface__"),
        (interface(data=(0, False)), "has elements but no memory"),
        (interface(shape=3), "malformed __cuda_array_interface__"),
        (np.ma.array(EYE, mask=[[1, 0], [0, 0]]), "masked elements"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(value: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        arrays.view("a", value)


def test_what_is_read_rightly_is_taken() -> None:
    """A byte stride of a dimension of one, a mask that masks nothing, the other byte order where there is none."""
    one = np.zeros((1, 2), dtype=[("x", "f4", 2), ("pad", "i2")])["x"][0, :1]
    assert arrays.view("a", one).strides == (2, 1)
    assert arrays.view("a", np.ma.array(EYE)).shape == (2, 2)
    assert arrays.view("a", EYE.astype(np.dtype("int8").newbyteorder(">"))).dtype == "int8"
    assert arrays.view("a", interface(strides=(8, 4))).strides == (2, 1)
    with pytest.raises(InvalidInput, match="is not float32"):
        arrays.check("a", arrays.view("a", interface(typestr=">f4")), SimpleNamespace(shape=(2, 2), dtype="float32"), 1)


def test_raw_bytes_are_only_what_numpy_has_no_name_for() -> None:
    """The bfloat16 of a library that calls it raw bytes is no float16."""
    raw = arrays.view("a", interface(typestr="|V2"))
    arrays.check("a", raw, ArraySpec((2, 2), "bfloat16"), 1)
    with pytest.raises(InvalidInput, match="void16' is not float16"):
        arrays.check("a", raw, ArraySpec((2, 2), "float16"), 1)


def test_what_must_not_be_written_is_refused_as_out() -> None:
    frozen = EYE.copy()
    frozen.flags.writeable = False
    for value in (frozen, interface(data=(4096, True))):
        with pytest.raises(InvalidInput, match="read-only"):
            arrays.check_writable("out", value)
    for value in (EYE, interface()):
        arrays.check_writable("out", value)


@pytest.mark.parametrize("value", ["2", 1 + 2j, np.complex64(1), np.ones(3), None, [1.0], True, np.True_, np.nan])
def test_what_is_no_real_number_is_no_scalar(value: Any) -> None:
    with pytest.raises(InvalidInput, match="is not a number"):
        arrays.number("alpha", value)


def test_an_integer_beyond_a_float_is_refused() -> None:
    with pytest.raises(InvalidInput, match="beyond what a float can hold"):
        arrays.number("alpha", 10**400)


def test_numbers_of_other_libraries_are_scalars() -> None:
    assert [arrays.number("alpha", v) for v in (2, np.float32(2), np.array(2.0))] == [2.0, 2.0, 2.0]


class Exporter:
    """Offers an array by DLPack alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_an_array_that_only_dlpack_offers_is_read_on_the_host() -> None:
    assert np.array_equal(arrays.on_host("a", Exporter(EYE.copy())), EYE)
    with pytest.raises(InvalidInput, match="cannot be read as a NumPy array"):
        arrays.on_host("a", object())


def test_a_kernel_is_its_own_copy() -> None:
    from gpu_tune.kernel.kernel import TunedKernel

    kernel = TunedKernel.__new__(TunedKernel)
    assert copy.deepcopy({"kernel": kernel})["kernel"] is kernel
