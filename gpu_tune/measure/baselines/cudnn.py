"""cuDNN as a contender for a convolution, through the cuDNN frontend's graphs (extra ``baselines``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...workload import Conv2d
from .. import cuda
from ..cuda import Event, Stream
from ..device_data import DeviceData
from .call import Baseline, Run, Unavailable

_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16", "int8": "INT8", "int32": "INT32",
          "float8_e4m3": "FP8_E4M3", "float8_e5m2": "FP8_E5M2"}  # fmt: skip
_POINTWISE = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_approx_tanh", "silu": "swish"}


def make(w: Conv2d, data: DeviceData, stream: Stream) -> Iterator[Baseline]:
    """``cudnn`` (the fastest plan) and ``cudnn-first`` (the heuristic's first); Unavailable without the frontend."""
    try:
        import cudnn
    except ImportError as error:
        raise Unavailable(f"the cuDNN frontend is not installed ({error}); install gpu_tune[baselines]") from error
    if w.scales != "none" or any(op.name == "clamp" for op in w.ops):
        raise Unavailable(f"is not asked for scales or clamp ({w.key})")
    handle = cudnn.create_handle()
    cudnn.set_stream(handle=handle, stream=stream.handle)
    graph, tensors = _graph(cudnn, handle, w)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans(cudnn.build_plan_policy.ALL)
    count = int(graph.get_execution_plan_count())
    size = max([int(graph.get_workspace_size())] + [_plan_workspace(graph, i) for i in range(count)])
    workspace = cuda.allocate(size + 256)

    def run(index: int) -> Run:
        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], on: int) -> None:
            if on != stream.handle:
                cudnn.set_stream(handle=handle, stream=on)
            pack = {tensor: buffers[name] for name, tensor in tensors.items()}
            graph.execute_plan_at_index(pack, workspace, index, handle=handle)

        return issue

    timed = []
    for index in range(count):
        try:
            timed.append((_quick(run(index), data, stream), index))
        except Exception:  # a plan that builds may still refuse to run; the frontend's errors have no common root
            continue
    if not timed:
        raise Unavailable(f"has no plan for {w.key}")
    fused = f" with fused {w.epilogue}" if w.epilogue else ""
    best, first = min(timed)[1], min(i for _, i in timed)
    cleanup = [lambda: cuda.free(workspace)]
    yield Baseline("cudnn", f"cuDNN plan {best}{fused}, fastest of {len(timed)}", run(best), data, {}, 1, cleanup)
    yield Baseline("cudnn-first", f"cuDNN plan {first}{fused}, first by its heuristic", run(first), data, {}, 1)


def _graph(cudnn: Any, handle: Any, w: Conv2d) -> tuple[Any, dict[str, Any]]:
    types = cudnn.data_type
    accumulate = types.INT32 if w.dtype == "int8" else types.FLOAT
    if w.dtype == "float32" and "tf32" in w.math:
        accumulate = getattr(types, "FAST_FLOAT_FOR_FP32", types.FLOAT)
    graph = cudnn.pygraph(io_data_type=getattr(types, _TYPES[w.dtype]), intermediate_data_type=types.FLOAT,
                          compute_data_type=accumulate, handle=handle)  # fmt: skip
    cg = w.c // w.groups
    shapes = {"x": (w.n, w.c, w.h, w.w), "w": (w.k, cg, w.r, w.s), "out": (w.n, w.k, w.p, w.q)}
    nhwc = w.layout == "nhwc"

    def tensor(name: str, shape: tuple[int, ...], dtype: str) -> Any:
        return graph.tensor(
            name=name, dim=list(shape), stride=_strides(shape, nhwc), data_type=getattr(types, _TYPES[dtype])
        )

    tensors = {name: tensor(name, shapes[name], w.dtype) for name in ("x", "w")}
    top, bottom, left, right = w.padding
    y = graph.conv_fprop(image=tensors["x"], weight=tensors["w"], pre_padding=[top, left], post_padding=[bottom, right],
                         stride=list(w.stride), dilation=list(w.dilation))  # fmt: skip
    for op in w.ops:
        if op.name in ("bias", "scale"):
            tensors[op.name] = tensor(op.name, (1, w.k, 1, 1), w.vector_dtype if op.name == "bias" else "float32")
            y = graph.add(a=y, b=tensors["bias"]) if op.name == "bias" else graph.mul(a=y, b=tensors["scale"])
        elif op.name == "residual":
            tensors["residual"] = tensor("residual", shapes["out"], w.out_dtype)
            y = graph.add(a=y, b=tensors["residual"])
        else:
            y = getattr(graph, _POINTWISE[op.name])(input=y)
    y.set_output(True).set_data_type(getattr(types, _TYPES[w.out_dtype]))
    y.set_dim(list(shapes["out"])).set_stride(_strides(shapes["out"], nhwc))
    tensors["out"] = y
    return graph, tensors


def _strides(shape: tuple[int, ...], nhwc: bool) -> list[int]:
    _, c, h, w = shape
    return [c * h * w, 1, c * w, c] if nhwc else [c * h * w, h * w, w, 1]


def _plan_workspace(graph: Any, index: int) -> int:
    try:
        return int(graph.get_workspace_size_plan_at_index(index))
    except Exception:  # older frontends lack it; the graph's own figure is the largest then
        return 0


def _quick(run: Run, data: DeviceData, stream: Stream) -> float:
    start, end = Event(), Event()
    run(data.timing[0], {}, stream.handle)
    times = []
    for series in range(3):
        start.record(stream.handle)
        for i in range(4):
            run(data.timing[(4 * series + i) % data.sets], {}, stream.handle)
        end.record(stream.handle)
        times.append(end.seconds_since(start) / 4)
    return min(times)
