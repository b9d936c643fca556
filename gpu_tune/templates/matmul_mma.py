"""matmul on tensor cores: mma.sync fed by a cp.async pipeline (sm_80 and newer).

float16 and bfloat16 in all four layouts; float32 as TF32 or 3xTF32 where the workload permits; int8; float8 from sm_89
on. Any sizes, leading dimensions and alignment; every epilogue, scale, alpha and beta.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..cuda.device import Device
from ..plan.size import upper
from ..reference import Numerics
from ..workload import FP8, Workload
from .base import Template
from .lib.common import derived_once
from .lib.mma import launch, seeds
from .lib.mma.constraints import constraints
from .lib.mma.derived import Derived, Out, derived
from .lib.mma.loader import loader
from .lib.mma.tiles import KNOBS, Operand, Problem, Shape, multiplies, operand, promotes


def problem(w: Any) -> Problem:
    return Problem(w.m, w.n, w.k, w.batch)


def operands(config: Mapping[str, Any], w: Any) -> tuple[Operand, Operand]:
    return (
        operand("A", config["block_m"], config, w, w.lda, w.layout[0] == "n"),
        operand("B", config["block_n"], config, w, w.ldb, w.layout[1] == "t"),
    )


def supports(w: Any, device: Device) -> bool | str:
    if (answer := multiplies(w, device)) is not True:
        return answer
    if seeds.complete({}, w, device, TEMPLATE) is None:
        return "the result has more than 2^31 tiles of the largest size"
    return True


@derived_once
def derive(config: Mapping[str, Any], w: Any, device: Device) -> Derived:
    threads = Shape.of(config, w.dtype, promotes(w, device)).threads
    a, b = operands(config, w)
    loaders = loader(a, threads, w, w.lda, w.a_shape), loader(b, threads, w, w.ldb, w.b_shape)
    wide = (w.batch * upper(w.m) - 1) * w.ldc + w.n >= 2**31
    return derived("matmul_mma", config, w, device, problem(w), loaders, Out(w.ldc, wide))


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


TEMPLATE: Template = Template(
    name="matmul_mma",
    op="matmul",
    summary="tensor cores by mma.sync, operands through a multistage cp.async pipeline",
    knobs=KNOBS,
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=constraints(problem, operands, _atomics, split_tail=True),
    supports=supports,
    derive=derive,
    resources=lambda c, w, d: launch.resources("matmul_mma", c, w, d, problem(w), operands(c, w)),
    plan=lambda c, w, d: launch.plan(derive(c, w, d), c, w, problem(w)),
    default=lambda w, d: seeds.default(w, d, TEMPLATE, problem(w)),
    seeds=lambda w, d: seeds.seeds(w, d, TEMPLATE, problem(w)),
    features=lambda c, w, d: seeds.features(c, w, d, problem(w)),
    numerics=numerics,
    min_cc=80,
    open_sizes=("m",),
    partial_sums=lambda c, w, d: derive(c, w, d).storage.sums,
    whole_masks=lambda c, w, d: derive(c, w, d).storage.byte_lanes > 0,
)
