"""Which kernel serves a call: ``load`` from the store, and the dispatchers ``matmul`` and ``conv2d``.

``load`` gives our kernel, tuned or, saying so, the untuned default. The dispatchers run our kernel only where the
stored verdict says that it beats the vendor library, so using them never makes anything slower.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from . import paths
from .cuda import driver
from .cuda.device import Device
from .errors import InvalidInput, NotTuned, require
from .kernel import arrays, host
from .kernel.kernel import TunedKernel
from .kernel.kernel_set import KernelSet
from .kernel.prepared import KEPT, Key, signature
from .kernel.untuned import untuned
from .measure import vendor
from .store.select import select_device
from .store.store import Store, lookup, lookup_set, opened
from .templates.base import Template
from .templates.registry import require_templates
from .trial import MEASURED
from .workload import Matmul, Workload, accepting, require_workload, tune_command
from .workload.conv2d import INPUTS
from .workload.from_arrays import convolution

log = logging.getLogger(__name__)


class Untuned(UserWarning):
    """A kernel is a template's default config, not a tuned winner."""


def load(
    workload: Workload,
    *,
    device: Device | str | None = None,
    store: Store | Path | str | None = None,
    strict: bool | None = None,
    templates: Mapping[str, Template] | None = None,
) -> TunedKernel | KernelSet:
    """The kernel for ``workload`` on this machine's GPU, or on the named ``device``: from the store, without a search.

    ``kernel.match`` says what was found. ``exact``: a winner for this workload. ``set``: a set of winners for a range
    of sizes that includes it; a workload with an open size gets the whole set, as a :class:`KernelSet`. ``nearest``: a
    winner or a set for another workload whose kernel accepts every call of this one (smaller alignment, general alpha
    and beta, more sizes). None of these needs a compiler. Without one the template's default config is compiled
    (``default``), with a warning that names the command which would tune it; with ``strict`` or ``GPU_TUNE_STRICT=1``
    NotTuned is raised instead. On a machine without a GPU, predicted winners answer.
    """
    require_workload(workload)
    require_templates(templates)
    require(strict is None or isinstance(strict, bool), "strict", strict, "is neither True nor False", "give one")
    store = opened(store)
    chosen, source = select_device(device)
    for like in (workload, *accepting(workload)):
        tuned = _tuned(like, chosen.chip, source, store)
        if tuned is not None:
            if tuned.workload != workload:
                tuned.match = "nearest"
            return tuned
    asked = None if device is None else chosen.name
    hint = f"{workload.key} is not tuned for {chosen.chip}; run: {tune_command(workload, asked)}"
    if strict or (strict is None and os.environ.get("GPU_TUNE_STRICT", "") not in ("", "0")):
        raise NotTuned(hint)
    kernel = untuned(workload, chosen, source, templates)
    warnings.warn(f"{hint} (until then the untuned default of {kernel.template} is used)", Untuned, stacklevel=2)
    return kernel


def _tuned(workload: Workload, chip: str, source: str, store: Store | None) -> TunedKernel | KernelSet | None:
    """The winner for ``workload``, else the set that serves it."""
    found = lookup(workload, chip, source, store=store) if workload.open is None else None
    if found is not None:
        return TunedKernel(found[0], path=found[1].path(workload, chip, source))
    stored = lookup_set(workload, chip, source, store=store)
    if stored is None:
        return None
    kernels = KernelSet(stored[0], path=stored[1].path(stored[0].workload, chip, source))
    return kernels if workload.open is not None else kernels.at(getattr(workload, workload.openable))


