"""Triton as a contender for a matmul: a kernel of our own in its language, autotuned over a fixed list of configs.

Compiled by Triton for the GPU at hand and launched by our own driver calls, so that it is timed in the same graphs and
PyTorch is not needed. Bias and an activation are fused; what else there is to do is done by an elementwise kernel.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...cuda.device import Device
from ...cuda.launch import Program
from ...cuda.memory import Stream
from ...errors import Unavailable
from ...plan import Arg, BufferArg, KernelStep, LaunchPlan, ScalarArg
from ...workload import FP8, ITEMSIZE, Matmul
from ..device_data import SCALARS, DeviceData
from .baseline import Baseline, Run, undone_on_failure
from .select import Variant, fastest, why_none
from .unfused_epilogue import Finisher, given, plain

log = logging.getLogger("gpu_tune.baselines")
_POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16", "int8": "*i8", "int32": "*i32",
             "float8_e4m3": "*fp8e4nv", "float8_e5m2": "*fp8e5"}  # fmt: skip
_FUSED = ("", "relu", "silu", "gelu", "gelu_tanh")
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)", re.DOTALL)


@dataclass(frozen=True)
class Config:
    """One way to compile the kernel: tile sizes, warps, pipeline stages, tile rows that share B."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    group: int = 8


CONFIGS = (
    Config(128, 256, 64, 8, 3), Config(128, 256, 64, 8, 4), Config(256, 128, 64, 8, 3), Config(128, 128, 64, 4, 4),
    Config(128, 128, 64, 8, 4), Config(128, 128, 32, 4, 4), Config(128, 64, 64, 4, 4), Config(64, 256, 64, 4, 4),
    Config(64, 128, 64, 4, 4), Config(64, 64, 64, 4, 5), Config(64, 64, 128, 4, 3), Config(64, 32, 64, 4, 5),
    Config(32, 64, 128, 4, 4), Config(16, 64, 128, 4, 5), Config(16, 128, 128, 4, 4), Config(16, 32, 256, 2, 4),
)  # fmt: skip
"""Tiles in elements of 2 bytes; the K tile is scaled so that its bytes stay the same."""


@dataclass(frozen=True)
class Built:
    """A compiled config: ``cubin`` and how it is launched."""

    config: Config
    cubin: bytes
    ptx: str
    plan: LaunchPlan


def make(w: Matmul, data: DeviceData, stream: Stream, device: Device, note: Callable[[str], None]) -> Baseline:
    """The fastest config of Triton; Unavailable when it is not installed or compiles none."""
    triton = _triton()
    if w.batch > 65535:
        raise Unavailable(f"takes no more than 65535 batches in a grid, not {w.batch}")
    fused = _fusable(w)
    cleanup: list[Callable[[], None]] = []
    with undone_on_failure(cleanup):
        finisher = None if fused else Finisher(w, device)
        if finisher is not None:
            cleanup.append(finisher.close)
        variants, reason = [], ""
        for config in _worth(w):
            note("baselines")
            try:
                built = build(w, config, device, fused)
            except Exception as error:  # no room for its tiles, or a defect of that version: the others remain
                reason = (
                    reason or f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}"
                )
                log.info("Triton %s: %s", config, error)
                continue
            program = Program(built.cubin, built.plan)
            cleanup.append(program.unload)
            variants.append(Variant(_label(config, w, finisher), _run(program, finisher), int(finisher is not None)))
        scalars = {n: SCALARS[n] for n in w.scalars()}
        best, _ = fastest(variants, data, scalars, stream, note)
        if best is None:
            why = why_none(variants) or (f": {reason}" if reason else "")
            raise Unavailable(f"compiles or runs none of its configs for {w.key}{why}")
    label = f"Triton {triton.__version__} {best.label}, fastest of {len(variants)} configs"
    return Baseline("triton", label, best.run, data, scalars, best.roundings, cleanup)


