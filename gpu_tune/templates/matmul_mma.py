"""matmul on tensor cores: mma.sync fed by a multistage cp.async pipeline (sm_80 and newer).

float16 and bfloat16 in all four layouts; float32 as TF32 or 3xTF32 where the workload permits; int8; float8 from sm_89
on. Any sizes, leading dimensions and alignment; every epilogue, scale, alpha and beta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..cuda.device import Device
from ..plan import LaunchPlan
from ..reference.numerics import Numerics
from ..space.knob import Config
from ..workload import FP8, ITEMSIZE, Matmul, Workload
from .base import ResourceEstimate, Template
from .lib.mma import launch
from .lib.mma.constraints import Problem, rules
from .lib.mma.derived import Loader
from .lib.mma.seeds import complete, default, features, seeds
from .lib.mma.tiles import KNOBS, Operand, Shape, copy_width, promotes


def problem(w: Any) -> Problem:
    """The product itself."""
    return Problem(w.m, w.n, w.k, w.batch)


def operands(config: Mapping[str, Any], w: Any) -> tuple[Operand, Operand]:
    """A's and B's tiles."""
    return (
        _operand("A", config, w, config["block_m"], w.layout[0] == "n", w.lda),
        _operand("B", config, w, config["block_n"], w.layout[1] == "t", w.ldb),
    )


def _operand(name: str, config: Mapping[str, Any], w: Matmul, extent: int, k_major: bool, ld: int) -> Operand:
    size = ITEMSIZE[w.dtype]
    width = copy_width(config["copy_bytes"], ld * size, w.alignment)
    turned = not k_major and size == 1
    major = "k" if k_major or turned else "mn"
    return Operand(
        name,
        extent,
        config["block_k"],
        size,
        major,
        config["shared_layout"],
        width if width >= 4 and not turned else 0,
        turned,
    )


def loaders(config: Mapping[str, Any], w: Any, threads: int) -> tuple[Loader, Loader]:
    """How A's and B's tiles are copied."""
    a, b = operands(config, w)
    return _loader(a, threads, w, w.lda, w.a_shape), _loader(b, threads, w, w.ldb, w.b_shape)


def _loader(op: Operand, threads: int, w: Matmul, ld: int, shape: tuple[int, int]) -> Loader:
    stride = ld * op.itemsize
    words = copy_width(4, stride, w.alignment) == 4 and shape[1] % 4 == 0
    if op.transposes:
        text = f"{op.name}: {op.block_k} rows of {op.extent} bytes (one k each)"
    else:
        order = "k runs along a row" if op.major == "k" else "one k each"
        text = f"{op.name}: {op.rows} rows of {op.columns} elements ({order})"
    return Loader(op, threads, stride, shape[0], shape[1], words, text)


def _supports(w: Workload, device: Device) -> bool | str:
    assert isinstance(w, Matmul)
    if w.dtype == "float32" and not {"tf32", "tf32x3"} & set(w.math):
        return "computes float32 data only as TF32 or 3xTF32, and math permits neither 'tf32' nor 'tf32x3'"
    if w.dtype in FP8 and device.cc < 89:
        return f"needs compute capability 8.9 for float8, {device.name} has {device.cc / 10:.1f}"
    if complete({}, w, device, TEMPLATE) is None:
        return "the result has more than 2^31 tiles of the largest size"
    return True


def _derive(config: Config, w: Workload, device: Device) -> Mapping[str, Any]:
    assert isinstance(w, Matmul)
    shape = Shape(config, w.dtype, promotes(w, device))
    load_a, load_b = loaders(config, w, shape.threads)
    last = ((w.batch - 1) * w.m + w.m - 1) * w.ldc + w.n
    wide = last >= 2**31

    def place(row: str, column: str) -> str:
        z = f"z * {w.m * w.ldc}{'LL' if wide else ''} + " if w.batch > 1 else ""
        return f"{z}{row} * {w.ldc}{'LL' if wide else ''} + {column}"

    found = launch.facts(
        config,
        w,
        device,
        problem(w),
        (load_a, load_b),
        name="matmul_mma",
        row_elements=w.ldc,
        place=place,
        coordinates=lambda row, column: f"{row}, {column}",
        along="n",
        wide=wide,
    )
    m, n, k = (
        f"{t} * {config[b]}" for t, b in (("tile_m", "block_m"), ("tile_n", "block_n"), ("first_k_tile", "block_k"))
    )
    found.update(
        a_batch=w.a_shape[0] * w.lda,
        b_batch=w.b_shape[0] * w.ldb,
        origin_a=f"{m}, {k}" if w.layout[0] == "n" else f"{k}, {m}",
        origin_b=f"{n}, {k}" if w.layout[1] == "t" else f"{k}, {n}",
    )
    return found


def _ldc(w: Any) -> int:
    return int(w.ldc)


def _plan(config: Config, w: Workload, device: Device) -> LaunchPlan:
    return launch.plan(config, w, device, problem(w), operands(config, w), "matmul_mma", _ldc(w))


def _resources(config: Config, w: Workload, device: Device) -> ResourceEstimate:
    return launch.resources(config, w, device, problem(w), operands(config, w))


def _atomics(w: Any) -> bool:
    plain = not w.ops and w.beta == "0" and w.ldc == w.n
    return plain and (w.out_dtype == "int32" or (w.out_dtype == "float32" and not w.deterministic))


def numerics(config: Mapping[str, Any], w: Workload) -> Numerics:
    """TF32 keeps 11 bits of a factor; 3xTF32 about 22, and its correction turns inf into nan; float16 sums keep 11.

    float8 instructions (8.9 and 12.x) cut products to about 13 fraction bits before they add them.
    """
    if config["arithmetic"] == "tf32":
        return Numerics(input_eps=2.0**-10)
    if config["arithmetic"] == "tf32x3":
        return Numerics(input_eps=2.0**-20, propagates_nonfinite=False)
    if config["arithmetic"] == "fp16_accumulate":
        return Numerics(compute="float16", exact_integers=False, propagates_nonfinite=False)
    if w.dtype in FP8:
        return Numerics(input_eps=2.0**-7 if "fast_accumulate" in w.math else 2.0**-9)
    return Numerics()


def _default(w: Workload, device: Device) -> Config:
    return default(w, device, TEMPLATE, problem(w))


def _seeds(w: Workload, device: Device) -> Sequence[Config]:
    return seeds(w, device, TEMPLATE, problem(w))


def _features(config: Config, w: Workload, device: Device) -> Mapping[str, float]:
    return features(config, w, device, problem(w))


TEMPLATE = Template(
    name="matmul_mma",
    op="matmul",
    summary="tensor cores by mma.sync, operands through a multistage cp.async pipeline",
    knobs=KNOBS,
    constraints=rules(problem, operands, _atomics),
    supports=_supports,
    derive=_derive,
    resources=_resources,
    plan=_plan,
    default=_default,
    seeds=_seeds,
    features=_features,
    numerics=numerics,
    min_cc=80,
)