def matmul(
    a: Any,
    b: Any,
    c: Any = None,
    *,
    layout: str = "nn",
    epilogue: str = "",
    alpha: float = 1.0,
    beta: float | None = None,
    out: Any = None,
    out_dtype: str = "",
    scales: str = "none",
    math: tuple[str, ...] = (),
    store: Store | Path | str | None = None,
    **vectors: Any,
) -> Any:
    """``epilogue(alpha * A @ B + beta * C)`` by our kernel or the vendor library, whichever is known to be faster.

    ``a`` and ``b`` as ``layout`` names them (see :class:`Matmul`), ``vectors`` the epilogue's operands by name (bias,
    row_bias, residual, aux, scale, scale_a, scale_b). Untuned shapes go to the vendor library. Arrays on the CPU are
    computed by NumPy, in float64. Returns an array of the library of ``a`` (NumPy's, where that has no way to make
    one), or a tuple of all :attr:`Matmul.outputs`. InvalidInput for a tensor that requires a gradient:
    :mod:`gpu_tune.torch` has operators that give one. float8 results saturate; where PyTorch converts an overflow to
    float8_e5m2 it gives infinity, ml_dtypes and JAX NaN.
    """
    asked = None
    if store is None and arrays.plain_number(alpha) and (beta is None or arrays.plain_number(beta)):
        used, times = (c, 1.0 if beta is None else beta) if c is not None and beta != 0 else (None, beta or 0.0)
        scaling = (alpha == 1, times if times in (0, 1) else "any")
        asked = _remembered((layout, epilogue, out_dtype, scales, math, scaling), (a, b, used), vectors, out)
        if asked is not None and asked.route is not None:
            operands = {"a": a, "b": b, **({} if used is None else {"c": used}), **vectors}
            result = asked.repeat(operands, (alpha, times), out)
            if result is not None:
                return result
    first, second = arrays.view("a", a), arrays.view("b", b)
    for name, seen in (("a", first), ("b", second)):
        rule, remedy = "is not a matrix or a batch of matrices", "give two dimensions, or three"
        require(len(seen.shape) in (2, 3), f"{name}.shape", seen.shape, rule, remedy)
        empty = 0 in seen.shape
        require(not empty, f"{name}.shape", seen.shape, "has a size of 0", "leave the call out where nothing is to do")
        require(
            seen.shape[-1] <= 1 or seen.strides[-1] == 1,
            f"{name} strides (elements)",
            seen.strides,
            "are not those of contiguous rows",
            "pass what it is the transpose of, with the layout that says so (as in layout='nt'), or copy it",
        )
    arrays.require_number("alpha", alpha)
    arrays.require_number("beta", 0 if beta is None else beta)
    known = isinstance(layout, str) and layout.lower() in ("nn", "nt", "tn", "tt")
    require(known, "matmul layout", layout, "is unknown", "use one of nn, nt, tn, tt")
    m, k = first.shape[-2:] if layout[0].lower() == "n" else first.shape[:-3:-1]
    n = second.shape[-1] if layout[1].lower() == "n" else second.shape[-2]
    batch = first.shape[0] if len(first.shape) == 3 else 1
    beta = (0.0 if c is None else 1.0) if beta is None else beta
    workload = Matmul(
        m,
        n,
        k,
        batch=batch,
        dtype=first.dtype,
        out_dtype=out_dtype,
        layout=layout,
        lda=_leading(first),
        ldb=_leading(second),
        alpha="1" if alpha == 1 else "any",
        beta="0" if beta == 0 else "1" if beta == 1 else "any",
        epilogue=epilogue,
        scales=scales,
        math=math,
    )
    used = c if workload.beta != "0" else None
    scalars = {n: v for n, v in (("alpha", alpha), ("beta", beta)) if getattr(workload, n) == "any"}
    return _dispatch(workload, first, {"a": a, "b": b, "c": used}, vectors, scalars, out, store, asked)


