"""A stand-in for PyTorch on the virtual GPU, whose memory is the host's: the calls that the baseline makes, in NumPy.

As strict as the real one where a wrong call would show: shapes, dtypes and layouts of operands and ``out`` must fit.
``calls`` records each call with the switches that were on.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from gpu_tune.cuda import driver

DTYPES = {
    **{n: getattr(np, n) for n in ("float32", "float16", "int8", "int32")},
    **{n: getattr(ml_dtypes, n) for n in ("bfloat16", "float8_e4m3fn", "float8_e5m2")},
}


def settle(stream: int) -> None:
    """Wait until the virtual GPU has done what ``stream`` holds, so that the host may work on the same memory.

    Not while a graph is captured: then the host works at once, on buffers whose values nobody checks.
    """
    if not driver.call("cuStreamIsCapturing", stream):
        driver.call("cuStreamSynchronize", stream)


class Tensor:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def view(self, dtype: Any) -> Tensor:
        return Tensor(self.array.view(dtype))

    def swapaxes(self, a: int, b: int) -> Tensor:
        return Tensor(np.swapaxes(self.array, a, b))

    def permute(self, *order: int) -> Tensor:
        return Tensor(self.array.transpose(order))

    def reshape(self, *shape: int) -> Tensor:
        return Tensor(self.array.reshape(shape))

    def contiguous(self, memory_format: str = "contiguous") -> Tensor:
        last = memory_format == "channels_last"
        kept = np.ascontiguousarray(self.array.transpose(0, 2, 3, 1) if last else self.array)
        return Tensor(kept.transpose(0, 3, 1, 2) if last else kept)

    def new_empty(self, size: int) -> Tensor:
        return Tensor(np.full(size, np.nan, self.array.dtype))

    def expand(self, shape: tuple[int, ...]) -> Tensor:
        return Tensor(np.broadcast_to(self.array, shape))

    def __getitem__(self, where: Any) -> Tensor:
        return Tensor(self.array[where])

    def copy_(self, other: Tensor) -> None:
        assert self.array.shape == other.array.shape
        self.array[...] = other.array

    def is_neg(self) -> bool:
        return False

    def data_ptr(self) -> int:
        return self.array.ctypes.data


def raw(facts: dict[str, Any]) -> memoryview:
    """The bytes that a ``__cuda_array_interface__`` describes."""
    span = sum((n - 1) * s for n, s in zip(facts["shape"], facts["strides"])) + np.dtype(facts["typestr"]).itemsize
    return memoryview((ctypes.c_ubyte * span).from_address(facts["data"][0])).cast("B")


def convolved(image: np.ndarray, filters: np.ndarray, stride: Any, dilation: Any, groups: int) -> np.ndarray:
    """The cross-correlation of a padded NCHW image."""
    k, c, r, s = filters.shape
    rows, columns = ((image.shape[2 + i] - dilation[i] * (n - 1) - 1) // stride[i] + 1 for i, n in enumerate((r, s)))
    out = np.zeros((len(image), k, rows, columns))
    for g in range(groups):
        mine = slice(g * k // groups, (g + 1) * k // groups)
        for i in range(r):
            for j in range(s):
                part = image[:, g * c : (g + 1) * c, i * dilation[0] :: stride[0], j * dilation[1] :: stride[1]]
                out[:, mine] += np.einsum("nchw,kc->nkhw", part[:, :, :rows, :columns], filters[mine, :, i, j])
    return out


def gradients(
    dy: np.ndarray, image: np.ndarray, filters: np.ndarray, stride: Any, dilation: Any, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of :func:`convolved` for the padded image and for the filters, whose values are those of the other's gradient."""
    k, c, r, s = filters.shape
    dx, dw = np.zeros(image.shape), np.zeros(filters.shape)
    for g in range(groups):
        mine, its = slice(g * k // groups, (g + 1) * k // groups), slice(g * c, (g + 1) * c)
        for i in range(r):
            for j in range(s):
                rows, columns = (
                    slice(at * d, at * d + (size - 1) * step + 1, step)
                    for at, d, size, step in zip((i, j), dilation, dy.shape[2:], stride)
                )
                dw[mine, :, i, j] = np.einsum("nkhw,nchw->kc", dy[:, mine], image[:, its, rows, columns])
                dx[:, its, rows, columns] += np.einsum("nkhw,kc->nchw", dy[:, mine], filters[mine, :, i, j])
    return dx, dw


def convolution_backward(
    called: Callable[[str], None], dy: Tensor, x: Tensor, w: Tensor, bias: None, stride: Any, padding: Any,
    dilation: Any, transposed: bool, output_padding: Any, groups: int, mask: Any,
) -> tuple[Tensor | None, Tensor | None, None]:  # fmt: skip
    """``aten::convolution_backward``; ``called`` is told of it."""
    called("convolution_backward")
    assert not transposed and not any(output_padding) and not mask[2] and dy.dtype == x.dtype == w.dtype
    (top, left), (h, width) = padding, x.array.shape[2:]
    wide = [t.array.astype(np.float64) for t in (dy, x, w)]
    image = np.pad(wide[1], ((0, 0), (0, 0), (top, top), (left, left)))
    dx, dw = gradients(wide[0], image, wide[2], stride, dilation, groups)
    found = dx[:, :, top : top + h, left : left + width].astype(dy.dtype), dw.astype(dy.dtype)
    return (Tensor(found[0]) if mask[0] else None), (Tensor(found[1]) if mask[1] else None), None


def module() -> Any:
    """A fresh ``torch``."""
    calls: list[tuple[str, dict[str, Any]]] = []
    state: dict[str, Any] = {"precision": "highest", "cudnn": {}, "stream": 0}
    matmul = SimpleNamespace(
        allow_fp16_reduced_precision_reduction=True,
        allow_bf16_reduced_precision_reduction=True,
        allow_fp16_accumulation=False,
    )

    def wide(t: Tensor) -> np.ndarray:
        return t.array.astype(np.float64)

    def called(name: str) -> None:
        assert state["stream"], "PyTorch's current stream is not the one that is timed"
        calls.append((name, {**state["cudnn"], **vars(matmul), "precision": state["precision"]}))

    def put(out: Tensor, values: np.ndarray) -> Tensor:
        if out.array.shape != values.shape:
            raise RuntimeError(f"out has shape {out.array.shape}, the result {values.shape}")
        out.array[...] = values.astype(out.dtype)
        return out

    def product(name: str, a: Tensor, b: Tensor, out: Tensor | None, same: bool = True) -> np.ndarray:
        called(name)
        if a.dtype != b.dtype or (out is not None and same and out.dtype != a.dtype):
            raise RuntimeError("expected operands and out to have the same dtype")
        return wide(a) @ wide(b)

    def as_tensor(memory: Any, device: str) -> Tensor:
        facts = memory.__cuda_array_interface__
        assert (device, facts["version"]) == ("cuda:0", 3), (device, facts)
        return Tensor(np.ndarray(facts["shape"], facts["typestr"], raw(facts), strides=facts["strides"]))

    def addmm(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor) -> Tensor:
        values = alpha * product("addmm", a, b, out)
        return put(out, values + (beta * wide(c) if beta else 0))

    def _addmm_activation(c: Tensor, a: Tensor, b: Tensor, *, use_gelu: bool = False, out: Tensor) -> Tensor:
        v = product("_addmm_activation", a, b, out) + wide(c)
        gelu = 0.5 * v * (1 + np.tanh(0.7978845608028654 * (v + 0.044715 * v**3)))
        return put(out, gelu if use_gelu else np.maximum(v, 0))

    def _int_mm(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        if (a.dtype, out.dtype) != (np.int8, np.int32):
            raise RuntimeError("expected int8 operands and an int32 out")
        return put(out, product("_int_mm", a, b, out, False))

    def _scaled_mm(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None = None, *,
                   out_dtype: Any, use_fast_accum: bool, out: Tensor) -> Tensor:  # fmt: skip
        shapes = scale_a.array.shape, scale_b.array.shape
        columns = shapes == ((a.array.shape[0], 1), (1, b.array.shape[1]))
        if not columns and (scale_a.array.size, scale_b.array.size) != (1, 1):
            raise RuntimeError(f"scales have shapes {shapes}")
        if b.array.strides[0] != b.array.itemsize or out.dtype != out_dtype:
            raise RuntimeError("b must be column-major, out of out_dtype")
        values = product("_scaled_mm", a, b, out, False) * wide(scale_a) * wide(scale_b)
        return put(out, values + (wide(bias) if bias is not None else 0))

    def conv2d(
        x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:
        called("conv2d")
        top, left = (padding, padding) if isinstance(padding, int) else padding
        image = np.pad(wide(x), ((0, 0), (0, 0), (top, top), (left, left)))
        out = convolved(image, wide(w), stride, dilation, groups)
        out += wide(bias).reshape(-1, 1, 1) if bias is not None else 0
        return Tensor(out.astype(x.dtype))

    def cudnn_convolution_relu(
        x: Tensor, w: Tensor, bias: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:
        y = conv2d(x, w, bias, stride, padding, dilation, groups)
        return Tensor(np.maximum(y.array, 0))

    @contextlib.contextmanager
    def flags(**given: Any) -> Any:
        before, state["cudnn"] = state["cudnn"], given
        yield
        state["cudnn"] = before

    @contextlib.contextmanager
    def stream(given: Any) -> Any:
        before, state["stream"] = state["stream"], given.handle
        settle(given.handle)
        yield
        state["stream"] = before

    return SimpleNamespace(
        **DTYPES,
        __version__="0 (stand-in)",
        calls=calls,
        channels_last="channels_last",
        as_tensor=as_tensor,
        addmm=addmm,
        baddbmm=addmm,
        matmul=lambda a, b, *, out: put(out, product("matmul", a, b, out)),
        _addmm_activation=_addmm_activation,
        _int_mm=_int_mm,
        _scaled_mm=_scaled_mm,
        cudnn_convolution_relu=cudnn_convolution_relu,
        ops=SimpleNamespace(aten=SimpleNamespace(convolution_backward=functools.partial(convolution_backward, called))),
        ones=lambda shape, dtype, device: Tensor(np.ones(shape, dtype)),
        no_grad=contextlib.nullcontext,
        get_float32_matmul_precision=lambda: state["precision"],
        set_float32_matmul_precision=lambda value: state.update(precision=value),
        nn=SimpleNamespace(
            functional=SimpleNamespace(
                conv2d=conv2d,
                pad=lambda x, p: Tensor(np.pad(x.array, ((0, 0), (0, 0), (p[2], p[3]), (p[0], p[1])))),
            )
        ),
        backends=SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=SimpleNamespace(flags=flags)),
        cuda=SimpleNamespace(
            is_available=lambda: True,
            ExternalStream=lambda handle, device: SimpleNamespace(handle=handle),
            stream=stream,
            empty_cache=lambda: None,
        ),
    )


def on_host(torch: Any) -> Any:
    """The real ``torch`` with the virtual GPU's memory in place of CUDA's: its own functions, on host tensors."""

    def as_tensor(memory: Any, device: str) -> Any:
        facts = memory.__cuda_array_interface__
        size = np.dtype(facts["typestr"]).itemsize
        flat = torch.from_numpy(np.frombuffer(raw(facts), facts["typestr"]))
        return flat.as_strided(facts["shape"], tuple(s // size for s in facts["strides"]))

    @contextlib.contextmanager
    def stream(handle: int) -> Any:
        settle(handle)
        yield

    cuda = SimpleNamespace(
        is_available=lambda: True,
        ExternalStream=lambda handle, device: handle,
        stream=stream,
        empty_cache=lambda: None,
    )
    changed = {
        "cuda": cuda,
        "as_tensor": as_tensor,
        "ones": lambda shape, dtype, device: torch.ones(shape, dtype=dtype),
    }

    class Host:
        def __getattr__(self, name: str) -> Any:
            return changed[name] if name in changed else getattr(torch, name)

    return Host()
