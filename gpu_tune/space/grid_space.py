"""Spaces of one's own: whatever has a few values to choose from, under constraints written as plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import InvalidConfig, InvalidInput, require
from .knob import Config, Constraint, Knob, Value
from .space import Space


class GridSpace(Space):
    """The configs of ``knobs`` that keep all ``constraints``.

    ``knobs``: :class:`Knob` objects, or values by name (numbers are then in order, words are labels). ``constraints``:
    functions whose parameters are named after the knobs they read and which answer whether a config is valid, as
    ``lambda block, items: block * items <= 4096``. One that reads few knobs prunes early; several small ones are better
    than one of all knobs. ``default`` and ``seeds`` (values by knob name) are tried first.

    Raises InvalidInput for bad declarations: a default or seed that is not valid included, and a constraint over few
    knobs that no values keep.
    """

    def __init__(
        self,
        name: str,
        knobs: Sequence[Knob] | Mapping[str, Sequence[Value]],
        constraints: Iterable[Callable[..., bool] | Constraint] = (),
        *,
        default: Mapping[str, Value] | None = None,
        seeds: Iterable[Mapping[str, Value]] = (),
    ) -> None:
        require(isinstance(name, str) and name, "space name", name, "is no name", "give a word")
        if isinstance(knobs, Mapping):
            knobs = [_knob(knob, values) for knob, values in knobs.items()]
        require(isinstance(knobs, Sequence), f"knobs of space {name}", knobs, "are no list", "give [Knob(...), ...]")
        for what, given in (("constraints", constraints), ("seeds", seeds)):
            listed = isinstance(given, Iterable) and not isinstance(given, str | bytes)
            require(listed, f"{what} of space {name}", given, "are no list", f"give [...], also for one of the {what}")
        names = [k.name for k in knobs if isinstance(k, Knob)]
        rules = [_constraint(rule, number, names) for number, rule in enumerate(constraints, 1)]
        super().__init__(name, knobs, rules)
        unmet = next((c for c, rule in zip(rules, self.grid.rules) if rule.unmet), None)
        told = "" if unmet is None else f"{unmet.name} holds for no values of {', '.join(unmet.knobs)}"
        require(unmet is None, f"constraints of space {name}", ..., f"{told}: no valid config", "loosen that one")
        self._default = None if default is None else self._start(default, "default")
        self._seeds = list(dict.fromkeys(self._start(seed, "seed") for seed in seeds))

    def default(self) -> Config | None:
        """The given default, None without one."""
        return self._default

    def seeds(self) -> list[Config]:
        """The given seeds, distinct."""
        return list(self._seeds)

    def _start(self, values: Mapping[str, Value], what: str) -> Config:
        subject = f"{what} of space {self.name}"
        require(isinstance(values, Mapping), subject, values, "is no mapping", "give a value for each knob by name")
        config = Config(values)
        try:
            broken = self.violations(config)
        except InvalidConfig as error:
            raise InvalidInput(subject, config.key, str(error), "give a listed value for each knob") from error
        require(not broken, subject, config.key, "breaks " + "; ".join(broken), "give a valid config")
        return config


def _knob(name: str, values: Any) -> Knob:
    knob = Knob(name, values)
    return Knob(name, knob.values, ordinal=not any(isinstance(v, str) for v in knob.values))


def _constraint(rule: Any, number: int, names: Sequence[str]) -> Constraint:
    """A function as a constraint over the knobs that its parameters name."""
    if isinstance(rule, Constraint):
        return rule
    require(callable(rule), f"constraint {number}", rule, "is no function", "give one, as lambda block: block <= 256")
    try:
        parameters = inspect.signature(rule).parameters.values()
    except ValueError as error:  # as max has none
        remedy = f"wrap it in a function of knobs: {list(names)}"
        raise InvalidInput(f"constraint {number}", rule, "does not tell its parameters", remedy) from error
    plain = all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    read = tuple(p.name for p in parameters if p.default is p.empty)
    own = getattr(rule, "__name__", "<lambda>")
    name = f"constraint {number}" if own == "<lambda>" else own
    known = plain and bool(read) and set(read) <= set(names)
    told = f"reads {list(map(str, parameters))}, which are not all knobs"
    require(
        known,
        name if own == "<lambda>" else f"constraint {name}",
        ...,
        told,
        f"name its parameters after knobs: {list(names)}",
    )
    message = (inspect.getdoc(rule) or "").split("\n")[0] if own != "<lambda>" else ""

    def holds(config: Mapping[str, Value], workload: object, device: object) -> bool:
        return bool(rule(**{knob: config[knob] for knob in read}))

    return Constraint(name, read, holds, message or f"a rule over {', '.join(read)}")