def conv2d(
    x: Any,
    w: Any,
    c: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    layout: str = "nhwc",
    epilogue: str = "",
    direction: str = "fprop",
    size: Any = None,
    beta: float | None = None,
    out: Any = None,
    out_dtype: str = "",
    scales: str = "none",
    math: tuple[str, ...] = (),
    store: Store | Path | str | None = None,
    **vectors: Any,
) -> Any:
    """A 2-D convolution by our kernel or the vendor library, whichever is known to be faster; see :func:`matmul`.

    ``nhwc`` (the default, as :class:`Conv2d` and the command line have it): ``x`` is (n, h, w, c), filters
    (k, r, s, c/groups); ``nchw``: (n, c, h, w) and (k, c/groups, r, s). Gradients: ``conv2d(dy, w,
    direction="dgrad")`` is that for the image, ``conv2d(dy, x, direction="wgrad")`` that for the filters, to which
    ``beta * c`` is added. ``size``: the image's (h, w), the filters' (r, s), where a stride leaves it open.
    """
    if not isinstance(direction, str) or direction not in INPUTS:
        raise InvalidInput("conv2d direction", direction, "is unknown", f"use one of {', '.join(INPUTS)}")
    require(c is None or direction == "wgrad", "c", ..., "is for direction='wgrad'", "add by epilogue='residual'")
    named: dict[str, Any] = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, layout=layout)
    named.update(epilogue=epilogue, direction=direction, out_dtype=out_dtype, scales=scales, math=math)
    positional = dict(zip(INPUTS[direction], (x, w)))
    asked, added = None, vectors if c is None or beta == 0 else {**vectors, "c": c}
    if store is None and (beta is None or arrays.plain_number(beta)):
        times = float(c is not None) if beta is None else beta
        options = (*named.values(), size, times if times in (0, 1) else "any")
        asked = _remembered(options, (x, w), added, out)
        if asked is not None and asked.route is not None:
            result = asked.repeat({**positional, **added}, (None, times), out)
            if result is not None:
                return result
    first, second = (arrays.view(name, array) for name, array in positional.items())
    arrays.require_number("beta", 0 if beta is None else beta)
    beta = (0.0 if c is None else 1.0) if beta is None else beta
    named.update(dtype=first.dtype, beta="0" if beta == 0 else "1" if beta == 1 else "any")
    shape = None if out is None else arrays.view("out", out).shape
    workload = convolution(first.shape, second.shape, size, shape, **named)
    scalars = {"beta": beta} if workload.beta == "any" else {}
    return _dispatch(workload, first, positional, added, scalars, out, store, asked)


forgetting: list[Callable[[], None]] = []
"""Called by :func:`forget`: what else remembers who serves a call."""
_routes: dict[Any, tuple[Workload, TunedKernel | None]] = {}
"""Who serves calls that were seen before: our kernel, or None for the vendor library of the arrays."""


class _Asked(NamedTuple):
    """A call of a dispatcher: what it asks for but for addresses (``key``), its arrays, and who served it before."""

    key: Any
    found: tuple[Key, list[int]]
    library: str
    route: tuple[Workload, TunedKernel | None] | None

    def repeat(self, operands: Mapping[str, Any], scaling: tuple[float | None, float | None], out: Any) -> Any:
        """The result, from who served such a call before; None where addresses are not as they must be."""
        assert self.route is not None
        workload, kernel = self.route
        alpha, beta = (v if getattr(workload, n, "") == "any" else None for n, v in zip(("alpha", "beta"), scaling))
        if kernel is not None:
            return kernel.repeat(self.found, out, alpha, beta, named=operands)
        scalars = {n: v for n, v in (("alpha", alpha), ("beta", beta)) if v is not None}
        return vendor.run(workload, self.library, operands, scalars, out)


def _remembered(options: Any, positional: tuple[Any, ...], vectors: Mapping[str, Any], out: Any) -> _Asked | None:
    """The call in the dispatchers' memory; None for arrays and options of which nothing is kept."""
    found = signature(positional[0], positional, vectors, out)
    if found is None:
        return None
    key = (options, len(positional), os.environ.get("GPU_TUNE_CACHE_DIR"), found[0])
    try:
        route = _routes.get(key)
    except TypeError:  # an option that is a list
        return None
    return _Asked(key, found, arrays.library_of(type(positional[0])), route)


