"""What a library leaves to do after the plain product: one elementwise kernel of our own, in the same graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ...cuda import nvrtc
from ...cuda.device import Device
from ...cuda.launch import Program
from ...errors import Unavailable
from ...plan import BufferArg, KernelStep, LaunchPlan
from ...templates.base import render_text
from ...templates.lib import column_sums
from ...templates.lib.common import epilogue_args, with_zeros
from ...workload import ITEMSIZE, Conv2d, Matmul, Workload
from .. import runtime
from .baseline import Algorithm, Session

THREADS = 256
OneWorkload = TypeVar("OneWorkload", Matmul, Conv2d)
_SOURCE = """
{% import "parts/common/numeric.cuh.j2" as numeric %}
{% import "parts/common/epilogue.cuh.j2" as epilogue %}
{% set acc = epilogue.acc_type(w) %}
{{ epilogue.conversions(w, device, [given]) }}
{{ epilogue.functions(w, device, v, acc, "n", true) }}
extern "C" __global__ void __launch_bounds__({{ threads }})
finish(const {{ numeric.ctype(given) }}* given, {{ epilogue.parameters(w) }}) {
    const long long item = (long long)blockIdx.x * {{ threads }} + threadIdx.x;
    if (item >= {{ w.batch * w.m * (w.n // v) }}ll) return;
    const int col = (int)(item % {{ w.n // v }}) * {{ v }};
    const long long line = item / {{ w.n // v }};
    const int row = (int)(line % {{ w.m }});
    const long long at = line * {{ w.ldc }} + col;
    {{ acc }} sums[{{ v }}];
{% if v > 1 %}
{% set word_t = {16: "uint4", 8: "uint2", 4: "unsigned"}[v * item] %}
    const {{ word_t }} words = *(const {{ word_t }}*)(given + at);
{% endif %}
{% for i in range(v) %}
{% if v > 1 %}
{% set word = "words" if v * item == 4 else "words." ~ "xyzw"[i * item // 4] %}
    sums[{{ i }}] = ({{ acc }}){{ numeric.unpack(given, word, i * item % 4 // item) }};
{% else %}
    sums[0] = ({{ acc }}){{ numeric.to_float(given, "given[at]") if acc == "float" else "given[at]" }};
{% endif %}
{% endfor %}
    {{ epilogue.value_type(w) }} values[{{ v }}];
    epilogue(sums, values, at, row, col{{ epilogue.operands(w) }});
    store_out(out + at, values);
}
"""


def vector_width(workload: Matmul, given: str) -> int:
    """Elements a thread handles: as many as 16 bytes hold, if rows and addresses allow it."""
    for width in (16 // ITEMSIZE[given], 8 // ITEMSIZE[given], 4 // ITEMSIZE[given]):
        room = max(ITEMSIZE[given], ITEMSIZE[workload.out_dtype]) * width
        if width > 1 and workload.n % width == 0 and workload.ldc % width == 0 and workload.alignment >= min(16, room):
            return width
    return 1


def source(workload: Matmul, given: str, device: Device) -> str:
    """CUDA source of the kernel ``finish(given, out, ...)``: ``given`` is the plain product in dtype ``given``."""
    width = vector_width(workload, given)
    plain = replace(workload, scales="tensor") if workload.scales == "block128" else workload
    names = {"w": plain, "device": device, "given": given, "v": width, "item": ITEMSIZE[given], "threads": THREADS}
    return render_text(_SOURCE, names)


def plan(workload: Matmul, given: str) -> LaunchPlan:
    """Its launch: the product is the buffer ``workspace``, the rest as in every plan."""
    items = workload.batch * workload.m * (workload.n // vector_width(workload, given))
    grid = (-(-items // THREADS), 1, 1)
    step = KernelStep("finish", grid, (THREADS, 1, 1), (BufferArg("workspace"), *epilogue_args(workload)))
    return with_zeros(LaunchPlan((step,)), workload)


def product_dtype(w: Workload) -> str:
    """dtype in which a library leaves the plain product when something is still to be done."""
    if w.dtype == "int8":
        return "int32"
    return w.out_dtype if w.out_dtype in ("float32", "float16", "bfloat16") else "float32"


def plain_product(w: OneWorkload) -> OneWorkload:
    """``w`` with nothing after the product; equal to ``w`` where nothing is left to do."""
    more: dict[str, Any] = {} if isinstance(w, Conv2d) else {"alpha": "1"}
    return replace(w, epilogue="", scales="none", out_dtype=product_dtype(w), beta="0", **more)


def is_plain(w: Workload) -> bool:
    """Whether nothing follows the product but the cast."""
    return not w.epilogue and w.scales == "none" and w.alpha == "1" and w.beta == "0"


def as_matmul(w: Workload) -> Matmul:
    """A matmul whose output lies and is finished as that of ``w``; Unavailable where there is none.

    An nhwc output is (n p q, k); an nchw output is a batch of n matrices (k, p q), whose bias is a row's. Those of a
    dgrad have h w and c there; the output of a wgrad is (k, r s c).
    """
    if isinstance(w, Matmul):
        return w
    rest: dict[str, object] = dict(dtype=w.dtype, out_dtype=w.out_dtype, alignment=w.alignment, scales=w.scales)
    if w.scales == "row_col":
        raise Unavailable("has no plain product for row_col scales of a convolution")
    if w.direction == "wgrad":  # which has no epilogue
        size = w.c // w.groups * w.r * w.s
        return Matmul(w.k, size, w.n * w.p * w.q, beta=w.beta, **rest)  # type: ignore[arg-type]
    size = w.product[2]
    channels, pixels = (w.k, w.p * w.q) if w.direction == "fprop" else (w.c, w.h * w.w)
    if any(op.bits for op in w.ops) and (channels if w.layout == "nhwc" else pixels) % 128:
        raise Unavailable("has a mask whose rows a matmul would pad")
    if w.layout == "nhwc":
        return Matmul(w.n * pixels, channels, size, epilogue=w.epilogue, **rest)  # type: ignore[arg-type]
    if any(op.name == "scale" for op in w.ops):
        raise Unavailable("cannot finish a scale per channel in nchw")
    epilogue = "+".join("row_bias" if op.name == "bias" else str(op) for op in w.ops)
    return Matmul(channels, pixels, size, batch=w.n, epilogue=epilogue, **rest)  # type: ignore[arg-type]


class UnfusedEpilogue:
    """Does to a product in dtype :func:`product_dtype` what is left: scales, alpha, beta, epilogue, cast."""

    def __init__(self, session: Session) -> None:
        w = session.data.workload
        matmul, dtype = as_matmul(w.unsummed()), product_dtype(w)
        if w.scales == "block128":
            raise Unavailable("has no plain product for block scales")
        self._bias = "row_bias" if isinstance(w, Conv2d) and w.layout == "nchw" else "bias"
        cubin = nvrtc.to_cubin(source(matmul, dtype, session.device), session.device.arch).data
        self._program = Program(cubin, plan(matmul, dtype), runtime.Module)
        session.owned.callback(self._program.unload)
        nbytes = matmul.batch * matmul.m * matmul.ldc * ITEMSIZE[dtype]
        self._sums: Program | None = None
        if w.unsummed() != w:
            text = render_text(column_sums.SOURCE, column_sums.names(w, session.device))
            after = column_sums.with_sums(LaunchPlan(()), w, session.device)
            self._sums = Program(nvrtc.to_cubin(text, session.device.arch).data, after, runtime.Module)
            session.owned.callback(self._sums.unload)
            self._parts = session.allocate(int(after.workspace_bytes))
        self._scratch = 0 if dtype == w.out_dtype else session.allocate(nbytes)

    def after(self, algorithm: Algorithm) -> Algorithm:
        """``algorithm``, which leaves the plain product in ``out``, and then this kernel."""

        def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
            product = self._scratch or buffers["out"]
            algorithm.run({**buffers, "out": product}, {}, stream)
            self.run(buffers, scalars, stream, product)

        return Algorithm(f"{algorithm.label} and an elementwise kernel", issue, 1)

    def run(self, buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int, product: int) -> None:
        """Issue the kernel on the product at address ``product``."""
        known = {**buffers, "workspace": product}
        if "bias" in buffers:
            known[self._bias] = buffers["bias"]
        self._program.bind(known, scalars)(stream)
        if self._sums is not None:
            self._sums.bind({**buffers, "workspace": self._parts}, {})(stream)
