"""Random workloads of a cell: sizes of every tail, and every way in which a workload of the cell may differ."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..cuda.device import Device, by_name
from ..errors import CorruptData, GpuTuneError, InvalidInput
from ..space.knob import Config
from ..templates.base import Template
from ..templates.outside import VARIABLE
from ..workload import DTYPES, ITEMSIZE, MATH, OUT_DTYPES, Conv2d, Matmul, Workload, from_dict, to_dict
from ..workload.epilogue import parse

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
        "drelu",
        "scale+dgelu",
        "drelu(out)+residual",
        "bias+relu(aux)",
        "gelu(aux)+residual",
        "dgelu+dbias",
    ),
    "conv2d": (
        "",
        "bias",
        "bias+relu",
        "residual+relu",
        "scale+bias+silu",
        "gelu",
        "gelu_tanh+residual",
        "clamp(-1,1.5)",
        "scale",
        "drelu",
        "residual+dsilu",
        "relu(aux)",
        "bias+silu(aux)",
        "drelu+dbias",
    ),
}


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
        folders = filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
        given = "".join(f" --templates {shlex.quote(folder)}" for folder in folders)
        return f"gpu-tune verify {self.template}{given} --case '{json.dumps(self.to_json(), separators=(',', ':'))}'"


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
                if any(template.supported(w, device) is True for w in _friendly(template, cell, math)):
                    found[cell] = math
                    break
            except InvalidInput:
                continue
    return found


def _friendly(template: Template, cell: Cell, math: tuple[str, ...]) -> list[Workload]:
    """Workloads of the cell that nothing but the cell makes hard, of every kind that has templates of its own."""
    out = _out_dtypes(cell)[0]
    common: dict[str, Any] = dict(
        dtype=cell.dtype, out_dtype=out, layout=cell.layout, epilogue=cell.epilogue, math=math
    )
    if template.op == "matmul":
        return [Matmul(128, 128, 128, **common)]
    shapes: list[dict[str, Any]] = [dict(direction=d, groups=g) for d in template.directions for g in (1, 64)]
    return [Conv2d(1, 64, 16, 16, 64, 3, 3, padding=1, **shape, **common) for shape in shapes]


RESIDUE = 16
"""Tails are counted by the size modulo this; every copy, fragment and store of the templates divides it."""
Residue = tuple[str, int]
WORK = 2.5e6
"""Multiply-adds of one random problem at most, so that the emulator needs milliseconds."""
_TRIES = 60


def sizes(workload: Workload) -> tuple[tuple[str, int], ...]:
    """The sizes whose tails matter."""
    if isinstance(workload, Matmul):
        return (("m", workload.m), ("n", workload.n), ("k", workload.k))
    groups, pixels = workload.groups, workload.n * workload.p * workload.q
    return (("c", workload.c // groups), ("k", workload.k // groups), ("pixels", pixels))


def residues(workload: Workload) -> set[Residue]:
    """Each size of ``sizes`` modulo ``RESIDUE``."""
    return {(name, size % RESIDUE) for name, size in sizes(workload)}


def draw_workload(
    template: Template,
    cell: Cell,
    math: tuple[str, ...],
    device: Device,
    rng: np.random.Generator,
    wanted: set[Residue] = frozenset(),  # type: ignore[assignment]
) -> Workload | None:
    """A random workload of ``cell`` that the template supports, or None after many tries.

    ``math``: permissions that the template needs. Of several draws the one with most ``wanted`` tails is taken, and
    one size is changed to a wanted tail where the template allows it.
    """
    best, most, good = None, -1, 0
    draw = _matmul if template.op == "matmul" else functools.partial(_conv2d, template.directions)
    for attempt in range(_TRIES):
        try:
            workload: Workload = draw(cell, math, rng)
            if attempt < _TRIES // 2:
                workload = _unusual(workload, rng)
            if template.supported(workload, device) is not True:
                continue
        except GpuTuneError:
            continue
        found = len(residues(workload) & wanted)
        if found > most:
            best, most = workload, found
        good += 1
        if good == 3 or not wanted or most == 3:
            break
    if best is not None and not most and wanted:
        others = sorted(wanted)
        changed = with_residue(best, *others[rng.integers(len(others))])
        if changed is not None and template.supported(changed, device) is True:
            return changed
    return best


def with_residue(workload: Workload, name: str, residue: int) -> Workload | None:
    """``workload`` with that tail (its leading dimensions contiguous); None where it does not work out."""
    if name == "pixels":
        return None
    size = dict(sizes(workload))[name]
    size = (size // RESIDUE * RESIDUE + residue) or RESIDUE
    try:
        if isinstance(workload, Matmul):
            return replace(workload, lda=0, ldb=0, ldc=0, **{name: size})  # type: ignore[arg-type]
        return replace(workload, **{name: size * workload.groups})  # type: ignore[arg-type]
    except GpuTuneError:
        return None


def existing(template: Template, devices: Iterable[Device], wanted: set[Residue]) -> set[Residue]:
    """Those of ``wanted`` that some of many random workloads which ``template`` supports have (never all of pixels)."""
    rng, found = np.random.default_rng(0), set[Residue]()
    homes = [(d, supported_cells(template, d)) for d in devices]
    for _ in range(200 if wanted else 0):
        device, cells = homes[rng.integers(len(homes))]
        cell = list(cells)[rng.integers(len(cells))]
        workload = draw_workload(template, cell, cells[cell], device, rng)
        for residue in sorted(wanted - found):
            changed = None if workload is None else with_residue(workload, *residue)
            if changed is not None and template.supported(changed, device) is True:
                found.add(residue)
    return found


def busy(workload: Workload, config: Config) -> Workload:
    """``workload`` with sizes that go round the config's pipeline twice and leave tails, in several tiles."""
    knob = {n: int(v) for n, v in config.items() if isinstance(v, int)}
    depth = (2 * knob.get("stages", 1) + 1) * knob.get("block_k", 16) * knob.get("split_k", 1)
    if isinstance(workload, Matmul):
        tiles_n = (5 if knob.get("block_n", 32) <= 64 else 3) if workload.batch == 1 else 2
        m, n = knob.get("block_m", 32) * 2 - 8, knob.get("block_n", 32) * tiles_n - 16
        return replace(workload, m=m, n=n, k=depth + 16, lda=0, ldb=0, ldc=0)
    if workload.direction == "wgrad":
        sides = dict(h=2 * workload.stride[0] * 7, w=-(-depth // 14) * workload.stride[1])
        c, k = max(16, knob.get("block_n", 32)), max(16, knob.get("block_m", 32) + 8)
        return replace(workload, n=2, c=c * workload.groups, k=k * workload.groups, **sides)
    if workload.direction == "dgrad":
        k, c = max(16, -(-depth // 16) * 16), max(32, knob.get("block_n", 32))
        return replace(workload, n=2, h=14, w=14, c=c * workload.groups, k=k * workload.groups)
    taps = 1 if "winograd" in workload.math else workload.r * workload.s  # Winograd sums over channels alone
    c = max(16, -(-depth // (taps * 16)) * 16)
    k = max(32, knob.get("block_n", 32))
    return replace(workload, n=2, h=14, w=14, c=c * workload.groups, k=k * workload.groups)


def _unusual(workload: Workload, rng: np.random.Generator) -> Workload:
    """Now and then: more permissions than needed, sums in any order, filters transformed ahead."""
    more: dict[str, Any] = {}
    if rng.random() < 0.3:
        allowed = [p for p, dtypes in MATH.items() if workload.dtype in dtypes and p not in workload.math]
        allowed = [p for p in allowed if p != "winograd" or workload.op == "conv2d"]
        if allowed:
            more["math"] = (*workload.math, allowed[rng.integers(len(allowed))])
    if rng.random() < 0.25:
        more["deterministic"] = False
    if isinstance(workload, Conv2d) and "winograd" in (*workload.math, *more.get("math", ())) and rng.random() < 0.3:
        more["weights"] = "pretransformed"
    return replace(workload, **more) if more else workload


def _size(rng: np.random.Generator, largest: int) -> int:
    """A size up to ``largest`` whose residues are all as likely as round numbers."""
    step = min(_pick(rng, 1, 1, 1, 2, 4, 8, 8, 16, 16, 32, 64), largest)
    return step * int(rng.integers(1, max(2, largest // step + 1)))


def _matmul(cell: Cell, math: tuple[str, ...], rng: np.random.Generator) -> Matmul:
    batch = _pick(rng, 1, 1, 1, 1, 1, 2, 3)
    while True:
        m, n, k = (_size(rng, _pick(rng, 40, 150, 300)) for _ in range(3))
        if m * n * k * batch <= WORK:
            break
    a_row, b_row = (k if cell.layout[0] == "n" else m), (n if cell.layout[1] == "n" else k)
    more: dict[str, Any] = _types(cell, rng)
    if more["out_dtype"] != "int32":
        more.update(alpha=_pick(rng, "1", "1", "any"), beta=_pick(rng, "0", "0", "1", "any"))
    elif rng.random() < 0.3:
        more.update(beta="1")
    if cell.dtype in ("int8", "float8_e4m3", "float8_e5m2") and more["out_dtype"] != "int32":
        more["scales"] = _pick(rng, "none", "tensor", "row_col", *(["block128"] if cell.dtype != "int8" else []))
    for name, row in (("lda", a_row), ("ldb", b_row), ("ldc", n)):
        if rng.random() < 0.2:
            more[name] = row + _pick(rng, 1, 8, 16, 32)
    more.update(batch=batch, dtype=cell.dtype, layout=cell.layout, epilogue=cell.epilogue, math=math)
    return Matmul(m, n, k, **more)


def _conv2d(directions: tuple[str, ...], cell: Cell, math: tuple[str, ...], rng: np.random.Generator) -> Conv2d:
    r, s = (_pick(rng, 1, 2, 3, 3, 3, 5) for _ in range(2))
    if rng.random() < 0.7:
        s = r
    groups = _pick(rng, 1, 1, 1, 1, 2, 4)
    while True:
        n, h, w = _pick(rng, 1, 1, 2, 3), int(rng.integers(1, 16)), int(rng.integers(1, 16))
        c, k = (groups * _size(rng, _pick(rng, 20, 80, 160) // groups + 1) for _ in range(2))
        if rng.random() < 0.12:
            groups = k = c  # depthwise
        elif groups > 1 and rng.random() < 0.3:  # 128 bytes of channels a group
            c, k = groups * 128 // ITEMSIZE[cell.dtype], groups * 8 * int(rng.integers(1, 9))
            if directions != ("fprop",):  # a gradient gathers or turns dy: the filters of a group are its whole tiles
                c, k = k, c
        if n * h * w * (c // groups) * k * r * s <= WORK and not (c % groups or k % groups):
            break
    padding: Any = int(rng.integers(0, 3))
    if rng.random() < 0.2:
        padding = tuple(int(p) for p in rng.integers(0, 3, 4))
    stride = tuple(int(v) for v in rng.choice([1, 1, 1, 2, 3], 2)) if rng.random() < 0.3 else _pick(rng, 1, 1, 1, 2)
    more: dict[str, Any] = _types(cell, rng)
    if cell.dtype in ("int8", "float8_e4m3", "float8_e5m2") and more["out_dtype"] != "int32":
        more["scales"] = _pick(rng, "none", "tensor", "row_col")
    more.update(stride=stride, padding=padding, dilation=_pick(rng, 1, 1, 1, 1, 2), groups=groups, math=math)
    more.update(dtype=cell.dtype, layout=cell.layout, epilogue=cell.epilogue)
    if directions != ("fprop",):
        more.update(_backward(_pick(rng, *directions), more, rng))
    return Conv2d(n, c, h, w, k, r, s, **more)


def _backward(direction: str, types: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """What differs in a gradient from a forward convolution with the fields ``types``; now and then strides and
    dilations with and without a common factor."""
    more: dict[str, Any] = {"direction": direction}
    if rng.random() < 0.25:
        more.update(stride=tuple(rng.integers(1, 7, 2).tolist()), dilation=tuple(rng.integers(1, 5, 2).tolist()))
    if direction == "wgrad":
        more["beta"] = _pick(rng, "0", "0", "1", "any" if types["out_dtype"] != "int32" else "1")
    if direction != "fprop" and types.get("scales") == "row_col":
        more["scales"] = "tensor"
    return more


def _pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def _out_dtypes(cell: Cell) -> list[str]:
    """Output dtypes that a workload of the cell may have: integer results take no epilogue, saved values are floats."""
    outs = [o for o in OUT_DTYPES[cell.dtype] if not (o == "int32" and cell.epilogue)]
    if any((op.operand or op.writes) in ("aux", "dbias") and not op.bits for op in parse(cell.epilogue)):
        return [o for o in outs if o in ("float32", "float16", "bfloat16")]
    return outs


def _types(cell: Cell, rng: np.random.Generator) -> dict[str, Any]:
    """out_dtype and alignment; the integer result takes no epilogue."""
    outs = _out_dtypes(cell)
    alignment = _pick(rng, 16, 16, 16, 16, 4, 32) if rng.random() < 0.6 else 16
    return {"out_dtype": _pick(rng, *outs), "alignment": alignment}
