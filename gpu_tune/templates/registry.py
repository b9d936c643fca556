"""Which templates there are, and which of them, through which view, compute a workload: decided here alone."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import pkgutil
from collections.abc import Mapping
from typing import Any

from ..cuda.device import Device
from ..errors import TemplateError, Unsupported, require
from ..plan.size import upper
from ..workload import Workload
from . import outside
from .base import FOLDER, PREFIX, Template
from .bound import BoundTemplate
from .outside import VARIABLE

_LOG = logging.getLogger(__name__)


def registry() -> Mapping[str, Template]:
    """Every template by name: those of this folder, of installed packages and of ``GPU_TUNE_TEMPLATES``."""
    return _families(os.environ.get(VARIABLE, ""))[0]


def broken() -> Mapping[str, TemplateError]:
    """What is wrong with each family from outside that cannot be used; the others do without it."""
    return _families(os.environ.get(VARIABLE, ""))[1]


@functools.cache
def _families(folders: str) -> tuple[Mapping[str, Template], Mapping[str, TemplateError]]:
    found, wrong = dict(_library()), {}
    for family in outside.families(folders):
        try:
            template = family.load()
            if family.name in found:
                other = found[family.name].source.with_name(f"{family.name}.py")
                place = template.source.with_name(f"{family.name}.py")
                raise TemplateError(f"{place}: there is a family {family.name} already ({other}); rename one of them")
            found[family.name] = template
        except TemplateError as error:
            wrong[family.name] = error
            _LOG.warning("kernel family %s is left out: %s", family.name, error)
    return found, wrong


def _library() -> Mapping[str, Template]:
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


def require_templates(templates: Any) -> None:
    """Raise InvalidInput unless it is None, or a mapping of names to templates."""
    rule, remedy = "are no mapping of names to templates", "leave them out, or give some of registry()"
    require(templates is None or isinstance(templates, Mapping), "templates", templates, rule, remedy)
    for name, template in (templates or {}).items():
        require(isinstance(template, Template), f"templates[{name!r}]", template, "is no Template", remedy)


def bind(
    workload: Workload, device: Device, templates: Mapping[str, Template] | None = None, size: int | None = None
) -> list[BoundTemplate]:
    """Every template that computes ``workload`` on ``device``, or the first view of it that it supports.

    ``templates`` replaces the registry. ``size``: what configs are chosen for where the workload leaves one open (the
    largest, unless given). Unsupported lists each template's reason when none can.
    """
    require_templates(templates)
    found, reasons = [], []
    left = workload.open
    tuned = workload if left is None else workload.at(upper(left) if size is None else size)
    for template in (registry() if templates is None else templates).values():
        why: list[str] = []
        for view in (None, *workload.views()):
            bound = BoundTemplate(template, tuned, device, view, left)
            answer = bound.supported() if template.folder == FOLDER else _tried(bound)
            if answer is True:
                found.append(bound)
                break
            why.append(str(answer))
        else:
            reasons.append(f"{template.name} {why[0]}")
    if not found:
        told = "; ".join(reasons) or "there is no template"
        raise Unsupported(f"no template computes {workload.key} on {device.name}: {told}")
    return found


@functools.lru_cache(maxsize=64)
def _tried(bound: BoundTemplate) -> bool | str:
    """Whether a family from outside computes its workload, or why not: its declaration may fail only here."""
    try:
        answer = bound.supported()
        if answer is True:
            bound.probe()
        return answer
    except TemplateError as error:
        _LOG.warning("kernel family %s is left out: %s", bound.name, error)
        return f"is broken ({error})"
