"""A stand-in for the cuDNN frontend on the virtual GPU: graphs of the calls that the baseline makes, run in NumPy.

Calls out of order, unknown arguments and plans that were deselected or not built raise, as in the real one. Plans and
their numeric notes are listed by the test; a plan that computes in a way that was not permitted gives rounded results.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from tests.helpers.fake_torch import gradients, settle

F8, FN = ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn
TYPES: dict[str, Any] = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32}
TYPES |= {"BFLOAT16": ml_dtypes.bfloat16, "FP8_E4M3": FN, "FP8_E5M2": F8, "FAST_FLOAT_FOR_FP8": np.float32}
NOTES = ("TENSOR_CORE", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION", "FFT", "NONDETERMINISTIC", "WINOGRAD",
         "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13")  # fmt: skip


class Node:
    """A tensor of the graph: given by an address, or ``make`` of other tensors' values."""

    def __init__(self, make: Any = None, data_type: str = "", dim: Any = None, stride: Any = None) -> None:
        self.make, self.data_type, self.dim, self.stride, self.output = make, data_type, dim, stride, False

    def set_output(self, on: bool) -> Node:
        self.output = on
        return self

    def set_data_type(self, data_type: str) -> Node:
        assert data_type in TYPES
        self.data_type = data_type
        return self

    def set_dim(self, dim: list[int]) -> Node:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> Node:
        self.stride = stride
        return self

    def array(self, address: int) -> np.ndarray:
        dtype = np.dtype(TYPES[self.data_type])
        span = sum((n - 1) * s for n, s in zip(self.dim, self.stride)) + 1
        raw = (ctypes.c_ubyte * (span * dtype.itemsize)).from_address(address)
        return np.ndarray(tuple(self.dim), dtype, raw, strides=tuple(s * dtype.itemsize for s in self.stride))


