"""PyTorch as a baseline: the call that its users make, on the same memory, in the same stream and graphs.

Tensors are views of our buffers (no copies), PyTorch's current stream is ours (``torch.cuda.ExternalStream``), and what
it issues is captured like a launch of our own, after it has run once: by then its allocator holds all the memory that
it needs and cuDNN has chosen (``cudnn.benchmark`` is on). What the workload permits binds it, as far as it can be told:
TF32, reduced-precision sums, determinism; it cannot be told to leave Winograd out, and the label says so.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from ...cuda.driver import call
from ...errors import Unavailable
from ...reference import NUMPY, factors
from ...workload import FP8, ArraySpec, Conv2d, Matmul, Workload
from .baseline import Algorithm, Session
from .torch_gradients import gradient
from .unfused_epilogue import UnfusedEpilogue, is_plain, plain_product

_RAW = {1: "|u1", 2: "<i2", 4: "<i4"}
_NAMES = {"float8_e4m3": "float8_e4m3fn", "float8_e5m2": "float8_e5m2"}
_WIDE = ("float32", "float16", "bfloat16")
Tensors = Mapping[str, Any]
Compute = Callable[[Tensors, Mapping[str, float]], Any]
"""(tensors by buffer name, scalars) -> the result: ``out``, or memory of PyTorch's own."""


def algorithms(session: Session) -> list[Algorithm]:
    """PyTorch's ways; Unavailable when it is not installed or sees no GPU."""
    torch, w = Torch(session), session.data.workload
    found = list(_matmuls(torch, w) if isinstance(w, Matmul) else _convolutions(torch, w))
    for algorithm in found:
        session.note()
        with contextlib.suppress(Exception):  # a way that fails here fails again where it is timed, and is dropped
            for buffers in (session.data.verify, *session.data.timing):  # no allocation while a graph is captured
                algorithm.run(buffers, session.data.scalars, session.stream.ptr)
    session.stream.synchronize()
    return found


class Torch:
    """PyTorch bound to a session's buffers, streams and permissions."""

    def __init__(self, session: Session) -> None:
        try:
            import torch
        except ImportError as error:
            raise Unavailable(f"PyTorch is not installed ({error}); install a build of it for your CUDA") from error
        if not torch.cuda.is_available():
            raise Unavailable(f"PyTorch {torch.__version__} sees no GPU; install a build of it for your CUDA")
        self.torch: Any = torch
        self.session = session
        self.device = f"cuda:{int(call('cuCtxGetDevice'))}"
        self._tensors: dict[Any, Tensors] = {}
        self._streams: dict[int, Any] = {}
        self.results: dict[int, Any] = {}
        for free in (torch.cuda.empty_cache, self._tensors.clear, self.results.clear):  # the last one first
            session.owned.callback(free)

    def algorithm(self, w: Workload, label: str, compute: Compute, roundings: int = 0) -> Algorithm:
        """``compute`` on the arrays of ``w``. A result of PyTorch's own is kept until its buffers come round again, so
        that results rotate as buffers do; it is copied to ``out`` only on the set to verify on."""

        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
            with self.issuing(stream):
                tensors = self.tensors(w, buffers)
                result = compute(tensors, scalars)
                if result.data_ptr() != buffers["out"]:
                    self.results[buffers["out"]] = result
                    if buffers["out"] == self.session.data.verify["out"]:
                        tensors["out"].copy_(result)

        return Algorithm(f"PyTorch {self.torch.__version__} {label}", issue, roundings)

    @contextlib.contextmanager
    def issuing(self, stream: int) -> Iterator[None]:
        """PyTorch's calls go to ``stream``, bound to what the workload permits."""
        if stream not in self._streams:
            self._streams[stream] = self.torch.cuda.ExternalStream(stream, device=self.device)
        permissions = permitted(self.torch, self.session.data.workload)
        with self.torch.cuda.stream(self._streams[stream]), permissions, self.torch.no_grad():
            yield

    def tensors(self, w: Workload, buffers: Mapping[str, int]) -> Tensors:
        """Views of ``buffers`` as the arrays of ``w``."""
        key = (w.key, *sorted(buffers.items()))
        if key not in self._tensors:
            self._tensors[key] = {n: self._view(buffers[n], spec) for n, spec in w.arrays().items()}
        return self._tensors[key]

    def _view(self, address: int, spec: ArraySpec) -> Any:
        size = NUMPY[spec.dtype].itemsize
        strides = tuple(s * size for s in spec.element_strides)
        facts = {"shape": spec.shape, "typestr": _RAW[size], "data": (address, False), "strides": strides, "version": 3}
        raw = self.torch.as_tensor(SimpleNamespace(__cuda_array_interface__=facts), device=self.device)
        return raw.view(getattr(self.torch, _NAMES.get(spec.dtype, spec.dtype)))


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


