from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass

from ..cuda.device import Device
from ..errors import InvalidInput, TemplateError, Unsupported
from ..workload import View, Workload
from .base import FOLDER, PREFIX, Template


def resolve(
    name: str, workload: Workload, device: Device, templates: Mapping[str, Template] | None = None
) -> tuple[Template, Workload, View | None]:
    """The template ``name`` and the workload it computes: ``workload`` itself, else the first view it supports.

    InvalidInput when there is no such template or it supports none of them.
    """
    known = registry() if templates is None else templates
    if name not in known:
        raise InvalidInput("template", name, "is unknown", f"use one of {', '.join(sorted(known)) or '(none)'}")
    template, reasons = known[name], []
    for candidate, view in ((workload, None), *((v.workload, v) for v in workload.views())):
        answer = template.supported(candidate, device)
        if answer is True:
            return template, candidate, view
        reasons.append(str(answer))
    raise InvalidInput("template", name, f"does not compute {workload.key} on {device.name}: {reasons[0]}")


@functools.cache
def registry() -> Mapping[str, Template]:
    """Every template of this folder, by name."""
    found: dict[str, Template] = {}
    for module in pkgutil.iter_modules([str(FOLDER)]):
        if (FOLDER / f"{module.name}.cu.j2").exists():
            template = importlib.import_module(PREFIX + module.name).TEMPLATE
            if template.name != module.name:
                raise TemplateError(
                    f"template {module.name}.py declares the name {template.name!r}; use the file's stem"
                )
            found[template.name] = template
    return found


def supporting(workload: Workload, device: Device) -> tuple[list[Template], dict[str, str]]:
    """The templates that compute ``workload`` itself on ``device``, and for each other one the reason why not."""
    yes, no = [], {}
    for template in registry().values():
        answer = template.supported(workload, device)
        if answer is True:
            yes.append(template)
        else:
            no[template.name] = str(answer)
    return yes, no


@dataclass(frozen=True)
class Variant:
    """A template and what it would compute: the workload itself, or the first view of it that the template supports."""

    template: Template
    workload: Workload
    view: View | None = None


def variants(workload: Workload, device: Device, templates: Mapping[str, Template] | None = None) -> list[Variant]:
    """Every template that can compute ``workload`` on ``device``; Unsupported lists each one's reason when none can."""
    found, reasons = [], []
    for template in (registry() if templates is None else templates).values():
        why: list[str] = []
        for candidate, view in ((workload, None), *((v.workload, v) for v in workload.views())):
            answer = template.supported(candidate, device)
            if answer is True:
                found.append(Variant(template, candidate, view))
                break
            why.append(str(answer))
        else:
            reasons.append(f"{template.name} {why[0]}")
    if not found:
        told = "; ".join(reasons) or "there is no template"
        raise Unsupported(f"no template computes {workload.key} on {device.name}: {told}")
    return found