def build(w: Matmul, config: Config, device: Device, fused: bool) -> Built:
    """Compile ``config`` for ``w`` on ``device``: all of ``w`` (``fused``), else the plain product in dtype ``given``.

    The plan's buffers are a, b, out and bias. Needs no GPU. Raises what Triton raises.
    """
    triton = _triton()
    from triton.backends.compiler import GPUTarget

    from . import triton_kernel

    out_dtype = w.out_dtype if fused else given(w)
    ops = w.ops if fused else ()
    bias = any(op.name == "bias" for op in ops)
    activation = next((op.name for op in ops if op.name != "bias"), "")
    (am, ak), (bk, bn) = _strides(w)
    arrays = w.arrays()
    reach = max(s.span for s in arrays.values())
    tile_k = config.k * 2 // ITEMSIZE[w.dtype]
    integer = w.dtype == "int8"
    constants: dict[str, Any] = {
        "M": w.m, "N": w.n, "K": w.k, "stride_am": am, "stride_ak": ak, "stride_bk": bk, "stride_bn": bn,
        "stride_c": w.ldc, "batch_a": w.a_shape[0] * w.lda, "batch_b": w.b_shape[0] * w.ldb, "batch_c": w.m * w.ldc,
        "TILE_M": config.m, "TILE_N": config.n, "TILE_K": tile_k, "GROUP": config.group,
        "ACC": triton.language.int32 if integer else triton.language.float32,
        "PRECISION": _precision(w), "BIAS": bias, "ACTIVATION": activation, "WIDE": reach >= 2**31,
        "PROMOTE": w.dtype in FP8 and "fast_accumulate" not in w.math,
    }  # fmt: skip
    pointers = {"a_ptr": w.dtype, "b_ptr": w.dtype, "out_ptr": out_dtype, "bias_ptr": w.vector_dtype}
    signature = {n: _POINTERS[d] for n, d in pointers.items()} | dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(pointers))} if w.alignment % 16 == 0 else {}
    places = {(list(signature).index(n),): value for n, value in constants.items()}
    source = triton.compiler.ASTSource(fn=triton_kernel.matmul, signature=signature, constexprs=places, attrs=aligned)
    made = triton.compile(
        source,
        target=GPUTarget("cuda", device.cc, 32),
        options={"num_warps": config.warps, "num_stages": config.stages},
    )
    entry = _ENTRY.search(made.asm["ptx"])
    if entry is None:
        raise Unavailable("has no entry in its PTX")
    needs_scratch = getattr(made.metadata, "global_scratch_size", 0) or getattr(
        made.metadata, "profile_scratch_size", 0
    )
    if needs_scratch:
        raise Unavailable("wants scratch memory, which only Triton's own launcher gives")
    more = entry[2].count(".param") - len(pointers)  # pointers to scratch memory that newer versions pass, unused
    names = ("a", "b", "out", "bias" if bias else "out")
    arguments: tuple[Arg, ...] = (*map(BufferArg, names), *[ScalarArg("", "uint64", 0)] * more)
    tiles = math.ceil(w.m / config.m) * math.ceil(w.n / config.n)
    step = KernelStep(
        entry[1], (tiles, w.batch, 1), (32 * made.metadata.num_warps, 1, 1), arguments, int(made.metadata.shared)
    )
    return Built(config, made.asm["cubin"], made.asm["ptx"], LaunchPlan((step,)))


def _triton() -> Any:
    try:
        import triton
    except ImportError as error:
        raise Unavailable(f"Triton is not installed ({error}); pip install triton") from error
    return triton


def _strides(w: Matmul) -> tuple[tuple[int, int], tuple[int, int]]:
    """((of m, of k) in A, (of k, of n) in B)."""
    a = (w.lda, 1) if w.layout[0] == "n" else (1, w.lda)
    b = (w.ldb, 1) if w.layout[1] == "n" else (1, w.ldb)
    return a, b


def _precision(w: Matmul) -> str | None:
    if w.dtype != "float32":
        return None
    return "tf32" if "tf32" in w.math else "tf32x3" if "tf32x3" in w.math else "ieee"


def _fusable(w: Matmul) -> bool:
    names = [op.name for op in w.ops]
    rest = names[1:] if names[:1] == ["bias"] else names
    bare = w.scales == "none" and w.alpha == "1" and w.beta == "0"
    integer = w.dtype == "int8" and not (plain(w) and w.out_dtype == "int32")
    return bare and not integer and len(rest) <= 1 and (not rest or rest[0] in _FUSED)


def _worth(w: Matmul) -> list[Config]:
    """Configs whose tiles are not much larger than the output."""
    fitting = [c for c in CONFIGS if c.m <= max(16, 2 * w.m) and c.n <= max(32, 2 * w.n)]
    return fitting or [CONFIGS[-1]]


def _label(c: Config, w: Matmul, finisher: Finisher | None) -> str:
    how = f"matmul {c.m}x{c.n}x{c.k}, {c.warps} warps, {c.stages} stages"
    fused = f" with fused {w.epilogue}" if w.epilogue and finisher is None else ""
    return how + fused + (" and an elementwise kernel" if finisher is not None else "")


def _run(program: Program, finisher: Finisher | None) -> Run:
    def issue(buffers: Mapping[str, int], scalars: Mapping[str, float], stream: int) -> None:
        target = buffers["out"] if finisher is None else finisher.target(buffers)
        program.bind({**buffers, "out": target})(stream)
        if finisher is not None:
            finisher.run(buffers, scalars, stream)

    return issue
