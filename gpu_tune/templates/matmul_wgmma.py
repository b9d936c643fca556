"""matmul on Hopper: TMA copies, mbarriers and wgmma; warp-specialised and persistent (sm_90a only).

One warpgroup keeps a ring of stages in shared memory filled through the copy engine, one to three others multiply.
Shapes are compiled in. The knobs come from CUTLASS's sm90 kernels, DeepGEMM and "fast.cu"; what each is worth is
measured, not assumed. wgmma can transpose 16-bit data only: any other operand that is not contiguous along k is first
copied, transposed, to the workspace, in a step of the plan like the others. So is a 16-bit A (k,m) whose rows are at no
multiples of 16 bytes, as TMA wants them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..cuda.device import Device
from ..plan import BufferArg, LaunchPlan, TensorMapArg
from ..plan.size import upper
from ..reference import Numerics
from ..space.knob import Config, Constraint
from ..workload import FP8, ITEMSIZE, Matmul, Workload
from .base import ResourceEstimate, Template
from .lib.common import ceil_div, derived_once
from .lib.wgmma import constraints, derived, launch, seeds, tiles
from .lib.wgmma.launch import Transposed


def problem(w: Any) -> tiles.Problem:
    return tiles.Problem(w.m, w.n, w.batch, w.ldc, lambda c: ceil_div(w.k, c["block_k"]))


def _mn_major(c: Any, w: Any, d: Any) -> bool:
    whole = (w.layout[0] == "n" or c["block_m"] % 16 == 0) and (w.layout[1] == "t" or c["block_n"] % 16 == 0)
    return whole or ITEMSIZE[w.dtype] != 2


CONSTRAINTS = (
    *constraints.constraints(problem),
    Constraint(
        "mn_major_aligned",
        ("block_m", "block_n"),
        _mn_major,
        "a tile that is contiguous along m or n is whole swizzles of at least 32 bytes: a multiple of 16",
    ),
)


def supports(w: Any, device: Device) -> bool | str:
    size = ITEMSIZE[w.dtype]
    if w.dtype == "float32" and "tf32" not in w.math:
        return "tensor cores round float32 to tf32: it needs the permission math=('tf32',)"
    for name, ld in (("lda", w.lda), ("ldb", w.ldb)):
        if ld * size % 16 and name[-1] not in launch.transposed(w):
            return f"the copy engine needs rows at multiples of 16 bytes: {name}={ld} is {ld * size} bytes"
    if w.alignment < 16:
        return f"the copy engine needs base addresses at multiples of 16 bytes, alignment={w.alignment}"
    if max(w.m, w.n, w.k) > 2**31 - 1024:
        return "coordinates of a tile past the last row, column or k must stay below 2^31"
    return True


@derived_once
def derive(c: Mapping[str, Any], w: Any, device: Device) -> derived.Derived:
    copies = launch.transposed(w)
    mn_major = {"a": w.layout[0] == "t" and "a" not in copies, "b": w.layout[1] == "n" and "b" not in copies}
    used = launch.end(w, launch.workspace_bytes(c, problem(w)))
    g = derived.derived("matmul_wgmma", c, w, device, problem(w), mn_major, used)
    blocks, scales = ceil_div(w.k, 128), None
    if w.scales == "block128":
        scales = derived.Scales(blocks, max(1, c["block_n"] // 128), upper(w.m) * blocks >= 2**31, _scales_main(c, w))
    return replace(g, transposed=tuple(copies.values()), scales=scales)


def _scales_main(c: Mapping[str, Any], w: Matmul) -> bool:
    """Whether the main kernel's target has no scales of its own and yet multiplies with block scales."""
    return bool(w.scales == "block128" and tiles.parts(c) > 1)


def resources(c: Mapping[str, Any], w: Any, device: Device) -> ResourceEstimate:
    made = launch.resources("matmul_wgmma", c, w, problem(w))
    shared = [made.shared_bytes, *(t.shared_bytes for t in launch.transposed(w).values())]
    workspace = launch.end(w, made.workspace_bytes)
    return replace(made, shared_bytes=max(shared), workspace_bytes=workspace)


