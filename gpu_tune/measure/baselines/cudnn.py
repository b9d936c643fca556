"""cuDNN as a contender for a convolution, through the cuDNN frontend's graphs (extra ``baselines``).

Every plan that its heuristics propose and the permissions allow is built and timed: what a plan does beyond strict
arithmetic it declares in numeric notes, and those that are not permitted are deselected. Plans with the epilogue fused
into the convolution compete with plans for the plain convolution and one elementwise kernel.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...cuda import memory
from ...cuda.device import Device
from ...cuda.memory import Stream
from ...errors import Unavailable
from ...workload import FP8, Conv2d
from ..device_data import DeviceData
from .baseline import Baseline, Run, undo, undone_on_failure
from .select import Variant, fastest, why_none
from .unfused_epilogue import Finisher, given, plain

log = logging.getLogger("gpu_tune.baselines")
_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16", "int8": "INT8", "int32": "INT32",
          "float8_e4m3": "FP8_E4M3", "float8_e5m2": "FP8_E5M2"}  # fmt: skip
_POINTWISE = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_approx_tanh", "silu": "swish"}
_WINOGRAD = ("WINOGRAD", "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13")


def make(
    w: Conv2d, data: DeviceData, stream: Stream, device: Device, note: Callable[[str], None]
) -> Iterator[Baseline]:
    """``cudnn`` (the fastest plan) and ``cudnn-first`` (the heuristic's first); Unavailable without the frontend."""
    try:
        import cudnn
    except (ImportError, OSError) as error:  # the frontend loads cuDNN itself when it is imported, or later
        remedy = "pip install 'gpu_tune[baselines]' nvidia-cudnn-cu13 (or -cu12)"
        raise Unavailable(f"the cuDNN frontend or cuDNN is not installed ({error}); {remedy}") from error
    cleanup: list[Callable[[], None]] = []
    with undone_on_failure(cleanup):
        handle = cudnn.create_handle()
        cleanup.append(lambda: cudnn.destroy_handle(handle))
        cudnn.set_stream(handle=handle, stream=stream.handle)
        plans = _Plans(cudnn, handle, stream, cleanup, note)
        variants, reasons = [], []
        for build in (_fused, _split):
            try:
                variants += build(plans, w, device, cleanup)
            except Unavailable as reason:
                reasons.append(str(reason))
            except Exception as error:  # the frontend refuses with exceptions of several kinds
                reasons.append(f"{type(error).__name__}: {error}")
        best, seconds = fastest(variants, data, {}, stream, note)
        if best is None:
            why = why_none(variants) or "".join(f": {r}" for r in reasons[:1])
            raise Unavailable(f"has no plan for {w.key}{why}")
    runs = sum(t < float("inf") for t in seconds)
    first = next(v for v, t in zip(variants, seconds) if t < float("inf"))
    users = 2

    def close() -> None:  # the two share graphs and memory: whichever is closed last frees them
        nonlocal users
        users -= 1
        if not users:
            undo(cleanup)

    labels = {"cudnn": (best, f"fastest of {runs}"), "cudnn-first": (first, "first by its heuristic")}
    for name, (v, words) in labels.items():
        yield Baseline(name, f"{v.label}, {words}", v.run, data, {}, v.roundings, [close])


def denied(w: Conv2d) -> tuple[str, ...]:
    """Numeric notes of plans that ``w`` does not permit: TENSOR_CORE on float32 is TF32."""
    notes = ["DOWN_CONVERT_INPUTS", "FFT"]
    notes += ["TENSOR_CORE"] if w.dtype == "float32" and "tf32" not in w.math else []
    notes += [] if "fp16_accumulate" in w.math else ["REDUCED_PRECISION_REDUCTION"]
    notes += [] if "winograd" in w.math else _WINOGRAD
    notes += ["NONDETERMINISTIC"] if w.deterministic else []
    return tuple(notes)


class _Plans:
    """Builds every permitted plan of a graph."""

    def __init__(
        self, cudnn: Any, handle: Any, stream: Stream, cleanup: list[Callable[[], None]], note: Callable[[str], None]
    ) -> None:
        self.cudnn, self.handle, self.cleanup, self.note = cudnn, handle, cleanup, note
        self._stream = stream.handle

    def build(self, graph: Any, tensors: Mapping[str, Any], w: Conv2d) -> list[tuple[str, Run]]:
        """(name, how to run it on buffers by name) of each plan that can be built, the heuristic's first one first."""
        cudnn = self.cudnn
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.B, cudnn.heur_mode.FALLBACK])
        # only now: older frontends mark the plans that exist
        graph.deselect_numeric_notes([getattr(cudnn.numerical_note, n) for n in denied(w)])
        built: dict[str, int] = {}
        size = 0
        for index in range(int(graph.get_execution_plan_count())):
            self.note("baselines")
            try:
                graph.build_plan_at_index(index)
                needed = int(graph.get_workspace_size_plan_at_index(index))
            except Exception as error:  # deselected, or the backend cannot build it: the others remain
                log.debug("cuDNN plan %d: %s", index, error)
                continue
            name = str(index)
            with contextlib.suppress(Exception):  # older frontends have no names
                name = str(graph.get_plan_name_at_index(index))
            if name not in built:  # two heuristics may propose the same
                built[name] = index
                size = max(size, needed)
        workspace = memory.allocate(size + 256)
        self.cleanup.append(lambda: memory.free(workspace))
        return [(name, self._run(graph, tensors, index, workspace)) for name, index in built.items()]

    def _run(self, graph: Any, tensors: Mapping[str, Any], index: int, workspace: int) -> Run:
        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
            if stream != self._stream:
                self.cudnn.set_stream(handle=self.handle, stream=stream)
                self._stream = stream
            pack = {tensor: buffers[name] for name, tensor in tensors.items()}
            graph.execute_plan_at_index(pack, workspace, index, handle=self.handle)

        return issue


