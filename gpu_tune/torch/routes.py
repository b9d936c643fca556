"""Who serves an operator's call: decided once for each set of layouts, then only addresses are read.

On a GPU our kernel serves where a stored verdict says that it is faster, else PyTorch (cuBLAS, cuDNN); what PyTorch
cannot compute, our kernel, tuned or not. Tensors on the CPU are computed by PyTorch in the kernels' arithmetic, or by
the reference in float64 (int8 and float8), with one warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..cuda.driver import DriverError
from ..errors import InvalidInput
from ..kernel import arrays
from ..kernel.kernel import TunedKernel
from ..workload import Workload
from . import arithmetic, layouts
from .calls import Convolution, Operands, Product
from .gradient_calls import Gradient

Call = Product | Convolution | Gradient
Tensors = Sequence[Tensor | None]
Route = Callable[..., Tensor]
"""Computes a call from the tensors that are given, in the operator's order."""
KEPT = 4096
"""Calls whose routes, and addresses whose launches, are kept."""


def keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """Put it into a memory that is emptied when it is full."""
    if len(kept) >= KEPT:
        kept.clear()
    kept[key] = value


class OnCpu(UserWarning):
    """Tensors on the CPU were computed by PyTorch or NumPy, not by a kernel of ours."""


def forget() -> None:
    """Ask the store again who serves which call: winners have come, or GPU_TUNE_CACHE_DIR names another folder.

    A tuning in this process does it when it publishes.
    """
    dispatch.forget()


def decide(call: Call, names: tuple[str, ...], tensors: tuple[Tensor, ...]) -> tuple[Route, bool]:
    """Who serves a call, gradients aside, and whether all calls with such layouts are served so.

    ``names`` are those of ``tensors``, all that the call is given.
    """
    with torch.no_grad():  # gradients are the operator's, whoever calls its body
        return _decided(call, names, tensors)


def _decided(call: Call, names: tuple[str, ...], tensors: tuple[Tensor, ...]) -> tuple[Route, bool]:
    given = dict(zip(names, tensors))
    lead = tensors[0]
    dtype, shape = layouts.result_dtype(lead.dtype, call.out_dtype), call.shape(given)
    if not isinstance(call, Gradient):
        arithmetic.parse(call.epilogue)  # which refuses second results

    def by_torch(native: bool) -> Route:
        return lambda *now: laid(call.by_torch(dict(zip(names, now)), dtype, native), laid_as, shape, dtype)

    laid_as: Call = call
    if any(0 in tensor.shape for tensor in tensors):
        return by_torch(False), True
    fitted, found = call.fitted(given)
    laid_as = fitted
    workload = fitted.workload(found)
    check(workload, found)

    def by_dispatch(*now: Tensor) -> Tensor:
        with torch.no_grad():
            again, operands = call.fitted(dict(zip(names, now)))
            return laid(again.by_dispatch(operands), fitted, shape, dtype)

    gpu = gpu_of(lead)
    if gpu is None:
        say_on_cpu()
        return by_torch(False) if lead.dtype in layouts.WIDE else by_dispatch, True
    served = dispatch.server(workload, gpu, "torch")
    if served is None:
        return by_torch(True), True
    copied = any(found[name].data_ptr() != tensor.data_ptr() for name, tensor in given.items())
    if copied or not isinstance(served, TunedKernel):
        return by_dispatch, True
    try:
        return _prepared(served, fitted, workload, names, found, (shape, dtype), by_dispatch), True
    except InvalidInput:  # the addresses of these tensors; others of their kind may do
        return by_dispatch, False