def _matmuls(t: Torch, w: Matmul) -> Iterator[Algorithm]:
    if w.scales == "block128":
        raise Unavailable("is not asked for block scales")
    if w.dtype in (*FP8, "int8") and w.batch > 1:
        raise Unavailable(f"multiplies no batches of {w.dtype}")
    torch = t.torch
    fast, names = "fast_accumulate" in w.math, [str(op) for op in w.ops]

    unit = functools.cache(lambda: torch.ones((), dtype=torch.float32, device=t.device))

    def scaled_mm(x: Tensors, scales: tuple[Any, Any], bias: Any = None) -> Any:
        out = x["out"]
        more = {"bias": bias, "out_dtype": out.dtype, "use_fast_accum": fast, "out": out}
        return torch._scaled_mm(*factors(w, x), *scales, **more)

    def product(x: Tensors, scalars: Mapping[str, float]) -> Any:
        if w.dtype in FP8:
            return scaled_mm(x, (unit(), unit()))
        return (torch._int_mm if w.dtype == "int8" else torch.matmul)(*factors(w, x), out=x["out"])

    def scaled_product(x: Tensors, scalars: Mapping[str, float]) -> Any:
        a, b = x["scale_a"], x["scale_b"]
        columns = w.scales == "row_col"
        return scaled_mm(x, (a.reshape(-1, 1), b.reshape(1, -1)) if columns else (a, b), x.get("bias"))

    def added(x: Tensors, scalars: Mapping[str, float]) -> Any:
        beta = {"0": 0.0, "1": 1.0}.get(w.beta, scalars.get("beta", 0.0))
        add, c = torch.addmm if w.batch == 1 else torch.baddbmm, x.get("c", x["out"])
        return add(c, *factors(w, x), beta=beta, alpha=scalars.get("alpha", 1.0), out=x["out"])

    def biased(x: Tensors, scalars: Mapping[str, float]) -> Any:
        return torch.addmm(x["bias"], *factors(w, x), out=x["out"])

    def activated(x: Tensors, scalars: Mapping[str, float]) -> Any:
        return torch._addmm_activation(x["bias"], *factors(w, x), use_gelu=names[1] == "gelu_tanh", out=x["out"])

    same = w.dtype in _WIDE and w.out_dtype == w.dtype
    if plain_product(w) == w and (same or w.dtype not in _WIDE):
        kind = {"int8": "torch._int_mm", **dict.fromkeys(FP8, "torch._scaled_mm")}.get(w.dtype, "torch.matmul")
        yield t.algorithm(w, kind, product)
        return
    unscaled = w.alpha == "1" and w.beta == "0"
    if unscaled and w.scales in ("tensor", "row_col") and w.dtype in FP8 and w.epilogue in ("", "bias"):
        yield t.algorithm(w, "torch._scaled_mm" + (" with fused bias" if names else ""), scaled_product)
    bare = same and w.scales == "none"
    if bare and not names:
        yield t.algorithm(w, "torch.addmm" if w.batch == 1 else "torch.baddbmm", added)
    if bare and unscaled and w.batch == 1 and names == ["bias"]:
        yield t.algorithm(w, "torch.addmm with fused bias", biased)
    if bare and unscaled and w.batch == 1 and names in (["bias", "relu"], ["bias", "gelu_tanh"]):
        yield t.algorithm(w, f"torch._addmm_activation ({w.epilogue})", activated)
    if w.dtype in _WIDE and plain_product(w).out_dtype != w.dtype:
        raise Unavailable(f"multiplies {w.dtype} into {w.dtype} alone")
    yield from map(UnfusedEpilogue(t.session).after, _matmuls(t, plain_product(w)))


