"""Arrays in the virtual GPU's memory."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.helpers import device_memory as memory


class OnGpu:
    """An array in the virtual GPU's memory, known by its __cuda_array_interface__ alone."""

    def __init__(self, array: np.ndarray, offset: int = 0) -> None:
        self.spec = SimpleNamespace(shape=array.shape, strides=array.strides, dtype=array.dtype)
        self.span = sum((d - 1) * s for d, s in zip(array.shape, array.strides)) + array.itemsize
        self.address = memory.allocate(self.span + 64) + offset
        memory.upload(
            self.address, np.frombuffer((ctypes.c_ubyte * self.span).from_address(array.ctypes.data), np.uint8).copy()
        )

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "shape": spec.shape,
            "typestr": spec.dtype.str,
            "data": (self.address, False),
            "strides": spec.strides,
            "version": 3,
        }

    def put(self, array: np.ndarray) -> None:
        """Overwrite it, once all work is done."""
        memory.synchronize()
        memory.upload(
            self.address, np.frombuffer((ctypes.c_ubyte * self.span).from_address(array.ctypes.data), np.uint8).copy()
        )

    def get(self) -> np.ndarray:
        """A copy on the host, once all work is done."""
        memory.synchronize()
        raw = memory.download(self.address, self.span)
        return np.ndarray(self.spec.shape, self.spec.dtype, raw.tobytes(), 0, self.spec.strides)


class CupyLike(OnGpu):
    """The same, as CuPy's arrays show themselves."""

    def __init__(self, array: np.ndarray, offset: int = 0) -> None:
        super().__init__(array, offset)
        self.shape, self.strides, self.dtype = array.shape, array.strides, array.dtype
        self.device = SimpleNamespace(id=0)
        self.data = SimpleNamespace(ptr=self.address, device_id=0)


CupyLike.__module__ = "cupy"
