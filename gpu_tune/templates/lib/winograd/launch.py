"""What the Winograd families share: a convolution as transforms around a batched matrix product of another family.

The plan has up to four steps, each timed: filters to U (unless they come pretransformed), image tiles to V, alpha^2
independent products of U and V by the inner matmul family, results back from M with the epilogue. U and V are stored in
the data's dtype, M in float32; transforms compute in float32. In nhwc a product is M[tiles, k] = V[tiles, c] U[k, c]^T,
in nchw M[k, tiles] = U[k, c] V[c, tiles], so that every access runs along contiguous memory.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ....cuda.device import Device
from ....plan import BufferArg, KernelStep, LaunchPlan, MemsetStep, Step
from ....reference import winograd as matrices
from ....reference.numerics import Numerics
from ....space.knob import Config, Constraint, Knob, Value
from ....workload import ITEMSIZE, Conv2d, Matmul, Workload
from ...base import ResourceEstimate, Template
from ..common import epilogue_args

ONLY_8_BIT: dict[str, tuple[Value, ...]] = {
    "block_k": (256,),
    "vector_width_a": (16,),
    "vector_width_b": (16,),
    "vector_width_out": (8, 16),
}
"""Values of the inner families that 16-bit and 32-bit operands, or float32 products, never reach."""
KNOBS = (
    Knob("tile", (2, 4), "m of F(m x m, 3x3): output tile; larger multiplies less and rounds more"),
    Knob("channels", (1, 2, 4), "channels that a thread of the input transform takes"),
    Knob("filters", (1, 2, 4), "output channels that a thread of the output transform takes"),
    Knob("transform_threads", (64, 128, 256), "threads of a block of the transforms"),
)
ALIGNMENT = 256
STORE_EPS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution cut into tiles of ``tile`` x ``tile`` outputs."""

    workload: Conv2d
    tile: int

    @property
    def alpha(self) -> int:
        """Rows of an input tile."""
        return self.tile + 2

    @property
    def rows(self) -> int:
        """Tiles along the output's rows."""
        return -(-self.workload.p // self.tile)

    @property
    def columns(self) -> int:
        """Tiles along the output's columns."""
        return -(-self.workload.q // self.tile)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.workload.n * self.rows * self.columns

    def inner(self) -> Matmul:
        """The alpha^2 products between the transforms."""
        w = self.workload
        common: dict[str, Any] = dict(
            batch=self.alpha**2,
            dtype=w.dtype,
            out_dtype="float32",
            deterministic=w.deterministic,
            # the parts of the workspace are aligned; filters transformed ahead are the caller's
            alignment=16 if w.weights == "plain" else min(16, w.alignment),
        )
        permissions = tuple(p for p in w.math if p in ("tf32", "tf32x3", "fp16_accumulate"))
        if w.layout == "nhwc":
            return Matmul(self.tiles, w.k, w.c, layout="nt", math=permissions, **common)
        return Matmul(w.k, self.tiles, w.c, layout="nn", math=permissions, **common)

    def offsets(self, inner_workspace: int) -> dict[str, int]:
        """Bytes from the workspace's start to V, U, M and the inner family's own part; ``end`` is the total."""
        w, size = self.workload, ITEMSIZE[self.workload.dtype]
        plain = w.weights == "plain"
        parts = {
            "v": self.alpha**2 * self.tiles * w.c * size,
            "u": self.alpha**2 * w.k * w.c * size if plain else 0,
            "m": self.alpha**2 * self.tiles * w.k * 4,
            "inner": inner_workspace,
        }
        found, at = {}, 0
        for name, size in parts.items():
            found[name] = at
            at += -(-size // ALIGNMENT) * ALIGNMENT
        return {**found, "end": at}


@functools.lru_cache(maxsize=512)
def _inner(w: Conv2d, tile: int) -> Matmul:
    return Geometry(w, tile).inner()


def _reachable(knob: Knob) -> Knob:
    return replace(knob, values=tuple(v for v in knob.values if v not in ONLY_8_BIT.get(knob.name, ())))


def supports(w: Workload, device: Device, inner: Template) -> bool | str:
    """True, or why a Winograd family cannot compute ``w``."""
    assert isinstance(w, Conv2d)
    if "winograd" not in w.math:
        return "changes the arithmetic: math does not permit 'winograd'"
    if (w.r, w.s, w.stride, w.dilation, w.groups) != (3, 3, (1, 1), (1, 1), 1):
        return "needs a 3x3 filter, stride 1, dilation 1 and one group"
    if w.dtype not in STORE_EPS:
        return f"computes float32, float16 and bfloat16, not {w.dtype}"
    for tile in (2, 4):
        g = Geometry(w, tile)
        if g.alpha**2 * max(g.tiles * max(w.c, w.k), w.k * w.c) >= 2**31:
            return "the transformed tensors have more than 2^31 elements"
    return inner.supported(_inner(w, 2), device)


def build(name: str, summary: str, inner: Template, fixed: Mapping[str, Value], chosen: Any = None) -> Template:
    """The Winograd family around ``inner``, whose knobs are taken over but for ``fixed`` ones.

    ``chosen(workload)`` may give further fixed values that depend on the workload.
    """

    def settle(config: Mapping[str, Any], w: Any) -> dict[str, Any]:
        return {**config, **fixed, **(chosen(w) if chosen else {})}

    def inner_config(config: Mapping[str, Any], w: Any) -> Config:
        full = settle(config, w)
        return Config({k.name: full[k.name] for k in inner.knobs})

    def wrapped(rule: Constraint) -> Constraint:
        names = tuple(dict.fromkeys((*(k for k in rule.knobs if k in own), "tile")))
        return Constraint(
            f"product_{rule.name}",
            names,
            lambda c, w, d: rule.holds(settle(c, w), _inner(w, c["tile"]), d),
            f"of the inner product: {rule.message}",
        )

    def plan(config: Config, w: Any, device: Device) -> LaunchPlan:
        g = Geometry(w, int(config["tile"]))
        product = inner.plan(inner_config(config, w), g.inner(), device)
        at = g.offsets(product.workspace_bytes)
        u = BufferArg("w") if w.weights == "pretransformed" else BufferArg("workspace", at["u"])
        v, m = BufferArg("workspace", at["v"]), BufferArg("workspace", at["m"])
        a, b = (v, u) if w.layout == "nhwc" else (u, v)
        names = {"a": a, "b": b, "out": m}

        def moved(step: Step) -> Step:
            if isinstance(step, MemsetStep):
                return replace(step, offset=step.offset + at["inner"])
            args = tuple(
                arg
                if not isinstance(arg, BufferArg)
                else BufferArg("workspace", at["inner"] + arg.offset)
                if arg.buffer == "workspace"
                else replace(names[arg.buffer], offset=names[arg.buffer].offset + arg.offset)
                for arg in step.args
            )
            return replace(step, args=args)

        threads = int(config["transform_threads"])

        def transform(kernel: str, units: int, *args: Any) -> KernelStep:
            return KernelStep(f"{name}_{kernel}", (-(-units // threads), 1, 1), (threads, 1, 1), args)

        steps: list[Step] = []
        if w.weights == "plain":
            steps.append(transform("filter", w.k * w.c, BufferArg("w"), u))
        steps.append(transform("input", g.tiles * w.c // int(config["channels"]), BufferArg("x"), v))
        steps += [moved(s) for s in product.steps]
        steps.append(transform("output", g.tiles * w.k // int(config["filters"]), m, *epilogue_args(w)))
        return LaunchPlan(tuple(steps), at["end"])

    def derive(config: Config, w: Any, device: Device) -> Mapping[str, Any]:
        g = Geometry(w, int(config["tile"]))
        inside = inner_config(config, w)
        return {
            "name": name,
            "geometry": g,
            "bt": matrices.INPUT[g.tile],
            "g": matrices.FILTER[g.tile],
            "at": matrices.OUTPUT[g.tile],
            "inner": g.inner(),
            "product": inner.derive(inside, g.inner(), device),
            "fixed": settle({}, w),
            "wide_out": w.n * w.p * w.q * w.k >= 2**31,
            "wide_in": w.n * w.h * w.w * w.c >= 2**31,
        }

    def resources(config: Config, w: Any, device: Device) -> ResourceEstimate:
        product = inner.resources(inner_config(config, w), _inner(w, int(config["tile"])), device)
        end = Geometry(w, int(config["tile"])).offsets(product.workspace_bytes)["end"]
        return replace(product, threads=max(product.threads, int(config["transform_threads"])), workspace_bytes=end)

    def completed(found: Mapping[str, Any], w: Conv2d, device: Device) -> Config | None:
        for tile in (w.winograd_tile, 6 - w.winograd_tile):
            for channels in (4, 2, 1):
                for filters in (4, 2, 1):
                    values = {**found, "tile": tile, "channels": channels, "filters": filters, "transform_threads": 128}
                    config = Config({k.name: values[k.name] for k in template.knobs})
                    if not template.violations(config, w, device):
                        return config
        return None

    def seeds(w: Workload, device: Device) -> Sequence[Config]:
        assert isinstance(w, Conv2d)
        inside = _inner(w, w.winograd_tile)
        ranked = [inner.default(inside, device), *inner.seeds(inside, device)]
        found = (completed({**c, "split_k": 1}, w, device) for c in ranked)
        return list(dict.fromkeys(c for c in found if c is not None))

    def default(w: Workload, device: Device) -> Config:
        ranked = seeds(w, device)
        if not ranked:  # the inner families' fallback: one tile size must work for both transforms
            config = completed(inner.default(_inner(w, 2), device), w, device)  # type: ignore[arg-type]
            assert config is not None, "supports() said that a config exists"
            return config
        return ranked[0]

    def numerics(config: Config, w: Workload) -> Numerics:
        eps = max(STORE_EPS[w.dtype], 2.0**-11 if settle(config, w).get("arithmetic") == "tf32" else 0.0)
        exact = config["tile"] == 2 and settle(config, w).get("arithmetic") != "fp16_accumulate"
        compute = "float16" if settle(config, w).get("arithmetic") == "fp16_accumulate" else "float32"
        return Numerics(
            compute, input_eps=8 * eps, winograd=int(config["tile"]), exact_integers=exact, propagates_nonfinite=False
        )

    own = {k.name for k in inner.knobs} - set(fixed) - set(chosen(None) if chosen else ())
    knobs = (*KNOBS, *(_reachable(k) for k in inner.knobs if k.name in own))
    template = Template(
        name=name,
        op="conv2d",
        summary=summary,
        knobs=knobs,
        constraints=(*_RULES, *(wrapped(r) for r in inner.constraints if any(k in own for k in r.knobs))),
        supports=lambda w, d: supports(w, d, inner),
        derive=derive,
        resources=resources,
        plan=plan,
        default=default,
        seeds=seeds,
        numerics=numerics,
        min_cc=inner.min_cc,
    )
    return template


_RULES = (
    Constraint(
        "channels_divide",
        ("channels",),
        lambda c, w, d: w.c % c["channels"] == 0 and (w.layout == "nhwc" or c["channels"] == 1),
        "channels divides c (and is 1 in nchw, where threads run along the image)",
    ),
    Constraint(
        "filters_divide",
        ("filters",),
        lambda c, w, d: w.k % c["filters"] == 0 and (w.layout == "nhwc" or c["filters"] == 1),
        "filters divides k (and is 1 in nchw, where threads run along the image)",
    ),
    Constraint(
        "input_alignment",
        ("channels",),
        lambda c, w, d: c["channels"] * ITEMSIZE[w.dtype] <= w.alignment,
        "a vector of channels is as aligned as the arrays",
    ),
    Constraint(
        "output_alignment",
        ("filters",),
        lambda c, w, d: c["filters"] * ITEMSIZE[w.out_dtype] <= w.alignment,
        "a vector of filters is as aligned as the arrays",
    ),
    Constraint(
        "registers",
        ("tile", "channels"),
        lambda c, w, d: (c["tile"] + 2) ** 2 * c["channels"] <= 80,
        "an input tile of all channels of a thread takes at most 80 registers",
    ),
    Constraint(
        "output_registers",
        ("tile", "filters"),
        lambda c, w, d: (c["tile"] + 2) ** 2 * c["filters"] <= 80,
        "an output tile of all filters of a thread takes at most 80 registers",
    ),
    Constraint(
        "pretransformed_tile",
        ("tile",),
        lambda c, w, d: w.weights == "plain" or c["tile"] == w.winograd_tile,
        "pretransformed filters are made for the workload's winograd_tile",
    ),
    Constraint(
        "rounding",
        ("tile",),
        lambda c, w, d: c["tile"] == 2 or w.dtype != "bfloat16",
        "F(4x4) needs more than the 8 significant bits of bfloat16",
    ),
    Constraint(
        "workspace",
        ("tile",),
        lambda c, w, d: Geometry(w, c["tile"]).offsets(0)["end"] <= d.memory_bytes // 8,
        "the transformed tensors take at most an eighth of the device's memory",
    ),
)
