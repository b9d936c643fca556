"""Tensors on the CPU taken for a GPU's, whose driver is the virtual one; PyTorch's build for CPUs is enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_tune.kernel import arrays
from gpu_tune.torch import routes
from tests.helpers import device_memory, fake_torch


def empty(shape: tuple[int, ...], strides: tuple[int, ...], *, dtype: torch.dtype, device: Any = None) -> Tensor:
    """``torch.empty_strided`` in the virtual GPU's memory; without gaps."""
    size = math.prod(shape) * dtype.itemsize
    facts = {"shape": (size,), "strides": (1,), "typestr": "|u1", "data": (device_memory.allocate(size), False)}
    flat = torch.from_numpy(np.frombuffer(fake_torch.raw(facts), np.uint8))
    return flat.view(dtype).as_strided(shape, strides)


def moved(tensor: Tensor) -> Tensor:
    """A copy there, in the same layout."""
    return empty(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def take(patch: Callable[[Any, str, Any], None], results: Callable[..., Tensor] = empty) -> None:
    """Have every tensor taken for one of GPU 0; ``patch(object, name, value)`` changes what there is."""
    seen = arrays.view

    def view(name: str, value: Any, stream: int = 0) -> arrays.ArrayView:
        found = seen(name, value, stream)
        return replace(found, place=arrays.CUDA, device=0) if found.library == "torch" else found

    patch(arrays, "view", view)
    patch(routes, "gpu_of", lambda tensor: 0)
    patch(routes, "memory", results)
    patch(routes, "current_stream", lambda device: 0)  # of a build with CUDA it would look for a GPU
