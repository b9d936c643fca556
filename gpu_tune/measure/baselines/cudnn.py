"""cuDNN as a baseline for a convolution, through the cuDNN frontend's graphs (extra ``baselines``).

Every plan that its heuristics propose and the permissions allow is built and timed: what a plan does beyond strict
arithmetic it declares in numeric notes, and those that are not permitted are deselected. Plans with the epilogue fused
into the convolution compete with plans for the plain convolution and one elementwise kernel.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from ...errors import Unavailable
from ...workload import FP8, Conv2d
from ..check import Run
from .baseline import Algorithm, Session
from .unfused_epilogue import UnfusedEpilogue, is_plain, plain_product

log = logging.getLogger("gpu_tune.baselines")
_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16", "int8": "INT8", "int32": "INT32",
          "float8_e4m3": "FP8_E4M3", "float8_e5m2": "FP8_E5M2"}  # fmt: skip
_POINTWISE = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_approx_tanh", "silu": "swish"}
_WINOGRAD = ("WINOGRAD", "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13")


def algorithms(session: Session) -> list[Algorithm]:
    """Every permitted plan, the heuristic's first one first; Unavailable without the frontend."""
    try:
        import cudnn
    except (ImportError, OSError) as error:  # the frontend loads cuDNN itself when it is imported, or later
        remedy = "pip install 'gpu_tune[baselines]' nvidia-cudnn-cu13 (or -cu12)"
        raise Unavailable(f"the cuDNN frontend or cuDNN is not installed ({error}); {remedy}") from error
    w = session.data.workload
    assert isinstance(w, Conv2d)
    plans, reasons = _Plans(cudnn, session), []
    found: list[Algorithm] = []
    for unfused in (False,) if is_plain(w) else (False, True):
        try:
            after = UnfusedEpilogue(session).after if unfused else None
            built = plans.build(plain_product(w) if unfused else w)
            found += map(after, built) if after else built
        except Unavailable as reason:
            reasons.append(str(reason))
        except Exception as error:  # the frontend refuses with exceptions of several kinds
            reasons.append(f"{type(error).__name__}: {error}")
    if not found:
        raise Unavailable(f"has no plan for {w.key}" + "".join(f": {r}" for r in reasons[:1]))
    return found


def denied(w: Conv2d) -> tuple[str, ...]:
    """Numeric notes of plans that ``w`` does not permit: TENSOR_CORE on float32 is TF32."""
    notes = {
        "DOWN_CONVERT_INPUTS": True,
        "FFT": True,
        "TENSOR_CORE": w.dtype == "float32" and "tf32" not in w.math,
        "REDUCED_PRECISION_REDUCTION": "fp16_accumulate" not in w.math,
        **dict.fromkeys(_WINOGRAD, "winograd" not in w.math),
        "NONDETERMINISTIC": w.deterministic,
    }
    return tuple(note for note, is_denied in notes.items() if is_denied)


class _Plans:
    """Builds every permitted plan of a graph."""

    def __init__(self, cudnn: Any, session: Session) -> None:
        self.cudnn, self.session, self._stream = cudnn, session, session.stream.ptr
        self.handle = cudnn.create_handle()
        session.owned.callback(cudnn.destroy_handle, self.handle)
        cudnn.set_stream(handle=self.handle, stream=self._stream)

    def build(self, w: Conv2d) -> list[Algorithm]:
        """Each plan for all of ``w`` that can be built, the heuristic's first one first."""
        cudnn = self.cudnn
        graph, tensors = _graph(cudnn, self.handle, w)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.B, cudnn.heur_mode.FALLBACK])
        # only now: older frontends mark the plans that exist
        graph.deselect_numeric_notes([getattr(cudnn.numerical_note, n) for n in denied(w)])
        built: dict[str, int] = {}
        size = 0
        for index in range(int(graph.get_execution_plan_count())):
            self.session.note()
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
        workspace = self.session.allocate(size + 256)
        words = f" with fused {w.epilogue}" if w.epilogue else ""
        return [
            Algorithm(f"cuDNN plan {name}{words}", self._run(graph, tensors, index, workspace), 1)
            for name, index in built.items()
        ]

    def _run(self, graph: Any, tensors: Mapping[str, Any], index: int, workspace: int) -> Run:
        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
            if stream != self._stream:
                self.cudnn.set_stream(handle=self.handle, stream=stream)
                self._stream = stream
            pack = {tensor: buffers[name] for name, tensor in tensors.items()}
            graph.execute_plan_at_index(pack, workspace, index, handle=self.handle)

        return issue