def _map(name: str, operand: tiles.Operand, w: Matmul, copy: Transposed | None) -> TensorMapArg:
    shape, ld = (w.a_shape, w.lda) if name == "a" else (w.b_shape, w.ldb)
    if copy:
        shape, ld = (copy.rows, copy.k), copy.out_ld
    size = operand.itemsize
    deep = w.batch > 1
    return TensorMapArg(
        "workspace" if copy else name,
        tiles.MAP_DTYPE[w.dtype],
        (shape[1], shape[0], w.batch) if deep else (shape[1], shape[0]),
        (ld * size, shape[0] * ld * size) if deep else (ld * size,),
        (operand.box_inner, operand.slice_rows, 1) if deep else (operand.box_inner, operand.slice_rows),
        swizzle=operand.swizzle_bytes,
        l2_promotion=launch.L2_PROMOTION,
        offset=copy.offset if copy else 0,
    )


def plan(c: Mapping[str, Any], w: Any, device: Device) -> LaunchPlan:
    g, p = derive(c, w, device), problem(w)
    scales = (BufferArg("scale_a"), BufferArg("scale_b")) if _scales_main(c, w) else ()
    start = launch.workspace_bytes(c, p)
    copies = launch.transposed(w, start)
    maps = tuple(_map(name, getattr(g.storage, name), w, copies.get(name)) for name in "ab")
    first = tuple(t.step() for t in copies.values())
    return launch.plan(c, w, p, g, maps, scales, first, launch.end(w, start))


FLAGSHIP: dict[str, Any] = dict(
    block_m=128,
    block_n=256,
    block_k=64,
    consumers=2,
    schedule="cooperative",
    stages=4,
    cluster_m=2,
    cluster_n=1,
    producer_registers=40,
    epilogue_store="staged",
    raster_group=8,
    grid="all",
    split_k=1,
    reduction="workspace",
    swap_ab=False,
    min_blocks=1,
    l2_keep="both",
)


PLAIN: dict[str, Any] = dict(
    FLAGSHIP, block_m=64, block_n=64, consumers=1, cluster_m=1, epilogue_store="direct", producer_registers=0
)
"""But for a ``block_k`` of 128 bytes valid wherever nothing better is."""


@functools.lru_cache(maxsize=256)
def _seeds(w: Any, device: Device) -> Sequence[Config]:
    return tuple(seeds.seeds(w, device, TEMPLATE, problem(w), FLAGSHIP))


def numerics(c: Mapping[str, Any], w: Workload) -> Numerics:
    if w.dtype == "float32":  # rounded to tf32 by TMA, else cut by the tensor cores: a factor is off by up to 2^-10
        return Numerics(input_eps=2.0**-9 + 2.0**-18)
    if w.dtype in FP8:
        # Inside the tensor cores products are aligned to the largest and cut to about 13 fraction bits before they add.
        # Worst are operands of one sign: up to 2^-9.7 of a sum of 128, and 2^-2.9 of an unpromoted one of 8,192;
        # of mixed signs, as verification uses, little is lost.
        return Numerics(input_eps=2.0**-9 if tiles.promotes(w) else 2.0**-7)
    return Numerics()


TEMPLATE: Template = Template(
    name="matmul_wgmma",
    op="matmul",
    summary="Hopper tensor cores (wgmma) fed by the copy engine (TMA), warp-specialised",
    knobs=tiles.KNOBS,
    tile=(("block_m",), ("block_n",), ("block_k",)),
    constraints=CONSTRAINTS,
    supports=supports,
    derive=derive,
    resources=resources,
    plan=plan,
    default=lambda w, d: next(iter(_seeds(w, d)), Config({**PLAIN, "block_k": 128 // ITEMSIZE[w.dtype]})),
    seeds=_seeds,
    features=lambda c, w, d: seeds.features(c, w, d, problem(w)),
    numerics=numerics,
    min_cc=90,
    only_cc=90,
    open_sizes=("m",),
    partial_sums=lambda c, w, d: derive(c, w, d).storage.sums,
    whole_masks=lambda c, w, d: derive(c, w, d).byte_lanes > 0,
)