class Graph:
    def __init__(self, world: Any, io_data_type: str, intermediate_data_type: str, compute_data_type: str, handle: Any):
        assert handle in world.handles
        self.world, self.io, self.between, self.compute = world, io_data_type, intermediate_data_type, compute_data_type
        self.stage, self.denied, self.built, self.fused = "open", set(), set(), 0  # type: ignore[var-annotated]

    def _now(self, *stages: str) -> None:
        assert self.stage in stages, f"called while {self.stage}"

    def tensor(self, *, name: str, dim: list[int], stride: list[int], data_type: str) -> Node:
        self._now("open")
        return Node(None, data_type, dim, stride)

    def conv_fprop(self, *, image: Node, weight: Node, pre_padding: Any, post_padding: Any, stride: Any, dilation: Any):
        def make(value: Any) -> np.ndarray:
            pads = [(0, 0), (0, 0), *zip(pre_padding, post_padding)]
            x, w = np.pad(value(image), pads), value(weight)
            k, c, r, s = w.shape
            groups = x.shape[1] // c
            size = [(x.shape[2 + i] - dilation[i] * (n - 1) - 1) // stride[i] + 1 for i, n in enumerate((r, s))]
            out = np.zeros((len(x), k, *size))
            for g in range(groups):
                mine = slice(g * k // groups, (g + 1) * k // groups)
                for i in range(r):
                    for j in range(s):
                        rows = slice(i * dilation[0], i * dilation[0] + (size[0] - 1) * stride[0] + 1, stride[0])
                        columns = slice(j * dilation[1], j * dilation[1] + (size[1] - 1) * stride[1] + 1, stride[1])
                        part = x[:, g * c : (g + 1) * c, rows, columns]
                        out[:, mine] += np.einsum("nchw,kc->nkhw", part, w[mine, :, i, j])
            return out

        assert self.compute == ("INT32" if self.io == "INT8" else self.compute)
        return Node(make, self.between)

    def _gradient(self, which: int, loss: Node, other: Node, pre: Any, post: Any, stride: Any, dilation: Any) -> Node:
        """Of the image (0), whose size is the node's, from the filters; or of the filters (1), from the image."""
        node = Node(None, self.between)

        def make(value: Any) -> np.ndarray:
            dy, given, size = value(loss), value(other), node.dim
            pads = [(0, 0), (0, 0), *zip(pre, post)]
            image = np.pad(np.zeros(size) if which == 0 else given, pads)
            filters = given if which == 0 else np.zeros(size)
            groups = image.shape[1] // filters.shape[1]
            found = gradients(dy, image, filters, stride, dilation, groups)[which]
            return found[:, :, pre[0] : pre[0] + size[2], pre[1] : pre[1] + size[3]] if which == 0 else found

        node.make = make
        return node

    def conv_dgrad(self, *, loss: Node, filter: Node, pre_padding: Any, post_padding: Any, stride: Any, dilation: Any):
        return self._gradient(0, loss, filter, pre_padding, post_padding, stride, dilation)

    def conv_wgrad(self, *, image: Node, loss: Node, pre_padding: Any, post_padding: Any, stride: Any, dilation: Any):
        return self._gradient(1, loss, image, pre_padding, post_padding, stride, dilation)

    def _pointwise(self, function: Any, *inputs: Node, compute_data_type: str = "") -> Node:
        self.fused += 1
        identity = not compute_data_type
        assert identity or compute_data_type == "FLOAT", "pointwise steps compute in float"
        return Node(lambda value: function(*map(value, inputs)), self.between)

    def identity(self, *, input: Node) -> Node:
        return self._pointwise(lambda x: x, input)

    def add(self, *, a: Node, b: Node, compute_data_type: str) -> Node:
        return self._pointwise(np.add, a, b, compute_data_type=compute_data_type)

    def mul(self, *, a: Node, b: Node, compute_data_type: str) -> Node:
        return self._pointwise(np.multiply, a, b, compute_data_type=compute_data_type)

    def relu(self, *, input: Node, compute_data_type: str, lower_clip: float = 0.0, upper_clip: float = np.inf) -> Node:
        return self._pointwise(lambda x: np.clip(x, lower_clip, upper_clip), input, compute_data_type=compute_data_type)

    def swish(self, *, input: Node, compute_data_type: str) -> Node:
        return self._pointwise(lambda x: x / (1 + np.exp(-x)), input, compute_data_type=compute_data_type)

    def gelu_approx_tanh(self, *, input: Node, compute_data_type: str) -> Node:
        gelu = lambda x: 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))  # noqa: E731
        return self._pointwise(gelu, input, compute_data_type=compute_data_type)

    def validate(self) -> None:
        self._now("open")
        self.stage = "validated"

    def build_operation_graph(self) -> None:
        self._now("validated")
        self.stage = "operations"

    def create_execution_plans(self, modes: list[str]) -> None:
        self._now("operations")
        assert modes == ["A", "B", "FALLBACK"]
        if self.fused and not self.world.fuses:
            raise RuntimeError("no engine supports the fusion")
        self.stage = "plans"

    def deselect_numeric_notes(self, notes: list[str]) -> None:
        self._now("plans")  # earlier it would mark nothing
        assert set(notes) <= set(NOTES)
        self.denied |= set(notes)

    def get_execution_plan_count(self) -> int:
        self._now("plans")
        return len(self.world.plans)

    def build_plan_at_index(self, index: int) -> None:
        self._now("plans")
        if self.denied & set(self.world.plans[index][1]):
            raise RuntimeError("Deselecting execution plan")
        self.built.add(index)

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        assert index in self.built
        return 1000 * index

    def get_plan_name_at_index(self, index: int) -> str:
        return str(self.world.plans[index][0])

    def execute_plan_at_index(self, pack: dict[Node, int], workspace: int, index: int, handle: Any) -> None:
        assert index in self.built and workspace and handle in self.world.handles
        settle(self.world.handles[handle])
        self.world.ran.append(self.world.plans[index][0])
        (out,) = (t for t in pack if t.output)
        known = {t: t.array(address).astype(np.float64) for t, address in pack.items() if t is not out}

        def value(node: Node) -> np.ndarray:
            return known[node] if node in known else node.make(value)

        rough = 1.01 if self.world.plans[index][1] else 1.0
        target = out.array(pack[out])
        limits = np.iinfo(target.dtype) if target.dtype.kind == "i" else None
        result = value(out) * rough
        target[...] = (np.clip(np.rint(result), limits.min, limits.max) if limits else result).astype(target.dtype)


def module(plans: list[tuple[str, tuple[str, ...]]], fuses: bool = True) -> Any:
    """A fresh ``cudnn``; ``plans``: (name, numeric notes) of each, the heuristic's first one first."""
    world = SimpleNamespace(plans=plans, fuses=fuses, handles={}, ran=[])

    def create_handle() -> int:
        world.handles[len(world.handles) + 1] = 0
        return len(world.handles)

    return SimpleNamespace(
        world=world,
        data_type=SimpleNamespace(**{n: n for n in TYPES}),
        numerical_note=SimpleNamespace(**{n: n for n in NOTES}),
        heur_mode=SimpleNamespace(A="A", B="B", FALLBACK="FALLBACK"),
        create_handle=create_handle,
        destroy_handle=lambda handle: world.handles.pop(handle),
        set_stream=lambda *, handle, stream: world.handles.update({handle: stream}),
        pygraph=lambda **given: Graph(world, **given),
    )