def convolved(torch: Any, w: Conv2d, x: Tensors) -> tuple[Any, Any, Any]:
    """Image, filters and padding as PyTorch takes them: the same memory, channels first; uneven padding is added."""
    image, filters = (x[n].permute(0, 3, 1, 2) if w.layout == "nhwc" else x[n] for n in ("x", "w"))
    top, bottom, left, right = w.padding
    if (top, left) == (bottom, right):
        return image, filters, (top, left)
    return torch.nn.functional.pad(image, (left, right, top, bottom)), filters, 0


def _laid(t: Torch, w: Conv2d, y: Any) -> Any:
    """``y`` (channels first) in memory as the workload says; a copy only where cuDNN chose otherwise."""
    if w.layout == "nchw":
        return y.contiguous()
    return y.contiguous(memory_format=t.torch.channels_last).permute(0, 2, 3, 1)


def _gradient(t: Torch, w: Conv2d) -> Algorithm:
    """``aten::convolution_backward``, and where something is left to do an elementwise kernel."""
    label = "convolution_backward (cuDNN chooses; Winograd cannot be denied)"
    plain = t.algorithm(w, label, lambda x, _: _laid(t, w, gradient(t.torch, w, x)))
    if is_plain(w):
        return plain
    epilogue = UnfusedEpilogue(t.session)

    def finished(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
        with t.issuing(stream):
            t.results[buffers["out"]] = y = _laid(t, w, gradient(t.torch, w, t.tensors(w, buffers)))
        epilogue.run(buffers, scalars, stream, y.data_ptr())

    return Algorithm(f"{plain.label} and an elementwise kernel", finished, 1)


def _convolutions(t: Torch, w: Conv2d) -> Iterator[Algorithm]:
    if w.dtype not in _WIDE or plain_product(w).out_dtype != w.dtype:
        raise Unavailable(f"convolves {w.dtype} into {w.out_dtype} in no way")
    if w.direction != "fprop":
        yield _gradient(t, w)
        return
    torch, (top, bottom, left, right) = t.torch, w.padding
    names = [str(op) for op in w.ops]
    winograd = "winograd" not in w.math and (w.r, w.s) == (3, 3) and w.stride == (1, 1)
    words = " (cuDNN chooses; Winograd cannot be denied)" if winograd else " (cuDNN chooses)"

    def convolve(x: Tensors, bias: Any = None) -> Any:
        image, filters, padding = convolved(torch, w, x)
        return _laid(t, w, torch.nn.functional.conv2d(image, filters, bias, w.stride, padding, w.dilation, w.groups))

    def activated(x: Tensors, scalars: Mapping[str, float]) -> Any:
        image, filters, padding = convolved(torch, w, x)
        return _laid(
            t, w, torch.cudnn_convolution_relu(image, filters, x["bias"], w.stride, padding, w.dilation, w.groups)
        )

    if not names:
        yield t.algorithm(w, f"conv2d{words}", lambda x, _: convolve(x))
        return
    if names == ["bias"]:
        yield t.algorithm(w, f"conv2d with bias{words}", lambda x, _: convolve(x, x["bias"]), 1)
    if names == ["bias", "relu"] and (top, left) == (bottom, right):
        yield t.algorithm(w, f"cudnn_convolution_relu{words}", activated, 1)
    epilogue, plain = UnfusedEpilogue(t.session), t.algorithm(w, f"conv2d{words}", lambda x, _: convolve(x))

    def finished(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
        with t.issuing(stream):
            t.results[buffers["out"]] = y = convolve(t.tensors(w, buffers))
        epilogue.run(buffers, scalars, stream, y.data_ptr())

    yield Algorithm(f"{plain.label} and an elementwise kernel", finished, 1)