def _prepared(
    kernel: TunedKernel,
    call: Call,
    workload: Workload,
    names: tuple[str, ...],
    found: Operands,
    result: tuple[tuple[int, ...], torch.dtype],
    otherwise: Route,
) -> Route:
    """Launches of our kernel, from the tensors' addresses alone; ``otherwise`` where those are not as they must be."""
    shape, dtype = result
    strides = call.strides(shape)
    lead = found[workload.inputs[0]]
    device, place, empty, stream = gpu_of(lead), lead.device, memory, current_stream
    assert device is not None
    out = empty(shape, strides, dtype=dtype, device=place)
    array = out.permute(0, 2, 3, 1) if call.nhwc else out.reshape(workload.arrays()["out"].shape)
    bound = kernel.bind(**found, **call.scalars(workload), out=array, stream=stream(device))
    path, scalars = bound.path, bound.scalars
    order = [*(names.index(name) for name in path.names[:-1]), len(names)]  # the result is last
    ready: dict[tuple[int, ...], Callable[[], Any]] = {}  # launches by the addresses of tensors and result, and stream
    current, handle, good, address = path.current_device, path.handle, path.good, Tensor.data_ptr

    def first(now: tuple[Tensor, ...], made: Tensor, key: tuple[int, ...]) -> Tensor:
        """A launch from addresses that are not known, or from a thread that has no context of this GPU."""
        pointers = [key[i] for i in order]
        if not path.launch(pointers, key[-1], scalars):
            return otherwise(*now)
        issue = path.prepared(pointers, key[-1], scalars)
        if issue is not None:
            keep(ready, key, issue)
        return made

    def launch(*now: Tensor) -> Tensor:
        made = empty(shape, strides, dtype=dtype, device=place)
        key = (*map(address, now), address(made), stream(device))
        issue = ready.get(key)
        code, here = current()
        if issue is None or code is not good or int(here) != handle:
            return first(now, made, key)
        (code,) = issue()
        return made if code is good else failed(code)

    return launch


def failed(code: Any) -> Any:
    """Raise the error of a launch."""
    raise DriverError("cuLaunchKernelEx", int(code), code.name)


def gpu_of(tensor: Tensor) -> int | None:
    """The number of the GPU whose memory holds the tensor; None for the CPU's."""
    return tensor.get_device() if tensor.is_cuda else None


memory: Callable[..., Tensor] = torch.empty_strided
"""Where results are written to."""
current_stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 0)
"""The stream (a CUstream) that PyTorch works on now on a GPU, by its number; 0 of a build without CUDA."""


def laid(y: Tensor, call: Call, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """``y`` exactly as the fake implementation promises: shape, data type and strides; a copy only where it must be."""
    assert y.dtype is dtype, f"{y.dtype} is not the {dtype} that was promised"
    strides = call.strides(shape)
    y = y if y.shape == shape else y.reshape(shape)  # a batch of one
    if y.stride() == strides:
        return y
    if all(n == 1 or have == want for n, have, want in zip(shape, y.stride(), strides)):
        return y.as_strided(shape, strides)
    return torch.empty_strided(shape, strides, dtype=dtype, device=y.device).copy_(y)


def check(workload: Workload, operands: Mapping[str, Tensor]) -> None:
    """Raise InvalidInput unless ``operands`` are what ``workload`` has, in one place."""
    specs, first = workload.arrays(), workload.inputs[0]
    for name, tensor in operands.items():
        if name not in specs or name in workload.outputs:
            known = ", ".join(n for n in specs if n not in workload.outputs)
            raise InvalidInput(name, ..., f"is no argument of {workload.key}", f"it takes {known}")
        arrays.check(name, arrays.view(name, tensor), specs[name], 1, compiled=False)
        if tensor.device != operands[first].device:
            rule = f"is not where {first} is ({operands[first].device})"
            raise InvalidInput(name, str(tensor.device), rule, "put all tensors on one device")
    for name in specs:
        if name not in operands and name not in workload.outputs:
            raise InvalidInput(name, ..., f"is missing: {workload.key} needs it", f"pass {name}=")


_said = False


def say_on_cpu() -> None:
    """Warn, once, that no kernel of ours runs."""
    global _said
    if not _said:
        _said = True
        words = "tensors on the CPU are computed by PyTorch or NumPy: right, but no kernel of gpu_tune runs, and their "
        warnings.warn(words + "time says nothing about one", OnCpu, stacklevel=5)