def _dispatch(
    workload: Workload,
    first: arrays.ArrayView,
    positional: Mapping[str, Any],
    vectors: Mapping[str, Any],
    scalars: dict[str, float],
    out: Any,
    store: Store | Path | str | None,
    asked: _Asked | None,
) -> Any:
    operands = {name: value for name, value in positional.items() if value is not None} | dict(vectors)
    specs = workload.arrays()
    for name, value in operands.items():  # not require: making the words costs more than all other checks of a call
        if name not in specs:
            raise InvalidInput(name, ..., f"is no argument of {workload.key}", f"it takes {', '.join(specs)}")
        arrays.check(name, arrays.view(name, value), specs[name], 1, compiled=False)
    for name in specs:
        if name not in operands and name not in workload.outputs:
            raise InvalidInput(name, ..., f"is missing: {workload.key} needs it", f"pass {name}=")
    store = opened(store)
    if first.place == arrays.HOST:
        return host.compute(workload, operands, scalars, out, first)
    kernel = _chosen(workload, first.device, store.folder if store else None, os.environ.get("GPU_TUNE_CACHE_DIR"))
    given = [arrays.view(n, v) for n, v in {**operands, "out": out}.items() if v is not None]
    aligned = all(seen.pointer % workload.alignment == 0 for seen in given)
    if kernel is None or not aligned:
        if vendor.can(workload, first.library):
            if kernel is None:
                _remember(asked, workload, None)
            return vendor.run(workload, first.library, operands, scalars, out)
        least = min(seen.pointer & -seen.pointer for seen in given)
        served: TunedKernel | KernelSet = load(
            workload if aligned else replace(workload, alignment=min(16, least)), store=store
        )
    else:
        _remember(asked, workload, kernel)
        served = kernel
    more: dict[str, Any] = {**vectors, **scalars}
    return served(*positional.values(), out=out, **more)


def _remember(asked: _Asked | None, workload: Workload, kernel: TunedKernel | None) -> None:
    global _routes
    if asked is not None:
        if len(_routes) >= KEPT:
            _routes = {}  # a new dictionary: another thread may be reading the old one
        _routes[asked.key] = (workload, kernel)


def forget() -> None:
    """Look the winners up again at the next call: a tuning in this process has published one."""
    _chosen.cache_clear()
    _sets.cache_clear()
    _routes.clear()
    for other in forgetting:
        other()


def server(workload: Workload, ordinal: int, library: str) -> TunedKernel | KernelSet | None:
    """Our kernel where it is known to be faster on that GPU, or where ``library`` cannot compute it; None for that."""
    kernel = _chosen(workload, ordinal, None, os.environ.get("GPU_TUNE_CACHE_DIR"))
    return load(workload) if kernel is None and not vendor.can(workload, library) else kernel


@functools.lru_cache(maxsize=4096)
def _chosen(workload: Workload, ordinal: int, folder: Any, environment: str | None) -> TunedKernel | None:
    """Our kernel where a verdict measured on that GPU's chip says that it beats the vendor library, else None."""
    if ordinal >= driver.device_count():
        return None
    chosen, source = driver.describe(ordinal), MEASURED
    store = Store(folder) if folder else None
    found = lookup(workload, chosen.chip, source, store=store)
    if found is not None:
        kernel = TunedKernel(found[0], path=found[1].path(workload, chosen.chip, source))
        return kernel if found[0].verdict.get("ours") == "faster" else None
    size = getattr(workload, workload.openable)
    for kernels in _sets(workload.resized(1), chosen.chip, source, folder, environment):
        low, high = kernels.winners.size.bounds
        if low <= size <= high:
            return kernels.at(size) if kernels.winners.range_of(size).ours == "faster" else None
    return None


@functools.lru_cache(maxsize=256)
def _sets(stem: Workload, chip: str, source: str, folder: Any, _environment: str | None) -> tuple[KernelSet, ...]:
    """The sets for ``stem`` of any size, the narrowest first; read once, however many sizes are asked for."""
    places = [*([Store(folder)] if folder else []), Store(), Store(paths.shipped(), trusted=True)]
    return tuple(
        KernelSet(found, path=place.path(found.workload, chip, source))
        for place in places
        for found in place.sets_of(stem, chip, source)
    )


def _leading(seen: arrays.ArrayView) -> int:
    return seen.strides[-2] if seen.shape[-2] > 1 else 0
