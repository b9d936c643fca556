"""Random variants of a template: every cell of workloads that it supports, odd sizes, configs with new knob pairs."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..device import Device, by_name
from ..errors import CorruptData, GpuTuneError, InvalidInput
from ..space.knob import Config
from ..templates.base import Template
from ..workload import DTYPES, MATH, OUT_DTYPES, Conv2d, Matmul, Workload, from_dict, to_dict

DEVICES = ("nvidia-h200", "nvidia-a100", "nvidia-rtx-4090", "nvidia-rtx-5090", "nvidia-rtx-3090", "nvidia-t4")
"""One device of each compute capability, in the order in which a template's first supported one is its home."""
LAYOUTS = {"matmul": ("nn", "nt", "tn", "tt"), "conv2d": ("nhwc", "nchw")}
EPILOGUES = {
    "matmul": (
        "",
        "bias",
        "bias+relu",
        "residual",
        "scale+bias+gelu",
        "row_bias+silu",
        "gelu_tanh+residual",
        "clamp(-1,1.5)",
        "scale",
        "row_bias+bias+residual+relu",
    ),
    "conv2d": ("", "bias", "bias+relu", "residual+relu", "scale+bias+silu", "gelu", "clamp(-1,1.5)", "scale"),
}
WORK = 2.5e6
"""Multiply-adds of one random problem at most, so that the emulator needs milliseconds."""
_TRIES = 60
_CANDIDATES = 6
_STEPS = 5000


@dataclass(frozen=True)
class Cell:
    """What a sweep wants to cover evenly."""

    dtype: str
    layout: str
    epilogue: str

    def __str__(self) -> str:
        return f"{self.dtype} {self.layout} {self.epilogue or 'plain'}"


