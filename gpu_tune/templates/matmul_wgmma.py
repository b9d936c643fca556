"""matmul on Hopper: TMA copies, mbarriers and wgmma; warp-specialised and persistent (sm_90a only).

One warpgroup keeps a ring of shared-memory slots filled through the copy engine, one to three others multiply. Shapes
are compiled in. Where the knobs come from: CUTLASS's sm90 kernels, DeepGEMM, "fast.cu"; what each is worth is measured,
not assumed. Operands other than 16-bit ones must be K-major (``nt``): wgmma transposes 16-bit data alone. A transposed
copy of such an operand first, or another template, serves the other layouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..device import Device
from ..plan import Arg, BufferArg, KernelStep, LaunchPlan, TensorMapArg
from ..space.constraint import Constraint
from ..space.knob import Config
from ..workload import FP8, ITEMSIZE, Matmul, Workload
from . import hopper, hopper_space
from .arguments import epilogue_args
from .base import Estimate, Numerics, Template

SUM_THREADS = 256
L2_PROMOTION = 256


def _supports(w: Workload, device: Device) -> bool | str:
    assert isinstance(w, Matmul)
    size = ITEMSIZE[w.dtype]
    if w.dtype == "float32" and "tf32" not in w.math:
        return "tensor cores round float32 to tf32: it needs the permission math=('tf32',)"
    if size != 2 and w.layout != "nt":
        return (
            f"wgmma takes {w.dtype} operands contiguous along k only (layout 'nt'), not {w.layout!r}: "
            "transpose the other operand first"
        )
    for name, ld in (("lda", w.lda), ("ldb", w.ldb)):
        if ld * size % 16:
            return f"the copy engine needs rows at multiples of 16 bytes: {name}={ld} is {ld * size} bytes"
    if w.alignment < 16:
        return f"the copy engine needs base addresses at multiples of 16 bytes, alignment={w.alignment}"
    if w.scales == "block128" and w.batch > 1:
        return "scales per block are for batch=1"
    return True


def _parts(c: Mapping[str, Any], w: Matmul) -> Matmul:
    """What the main kernel leaves: the result itself, or with split-K bare sums in rows of whole 16 bytes."""
    if c["split_k"] == 1:
        return w
    columns = -(-w.n // 4) * 4
    wide: dict[str, Any] = {"dtype": "int8", "out_dtype": "int32"} if w.dtype == "int8" else {"dtype": "float32"}
    return Matmul(w.m, columns, w.k, w.batch * c["split_k"], layout="nt", **wide)


def _k_tiles(c: Mapping[str, Any], w: Matmul) -> int:
    return -(-w.k // c["block_k"])


def _derive(c: Mapping[str, Any], w: Workload, device: Device) -> dict[str, Any]:
    assert isinstance(w, Matmul)
    target = _parts(c, w)
    mn_major = {"a": w.layout[0] == "t", "b": w.layout[1] == "n"}
    g = hopper.geometry(
        c,
        device,
        m=w.m,
        n=target.n,
        k_tiles=_k_tiles(c, w),
        batch=w.batch,
        dtype=w.dtype,
        mn_major=mn_major,
        target=target,
        split_out=target.batch,
        promoted=hopper.promotes(w),
        block_scales=w.scales == "block128",
    )
    blocks = -(-w.k // 128)
    sum_vector = 4 if w.n % 4 == 0 and w.ldc % 4 == 0 else 1
    scales = ", const float* __restrict__ scale_a, const float* __restrict__ scale_b" if _scales_main(c, w) else ""
    g.update(
        kernel="matmul_wgmma",
        scale_parameters=scales,
        m=w.m,
        n_total=w.n,
        scale_blocks=blocks,
        scale_columns=max(1, c["block_n"] // 128),
        wide_scales=w.m * blocks >= 2**31,
        ld_partial=target.n,
        sum_vector=sum_vector,
        sum_threads=SUM_THREADS,
        sum_wide=w.batch * w.m * w.ldc >= 2**31,
        title=_title(w),
        about=hopper.about(c, g),
    )
    return g


def _scales_main(c: Mapping[str, Any], w: Matmul) -> bool:
    """Whether the main kernel's target has no scales of its own and yet multiplies with block scales."""
    return bool(w.scales == "block128" and c["split_k"] > 1)


def _title(w: Matmul) -> str:
    a = f"A[{w.m}, {w.k}]" if w.layout[0] == "n" else f"A[{w.k}, {w.m}]^T"
    b = f"B[{w.k}, {w.n}]" if w.layout[1] == "n" else f"B[{w.n}, {w.k}]^T"
    times = f"{w.batch} times " if w.batch > 1 else ""
    return f"{times}C[{w.m}, {w.n}] = {a} * {b}, {w.dtype} to {w.out_dtype}"


def _resources(c: Mapping[str, Any], w: Workload, device: Device) -> Estimate:
    assert isinstance(w, Matmul)
    target = _parts(c, w)
    return Estimate(
        128 * (c["consumers"] + 1),
        hopper.shared_bytes(c, ITEMSIZE[w.dtype], ITEMSIZE[target.out_dtype]),
        hopper.accumulators(c, hopper.promotes(w)),
        _workspace(c, w),
    )


