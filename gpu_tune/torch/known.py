"""Calls that were served before, for those that differ from them in nothing but addresses."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import dispatch
from ..errors import require
from . import routes
from .routes import Call, Route, Tensors

VARIANTS = 4
"""Calls that are kept under one hint: a weight's, with so many numbers of rows."""
Decide = Callable[[tuple[str, ...], tuple[Tensor, ...], tuple[Any, ...]], tuple[Route, bool]]
"""From the names of the tensors that are given, these tensors and the options: a route, and whether to keep it."""


class Served(NamedTuple):
    """How a call was served.

    ``pick(tensors)`` are the tensors of another that are not None; if ``fits(*picked)`` and its options equal
    ``options``, ``run(*picked)`` computes it.
    """

    fits: Callable[..., bool]
    pick: Callable[[Tensors], tuple[Tensor, ...]]
    run: Route
    options: tuple[Any, ...]


class Table:
    """What was served of one operator. ``names`` are those of its tensors, ``call(*options)`` describes a call of it.

    ``recent`` has it by a hint of the operator's own making, a key that is cheap to make and tells what a call may be;
    :class:`Served` tells whether it is that. ``known`` has it by all of a call but addresses.
    """

    def __init__(self, names: tuple[str, ...], call: Callable[..., Call]) -> None:
        self._names, self._call = names, call
        self.known: dict[Any, Served] = {}
        self.recent: dict[Any, tuple[Served, ...]] = {}
        dispatch.forgetting += [self.known.clear, self.recent.clear]

    def serve(
        self,
        tensors: Tensors,
        options: tuple[Any, ...],
        *,
        hint: Any = None,
        gradients: tuple[bool, ...] = (),
        decide: Decide | None = None,
        otherwise: Callable[[Tensors, tuple[Any, ...]], Tensor] | None = None,
    ) -> Tensor:
        """The result of a call that ``recent`` does not have under ``hint``, and has from now on.

        ``decide`` is asked where ``known`` has no such call either (by default :meth:`decide`), and ``otherwise``
        computes a call that is not :func:`direct`. ``gradients`` says which tensors ask for one.
        """
        frozen = tuple([tuple(o) if type(o) is list else o for o in options])
        try:
            key = (frozen, gradients, *[t is None or (t.shape, t.stride(), t.dtype, t.get_device()) for t in tensors])
            served = self.known.get(key)
        except (TypeError, RuntimeError):  # sizes that are symbols; tensors that have no strides
            if otherwise is None or direct(tensors):
                raise
            return otherwise(tensors, options)
        given = served.pick(tensors) if served is not None else ()
        if served is None or forward_ad._current_level >= 0 or not served.fits(*given):
            if otherwise is not None and not direct(tensors):
                return otherwise(tensors, options)
            if served is None:
                for name, tensor in zip(self._names[:2], tensors):
                    require(tensor is not None, name, tensor, "is no torch.Tensor", "pass one")
                at = tuple(i for i, tensor in enumerate(tensors) if tensor is not None)
                pick: Any = operator.itemgetter(*at)  # a tuple: an operator has two tensors at least
                given = pick(tensors)
                run, keep = (decide or self.decide)(tuple(self._names[i] for i in at), given, frozen)
                if not keep:
                    return run(*given)
                served = Served(alike(given), pick, run, options)
            else:
                served = served._replace(fits=alike(given))
            routes.keep(self.known, key, served)
        if hint is not None:
            routes.keep(self.recent, hint, (served, *self.recent.get(hint, ())[: VARIANTS - 1]))
        return served.run(*given)

    def decide(self, names: tuple[str, ...], given: tuple[Tensor, ...], options: tuple[Any, ...]) -> tuple[Route, bool]:
        """Who serves a call, as :func:`routes.decide`."""
        return routes.decide(self._call(*options), names, given)


def alike(given: Sequence[Tensor]) -> Callable[..., bool]:
    """A test whether other tensors differ from these in nothing but addresses: Dynamo's guard, one call of C++.

    It compares Python type, data type, device, shape, strides, ``requires_grad`` and dispatch keys, to which the modes
    that are active (autocast, inference mode, torch.func, fake tensors) add or from which they take. One tensor that is
    given twice must be so again.
    """
    first = [next(i for i, other in enumerate(given) if other is tensor) for tensor in given]
    at = sorted(set(first))
    guards = torch._C._dynamo.guards.TensorGuards
    guard = guards(*(given[i] for i in at), dynamic_dims_sizes=None, dynamic_dims_strides=None)
    if len(at) == len(given):
        return cast("Callable[..., bool]", guard.check)
    return lambda *now: all(now[i] is t for i, t in zip(first, now)) and guard.check(*(now[i] for i in at))


def _keys(*names: str) -> Any:
    keys, key = torch._C.DispatchKeySet, torch._C.DispatchKey
    return functools.reduce(operator.or_, (keys(getattr(key, name)) for name in names))


_PASSED = _keys("BackendSelect", "ADInplaceOrView")
"""Dispatch keys of plain tensors at which the operators have no function."""
_PLAIN = frozenset(_keys(backend, f"Autograd{backend}").raw_repr() for backend in ("CPU", "CUDA"))


def direct(tensors: Tensors) -> bool:
    """Whether nothing stands between autograd and the body of a call: no mode, subclass, transform, or view whose sign
    or conjugation is still to be resolved; as PyTorch's dispatcher computes it."""
    keys = torch._C._dispatch_tls_local_include_set()
    for tensor in tensors:
        if tensor is not None:
            keys = keys | torch._C._dispatch_keys(tensor)
    keys = keys - torch._C._dispatch_tls_local_exclude_set() - _PASSED
    return keys.raw_repr() in _PLAIN and forward_ad._current_level < 0
