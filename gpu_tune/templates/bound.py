"""A kernel family bound to a workload and a device: what a space, a render and an identity are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..cuda.device import Device
from ..errors import InvalidConfig
from ..plan import LaunchPlan, ResourceEstimate
from ..reference import Numerics
from ..space.knob import Config, Constraint, Knob
from ..space.space import TemplateSpace
from ..workload import View, Workload
from .base import Template, render


@dataclass(frozen=True)
class Rendered:
    """A config as source and launch plan. ``source`` is CUDA C++ without the header comment that a winner carries."""

    source: str
    plan: LaunchPlan
    estimate: ResourceEstimate
    numerics: Numerics


@dataclass(frozen=True)
class BoundTemplate:
    """``template`` for ``workload`` on ``device``; made once, and carried from the tuner to the GPU worker.

    ``view``: the equivalent workload that the template computes, None where it computes ``workload`` itself.
    """

    template: Template
    workload: Workload
    device: Device
    view: View | None = None

    @property
    def name(self) -> str:
        """The template's name."""
        return self.template.name

    @property
    def hash(self) -> str:
        """The template's identity (12 hex digits); see :meth:`Template.hash`."""
        return self.template.hash()

    @property
    def computed(self) -> Workload:
        """The workload whose buffers the plan names: the view's, or the workload itself."""
        return self.view.workload if self.view else self.workload

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The template's knobs."""
        return self.template.knobs

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The template's constraints."""
        return self.template.constraints

    def default(self) -> Config:
        """The config an expert would start from; a constraint may forbid it."""
        return self.template.default(self.computed, self.device)

    def seeds(self) -> Sequence[Config]:
        """Further good starts; constraints may forbid some."""
        return self.template.seeds(self.computed, self.device)

    def violations(self, config: Config) -> list[str]:
        """Why ``config`` is invalid (empty: valid)."""
        return self.template.violations(config, self.computed, self.device)

    def estimate(self, config: Config) -> ResourceEstimate:
        """What ``config`` takes, known before compiling."""
        return self.template.resources(config, self.computed, self.device)

    def plan(self, config: Config) -> LaunchPlan:
        """What runs ``config``."""
        return self.template.plan(config, self.computed, self.device)

    def features(self, config: Config) -> Mapping[str, float]:
        """The template's own numbers for the ranker."""
        return self.template.features(config, self.computed, self.device)

    def space(self) -> TemplateSpace:
        """The valid configs."""
        return TemplateSpace(self)

    def render(self, config: Config) -> Rendered:
        """Source, launch plan, resources and numerics of ``config``; InvalidConfig names every rule that it breaks."""
        broken = self.violations(config)
        if broken:
            raise InvalidConfig(f"{self.name} config {config.key}: " + "; ".join(broken))
        source = render(self.template, config, self.computed, self.device)
        numerics = self.template.numerics(config, self.computed)
        return Rendered(source, self.plan(config).check(), self.estimate(config), numerics)

    def on(self, workload: Workload, device: Device | None = None) -> BoundTemplate:
        """The same template for another workload (and device), which it must support."""
        return replace(self, workload=workload, device=device or self.device, view=None)