def _workspace(c: Mapping[str, Any], w: Matmul) -> int:
    target = _parts(c, w)
    return 4 * target.batch * target.m * target.ldc if c["split_k"] > 1 else 0


def _map(name: str, operand: hopper.Operand, w: Matmul) -> TensorMapArg:
    shape, ld = (w.a_shape, w.lda) if name == "a" else (w.b_shape, w.ldb)
    size = operand.itemsize
    deep = w.batch > 1
    return TensorMapArg(
        name,
        hopper.MAP_DTYPE[w.dtype],
        (shape[1], shape[0], w.batch) if deep else (shape[1], shape[0]),
        (ld * size, shape[0] * ld * size) if deep else (ld * size,),
        (operand.box_inner, operand.slice_rows, 1) if deep else (operand.box_inner, operand.slice_rows),
        swizzle=operand.span,
        l2_promotion=L2_PROMOTION,
    )


def _plan(c: Mapping[str, Any], w: Workload, device: Device) -> LaunchPlan:
    assert isinstance(w, Matmul)
    g, target = _derive(c, w, device), _parts(c, w)
    buffer = "workspace" if c["split_k"] > 1 else "out"
    args: tuple[Arg, ...] = (_map("a", g["a"], w), _map("b", g["b"], w))
    rest = epilogue_args(target)[1:] + ((BufferArg("scale_a"), BufferArg("scale_b")) if _scales_main(c, w) else ())
    if g["store"] == "tma":
        size, deep = g["out_bytes"], target.batch > 1
        args += (
            TensorMapArg(
                buffer,
                hopper.OUT_MAP_DTYPE[target.out_dtype],
                (target.n, w.m, target.batch) if deep else (target.n, w.m),
                (target.ldc * size, w.m * target.ldc * size) if deep else (target.ldc * size,),
                (g["box_columns"], g["box_rows"], 1) if deep else (g["box_columns"], g["box_rows"]),
                swizzle=g["box_bytes"],
                l2_promotion=0,
            ),
        )
    else:
        args += (BufferArg(buffer),)
    cluster = (g["cluster"], 1, 1)
    steps = [
        KernelStep(
            g["kernel"], (g["clusters"] * g["cluster"], 1, 1), (g["threads"], 1, 1), args + rest, g["shared"], cluster
        )
    ]
    if c["split_k"] > 1:
        items = w.batch * w.m * (w.n // g["sum_vector"])
        steps.append(
            KernelStep(
                "sum_parts",
                (-(-items // SUM_THREADS), 1, 1),
                (SUM_THREADS, 1, 1),
                (BufferArg("workspace"), *epilogue_args(w)),
            )
        )
    return LaunchPlan(tuple(steps), _workspace(c, w)).check()


def _fits(c: Any, w: Any, d: Any) -> bool:
    out = 4 if c["split_k"] > 1 else ITEMSIZE[w.out_dtype]
    needed = hopper.shared_bytes(c, ITEMSIZE[w.dtype], out)
    return bool(
        needed <= d.shared_bytes_per_block
        and c["min_blocks"] * (needed + d.shared_reserved_per_block) <= d.shared_bytes_per_sm
    )


def _storable(c: Any, w: Any, d: Any) -> bool:
    if c["swap_ab"] and c["epilogue"] == "narrow_ring":
        return False
    if c["epilogue"] == "direct":
        return True
    out = 4 if c["split_k"] > 1 else ITEMSIZE[w.out_dtype]
    return hopper.blocks_of_64(c) > 0 and hopper.box_bytes(c, out) > 0 and (c["split_k"] > 1 or w.ldc * out % 16 == 0)


def _mn_major(c: Any, w: Any, d: Any) -> bool:
    return (w.layout[0] == "n" or c["block_m"] % 16 == 0) and (w.layout[1] == "t" or c["block_n"] % 16 == 0)


_SHAPE = ("block_m", "block_n", "consumers", "schedule", "swap_ab")
CONSTRAINTS = (
    *hopper_space.constraints(),
    Constraint(
        "mn_major_span",
        ("block_m", "block_n"),
        _mn_major,
        "a tile that is contiguous along m or n is whole swizzle spans of at least 32 bytes: a multiple of 16",
    ),
    Constraint(
        "producer_addresses",
        ("producer_registers",),
        lambda c, w, d: c["producer_registers"] != 40 or w.batch == 1,
        "the producer of a batch has one coordinate more and spills in 40 registers",
    ),
    Constraint(
        "swap_short_m",
        ("swap_ab",),
        lambda c, w, d: not c["swap_ab"] or w.m <= 256,
        "the transposed product is for m up to 256",
    ),
    Constraint(
        "split_has_work",
        ("block_k", "split_k"),
        lambda c, w, d: c["split_k"] <= _k_tiles(c, w),
        "every part of K has at least one slice",
    ),
    Constraint(
        "tma_store",
        (*_SHAPE, "epilogue", "split_k"),
        _storable,
        "the copy engine stores boxes of 32, 64 or 128 bytes a row into rows at multiples of 16 bytes; "
        "use the direct "
        "epilogue; transposed, there is no narrow ring",
    ),
    Constraint(
        "shared_memory",
        (*_SHAPE, "block_k", "stages", "epilogue", "split_k", "min_blocks"),
        _fits,
        "the ring, the staged output and the barriers must fit in shared memory, min_blocks times an SM",
    ),
)
_FLAGSHIP: dict[str, Any] = dict(
    block_m=128,
    block_n=256,
    block_k=64,
    consumers=2,
    schedule="cooperative",
    stages=4,
    cluster_m=2,
    cluster_n=1,
    producer_registers=40,
    epilogue="ring",
    raster_group=8,
    grid="all",
    split_k=1,
    swap_ab=False,
    min_blocks=1,
    promote_k=128,
)


def _candidates(w: Matmul, device: Device) -> list[Config]:
    """Known good shapes from large to small; sizes in 16-bit elements of K, rescaled to the dtype."""

    def config(**changes: Any) -> Config:
        made: dict[str, Any] = {**_FLAGSHIP, **changes}
        made["block_k"] = made["block_k"] * 2 // ITEMSIZE[w.dtype]
        made["producer_registers"] = 40 if w.batch == 1 else 56
        return Config(made)

    ping = dict(schedule="pingpong", cluster_m=1)
    large = [
        config(),
        config(block_m=256, block_n=128),
        config(block_m=192, block_n=192, consumers=3, epilogue="narrow_ring", cluster_m=1),
        config(block_m=128, block_n=192, stages=5),
        config(block_m=128, block_n=128, stages=6, **ping),
        config(block_m=64, block_n=256, stages=4, **ping),
        config(block_m=128, block_n=160, stages=5, cluster_m=1),
        config(block_m=128, block_n=128, stages=6, cluster_m=1),
    ]
    small = [
        config(block_m=64, block_n=128, stages=8, **ping),
        config(block_m=128, block_n=64, stages=4, min_blocks=2, cluster_m=1),
        config(block_m=64, block_n=64, consumers=1, stages=6, cluster_m=1, min_blocks=2),
        config(block_m=64, block_n=128, consumers=1, stages=8, cluster_m=1, grid="units"),
        config(block_m=64, block_n=64, consumers=1, stages=8, cluster_m=1, split_k=4, epilogue="direct", grid="units"),
        config(block_m=64, block_n=32, consumers=1, stages=8, cluster_m=1, epilogue="direct", grid="units"),
    ]
    narrow = -(-min(w.m, 64) // 16) * 16
    transposed: dict[str, Any] = dict(
        block_m=narrow, block_n=128, stages=8, cluster_m=1, swap_ab=True, epilogue="direct", grid="units"
    )
    skinny = [
        config(**{**transposed, **more})
        for more in ({}, {"split_k": 4}, {"block_n": 64, "consumers": 1, "split_k": 8})
        if w.m <= 128
    ]
    narrow_n = (
        [config(block_m=128, block_n=-(-min(w.n, 64) // 16) * 16, stages=8, cluster_m=1, epilogue="direct")]
        if w.n <= 64
        else []
    )
    tiles = -(-w.m // 128) * -(-w.n // 256) * w.batch
    return [*skinny, *narrow_n, *((large + small) if tiles >= device.sm_count // 2 else (small + large))]


def _seeds(w: Workload, device: Device) -> Sequence[Config]:
    assert isinstance(w, Matmul)
    return [c for c in _candidates(w, device) if not TEMPLATE.violations(c, w, device)]


def _default(w: Workload, device: Device) -> Config:
    assert isinstance(w, Matmul)
    plain = Config(
        {
            **_FLAGSHIP,
            **dict(block_m=64, block_n=64, block_k=128 // ITEMSIZE[w.dtype], consumers=1, stages=4, cluster_m=1),
            **dict(epilogue="direct", producer_registers=0),
        }
    )
    return next(iter(_seeds(w, device)), plain)


def _numerics(c: Mapping[str, Any], w: Workload) -> Numerics:
    if w.dtype == "float32":
        return Numerics(input_eps=2.0**-10)
    if w.dtype in FP8:
        # inside the tensor cores products are aligned to the largest and cut to about 13 fraction bits before they add
        return Numerics(input_eps=2.0**-10 if hopper.promotes(w) else 2.0**-7)
    return Numerics()


TEMPLATE = Template(
    name="matmul_wgmma",
    op="matmul",
    summary="Hopper tensor cores (wgmma) fed by the copy engine (TMA), warp-specialised",
    knobs=hopper_space.KNOBS,
    constraints=CONSTRAINTS,
    supports=_supports,
    derive=_derive,
    resources=_resources,
    plan=_plan,
    default=_default,
    seeds=_seeds,
    numerics=_numerics,
    min_cc=90,
    exact_cc=90,
)
