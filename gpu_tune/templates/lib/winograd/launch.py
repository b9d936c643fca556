"""What the Winograd families share: a convolution as transforms around a batched matrix product of another family.

The plan has up to four steps, each timed: filters to U (unless they come pretransformed), image tiles to V, alpha^2
independent products of U and V by the inner matmul family, results back from M with the epilogue. U and V are stored in
the data's dtype, M in float32; transforms compute in float32. In nhwc a product is M[tiles, k] = V[tiles, c] U[k, c]^T,
in nchw M[k, tiles] = U[k, c] V[c, tiles], so that every access runs along contiguous memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....cuda.device import Device
from ....plan import Arg, BufferArg, KernelStep, LaunchPlan, MemsetStep, Step
from ....reference import Numerics
from ....reference import winograd as matrices
from ....space.knob import Config, Constraint, Knob, Value
from ...base import ResourceEstimate, Template
from ..common import ceil_div, epilogue_args
from .constraints import CONSTRAINTS, STORE_EPS, supports
from .tiles import KNOBS, Geometry, product

Values = Mapping[str, Any]
ONLY_8_BIT: dict[str, tuple[Value, ...]] = {
    "block_k": (256,),
    "vector_width_a": (16,),
    "vector_width_b": (16,),
    "vector_width_out": (8, 16),
}
"""Values of the inner families that 16-bit and 32-bit operands, or float32 products, never reach."""


@dataclass(frozen=True)
class Winograd:
    """The Winograd family around the products of ``inner``, whose knobs it takes over but for the ``fixed`` ones.

    ``fixed`` says by name which value a workload gets.
    """

    name: str
    summary: str
    inner: Template
    fixed: Mapping[str, Callable[[Any], Value]]

    @functools.cached_property
    def template(self) -> Template:
        inner, own = self.inner, {k.name for k in self.inner.knobs} - set(self.fixed)
        inherited = (self._wrapped(x, own) for x in inner.constraints if any(k in own for k in x.knobs))
        return Template(
            name=self.name,
            op="conv2d",
            summary=self.summary,
            knobs=(*KNOBS, *(_reachable(k) for k in inner.knobs if k.name in own)),
            tile=inner.tile,
            constraints=(*CONSTRAINTS, *inherited),
            supports=lambda w, d: supports(w, d, inner),
            derive=self.derived,
            resources=self.resources,
            plan=self.plan,
            default=self.default,
            seeds=self.seeds,
            numerics=self.numerics,
            min_cc=inner.min_cc,
        )

    def _wrapped(self, x: Constraint, own: set[str]) -> Constraint:
        """A constraint of the inner product as one of the convolution."""
        return Constraint(
            f"product_{x.name}",
            tuple(dict.fromkeys((*(k for k in x.knobs if k in own), "tile"))),
            lambda c, w, d: x.holds(self._complete(c, w), product(w, c["tile"]), d),
            f"of the inner product: {x.message}",
        )

    def _complete(self, config: Values, w: Any) -> dict[str, Any]:
        return {**config, **{name: value(w) for name, value in self.fixed.items()}}

    def _inner_config(self, config: Values, w: Any) -> Config:
        values = self._complete(config, w)
        return Config({k.name: values[k.name] for k in self.inner.knobs})

    def derived(self, config: Values, w: Any, device: Device) -> Values:
        g = Geometry(w, int(config["tile"]))
        return {
            "name": self.name,
            "geometry": g,
            "bt": matrices.INPUT[g.tile],
            "g": matrices.FILTER[g.tile],
            "at": matrices.OUTPUT[g.tile],
            "inner": g.inner(),
            "product": self.inner.derive(self._inner_config(config, w), g.inner(), device),
            "fixed": self._complete({}, w),
            "wide_out": w.n * w.p * w.q * w.k >= 2**31,
            "wide_in": w.n * w.h * w.w * w.c >= 2**31,
        }

    def resources(self, config: Values, w: Any, device: Device) -> ResourceEstimate:
        """The inner product's, in a workspace with what lies between the transforms."""
        g = Geometry(w, int(config["tile"]))
        made = self.inner.resources(self._inner_config(config, w), g.inner(), device)
        end = g.offsets(made.workspace_bytes)["end"]
        return replace(made, threads=max(made.threads, int(config["transform_threads"])), workspace_bytes=end)

    def plan(self, config: Values, w: Any, device: Device) -> LaunchPlan:
        """The transforms around the steps of the inner product."""
        g, threads = Geometry(w, int(config["tile"])), int(config["transform_threads"])
        inside = self.inner.plan(self._inner_config(config, w), g.inner(), device)
        at = g.offsets(inside.workspace_bytes)
        u = BufferArg("w") if w.weights == "pretransformed" else BufferArg("workspace", at["u"])
        v, m = BufferArg("workspace", at["v"]), BufferArg("workspace", at["m"])
        a, b = (v, u) if w.layout == "nhwc" else (u, v)
        buffers = {"a": a, "b": b, "out": m, "workspace": BufferArg("workspace", at["inner"])}

        def transform(kernel: str, units: int, *args: Arg) -> KernelStep:
            return KernelStep(f"{self.name}_{kernel}", (ceil_div(units, threads), 1, 1), (threads, 1, 1), args)

        steps: list[Step] = [
            transform("input", g.tiles * w.c // int(config["channels"]), BufferArg("x"), v),
            *(_moved(step, buffers) for step in inside.steps),
            transform("output", g.tiles * w.k // int(config["filters"]), m, *epilogue_args(w)),
        ]
        if w.weights == "plain":
            steps.insert(0, transform("filter", w.k * w.c, BufferArg("w"), u))
        return LaunchPlan(tuple(steps), at["end"])

    def _finished(self, found: Values, w: Any, device: Device) -> Config | None:
        """A valid config around one of the inner product; None when there is none."""
        for tile in (w.winograd_tile, 6 - w.winograd_tile):
            for channels in (4, 2, 1):
                for filters in (4, 2, 1):
                    values = {**found, "tile": tile, "channels": channels, "filters": filters, "transform_threads": 128}
                    config = Config({k.name: values[k.name] for k in self.template.knobs})
                    if not self.template.violations(config, w, device):
                        return config
        return None

    def seeds(self, w: Any, device: Device) -> list[Config]:
        """The inner product's default and seeds, its K unsplit."""
        inside = product(w, w.winograd_tile)
        ranked = [self.inner.default(inside, device), *self.inner.seeds(inside, device)]
        found = (self._finished({**c, "split_k": 1}, w, device) for c in ranked)
        return list(dict.fromkeys(c for c in found if c is not None))

    def default(self, w: Any, device: Device) -> Config:
        """The first seed; else around the inner families' fallback: one tile size must work for both transforms."""
        ranked = self.seeds(w, device)
        config = ranked[0] if ranked else self._finished(self.inner.default(product(w, 2), device), w, device)
        assert config is not None, "supports() said that a config exists"
        return config

    def numerics(self, config: Values, w: Any) -> Numerics:
        """Rounding of what is stored between the transforms, which amplify it."""
        arithmetic = self._complete(config, w).get("arithmetic")
        half = arithmetic == "fp16_accumulate"
        return Numerics(
            "float16" if half else "float32",
            input_eps=8 * max(STORE_EPS[w.dtype], 2.0**-11 if arithmetic == "tf32" else 0.0),
            winograd=int(config["tile"]),
            exact_integers=config["tile"] == 2 and not half,
            propagates_nonfinite=False,
        )


def _reachable(knob: Knob) -> Knob:
    return replace(knob, values=tuple(v for v in knob.values if v not in ONLY_8_BIT.get(knob.name, ())))


def _moved(step: Step, buffers: Mapping[str, BufferArg]) -> Step:
    """A step of the inner product on the buffers that stand for its own."""
    if isinstance(step, MemsetStep):
        return replace(step, offset=step.offset + buffers["workspace"].offset)
    args = (
        replace(buffers[x.buffer], offset=buffers[x.buffer].offset + x.offset) if isinstance(x, BufferArg) else x
        for x in step.args
    )
    return replace(step, args=tuple(args))
