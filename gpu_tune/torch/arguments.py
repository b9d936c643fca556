"""What callers pass to functions and modules: numbers, paddings, activations ...; InvalidInput names a bad one."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import InvalidInput, require
from ..workload.epilogue import ACTIVATIONS, parse
from ..workload.operation import SCALES
from . import arithmetic, layouts

_SECOND = ("(aux)", "dbias", "drelu", "dgelu", "dsilu")
"""Words of operations with a second result, and of backward ones."""
_REFUSED = re.compile(r"Expected a value of type '(.+?)' for argument '(\w+)' but instead found type '(.+?)'")


def number(name: str, value: Any) -> float:
    """``value`` as a number; a tensor is read, unless its gradient would be lost."""
    if type(value) is float and value == value:
        return value
    if isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled():
        rule, remedy = "is a tensor that requires a gradient, which a number has not", "multiply by it outside"
        raise InvalidInput(name, value.detach(), rule, remedy)
    try:
        found = float(value) if not isinstance(value, (bool, str, bytes)) else math.nan
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = math.nan
    require(found == found, name, value, "is no number", "pass a float")
    return found


def operand(name: str, tensor: Tensor, scales: str) -> None:
    """Raise InvalidInput unless a tensor with these scales, which has no gradients, is int8 or float8."""
    dtype = tensor.dtype
    require(scales in SCALES, "scales", scales, "is unknown", f"use one of {', '.join(SCALES)}")
    if dtype in layouts.WIDE:
        rule = f"are for int8 and float8 tensors, and {name} is {dtype}"
        raise InvalidInput("scales", scales, rule, "leave them out, or convert the tensors")
    if dtype not in layouts.NARROW:
        kinds = ", ".join(str(kind).removeprefix("torch.") for kind in (*layouts.WIDE, *layouts.NARROW))
        raise InvalidInput(f"{name}.dtype", str(dtype), "has no kernels", f"convert it to one of {kinds}")


def second_result(epilogue: Any, aux: Any) -> bool | None:
    """Whether a call has a second result; None for an epilogue that knows nothing of one. InvalidInput for an ``aux``
    that is none of its operands."""
    told = isinstance(epilogue, str) and any(word in epilogue for word in _SECOND)  # before Dynamo sees a cache
    found = arithmetic.parse_all(epilogue) if told else ()
    reads = any(op.operand == "aux" and not op.writes for op in found)
    if aux is not None and not reads:
        raise InvalidInput("aux", ..., f"is no operand of the epilogue {epilogue!r}", "leave it out")
    writes = any(op.writes for op in found)
    return writes if writes or reads else None


def one_result(name: str, tensor: Tensor, epilogue: Any, second: bool | None) -> None:
    """Raise InvalidInput where an int8 or float8 call has a backward operation, or a second result."""
    if second is not None:
        rule = f"has a backward operation, or a second result, and {name} is {tensor.dtype}, which has no gradients"
        raise InvalidInput("epilogue", epilogue, rule, "call gpu_tune.matmul or gpu_tune.conv2d, or leave it out")


def layers(weights: Any, biases: Any) -> int:
    """How many layers a call has; InvalidInput unless weights are tensors, and biases tensors or None, as many."""
    sequence = isinstance(weights, (tuple, list, torch.nn.ParameterList)) and len(weights) > 0
    require(sequence, "weights", type(weights).__name__, "is no sequence of tensors", "give one weight a layer")
    for i, w in enumerate(weights):
        is_matrix = isinstance(w, Tensor) and w.dim() == 2
        shape = tuple(w.shape) if isinstance(w, Tensor) else type(w).__name__
        require(is_matrix, f"weights[{i}]", shape, "is no matrix (n, k)", "give a tensor of two dimensions")
    if biases is not None:
        paired = isinstance(biases, (tuple, list, torch.nn.ParameterList)) and len(biases) == len(weights)
        rule = f"is no sequence of {len(weights)} biases, one a weight"
        require(paired, "biases", type(biases).__name__, rule, "give one a weight, None for a layer without")
        for i, bias in enumerate(biases):
            is_bias = bias is None or isinstance(bias, Tensor)
            require(is_bias, f"biases[{i}]", type(bias).__name__, "is neither a tensor nor None", "give one of them")
    return len(weights)


def matrix(name: str, tensor: Tensor) -> Tensor:
    """The tensor, if its data type has gradients; InvalidInput otherwise."""
    known = ", ".join(str(kind).removeprefix("torch.") for kind in layouts.WIDE)
    require(tensor.dtype in layouts.WIDE, f"{name}.dtype", str(tensor.dtype), "has no gradients", f"use {known}")
    return tensor


def permitted(given: Any) -> str:
    """Permissions as an operator has them, joined by +."""
    if isinstance(given, str):
        return given
    rule, remedy = "is neither a string nor a sequence of them", 'give math="tf32", or ("tf32", ...)'
    require(isinstance(given, (tuple, list)) and all(isinstance(p, str) for p in given), "math", given, rule, remedy)
    return "+".join(given)


def integers(name: str, value: Any, count: int, least: int) -> list[int]:
    """Groups (``count`` 1), strides and dilations (2: rows, columns), paddings (4: top, bottom, left, right) as a list.

    ``value`` is one number, a pair (rows, columns), or all ``count``.
    """
    if type(value) is int and value >= least:
        return [value] * count
    whole = (int, torch.SymInt)
    kinds = "an integer" + (", a pair (rows, columns)" if count > 1 else "")
    kinds += " or (top, bottom, left, right)" if count == 4 else ""
    try:
        given = [value] if isinstance(value, whole) or hasattr(value, "__index__") else list(value)
        truth = any(isinstance(v, bool) for v in given)
        given = [v if isinstance(v, whole) else operator.index(v) for v in given]
    except TypeError:
        truth = True
    require(not truth, name, value, "is not made of integers", f"give {kinds}")
    require(len(given) in {1, 2, count}, name, value, f"has {len(given)} numbers", f"give {kinds}")
    require(all(v >= least for v in given), name, value, f"has a number below {least}", f"give {kinds}")
    if len(given) == 1:
        return given * count
    return [given[0], given[0], given[1], given[1]] if len(given) == 2 and count == 4 else given


def padding(value: Any, window: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """A convolution's padding as [top, bottom, left, right]; ``window`` is (rows, columns) of a filter.

    "same" keeps the size of the images, for a stride of 1; the larger half comes after, as in PyTorch. "valid" is none.
    """
    if not isinstance(value, str):
        return integers("padding", value, 4, 0)
    require(value in ("same", "valid"), "padding", value, "is unknown", 'give "same", "valid" or numbers')
    if value == "valid":
        return [0, 0, 0, 0]
    strides = f"needs a stride of 1, not {tuple(stride)}, as in PyTorch"
    require(all(s == 1 for s in stride), "padding", value, strides, "give the padding in numbers")
    totals = [d * (n - 1) for d, n in zip(dilation, window)]
    return [totals[0] // 2, totals[0] - totals[0] // 2, totals[1] // 2, totals[1] - totals[1] // 2]


def activation(value: Any) -> str:
    """``value``, where it is an epilogue without operands and second results."""
    remedy = f"give {', '.join(ACTIVATIONS)}, clamp(lo,hi), several joined by +, or ''"
    try:
        found = parse(value)
    except InvalidInput as error:
        raise InvalidInput("activation", value, error.rule or "is unknown", remedy) from None
    taken = [op.operand for op in found if op.operand]
    require(not taken, "activation", value, f"has the operand {', '.join(taken)}, which no module passes", remedy)
    require(not any(op.writes for op in found), "activation", value, "has a second result, which no layer has", remedy)
    return str(value)


def in_one_place(operator_name: str, tensors: Mapping[str, Any]) -> None:
    """Raise InvalidInput unless all are on one device; ``meta`` is one, too."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first, *_ = given
    for name, tensor in given.items():
        if tensor.device != given[first].device:
            rule = f"is not where {first} is ({given[first].device}), in a call of {operator_name}"
            raise InvalidInput(name, str(tensor.device), rule, "put all tensors on one device")


