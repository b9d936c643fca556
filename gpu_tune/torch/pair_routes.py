"""Who serves a call with two results: our kernel, where a stored verdict says that it is faster than the vendor's; else
the product by its own operator, whoever serves that, and PyTorch's elementwise operators behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..errors import InvalidInput
from ..kernel.kernel import TunedKernel
from ..workload import Workload
from . import layouts, routes
from .known import Table
from .pairs import Pair, Spec

Two = tuple[Tensor, Tensor]
PairRoute = Callable[..., Two]
"""Computes both results from the tensors that are given, in the operator's order."""


class PairTable(Table):
    """What was served of an operator with two results."""

    def decide(self, names: tuple[str, ...], given: tuple[Tensor, ...], options: tuple[Any, ...]) -> tuple[Any, bool]:
        """Who serves a call, as :func:`decide`."""
        call: Any = self._call(*options)
        return decide(call, names, given)


def decide(call: Pair, names: tuple[str, ...], tensors: tuple[Tensor, ...]) -> tuple[PairRoute, bool]:
    """Who serves a call, and whether all calls with such layouts are served so; see :func:`routes.decide`."""
    with torch.no_grad():
        return _decided(call, names, tensors)


def _decided(call: Pair, names: tuple[str, ...], tensors: tuple[Tensor, ...]) -> tuple[PairRoute, bool]:
    given, lead = dict(zip(names, tensors)), tensors[0]
    dtype, shape = layouts.result_dtype(lead.dtype, call.out_dtype), call.shape(given)
    promised: Pair = call

    def laid(found: Two) -> Two:
        y, second = found
        like, strides, _ = promised.second(shape, dtype)
        second = second if second.shape == like else second.reshape(like)
        right = second.stride() == strides or second.numel() < 2
        return routes.laid(y, promised, shape, dtype), second if right else _copied(second, strides)

    def by_torch(*now: Tensor) -> Two:
        return laid(call.pair_by_torch(dict(zip(names, now)), dtype, False))

    def in_steps(*now: Tensor) -> Two:
        with torch.no_grad():
            return laid(call.in_steps(dict(zip(names, now)), dtype))

    if any(0 in tensor.shape for tensor in tensors):
        return by_torch, True
    promised, found = call.fitted(given)
    workload = promised.workload(found)
    routes.check(workload, found)
    gpu = routes.gpu_of(lead)
    if gpu is None:
        routes.say_on_cpu()
        return by_torch, True
    served = dispatch.server(workload, gpu, "torch")
    copied = any(found[name].data_ptr() != tensor.data_ptr() for name, tensor in given.items())
    if copied or not isinstance(served, TunedKernel):
        return in_steps, True
    try:
        return _prepared(served, promised, workload, names, found, (shape, dtype), in_steps), True
    except InvalidInput:  # the addresses of these tensors; others of their kind may do
        return in_steps, False


def _copied(tensor: Tensor, strides: Sequence[int]) -> Tensor:
    return torch.empty_strided(tuple(tensor.shape), tuple(strides), dtype=tensor.dtype, device=tensor.device).copy_(
        tensor
    )


def _prepared(
    kernel: TunedKernel,
    call: Pair,
    workload: Workload,
    names: tuple[str, ...],
    found: Mapping[str, Tensor],
    result: tuple[tuple[int, ...], torch.dtype],
    otherwise: PairRoute,
) -> PairRoute:
    """Launches of our kernel, from the tensors' addresses alone; ``otherwise`` where those are not as they must be."""
    shape, dtype = result
    specs: tuple[Spec, Spec] = (call.second(shape, dtype), (shape, call.strides(shape), dtype))
    lead, written = found[workload.inputs[0]], workload.outputs[1:]
    device, place, empty, stream = routes.gpu_of(lead), lead.device, routes.memory, routes.current_stream
    assert device is not None

    def made() -> tuple[Tensor, Tensor]:
        """The second result, which may have no elements, and the first."""
        second, out = (empty(s, strides, dtype=kind, device=place) for s, strides, kind in specs)
        return second, out

    second, out = made()
    more = {name: _array(second, name, workload, call.nhwc) for name in written}
    array = _array(out, "out", workload, call.nhwc)
    bound = kernel.bind(**found, **more, **call.scalars(workload), out=array, stream=stream(device))
    path, scalars = bound.path, bound.scalars
    at = {**{name: i for i, name in enumerate(names)}, "out": len(names) + 1, **dict.fromkeys(written, len(names))}
    order = [at[name] for name in path.names]
    ready: dict[tuple[int, ...], Callable[[], Any]] = {}  # launches by the addresses of all tensors, and stream
    current, handle, good, address = path.current_device, path.handle, path.good, Tensor.data_ptr

    def first(now: tuple[Tensor, ...], results: Two, key: tuple[int, ...]) -> Two:
        """A launch from addresses that are not known, from a thread that has no context of this GPU, or of a plan of
        several kernels."""
        pointers = [key[i] for i in order]
        if not path.launch(pointers, key[-1], scalars):
            return otherwise(*now)
        issue = path.prepared(pointers, key[-1], scalars)
        if issue is not None:
            routes.keep(ready, key, issue)
        return results

    def launch(*now: Tensor) -> Two:
        second, out = made()
        key = (*map(address, now), address(second), address(out), stream(device))
        issue = ready.get(key)
        code, here = current()
        if issue is None or code is not good or int(here) != handle:
            return first(now, (out, second), key)
        (code,) = issue()
        if code is not good:
            routes.failed(code)
        return out, second

    return launch


def _array(tensor: Tensor, name: str, workload: Workload, nhwc: bool) -> Tensor:
    """A result as the workload's array of that name."""
    return tensor.permute(0, 2, 3, 1) if nhwc and tensor.dim() == 4 else tensor.reshape(workload.arrays()[name].shape)