def _fused(plans: _Plans, w: Conv2d, device: Device, cleanup: list[Callable[[], None]]) -> list[Variant]:
    found = plans.build(*_graph(plans.cudnn, plans.handle, w, w.out_dtype, True), w)
    words = f" with fused {w.epilogue}" if w.epilogue else ""
    return [Variant(f"cuDNN plan {name}{words}", run, 1) for name, run in found]


def _split(plans: _Plans, w: Conv2d, device: Device, cleanup: list[Callable[[], None]]) -> list[Variant]:
    if plain(w):
        return []
    finisher = Finisher(w, device)
    cleanup.append(finisher.close)
    found = plans.build(*_graph(plans.cudnn, plans.handle, w, given(w), False), w)

    def both(run: Run) -> Run:
        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
            run({**buffers, "out": finisher.target(buffers)}, scalars, stream)
            finisher.run(buffers, scalars, stream)

        return issue

    return [Variant(f"cuDNN plan {name} and an elementwise kernel", both(run), 1) for name, run in found]


def _graph(cudnn: Any, handle: Any, w: Conv2d, out_dtype: str, fuse: bool) -> tuple[Any, dict[str, Any]]:
    """(the graph, its tensors by buffer name); with ``fuse``, scales and epilogue belong to it."""
    types = cudnn.data_type
    integer = w.dtype == "int8"
    accumulate = types.INT32 if integer else types.FLOAT
    if w.dtype in FP8 and "fast_accumulate" in w.math:
        accumulate = getattr(types, "FAST_FLOAT_FOR_FP8", types.FLOAT)
    graph = cudnn.pygraph(
        io_data_type=getattr(types, _TYPES[w.dtype]),
        intermediate_data_type=types.INT32 if integer else types.FLOAT,
        compute_data_type=accumulate,
        handle=handle,
    )
    shapes = {"x": (w.n, w.c, w.h, w.w), "w": (w.k, w.c // w.groups, w.r, w.s), "out": (w.n, w.k, w.p, w.q)}
    nhwc = w.layout == "nhwc"
    wide: dict[str, Any] = {"compute_data_type": types.FLOAT}  # of everything after the convolution

    def tensor(name: str, shape: tuple[int, ...], dtype: str) -> Any:
        strides = _strides(shape, nhwc)
        return graph.tensor(name=name, dim=list(shape), stride=strides, data_type=getattr(types, _TYPES[dtype]))

    tensors = {name: tensor(name, shapes[name], w.dtype) for name in ("x", "w")}
    top, bottom, left, right = w.padding
    y = graph.conv_fprop(image=tensors["x"], weight=tensors["w"], pre_padding=[top, left], post_padding=[bottom, right],
                         stride=list(w.stride), dilation=list(w.dilation))  # fmt: skip
    steps = w.ops if fuse else ()
    if integer and not steps and not (fuse and w.scales != "none"):
        y = graph.identity(input=y)  # integer engines come as a convolution and a pointwise step
    if fuse and w.scales != "none":
        per_channel = w.k if w.scales == "row_col" else 1
        for name, width in (("scale_a", 1), ("scale_b", per_channel)):
            tensors[name] = tensor(name, (1, width, 1, 1), "float32")
            y = graph.mul(a=y, b=tensors[name], **wide)
            y.set_data_type(types.FLOAT)
    for op in steps:
        if op.name in ("bias", "scale"):
            dtype = w.vector_dtype if op.name == "bias" else "float32"
            tensors[op.name] = tensor(op.name, (1, w.k, 1, 1), dtype)
            y = (graph.add if op.name == "bias" else graph.mul)(a=y, b=tensors[op.name], **wide)
        elif op.name == "residual":
            tensors["residual"] = tensor("residual", shapes["out"], w.out_dtype)
            y = graph.add(a=y, b=tensors["residual"], **wide)
        elif op.name == "clamp":
            y = graph.relu(input=y, lower_clip=op.lo, upper_clip=op.hi, **wide)
        else:
            y = getattr(graph, _POINTWISE[op.name])(input=y, **wide)
        y.set_data_type(types.FLOAT)
    y.set_output(True).set_data_type(getattr(types, _TYPES[out_dtype]))
    y.set_dim(list(shapes["out"])).set_stride(_strides(shapes["out"], nhwc))
    tensors["out"] = y
    return graph, tensors


def _strides(shape: tuple[int, ...], nhwc: bool) -> list[int]:
    _, c, h, w = shape
    return [c * h * w, 1, c * w, c] if nhwc else [c * h * w, h * w, w, 1]
