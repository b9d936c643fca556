"""A kernel family bound to a workload and a device: its space, its configs rendered, and their features."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..cuda.device import Device
from ..errors import GpuTuneError, InvalidConfig, TemplateError
from ..plan import LaunchPlan, ResourceEstimate
from ..plan.size import Size, label, lower, upper
from ..reference import Numerics
from ..space.features import LaunchSummary, gemm_shape, launch_features
from ..space.grid import Rows
from ..space.knob import Config
from ..space.space import Space
from ..workload import View, Workload
from .base import FOLDER, Template, addition_hash, render, render_text
from .lib import column_sums
from .lib.column_sums import with_sums
from .lib.common import with_zeros
from .lib.mask_bits import saves_bits
from .lib.partial_sums import PartialSums
from .outside import place_of

_T = TypeVar("_T")


@dataclass(frozen=True)
class Rendered:
    """A config as source and launch plan. ``source`` is CUDA C++ without the header comment that a winner carries.

    ``open_plan``: where a size is open, the plan for every size, of which ``plan`` is the one of the tuned size.
    """

    source: str
    plan: LaunchPlan
    estimate: ResourceEstimate
    numerics: Numerics
    open_plan: LaunchPlan | None = None


@dataclass(frozen=True)
class BoundTemplate:
    """``template`` for ``workload`` on ``device``; made once, and carried from the tuner to the GPU worker.

    ``view``: the equivalent workload that the template computes, None where it computes ``workload`` itself. ``open``:
    the kernel takes one size of the workload as an argument, any that this allows; what is asked about a config is then
    asked of the workload's own size, for which it is tuned. ``tuned``: where configs were chosen for another size than
    the workload's, which then decides whether they are valid.
    """

    template: Template
    workload: Workload
    device: Device
    view: View | None = None
    open: Size | None = None
    tuned: int = 0

    @property
    def name(self) -> str:
        return self.template.name

    @property
    def hash(self) -> str:
        """The template's identity (12 hex digits); see :meth:`Template.hash`. An open size makes it another one."""
        family = self.template.hash()
        if self._sums:
            family = hashlib.sha256(f"{family} {addition_hash(column_sums.PART)}".encode()).hexdigest()[:12]
        if self.open is None:
            return family
        return hashlib.sha256(f"{family} {self.open.name}={label(self.open)}".encode()).hexdigest()[:12]

    @property
    def computed(self) -> Workload:
        """The workload whose buffers the plan names: the view's, or the workload itself."""
        return self.view.workload if self.view else self.workload

    @property
    def asked(self) -> Workload:
        """What a config is asked about: ``computed``, aligned as little as any size that the kernel takes."""
        return self.computed if self.open is None else self.computed.unaligned()

    @property
    def whole(self) -> Workload:
        """What the source computes: ``computed``, with the open size in place of the tuned one."""
        return self.computed if self.open is None else self.computed.resized(self.open)

    @property
    def _sums(self) -> bool:
        """Whether kernels that no family has come behind the family's."""
        return column_sums.NAME in self.computed.outputs

    def supported(self) -> bool | str:
        """True, or why the template cannot compute this workload on this device."""
        return self._answer(self.template.supported, self.whole, self.device)

    def default(self) -> Config:
        """The config an expert would start from; a constraint may forbid it."""
        return self._answer(self.template.default, self.asked, self.device)

    def violations(self, config: Config) -> list[str]:
        workload = self.asked.resized(self.tuned).unaligned() if self.tuned else self.asked
        return self._answer(self.template.violations, config, workload, self.device)

    def estimate(self, config: Config) -> ResourceEstimate:
        found = self._answer(self.template.resources, config, self.asked, self.device)
        return replace(found, workspace_bytes=self.plan(config).workspace_bytes) if self._sums else found

    def plan(self, config: Config) -> LaunchPlan:
        return self._whole_plan(config, self.asked)

    def _whole_plan(self, config: Config, workload: Workload) -> LaunchPlan:
        """The family's steps for ``workload``, and what its second results take before and behind them."""
        plan = self._answer(self.template.plan, config, workload, self.device)
        if not (saves_bits(workload) and self._answer(self.template.whole_masks, config, workload, self.device)):
            plan = with_zeros(plan, workload)
        return with_sums(plan, workload, self.device, self._left(config, workload)) if self._sums else plan

    def _left(self, config: Config, workload: Workload) -> PartialSums | None:
        """The sums that the family's own kernels leave in the workspace."""
        return self._answer(self.template.partial_sums, config, workload, self.device)

    def probe(self) -> None:
        """TemplateError unless the default config, where it is valid, has source, plan, resources and features."""
        config = self.default()
        if not self.violations(config):
            self.render(config)
            config_features(self, config)

    def space(self) -> TemplateSpace:
        return TemplateSpace(self)

    def render(self, config: Config) -> Rendered:
        """Source, launch plan, resources and numerics of ``config``; InvalidConfig names every rule that it breaks."""
        broken = self.violations(config)
        if broken:
            raise InvalidConfig(f"{self.name} config {config.key}: " + "; ".join(broken))
        source = self._answer(render, self.template, config, self.whole, self.device)
        numerics = self._answer(self.template.numerics, config, self.computed)
        if self._sums:
            source += (
                "\n"
                + render_text(
                    column_sums.SOURCE,
                    column_sums.names(self.whole, self.device, self._left(config, self.whole)),
                ).strip()
                + "\n"
            )
        plan = self._whole_plan(config, self.whole).check()
        if self.open is None:
            return Rendered(source, plan, self.estimate(config), numerics)
        size = getattr(self.computed, self.open.name)
        return Rendered(source, plan.at(size), self.estimate(config), numerics, plan)

    def on(self, workload: Workload, device: Device | None = None) -> BoundTemplate:
        """The same template for another workload (and device), which it must support; an open size stays open."""
        size = self.open
        if size is not None:
            own = getattr(workload, size.name)
            size = Size(size.name, (min(lower(size), own), max(upper(size), own)))
        return replace(self, workload=workload, device=device or self.device, view=None, open=size, tuned=0)

    def _answer(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """What the declaration's ``function`` answers; TemplateError with file and line where it fails."""
        try:
            return function(*arguments)
        except GpuTuneError:
            raise
        except Exception as error:  # a mistake in the declaration, which may be anybody's
            place = place_of(error, self.template.folder) or place_of(error, FOLDER) or str(self.template.source)
            raise TemplateError(f"{place}: {error!r}; the family {self.name} fails for {self.computed.key}") from error


class TemplateSpace(Space):
    """The valid configs of a bound template, named after it."""

    listing = 1_500  # hardware features cost Python time for every config

    def __init__(self, bound: BoundTemplate) -> None:
        workload, device, template = bound.asked, bound.device, bound.template
        super().__init__(template.name, template.knobs, template.constraints, None, workload, device)
        self.bound = bound
        self._known: dict[bytes, NDArray[np.float32]] = {}
        self._names: list[str] = []
        self.workload: Workload = workload
        self.device: Device = device

    def default(self) -> Config | None:
        config = self.bound.default()
        return config if config in self else None

    def seeds(self) -> list[Config]:
        """The template's seeds that are valid here, distinct, in the template's order."""
        seeds = self.bound.template.seeds(self.workload, self.device)
        return list(dict.fromkeys(c for c in seeds if c in self))

    def tile(self, config: Config) -> tuple[object, ...]:
        """The values of the knobs that size a block's tile."""
        return tuple(config[name] for names in self.bound.template.tile for name in names)

    def describe(self, rows: Rows) -> tuple[NDArray[np.float32], list[str]]:
        """Knob features, then hardware features (each config's are computed once)."""
        new = [row for row in rows if row.tobytes() not in self._known]
        if new:
            values, self._names = hardware(self.bound, self.configs(np.array(new)))
            self._known.update((row.tobytes(), v) for row, v in zip(new, values))
        own = np.array([self._known[row.tobytes()] for row in rows], dtype=np.float32).reshape(
            len(rows), len(self._names)
        )
        return np.concatenate([self.encoder(rows), own], axis=1), [*self.encoder.names, *self._names]


def hardware(bound: BoundTemplate, configs: Sequence[Config]) -> tuple[NDArray[np.float32], list[str]]:
    """Features (n, f) float32 and their names. Configs must be valid, at least one."""
    features = [config_features(bound, config) for config in configs]
    return np.array([list(f.values()) for f in features], dtype=np.float32), list(features[0])


def config_features(bound: BoundTemplate, config: Config) -> dict[str, float]:
    """One config's features by name: those of ``launch_features``, then the template's own.

    The former are made from its estimate and launch plan, from the tile that the template declares (else from the share
    of a block in the output), and from the knobs ``stages`` and ``split_k`` where it has them."""
    estimate, plan, workload = bound.estimate(config), bound.plan(config), bound.asked
    own = [step for step in plan.kernels if step.kernel not in column_sums.KERNELS]
    main = max(own, key=lambda s: s.blocks * s.threads)
    m, n, _, batch = gemm_shape(workload)
    split = _knob(config, "split_k") or 1.0
    outputs = m * n * batch * split / main.blocks
    rows, columns, depth = (_product(config, names) for names in bound.template.tile)
    tile_m = rows or min(float(m), math.sqrt(outputs))
    launch = LaunchSummary(
        threads=estimate.threads,
        blocks=main.blocks,
        shared_bytes=estimate.shared_bytes,
        accumulators=estimate.accumulators,
        tile_m=tile_m,
        tile_n=columns or max(1.0, min(float(n), outputs / tile_m)),
        tile_k=depth or 1.0,
        stages=_knob(config, "stages") or 1.0,
        split_k=split,
        workspace_bytes=estimate.workspace_bytes,
        kernels=len(plan.steps),
        cluster=math.prod(main.cluster),
    )
    features = bound._answer(bound.template.features, config, workload, bound.device)
    more = {f"{bound.name} {name}": float(value) for name, value in sorted(features.items())}
    return {**launch_features(launch, workload, bound.device), **more}


def _knob(config: Mapping[str, Any], name: str) -> float | None:
    value = config.get(name)
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def _product(config: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """The product of the knobs ``names``; None where there are none."""
    return float(math.prod(config[name] for name in names)) if names else None
