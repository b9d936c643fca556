"""Which names a template's source leaves to its declaration."""

from __future__ import annotations

import jinja2
import jinja2.meta

from gpu_tune.templates.base import Template, _environment


def variables(template: Template) -> set[str]:
    """The free names in the template's source (knobs + workload, device, launch when all is well)."""
    env = _environment(template.folder)
    return _free(env, template.source.name) - set(env.globals)


def _free(env: jinja2.Environment, name: str) -> set[str]:
    """Free names of a source and of the sources it includes; those set by a ``with`` around an include are not free."""
    assert env.loader is not None
    tree = env.parse(env.loader.get_source(env, name)[0])
    names = jinja2.meta.find_undeclared_variables(tree)
    given = {t.name for w in tree.find_all(jinja2.nodes.With) for t in w.targets if isinstance(t, jinja2.nodes.Name)}
    for include in tree.find_all(jinja2.nodes.Include):
        if isinstance(include.template, jinja2.nodes.Const):
            names |= _free(env, include.template.value) - given
    return names
