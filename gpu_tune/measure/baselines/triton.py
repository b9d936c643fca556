"""Triton as a baseline for a matmul: a kernel of our own in its language, autotuned over a fixed list of configs.

Compiled by Triton for the GPU at hand and launched by our own driver calls, so that it is timed in the same graphs and
PyTorch is not needed. Bias and an activation are fused; what else there is to do is done by an elementwise kernel.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from typing import Any

from ...cuda import driver
from ...cuda.device import Device
from ...cuda.launch import Program
from ...errors import Unavailable
from ...plan import Arg, BufferArg, KernelStep, LaunchPlan, ScalarArg
from ...workload import FP8, ITEMSIZE, Matmul
from .. import runtime
from ..check import Run
from .baseline import Algorithm, Session
from .unfused_epilogue import UnfusedEpilogue, plain_product

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
    """A compiled config: its code, and how it is launched."""

    cubin: bytes
    ptx: str
    plan: LaunchPlan


def algorithms(session: Session) -> list[Algorithm]:
    """The kernel with every config that compiles; Unavailable when Triton is not installed or compiles none."""
    triton, w = _triton(), session.data.workload
    assert isinstance(w, Matmul)
    if w.batch > 65535:
        raise Unavailable(f"takes no more than 65535 batches in a grid, not {w.batch}")
    fused = _fusable(w)
    epilogue = None if fused else UnfusedEpilogue(session)
    found, reason = [], ""
    for config in _fitting(w):
        session.note()
        try:
            built = build(w if fused else plain_product(w), config, session.device)
        except Exception as error:  # no room for its tiles, or a defect of that version: the others remain
            last = str(error).strip().splitlines()[-1:]
            reason = reason or f": {type(error).__name__}: {''.join(last)}"
            log.info("Triton %s: %s", config, error)
            continue
        program = _loaded(built, triton.__version__)
        session.owned.callback(program.unload)
        how = f"matmul {config.m}x{config.n}x{config.k}, {config.warps} warps, {config.stages} stages"
        label = f"Triton {triton.__version__} {how}" + (f" with fused {w.epilogue}" if w.epilogue and fused else "")
        algorithm = Algorithm(label, _run(program))
        found.append(algorithm if epilogue is None else epilogue.after(algorithm))
    if not found:
        raise Unavailable(f"compiles none of its configs for {w.key}{reason}")
    return found


def build(w: Matmul, config: Config, device: Device) -> Built:
    """Compile ``config`` for all of ``w`` on ``device``; needs no GPU. Raises what Triton raises.

    The plan's buffers are a, b, out and bias.
    """
    triton = _triton()
    from triton.backends.compiler import GPUTarget

    from . import triton_kernel

    bias = any(op.name == "bias" for op in w.ops)
    activation = next((op.name for op in w.ops if op.name != "bias"), "")
    am, ak = (w.lda, 1) if w.layout[0] == "n" else (1, w.lda)
    bk, bn = (w.ldb, 1) if w.layout[1] == "n" else (1, w.ldb)
    reach = max(s.span for s in w.arrays().values())
    tile_k = config.k * 2 // ITEMSIZE[w.dtype]
    integer = w.dtype == "int8"
    precision = next((p for p in ("tf32", "tf32x3") if p in w.math), "ieee") if w.dtype == "float32" else None
    constants: dict[str, Any] = {
        "M": w.m, "N": w.n, "K": w.k, "stride_am": am, "stride_ak": ak, "stride_bk": bk, "stride_bn": bn,
        "stride_c": w.ldc, "batch_a": w.a_shape[0] * w.lda, "batch_b": w.b_shape[0] * w.ldb, "batch_c": w.m * w.ldc,
        "TILE_M": config.m, "TILE_N": config.n, "TILE_K": tile_k, "GROUP": config.group,
        "ACC": triton.language.int32 if integer else triton.language.float32,
        "PRECISION": precision, "BIAS": bias, "ACTIVATION": activation, "WIDE": reach >= 2**31,
        "PROMOTE": w.dtype in FP8 and "fast_accumulate" not in w.math,
    }  # fmt: skip
    pointers = {"a_ptr": w.dtype, "b_ptr": w.dtype, "out_ptr": w.out_dtype, "bias_ptr": w.vector_dtype}
    signature = {n: _POINTERS[d] for n, d in pointers.items()} | dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(pointers))} if w.alignment % 16 == 0 else {}
    places = {(list(signature).index(n),): value for n, value in constants.items()}
    source = triton.compiler.ASTSource(fn=triton_kernel.matmul, signature=signature, constexprs=places, attrs=aligned)
    made = triton.compile(
        source,
        target=GPUTarget("cuda", device.cc, 32),
        # fusing multiply and add is Triton's default up to 3.9 and was given up in 3.10: ours are compiled with it
        options={"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True},
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
    return Built(made.asm["cubin"], made.asm["ptx"], LaunchPlan((step,)))


def _loaded(built: Built, version: str) -> Program:
    """The code on the device; Unavailable where the driver does not know what Triton's own ptxas made."""
    try:
        return Program(built.cubin, built.plan, runtime.Module)
    except Exception as error:
        found = runtime.driver_error(error, "cuModuleLoadData")
        if found is None or found.code not in driver.UNKNOWN_CODE:
            raise
        knows = ".".join(map(str, driver.version()))
        raise Unavailable(
            f"is not available here: the ptxas of Triton {version} makes code that this driver (CUDA {knows}) cannot "
            f"load ({found}); or name a ptxas of CUDA {knows} in TRITON_PTXAS_PATH"
        ) from error


def _triton() -> Any:
    try:
        import triton
    except ImportError as error:
        raise Unavailable(f"Triton is not installed ({error}); pip install triton") from error
    return triton


def _fusable(w: Matmul) -> bool:
    names = [str(op) for op in w.ops]
    rest = names[1:] if names[:1] == ["bias"] else names
    bare = w.scales == "none" and w.alpha == "1" and w.beta == "0"
    integer = w.dtype == "int8" and plain_product(w) != w
    return bare and not integer and len(rest) <= 1 and (not rest or rest[0] in _FUSED)


def _fitting(w: Matmul) -> list[Config]:
    """Configs whose tiles are not much larger than the output."""
    fitting = [c for c in CONFIGS if c.m <= max(16, 2 * w.m) and c.n <= max(32, 2 * w.n)]
    return fitting or [CONFIGS[-1]]


def _run(program: Program) -> Run:
    return lambda buffers, scalars, stream: program.run(buffers, stream)
