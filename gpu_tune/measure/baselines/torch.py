"""PyTorch as a contender: the call that its users make, on the same memory, in the same stream and graphs.

Tensors are views of our buffers (no copies), PyTorch's current stream is ours (``torch.cuda.ExternalStream``), and what
it issues is captured like a launch of our own, after it has run once: by then its allocator holds all the memory that
it needs and cuDNN has chosen (``cudnn.benchmark`` is on). What the workload permits binds it, as far as it can be told:
TF32, reduced-precision sums, determinism; it cannot be told to leave Winograd out, and the label says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...cuda.device import Device
from ...cuda.driver import call
from ...cuda.memory import Stream
from ...errors import Unavailable
from ...reference import NUMPY, factors
from ...workload import FP8, ArraySpec, Conv2d, Matmul, Workload
from ..device_data import SCALARS, DeviceData
from .baseline import Baseline, Run, undone_on_failure
from .select import Variant, fastest, why_none
from .unfused_epilogue import Finisher, given, plain

_RAW = {1: "|u1", 2: "<i2", 4: "<i4"}
_NAMES = {"float8_e4m3": "float8_e4m3fn", "float8_e5m2": "float8_e5m2"}
_WIDE = ("float32", "float16", "bfloat16")
Tensors = Mapping[str, Any]
Compute = Callable[[Tensors, Mapping[str, float], int], Any]
"""(tensors by buffer name, scalars, stream) -> the result, or None when it lies in ``out``."""


def make(w: Workload, data: DeviceData, stream: Stream, device: Device, note: Callable[[str], None]) -> Baseline:
    """The fastest of PyTorch's ways; Unavailable when it is not installed, sees no GPU, or has none."""
    session = Session(w, data)
    cleanup: list[Callable[[], None]] = [session.close]
    scalars = {n: SCALARS[n] for n in w.scalars()}
    with undone_on_failure(cleanup):
        if isinstance(w, Matmul):
            ways = _matmuls(session, w, device, cleanup)
        else:
            ways = _convolutions(session, w, device, cleanup)
        variants = [Variant(label, session.run(way), cut) for label, way, cut in ways]
        for variant in variants:
            note("baselines")
            with contextlib.suppress(Exception):  # a way that fails here fails again where it is timed, and is dropped
                for buffers in (data.verify, *data.timing):  # nothing may be allocated while a graph is captured
                    variant.run(buffers, scalars, stream.handle)
        stream.synchronize()
        best, _ = fastest(variants, data, scalars, stream, note)
        if best is None:
            raise Unavailable(f"offers nothing for {w.key}{why_none(variants)}")
    label = f"PyTorch {session.torch.__version__} {best.label}"
    return Baseline("torch", label, best.run, data, scalars, best.roundings, cleanup)


class Session:
    """PyTorch bound to this workload's buffers, permissions and streams."""

    def __init__(self, w: Workload, data: DeviceData) -> None:
        try:
            import torch
        except ImportError as error:
            raise Unavailable(f"PyTorch is not installed ({error}); install a build of it for your CUDA") from error
        if not torch.cuda.is_available():
            raise Unavailable(f"PyTorch {torch.__version__} sees no GPU; install a build of it for your CUDA")
        self.torch: Any = torch
        self.workload, self.data = w, data
        ordinal = ctypes.c_int()
        call("cuCtxGetDevice", ctypes.byref(ordinal))
        self.ordinal = ordinal.value
        self._seen: dict[int, Tensors] = {}
        self._streams: dict[int, Any] = {}
        self._results: dict[int, Any] = {}
        self._specs = w.arrays()

    def run(self, compute: Compute) -> Run:
        """``compute`` as something to issue. A result of its own is kept until its buffers come round again, so that
        results rotate as buffers do; it is copied to ``out`` only on the set to verify on."""

        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
            with self._on(stream), permitted(self.torch, self.workload), self.torch.no_grad():
                tensors = self.tensors(buffers)
                result = compute(tensors, scalars, stream)
                if result is not None:
                    self._results[buffers["out"]] = result
                    if buffers["out"] == self.data.verify["out"]:
                        tensors["out"].copy_(result)

        return issue

    def tensors(self, buffers: Mapping[str, int]) -> Tensors:
        """Views of ``buffers``."""
        key = buffers["out"]
        if key not in self._seen:
            self._seen[key] = {n: self.view(buffers[n], spec) for n, spec in self._specs.items()}
        return self._seen[key]

    def view(self, address: int, spec: ArraySpec) -> Any:
        """The tensor that lies at ``address``."""
        size = NUMPY[spec.dtype].itemsize
        strides = tuple(s * size for s in spec.element_strides)
        raw = self.torch.as_tensor(_Memory(address, spec.shape, _RAW[size], strides), device=f"cuda:{self.ordinal}")
        return raw.view(self.dtype(spec.dtype))

    def dtype(self, name: str) -> Any:
        """PyTorch's dtype of that name."""
        return getattr(self.torch, _NAMES.get(name, name))

    def close(self) -> None:
        """Let go of everything."""
        self._seen.clear()
        self._results.clear()
        self.torch.cuda.empty_cache()

    def _on(self, stream: int) -> Any:
        if stream not in self._streams:
            self._streams[stream] = self.torch.cuda.ExternalStream(stream, device=f"cuda:{self.ordinal}")
        return self.torch.cuda.stream(self._streams[stream])


