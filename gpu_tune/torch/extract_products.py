"""From one node of an exported graph to the workload that computes it.

Layouts are read off the strides of the operands, as the dispatchers do: ``y @ w.t()`` is ``nt``. An operand that is no
batch of row-major or column-major matrices in memory is taken as its contiguous copy, and the layer says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..workload import DTYPES, OUT_DTYPES, Conv2d, Matmul, Workload
from ..workload.operation import ITEMSIZE, MATH
from .extract_flops import named_operation
from .extract_layout import channels_last, contiguous, place, sizes
from .extraction import NotAWorkload

ALIGNMENT = 16
"""Bytes that PyTorch's allocations keep at least, and that a workload asks for."""


@dataclass(frozen=True)
class Product:
    """A node that is a workload. ``channels``: the dimension of its output that a bias runs along; ``operands``: the
    nodes that are multiplied; ``copies``: those that are copied first, by name."""

    node: Any
    workload: Workload
    channels: int
    operands: tuple[Any, ...]
    copies: tuple[str, ...] = ()


def product(node: Any, math: Sequence[str]) -> Product | None:
    """The workload of ``node``; None where it is no product, NotAWorkload or InvalidInput where it is one that no
    workload has."""
    maker = MAKERS.get(named_operation(node))
    if maker is None or not hasattr(node.target, "_schema"):
        return None
    return maker(node, tuple(math))


def _linear(node: Any, math: tuple[str, ...]) -> Product:
    x, w = node.args[0], node.args[1]
    bias = _argument(node, 2, "bias")
    rank = _value(x).dim()
    if _value(w).dim() != 2:
        raise NotAWorkload("is a product of a matrix and a vector")
    made = _matmul(node, (x, w), ((), tuple(range(rank - 1)), (rank - 1,)), ((), (0,), (1,)), math)
    return _with(made, epilogue="bias") if bias is not None else made


def _mm(node: Any, math: tuple[str, ...]) -> Product:
    return _matmul(node, node.args[:2], ((), (0,), (1,)), ((), (1,), (0,)), math)


def _bmm(node: Any, math: tuple[str, ...]) -> Product:
    return _matmul(node, node.args[:2], ((0,), (1,), (2,)), ((0,), (2,), (1,)), math)


def _matmul_any(node: Any, math: tuple[str, ...]) -> Product:
    """``a @ b`` of any ranks: the leading dimensions of A are rows where B has none."""
    a, b = (_value(n) for n in node.args[:2])
    if a.dim() < 2 or b.dim() < 2:
        raise NotAWorkload("is a product of a matrix and a vector")
    left, right = a.dim(), b.dim()
    if right == 2:
        return _matmul(node, node.args[:2], ((), tuple(range(left - 1)), (left - 1,)), ((), (1,), (0,)), math)
    lead_a, lead_b = tuple(a.shape[:-2]), tuple(b.shape[:-2])
    if lead_a != lead_b:
        return _broadcast(node, math)
    ways = [(tuple(range(n - 2)), n - 2, n - 1) for n in (left, right)]
    (batch_a, m, k), (batch_b, k_, n) = ways
    return _matmul(node, node.args[:2], (batch_a, (m,), (k,)), (batch_b, (n,), (k_,)), math)


def _broadcast(node: Any, math: tuple[str, ...]) -> Product:
    """A batched product, one operand of which is repeated: PyTorch makes the repeats, and so would a call of ours."""
    a, b = (_value(n) for n in node.args[:2])
    out = _value(node)
    batch = sizes(out, range(out.dim() - 2))
    m, k, n = sizes(a, (a.dim() - 2,)), sizes(a, (a.dim() - 1,)), sizes(b, (b.dim() - 1,))
    copies = tuple(name for name, t in (("a", a), ("b", b)) if tuple(t.shape[:-2]) != tuple(out.shape[:-2]))
    dtype, out_dtype = _dtypes(node, a, b)
    workload = Matmul(m, n, k, batch=batch, dtype=dtype, out_dtype=out_dtype, math=_permitted(math, "matmul", dtype))
    return Product(node, workload, out.dim() - 1, tuple(node.args[:2]), copies)


