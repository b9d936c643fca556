"""Which templates there are, and which of them, through which view, compute a workload: decided here alone."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping

from ..cuda.device import Device
from ..errors import TemplateError, Unsupported
from ..workload import Workload
from .base import FOLDER, PREFIX, Template
from .bound import BoundTemplate


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


def bind(workload: Workload, device: Device, templates: Mapping[str, Template] | None = None) -> list[BoundTemplate]:
    """Every template that computes ``workload`` on ``device``, or the first view of it that it supports.

    ``templates`` replaces the registry. Unsupported lists each one's reason when none can.
    """
    found, reasons = [], []
    for template in (registry() if templates is None else templates).values():
        why: list[str] = []
        for computed, view in ((workload, None), *((v.workload, v) for v in workload.views())):
            answer = template.supported(computed, device)
            if answer is True:
                found.append(BoundTemplate(template, workload, device, view))
                break
            why.append(str(answer))
        else:
            reasons.append(f"{template.name} {why[0]}")
    if not found:
        told = "; ".join(reasons) or "there is no template"
        raise Unsupported(f"no template computes {workload.key} on {device.name}: {told}")
    return found