@dataclass(frozen=True)
class Variant:
    """One rendered kernel to check: everything that it depends on. ``seed`` draws its data and interleavings."""

    template: str
    workload: Workload
    device: Device
    config: Config
    seed: int

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; ``from_json`` inverts it for devices of the table."""
        blank = {f.name: f.default for f in fields(self.workload)}
        body = {
            k: v for k, v in to_dict(self.workload).items() if (tuple(v) if isinstance(v, list) else v) != blank.get(k)
        }
        device = [self.device.name, self.device.sm_count]
        return {"workload": body, "device": device, "config": dict(self.config), "seed": self.seed}

    @classmethod
    def from_json(cls, template: str, data: object) -> Variant:
        """The variant of ``template`` in ``data``; CorruptData when it is not what ``to_json`` writes."""
        try:
            if not isinstance(data, Mapping):
                raise TypeError(f"expected an object, found {type(data).__name__}")
            name, sms = data["device"]
            device = replace(by_name(name), sm_count=int(sms))
            return cls(template, from_dict(data["workload"]), device, Config(data["config"]), int(data["seed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptData(f"verify case: {error!s}; copy the whole text between the quotes") from error

    @property
    def command(self) -> str:
        """The command that checks exactly this variant again."""
        return f"gpu-tune verify {self.template} --case '{json.dumps(self.to_json(), separators=(',', ':'))}'"


@functools.lru_cache(maxsize=128)
def supported_cells(template: Template, device: Device) -> dict[Cell, tuple[str, ...]]:
    """The cells that ``template`` supports on ``device``, and for each the permissions (``math``) it needs."""
    found: dict[Cell, tuple[str, ...]] = {}
    for dtype, layout, epilogue in itertools.product(DTYPES, LAYOUTS[template.op], EPILOGUES[template.op]):
        cell = Cell(dtype, layout, epilogue)
        allowed = tuple(p for p, dtypes in MATH.items() if dtype in dtypes)
        singles = [(p,) for p in allowed if p != "winograd" or template.op == "conv2d"]
        for math in ((), *singles):
            try:
                if any(template.supported(w, device) is True for w in _friendly(template.op, cell, math)):
                    found[cell] = math
                    break
            except InvalidInput:
                continue
    return found


def variants(template: Template, seed: int, devices: tuple[str, ...] = DEVICES) -> Iterator[Variant]:
    """An endless stream of variants, a pure function of the template, ``seed`` and ``devices``.

    Cells come evenly, now and then on a slice of the chip with few SMs (a persistent block then computes several
    tiles); of a handful of random configs the one with most unseen pairs of knob values is taken; every tenth is the
    default or a seed of the template. A combination without a valid config is passed over.
    """
    rng = np.random.default_rng([seed, *template.name.encode()])
    homes = [d for d in map(by_name, devices) if supported_cells(template, d)]
    if not homes:
        raise InvalidInput(
            "verify template",
            template.name,
            f"supports nothing on {', '.join(devices)}",
            "name a device that it is for",
        )
    cells = {d.name: supported_cells(template, d) for d in homes}
    seen_cells: Counter[Any] = Counter()
    pairs: set[Any] = set()
    misses = given = 0
    while True:
        device = homes[0] if len(homes) == 1 or rng.random() < 0.6 else homes[rng.integers(1, len(homes))]
        cell = _rarest(list(cells[device.name]), seen_cells, rng)
        if rng.random() < 0.4:
            device = replace(device, sm_count=int(rng.integers(1, 5)))
        workload = _draw(template, cell, cells[device.name][cell], device, rng)
        config = None if workload is None else _config(template, workload, device, rng, pairs, known=given % 10 == 9)
        if workload is None or config is None:
            misses += 1
            if misses > 40 + 10 * given:
                raise InvalidInput(
                    "verify template",
                    template.name,
                    "has no valid config for any workload that was tried",
                    "check its constraints",
                )
            continue
        given += 1
        seen_cells.update(_parts(cell))
        pairs.update(knob_pairs(config))
        yield Variant(template.name, workload, device, config, int(rng.integers(2**31)))


def knob_pairs(config: Config) -> Iterator[tuple[tuple[str, Any], tuple[str, Any]]]:
    """Every pair of (knob, value) in ``config``."""
    return itertools.combinations(sorted(config.items()), 2)


def _parts(cell: Cell) -> tuple[Any, ...]:
    return (cell, (cell.dtype, cell.layout), (cell.dtype, "e", cell.epilogue), (cell.layout, "e", cell.epilogue))


def _rarest(cells: list[Cell], seen: Counter[Any], rng: np.random.Generator) -> Cell:
    """The cell whose parts were seen least; a random one of those."""

    def rank(cell: Cell) -> tuple[int, ...]:
        whole, types, with_dtype, with_layout = (seen[p] for p in _parts(cell))
        return (types, with_dtype + with_layout, whole)

    least = min(map(rank, cells))
    return (best := [c for c in cells if rank(c) == least])[rng.integers(len(best))]


def _config(
    template: Template, workload: Workload, device: Device, rng: np.random.Generator, pairs: set[Any], known: bool
) -> Config | None:
    if known:
        named = [template.default(workload, device), *template.seeds(workload, device)]
        named = [c for c in named if not template.violations(c, workload, device)]
        if named:
            return named[rng.integers(len(named))]
    sample = [c for c in (random_config(template, workload, device, rng) for _ in range(_CANDIDATES)) if c is not None]
    return max(sample, key=lambda c: sum(p not in pairs for p in knob_pairs(c))) if sample else None


def random_config(template: Template, workload: Workload, device: Device, rng: np.random.Generator) -> Config | None:
    """A random valid config in milliseconds, not uniform over the space; None when there is none or luck ran out.

    Knob by knob in declared order, each rule checked as soon as its knobs have values. When a knob has no value left,
    the search returns to the latest knob that a broken rule named (conflict-directed backjumping, Prosser 1993). A
    space's ``sample`` is uniform, but looks at the whole space first, which is too dear for one config.
    """
    knobs = template.knobs
    place = {k.name: n for n, k in enumerate(knobs)}
    due: list[list[tuple[Any, frozenset[int]]]] = [[] for _ in knobs]
    for rule in template.constraints:
        columns = sorted(place[n] for n in rule.knobs)
        due[columns[-1] if columns else 0].append((rule.holds, frozenset(columns[:-1])))
    values: dict[str, Any] = {}
    untried: list[list[int]] = [[] for _ in knobs]
    blame: list[set[int]] = [set() for _ in knobs]
    depth, fresh = 0, True
    for _ in range(_STEPS):
        if fresh:
            untried[depth], blame[depth] = list(rng.permutation(len(knobs[depth].values))), set()
        if not untried[depth]:
            if not blame[depth]:
                return None
            back = max(blame[depth])
            blame[back] |= blame[depth] - {back}
            depth, fresh = back, False
            continue
        values[knobs[depth].name] = knobs[depth].values[untried[depth].pop()]
        broken = next((others for holds, others in due[depth] if not holds(values, workload, device)), None)
        if broken is not None:
            blame[depth] |= broken
            fresh = False
        elif depth == len(knobs) - 1:
            return Config(values)
        else:
            depth, fresh = depth + 1, True
    return None


def _draw(
    template: Template, cell: Cell, math: tuple[str, ...], device: Device, rng: np.random.Generator
) -> Workload | None:
    """A random workload of ``cell`` that the template supports, or None after many tries."""
    for _ in range(_TRIES):
        try:
            draw = _matmul if template.op == "matmul" else _conv2d
            workload = draw(cell, math, rng)
            if template.supported(workload, device) is True:
                return workload
        except GpuTuneError:
            continue
    return None


def _size(rng: np.random.Generator, largest: int) -> int:
    """A size up to ``largest`` whose residues are all as likely as round numbers."""
    step = int(rng.choice([1, 1, 1, 2, 4, 8, 8, 16, 16, 32, 64]))
    step = min(step, largest)
    return step * int(rng.integers(1, max(2, largest // step + 1)))


def _matmul(cell: Cell, math: tuple[str, ...], rng: np.random.Generator) -> Matmul:
    batch = int(rng.choice([1, 1, 1, 1, 1, 2, 3]))
    while True:
        m, n, k = (_size(rng, int(rng.choice([40, 150, 300]))) for _ in range(3))
        if m * n * k * batch <= WORK:
            break
    a_row, b_row = (k if cell.layout[0] == "n" else m), (n if cell.layout[1] == "n" else k)
    more: dict[str, Any] = _types(cell, rng)
    if more["out_dtype"] != "int32":
        more.update(alpha=rng.choice(["1", "1", "any"]), beta=rng.choice(["0", "0", "1", "any"]))
    elif rng.random() < 0.3:
        more.update(beta="1")
    if cell.dtype in ("int8", "float8_e4m3", "float8_e5m2") and more["out_dtype"] != "int32":
        more.update(scales=rng.choice(["none", "tensor", "row_col", *(["block128"] if cell.dtype != "int8" else [])]))
    for name, row in (("lda", a_row), ("ldb", b_row), ("ldc", n)):
        if rng.random() < 0.2:
            more[name] = row + int(rng.choice([1, 8, 16, 32]))
    more.update(batch=batch, dtype=cell.dtype, layout=cell.layout, epilogue=cell.epilogue, math=math)
    return Matmul(m, n, k, **_plain(more))


def _conv2d(cell: Cell, math: tuple[str, ...], rng: np.random.Generator) -> Conv2d:
    r, s = (int(rng.choice([1, 2, 3, 3, 3, 5])) for _ in range(2))
    if rng.random() < 0.7:
        s = r
    groups = int(rng.choice([1, 1, 1, 1, 2, 4]))
    while True:
        n, h, w = int(rng.choice([1, 1, 2, 3])), int(rng.integers(1, 16)), int(rng.integers(1, 16))
        c, k = (groups * _size(rng, int(rng.choice([20, 80, 160])) // groups + 1) for _ in range(2))
        if rng.random() < 0.12:
            groups = k = c  # depthwise
        if n * h * w * (c // groups) * k * r * s <= WORK and not (c % groups or k % groups):
            break
    padding: Any = int(rng.integers(0, 3))
    if rng.random() < 0.2:
        padding = tuple(int(p) for p in rng.integers(0, 3, 4))
    stride = (
        tuple(int(v) for v in rng.choice([1, 1, 1, 2, 3], 2)) if rng.random() < 0.3 else int(rng.choice([1, 1, 1, 2]))
    )
    more: dict[str, Any] = _types(cell, rng)
    if cell.dtype in ("int8", "float8_e4m3", "float8_e5m2") and more["out_dtype"] != "int32":
        more.update(scales=rng.choice(["none", "tensor", "row_col"]))
    more.update(stride=stride, padding=padding, dilation=int(rng.choice([1, 1, 1, 1, 2])), groups=groups, math=math)
    more.update(dtype=cell.dtype, layout=cell.layout, epilogue=cell.epilogue)
    return Conv2d(n, c, h, w, k, r, s, **_plain(more))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """NumPy's strings as Python's."""
    return {k: str(v) if isinstance(v, str) else v for k, v in values.items()}


def _types(cell: Cell, rng: np.random.Generator) -> dict[str, Any]:
    """out_dtype and alignment; the integer result takes no epilogue."""
    outs = [o for o in OUT_DTYPES[cell.dtype] if not (o == "int32" and cell.epilogue)]
    alignment = int(rng.choice([16, 16, 16, 16, 4, 32])) if rng.random() < 0.6 else 16
    return {"out_dtype": str(rng.choice(outs)), "alignment": alignment}


def _friendly(op: str, cell: Cell, math: tuple[str, ...]) -> list[Workload]:
    """Workloads of the cell that nothing but the cell makes hard, of every kind that has templates of its own."""
    out = next(o for o in OUT_DTYPES[cell.dtype] if not (o == "int32" and cell.epilogue))
    common: dict[str, Any] = dict(
        dtype=cell.dtype, out_dtype=out, layout=cell.layout, epilogue=cell.epilogue, math=math
    )
    if op == "matmul":
        return [Matmul(128, 128, 128, **common)]
    return [Conv2d(1, 64, 16, 16, 64, 3, 3, padding=1, groups=g, **common) for g in (1, 64)]