def _addmm(node: Any, math: tuple[str, ...]) -> Product:
    """``beta * c + alpha * a @ b``: a row for c is a bias, a matrix is C."""
    made = _matmul(node, node.args[1:3], ((), (0,), (1,)), ((), (1,), (0,)), math)
    return _added(node, made)


def _baddbmm(node: Any, math: tuple[str, ...]) -> Product:
    made = _matmul(node, node.args[1:3], ((0,), (1,), (2,)), ((0,), (2,), (1,)), math)
    return _added(node, made)


def _added(node: Any, made: Product) -> Product:
    alpha, beta = node.kwargs.get("alpha", 1), node.kwargs.get("beta", 1)
    added, out = _value(node.args[0]), _value(node)
    scaled = _with(made, alpha="1" if alpha == 1 else "any")
    if beta == 0:
        return scaled
    if added.dim() == 1 and added.shape[0] == out.shape[-1] and beta == 1:
        return _with(scaled, epilogue="bias")
    if tuple(added.shape) == tuple(out.shape) and contiguous(added, range(added.dim())):
        return _with(scaled, beta="1" if beta == 1 else "any")
    return scaled  # what is added is broadcast otherwise: that stays an operation of its own


def _scaled_mm(node: Any, math: tuple[str, ...]) -> Product:
    """float8 data with scales: of a whole tensor, or of rows and columns."""
    a, b = node.args[:2]
    given = [_value(_argument(node, at, name)) for at, name in ((2, "scale_a"), (3, "scale_b"))]
    m, n = _value(a).shape[0], _value(b).shape[1]
    counts = tuple(scale.numel() for scale in given)
    scales = {(1, 1): "tensor", (m, n): "row_col"}.get(counts)
    if scales is None:
        raise NotAWorkload(f"has scales of {counts[0]} and {counts[1]} elements")
    fast = bool(_argument(node, 7, "use_fast_accum"))
    allowed = tuple({*math, *(("fast_accumulate",) if fast else ())})
    made = _matmul(node, (a, b), ((), (0,), (1,)), ((), (1,), (0,)), allowed)
    made = _with(made, scales=scales)
    return _with(made, epilogue="bias") if _argument(node, 4, "bias") is not None else made