def _graph(cudnn: Any, handle: Any, w: Conv2d) -> tuple[Any, dict[str, Any]]:
    """(the graph of all of ``w``, its tensors by buffer name)."""
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
    if w.beta != "0":
        raise Unavailable("adds nothing to an existing gradient in a graph of its own")
    shapes = {"x": (w.n, w.c, w.h, w.w), "w": (w.k, w.c // w.groups, w.r, w.s), "dy": (w.n, w.k, w.p, w.q)}
    shapes["out"] = shapes[{"fprop": "dy", "dgrad": "x", "wgrad": "w"}[w.direction]]
    channels = shapes["out"][1]
    nhwc = w.layout == "nhwc"
    wide: dict[str, Any] = {"compute_data_type": types.FLOAT}  # of everything after the convolution

    def tensor(name: str, shape: tuple[int, ...], dtype: str) -> Any:
        strides = _strides(shape, nhwc)
        return graph.tensor(name=name, dim=list(shape), stride=strides, data_type=getattr(types, _TYPES[dtype]))

    tensors = {name: tensor(name, shapes[name], w.dtype) for name in w.inputs}
    top, bottom, left, right = w.padding
    options: dict[str, Any] = dict(pre_padding=[top, left], post_padding=[bottom, right], stride=list(w.stride))
    options["dilation"] = list(w.dilation)
    if w.direction == "fprop":
        y = graph.conv_fprop(image=tensors["x"], weight=tensors["w"], **options)
    else:  # the size of a gradient does not follow from those of its operands
        dy = tensors["dy"]
        if w.direction == "dgrad":
            y = graph.conv_dgrad(loss=dy, filter=tensors["w"], **options)
        else:
            y = graph.conv_wgrad(image=tensors["x"], loss=dy, **options)
        y.set_dim(list(shapes["out"])).set_stride(_strides(shapes["out"], nhwc))
    if integer and is_plain(w):
        y = graph.identity(input=y)  # integer engines come as a convolution and a pointwise step
    if w.scales != "none":
        per_channel = w.k if w.scales == "row_col" else 1
        for name, width in (("scale_a", 1), ("scale_b", per_channel)):
            tensors[name] = tensor(name, (1, width, 1, 1), "float32")
            y = graph.mul(a=y, b=tensors[name], **wide)
            y.set_data_type(types.FLOAT)
    for op in w.ops:
        if op.name in ("bias", "scale"):
            dtype = w.vector_dtype if op.name == "bias" else "float32"
            tensors[op.name] = tensor(op.name, (1, channels, 1, 1), dtype)
            y = (graph.add if op.name == "bias" else graph.mul)(a=y, b=tensors[op.name], **wide)
        elif op.name == "residual":
            tensors["residual"] = tensor("residual", shapes["out"], w.out_dtype)
            y = graph.add(a=y, b=tensors["residual"], **wide)
        elif op.name == "clamp":
            y = graph.relu(input=y, lower_clip=op.lo, upper_clip=op.hi, **wide)
        elif op.saves or op.name not in _POINTWISE:
            raise Unavailable(f"is not asked to fuse {op}")
        else:
            y = getattr(graph, _POINTWISE[op.name])(input=y, **wide)
        y.set_data_type(types.FLOAT)
    y.set_output(True).set_data_type(getattr(types, _TYPES[w.out_dtype]))
    y.set_dim(list(shapes["out"])).set_stride(_strides(shapes["out"], nhwc))
    tensors["out"] = y
    return graph, tensors


def _strides(shape: tuple[int, ...], nhwc: bool) -> list[int]:
    _, c, h, w = shape
    return [c * h * w, 1, c * w, c] if nhwc else [c * h * w, h * w, w, 1]