def of_layer(
    error: InvalidInput, x: Any, weights: Sequence[Any], biases: Sequence[Any], weight_name: str, bias_name: str
) -> InvalidInput:
    """What a product's error is of linear layers in a row, in the words of their caller; ``{}`` in a name is the
    layer's number."""
    if not isinstance(x, Tensor):
        return error
    if x.dim() == 0:
        return InvalidInput("x.shape", (), "has no dimension", "give (..., k)")
    width = x.shape[-1]
    for i, (w, bias) in enumerate(zip(weights, biases)):
        name, bias_is = weight_name.format(i), bias_name.format(i)
        if not isinstance(w, Tensor):
            return InvalidInput(name, w, "is no torch.Tensor", "pass one")
        if w.dim() != 2 or w.shape[1] != width:
            rule = f"is not (n, {width}), which {'x' if i == 0 else 'the layer before'} asks for"
            return InvalidInput(f"{name}.shape", tuple(w.shape), rule, "pass a matrix with a row for each result")
        width = w.shape[0]
        if bias is not None and bias.shape != (width,):
            rule = f"is not ({width},), which {name} asks for"
            return InvalidInput(f"{bias_is}.shape", tuple(bias.shape), rule, "pass one number for each result")
        for subject, tensor in ((name, w), (bias_is, bias)):
            if tensor is not None and tensor.device != x.device:
                rule = f"is not where x is ({x.device})"
                return InvalidInput(subject, str(tensor.device), rule, "put all tensors on one device")
            if tensor is not None and tensor.dtype != x.dtype and x.dtype in layouts.WIDE:
                rule = f"is not {x.dtype}, which x has"
                return InvalidInput(f"{subject}.dtype", str(tensor.dtype), rule, "convert it before the call")
    subject = re.sub(r"^a(?=$|\.)", "x", error.subject)
    return InvalidInput(subject, error.value, error.rule, error.remedy)


def explain(error: Exception, **given: Any) -> NoReturn:
    """Raise InvalidInput where an argument of ``given`` is no tensor, or PyTorch's dispatcher refused one; else
    ``error`` as it is."""
    for name, value in given.items():
        if isinstance(value, Tensor) and (value.is_nested or value.layout is not torch.strided):
            layout = "nested" if value.is_nested else str(value.layout).replace("torch.", "").lstrip("_")
            rule, remedy = "is a layout whose elements do not lie at strides", f"pass {name}.to_dense()"
            raise InvalidInput(name, layout, rule, "loop over its tensors" if value.is_nested else remedy) from None
        if value is None and name in ("a", "b", "x", "w", "weight"):
            raise InvalidInput(name, value, "is no torch.Tensor", "pass one") from None
        if value is not None and not isinstance(value, Tensor):
            kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
            raise InvalidInput(name, kind, "is no torch.Tensor", "pass torch.as_tensor(...)") from None
    refused = _REFUSED.search(str(error))
    if refused:
        wanted, name, found = refused.groups()
        raise InvalidInput(name, found, f"is given where a {wanted} is wanted", "see help(gpu_tune.torch)") from None
    raise error