def _einsum(node: Any, math: tuple[str, ...]) -> Product:
    """An einsum of two operands that is one product: no index repeats in an operand, none is summed alone."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    if len(operands) != 2:
        raise NotAWorkload(f"is an einsum of {len(operands)} operands")
    inputs, arrow, result = equation.partition("->")
    left, right = inputs.split(",")
    if "..." in equation:
        left, right, result = _spelled(left, right, result, [_value(n).dim() for n in operands])
    if not arrow:
        both = left + right
        result = "".join(sorted(i for i in set(both) if both.count(i) == 1))
    return _contraction(node, operands, (left, right, result), math)


def _tensordot(node: Any, math: tuple[str, ...]) -> Product:
    operands = node.args[:2]
    ranks = [_value(n).dim() for n in operands]
    over = [[d % rank for d in dims] for dims, rank in zip(node.args[2:4], ranks)]
    letters = [[chr(65 + d) for d in range(ranks[0])], [chr(97 + d) for d in range(ranks[1])]]
    for one, other in zip(*over):
        letters[1][other] = letters[0][one]
    result = "".join(i for side, dims in zip(letters, over) for d, i in enumerate(side) if d not in dims)
    return _contraction(node, operands, ("".join(letters[0]), "".join(letters[1]), result), math)


def _contraction(node: Any, operands: Sequence[Any], indices: tuple[str, str, str], math: Any) -> Product:
    """A sum over the indices that both operands have and the result has not."""
    left, right, result = indices
    once = all(len(set(side)) == len(side) for side in indices)
    summed = [i for i in left if i in right and i not in result]
    lone = [i for i in left + right if i not in result and not (i in left and i in right)]
    rows, columns = [i for i in result if i not in right], [i for i in result if i not in left]
    if not once or lone or not summed:
        raise NotAWorkload("is an einsum that is no single matrix product")
    batch = [i for i in result if i in left and i in right]
    for axis, first, second in ((i, left, right) for i in (*summed, *batch)):
        if _value(operands[0]).shape[first.index(axis)] != _value(operands[1]).shape[second.index(axis)]:
            raise NotAWorkload("is an einsum that repeats a size of 1")
    swapped = bool(rows and columns) and result.index(columns[0]) < result.index(rows[0])
    if swapped:  # the result lies as the transpose: B^T A^T
        operands, left, right, rows, columns = (operands[1], operands[0]), right, left, columns, rows
    ordered = "".join(batch + rows + columns) == result

    def at(side: str, *groups: Sequence[str]) -> Parts:
        batch, own, summed = (tuple(side.index(i) for i in group) for group in groups)
        return batch, own, summed

    made = _matmul(node, operands, at(left, batch, rows, summed), at(right, batch, columns, summed), math)
    return made if ordered else Product(made.node, made.workload, -1, made.operands, (*made.copies, "out"))


def _spelled(left: str, right: str, result: str, ranks: Sequence[int]) -> tuple[str, str, str]:
    """The indices with letters for ``...``."""
    counts = [rank - len(side.replace("...", "")) for side, rank in zip((left, right), ranks) if "..." in side]
    letters = [i for i in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if i not in left + right]
    most = "".join(letters[: max(counts, default=0)])

    def fill(side: str, rank: int) -> str:
        own = rank - len(side.replace("...", ""))
        return side.replace("...", most[len(most) - own :])

    return fill(left, ranks[0]), fill(right, ranks[1]), result.replace("...", most)


Parts = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _matmul(node: Any, operands: Sequence[Any], first: Parts, second: Parts, math: tuple[str, ...]) -> Product:
    """A product of two nodes. ``first`` and ``second``: which of their dimensions are (batch, rows of the result, k)
    and (batch, columns of the result, k)."""
    a, b = (_value(n) for n in operands)
    if getattr(a, "is_sparse", False) or getattr(b, "is_sparse", False):
        raise NotAWorkload("multiplies sparse tensors")
    (batch_a, rows, k_a), (batch_b, columns, k_b) = first, second
    batch, m, k, n = sizes(a, batch_a), sizes(a, rows), sizes(a, k_a), sizes(b, columns)
    sizes(b, batch_b)
    left, right = place(a, batch_a, rows, k_a), place(b, batch_b, k_b, columns)
    dtype, out_dtype = _dtypes(node, a, b)
    workload = Matmul(
        m,
        n,
        k,
        batch=batch,
        dtype=dtype,
        out_dtype=out_dtype,
        layout="nt"[left.transposed] + "nt"[right.transposed],
        lda=left.ld,
        ldb=right.ld,
        alignment=_alignment(dtype, out_dtype, a, b),
        math=_permitted(math, "matmul", dtype),
    )
    copies = tuple(name for name, placed in (("a", left), ("b", right)) if placed.copied)
    return Product(node, workload, _value(node).dim() - 1, tuple(operands), copies)


def _conv2d(node: Any, math: tuple[str, ...]) -> Product:
    """``aten.conv2d`` with its padding as numbers or as a word, and ``aten.convolution`` of images, not transposed."""
    x, w = (_value(n) for n in node.args[:2])
    general = named_operation(node) == "convolution"
    if x.dim() not in (3, 4) or w.dim() != 4:
        raise NotAWorkload(f"is a convolution of {w.dim() - 2} dimensions")
    if general and bool(node.args[6]):
        raise NotAWorkload("is a transposed convolution")
    stride, padding, dilation = (_argument(node, at, name) for at, name in _SPREADS)
    groups = _argument(node, 8 if general else 6, "groups")
    stride, dilation = _pair(stride, 1), _pair(dilation, 1)
    images = x if x.dim() == 4 else x.unsqueeze(0)
    n, c, h, wide = (sizes(images, (d,)) for d in range(4))
    k, _, r, s = (sizes(w, (d,)) for d in range(4))
    dtype, out_dtype = _dtypes(node, x, w)
    last = channels_last(images)
    last = bool(channels_last(w)) if last is None and contiguous(images, (0, 1, 2, 3)) else bool(last)
    orders = (0, 2, 3, 1) if last else (0, 1, 2, 3)
    copies = tuple(name for name, t in (("x", images), ("w", w)) if not contiguous(t, orders))
    workload = Conv2d(
        n,
        c,
        h,
        wide,
        k,
        r,
        s,
        stride=stride,
        padding=_padding(padding, (r, s), dilation),
        dilation=dilation,
        groups=1 if groups is None else int(groups),
        layout="nhwc" if last else "nchw",
        dtype=dtype,
        out_dtype=out_dtype,
        alignment=_alignment(dtype, out_dtype, x, w),
        epilogue="bias" if _argument(node, 2, "bias") is not None else "",
        math=_permitted(math, "conv2d", dtype),
    )
    return Product(node, workload, x.dim() - 3, tuple(node.args[:2]), copies)


_SPREADS = ((3, "stride"), (4, "padding"), (5, "dilation"))
MAKERS: dict[str, Callable[[Any, tuple[str, ...]], Product]] = {
    "linear": _linear,
    "mm": _mm,
    "_int_mm": _mm,
    "bmm": _bmm,
    "matmul": _matmul_any,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "_scaled_mm": _scaled_mm,
    "einsum": _einsum,
    "tensordot": _tensordot,
    "conv2d": _conv2d,
    "convolution": _conv2d,
}
"""By operation, how its workload is made."""


def _padding(value: Any, filters: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, ...]:
    """(top, bottom, left, right). ``same`` pads an odd number once more below and to the right, as PyTorch does."""
    if value == "same":
        whole = [d * (size - 1) for d, size in zip(dilation, filters)]
        return tuple(part for total in whole for part in (total // 2, total - total // 2))
    return _pair(0 if value == "valid" else value, 0)


def _pair(value: Any, default: int) -> tuple[int, int]:
    value = default if value is None else value
    one = list(value) if isinstance(value, (list, tuple)) else [value]
    return int(one[0]), int(one[-1])


def _argument(node: Any, at: int, name: str) -> Any:
    return node.args[at] if len(node.args) > at else node.kwargs.get(name)


def _value(node: Any) -> Any:
    return node.meta["val"]


def _with(made: Product, **changes: Any) -> Product:
    return replace(made, workload=replace(made.workload, **changes))


def dtype_name(dtype: Any) -> str:
    """A dtype of PyTorch in the words of a workload."""
    name = str(dtype).partition(".")[2]
    return "float8_e4m3" if name == "float8_e4m3fn" else name


def _dtypes(node: Any, a: Any, b: Any) -> tuple[str, str]:
    """dtype of the operands and of the result. Under autocast PyTorch casts the operands to what the result has."""
    first, second, result = (dtype_name(t.dtype) for t in (a, b, _value(node)))
    wide = all(name in ("float32", "float16", "bfloat16") for name in (first, second, result))
    if wide and (first != result or second != result):
        first = second = result
    if first != second or first not in DTYPES:
        raise NotAWorkload(f"has operands of {first if first == second else f'{first} and {second}'}")
    if result not in OUT_DTYPES[first]:
        raise NotAWorkload(f"has a result of {result} from operands of {first}")
    return first, result


def _permitted(math: tuple[str, ...], op: str, dtype: str) -> tuple[str, ...]:
    """The permissions that mean something for an operation and dtype."""
    return tuple(p for p in math if dtype in MATH[p] and (p != "winograd" or op == "conv2d"))


def _alignment(dtype: str, out_dtype: str, *tensors: Any) -> int:
    """Bytes that the addresses of operands keep: views begin where their offset says."""
    found = ALIGNMENT
    for tensor in tensors:
        offset = tensor.storage_offset()
        offset = offset * tensor.element_size() if isinstance(offset, int) else 1
        found = min(found, offset & -offset or ALIGNMENT)
    least = max(ITEMSIZE[dtype], ITEMSIZE[out_dtype])
    return max(least, found)