class _Memory:
    """Device memory, described as the CUDA array interface does."""

    def __init__(self, address: int, shape: tuple[int, ...], typestr: str, strides: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape, "typestr": typestr, "data": (address, False), "strides": strides, "version": 3,
        }  # fmt: skip


@contextlib.contextmanager
def permitted(torch: Any, w: Workload) -> Iterator[None]:
    """PyTorch's global switches as ``w`` permits, and afterwards as they were."""
    matmul, tf32, narrow = torch.backends.cuda.matmul, "tf32" in w.math, "fp16_accumulate" in w.math
    switches = {f"allow_{t}_reduced_precision_reduction": narrow for t in ("fp16", "bf16")}
    switches |= {"allow_fp16_accumulation": narrow} if hasattr(matmul, "allow_fp16_accumulation") else {}
    before = {name: getattr(matmul, name) for name in switches}
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        for name, value in switches.items():
            setattr(matmul, name, value)
        flags = torch.backends.cudnn.flags
        with flags(enabled=True, benchmark=True, deterministic=w.deterministic, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for name, value in before.items():
            setattr(matmul, name, value)


Way = tuple[str, Compute, int]


def _matmuls(s: Session, w: Matmul, device: Device, cleanup: list[Callable[[], None]]) -> Iterator[Way]:
    """(label, how, roundings between the library and the result) of each way."""
    if w.scales == "block128":
        raise Unavailable("is not asked for block scales")
    if w.dtype in (*FP8, "int8") and w.batch > 1:
        raise Unavailable(f"multiplies no batches of {w.dtype}")
    torch = s.torch

    def product(t: Tensors, out: Any) -> None:
        a, b = factors(w, t)
        if w.dtype == "int8":
            torch._int_mm(a, b, out=out)
        elif w.dtype in FP8:
            one = unit()
            torch._scaled_mm(a, b, one, one, out_dtype=out.dtype, use_fast_accum=fast, out=out)
        else:
            torch.matmul(a, b, out=out)

    @functools.cache
    def unit() -> Any:
        return torch.ones((), dtype=torch.float32, device=f"cuda:{s.ordinal}")

    fast, names = "fast_accumulate" in w.math, [op.name for op in w.ops]
    kind = {"int8": "torch._int_mm", **dict.fromkeys(FP8, "torch._scaled_mm")}.get(w.dtype, "torch.matmul")
    if plain(w) and given(w) == w.out_dtype and (w.dtype not in _WIDE or w.out_dtype == w.dtype):
        yield kind, lambda t, _, on: product(t, t["out"]), 0
        return
    scaled = w.scales in ("tensor", "row_col") and w.dtype in FP8 and w.alpha == "1" and w.beta == "0"
    if scaled and w.epilogue in ("", "bias"):

        def whole(t: Tensors, scalars: Mapping[str, float], on: int) -> None:
            a, b = factors(w, t)
            columns = w.scales == "row_col"
            x, y = (
                (t["scale_a"].reshape(-1, 1), t["scale_b"].reshape(1, -1)) if columns else (t["scale_a"], t["scale_b"])
            )
            bias, out = t.get("bias"), t["out"]
            torch._scaled_mm(a, b, x, y, bias=bias, out_dtype=out.dtype, use_fast_accum=fast, out=out)

        yield "torch._scaled_mm" + (" with fused bias" if names else ""), whole, 0
    bare = w.dtype in _WIDE and w.out_dtype == w.dtype and w.scales == "none"
    if bare and not names:

        def added(t: Tensors, scalars: Mapping[str, float], on: int) -> None:
            (a, b), out = factors(w, t), t["out"]
            beta = {"0": 0.0, "1": 1.0}.get(w.beta, scalars.get("beta", 0.0))
            add = torch.addmm if w.batch == 1 else torch.baddbmm
            add(t.get("c", out), a, b, beta=beta, alpha=scalars.get("alpha", 1.0), out=out)

        yield "torch.addmm" if w.batch == 1 else "torch.baddbmm", added, 0
    if bare and w.batch == 1 and w.alpha == "1" and w.beta == "0" and names[:1] == ["bias"]:
        if names == ["bias"]:

            def biased(t: Tensors, scalars: Mapping[str, float], on: int) -> None:
                torch.addmm(t["bias"], *factors(w, t), out=t["out"])

            yield "torch.addmm with fused bias", biased, 0
        elif names in (["bias", "relu"], ["bias", "gelu_tanh"]):
            gelu = names[1] == "gelu_tanh"

            def activated(t: Tensors, scalars: Mapping[str, float], on: int) -> None:
                torch._addmm_activation(t["bias"], *factors(w, t), use_gelu=gelu, out=t["out"])

            yield f"torch._addmm_activation ({w.epilogue})", activated, 0
    if w.dtype in _WIDE and given(w) != w.dtype:
        if bare or names:
            return
        raise Unavailable(f"multiplies {w.dtype} into {w.dtype} alone")
    finisher = Finisher(w, device)
    cleanup.append(finisher.close)
    spec = w.arrays()["out"]
    between = ArraySpec(spec.shape, finisher.dtype, spec.strides)

    def finished(t: Tensors, scalars: Mapping[str, float], on: int) -> None:
        buffers = {n: tensor.data_ptr() for n, tensor in t.items()}
        target = finisher.target(buffers)
        product(t, t["out"] if target == buffers["out"] else s.view(target, between))
        finisher.run(buffers, scalars, on)

    yield f"{kind} and an elementwise kernel", finished, 1


def convolved(torch: Any, w: Conv2d, t: Tensors) -> tuple[Any, Any, Any]:
    """Image, filters and padding as PyTorch takes them: the same memory, channels first; uneven padding is added."""
    x, filters = (t[n].permute(0, 3, 1, 2) if w.layout == "nhwc" else t[n] for n in ("x", "w"))
    top, bottom, left, right = w.padding
    if (top, left) == (bottom, right):
        return x, filters, (top, left)
    return torch.nn.functional.pad(x, (left, right, top, bottom)), filters, 0


def _convolutions(s: Session, w: Conv2d, device: Device, cleanup: list[Callable[[], None]]) -> Iterator[Way]:
    """As :func:`_matmuls`."""
    if w.dtype not in _WIDE or given(w) != w.dtype:
        raise Unavailable(f"convolves {w.dtype} into {w.out_dtype} in no way")
    torch, nhwc, (top, bottom, left, right) = s.torch, w.layout == "nhwc", w.padding
    names = [op.name for op in w.ops]
    winograd = "winograd" not in w.math and (w.r, w.s) == (3, 3) and w.stride == (1, 1)
    words = " (cuDNN chooses; Winograd cannot be denied)" if winograd else " (cuDNN chooses)"

    def laid(y: Any) -> Any:
        """``y`` in memory as the workload says; a copy only where cuDNN chose otherwise."""
        return y.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1) if nhwc else y.contiguous()

    def convolve(t: Tensors, bias: Any = None) -> Any:
        x, k, padding = convolved(torch, w, t)
        return torch.nn.functional.conv2d(x, k, bias, w.stride, padding, w.dilation, w.groups)

    if not names:
        yield f"conv2d{words}", lambda t, _, on: laid(convolve(t)), 0
        return
    if names == ["bias"]:
        yield f"conv2d with bias{words}", lambda t, _, on: laid(convolve(t, t["bias"])), 1
    if names == ["bias", "relu"] and (top, left) == (bottom, right):

        def activated(t: Tensors, scalars: Mapping[str, float], on: int) -> Any:
            x, k, padding = convolved(torch, w, t)
            return laid(torch.cudnn_convolution_relu(x, k, t["bias"], w.stride, padding, w.dilation, w.groups))

        yield f"cudnn_convolution_relu{words}", activated, 1
    finisher = Finisher(w, device)
    cleanup.append(finisher.close)
    kept: dict[int, Any] = {}

    def finished(t: Tensors, scalars: Mapping[str, float], on: int) -> None:
        buffers = {n: tensor.data_ptr() for n, tensor in t.items()}
        kept[buffers["out"]] = y = laid(convolve(t))
        finisher.run(buffers, scalars, on, product=y.data_ptr())

    cleanup.append(kept.clear)
    yield f"conv2d{words} and an elementwise kernel", finished, 1
