"""Who serves an operator's call: decided once for each set of layouts, then only addresses are read.

On a GPU our kernel serves where a stored verdict says that it is faster, else PyTorch (cuBLAS, cuDNN); what PyTorch
cannot compute, our kernel, tuned or not. Tensors on the CPU are computed by PyTorch in the kernels' arithmetic, or by
the reference in float64 (int8 and float8), with one warning.
"""

from __future__ import annotations

import operator
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
Route = Callable[[Tensors], Tensor]
"""Computes a call from its tensors, in the operator's order."""
KEPT = 4096
"""Sets of layouts whose route is kept."""


class OnCpu(UserWarning):
    """Tensors on the CPU were computed by PyTorch or NumPy, not by a kernel of ours."""


def forget() -> None:
    """Ask the store again who serves which call: winners have come, or GPU_TUNE_CACHE_DIR names another folder.

    A tuning in this process does it when it publishes.
    """
    dispatch.forget()


class Table:
    """The routes of one operator. ``names`` are those of its tensors, ``call(*options)`` describes a call of it.

    ``known`` has them by a key of the operator's own making, which tells all of a call but addresses.
    """

    def __init__(self, names: tuple[str, ...], call: Callable[..., Call]) -> None:
        self._names, self._call = names, call
        self.known: dict[Any, Route] = {}
        dispatch.forgetting.append(self.known.clear)

    def decide(self, key: Any, tensors: Tensors, options: tuple[Any, ...]) -> Route:
        """The route of a call whose key is not known, and is from now on."""
        with torch.no_grad():  # gradients are the operator's, whoever calls its body
            route, keep = _decided(self._call(*options), self._names, tensors)
        if len(self.known) >= KEPT:
            self.known.clear()
        if keep:
            self.known[key] = route
        return route


def facts(tensor: Tensor) -> tuple[Any, ...]:
    """What a key tells of a tensor."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.get_device()


def _decided(call: Call, names: tuple[str, ...], tensors: Tensors) -> tuple[Route, bool]:
    """Who serves the call, and whether all calls with such layouts are served so."""
    given = _named(names, tensors)
    lead = next(iter(given.values()))
    dtype, shape = layouts.result_dtype(lead.dtype, call.out_dtype), call.shape(given)

    def by_torch(native: bool) -> Route:
        return lambda now: laid(call.by_torch(_named(names, now), dtype, native), laid_as, shape, dtype)

    laid_as: Call = call
    if any(0 in tensor.shape for tensor in given.values()):
        return by_torch(False), True
    fitted, found = call.fitted(given)
    laid_as = fitted
    workload = fitted.workload(found)
    check(workload, found)

    def by_dispatch(now: Tensors) -> Tensor:
        with torch.no_grad():
            again, operands = call.fitted(_named(names, now))
            return laid(again.by_dispatch(operands), fitted, shape, dtype)

    gpu = gpu_of(lead)
    if gpu is None:
        _say_on_cpu()
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
    device, place, empty = gpu_of(lead), lead.device, memory
    assert device is not None
    out = empty(shape, strides, dtype=dtype, device=place)
    array = out.permute(0, 2, 3, 1) if call.nhwc else out.reshape(workload.arrays()["out"].shape)
    stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 0)
    bound = kernel.bind(**found, **call.scalars(workload), out=array, stream=stream(device))
    path, scalars = bound.path, bound.scalars
    order = tuple(names.index(name) for name in path.names[:-1])
    ready: dict[tuple[int, ...], Callable[[], Any]] = {}  # launches by addresses and stream
    current, handle, good = path.current_device, path.handle, path.good

    def first(now: Tensors, made: Tensor, key: tuple[int, ...]) -> Tensor:
        """A launch from addresses that are not known, or from a thread that has no context of this GPU."""
        if not path.launch(key[:-1], key[-1], scalars):
            return otherwise(now)
        issue = path.prepared(key[:-1], key[-1], scalars)
        if issue is not None:
            if len(ready) >= KEPT:
                ready.clear()
            ready[key] = issue
        return made

    pick, address = operator.itemgetter(*order), Tensor.data_ptr

    def launch(now: Tensors) -> Tensor:
        made = empty(shape, strides, dtype=dtype, device=place)
        key = (*map(address, pick(now)), address(made), stream(device))
        issue = ready.get(key)
        code, here = current()
        if issue is None or code is not good or int(here) != handle:
            return first(now, made, key)
        (code,) = issue()
        return made if code is good else _failed(code)

    def launch_two(now: Any) -> Tensor:
        made = empty(shape, strides, dtype=dtype, device=place)
        key = (now[0].data_ptr(), now[1].data_ptr(), made.data_ptr(), stream(device))
        issue = ready.get(key)
        code, here = current()
        if issue is None or code is not good or int(here) != handle:
            return first(now, made, key)
        (code,) = issue()
        return made if code is good else _failed(code)

    return launch_two if order == (0, 1) else launch


def _failed(code: Any) -> Any:
    raise DriverError("cuLaunchKernelEx", int(code), code.name)


def gpu_of(tensor: Tensor) -> int | None:
    """The number of the GPU whose memory holds the tensor; None for the CPU's."""
    return tensor.get_device() if tensor.is_cuda else None


memory: Callable[..., Tensor] = torch.empty_strided
"""Where results are written to."""


def _named(names: tuple[str, ...], tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in zip(names, tensors) if tensor is not None}


def laid(y: Tensor, call: Call, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """``y`` exactly as the fake implementation promises: shape, data type and strides; a copy only where it must be."""
    assert y.dtype is dtype, f"{y.dtype} is not the {dtype} that was promised"
    strides = call.strides(shape)
    y = y.reshape(shape)  # a batch of one
    if y.stride() == strides:
        return y
    if all(n == 1 or have == want for n, have, want in zip(shape, y.stride(), strides)):
        return y.as_strided(shape, strides)
    return torch.empty_strided(shape, strides, dtype=dtype, device=y.device).copy_(y)


def check(workload: Workload, operands: Mapping[str, Tensor]) -> None:
    """Raise InvalidInput unless ``operands`` are what ``workload`` has, in one place."""
    specs, first = workload.arrays(), workload.inputs[0]
    for name, tensor in operands.items():
        if name not in specs:
            known = ", ".join(n for n in specs if n != "out")
            raise InvalidInput(name, None, f"is no argument of {workload.key}", f"it takes {known}")
        arrays.check(name, arrays.view(name, tensor), specs[name], 1, compiled=False)
        if tensor.device != operands[first].device:
            rule = f"is not where {first} is ({operands[first].device})"
            raise InvalidInput(name, str(tensor.device), rule, "put all tensors on one device")
    for name in specs:
        if name not in operands and name != "out":
            arithmetic.parse(workload.epilogue)  # which says that backward operations are not taken
            raise InvalidInput(name, None, f"is missing: {workload.key} needs it", f"pass {name}=")


_said = False


def _say_on_cpu() -> None:
    global _said
    if not _said:
        _said = True
        words = "tensors on the CPU are computed by PyTorch or NumPy: right, but no kernel of gpu_tune runs, and their "
        warnings.warn(words + "time says nothing about one", OnCpu, stacklevel=5)
