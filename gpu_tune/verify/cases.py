"""Variants of a template, and the cells of workloads that a sweep covers."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..device import Device, by_name
from ..errors import CorruptData, InvalidInput
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


def _friendly(op: str, cell: Cell, math: tuple[str, ...]) -> list[Workload]:
    """Workloads of the cell that nothing but the cell makes hard, of every kind that has templates of its own."""
    out = next(o for o in OUT_DTYPES[cell.dtype] if not (o == "int32" and cell.epilogue))
    common: dict[str, Any] = dict(
        dtype=cell.dtype, out_dtype=out, layout=cell.layout, epilogue=cell.epilogue, math=math
    )
    if op == "matmul":
        return [Matmul(128, 128, 128, **common)]
    return [Conv2d(1, 64, 16, 16, 64, 3, 3, padding=1, groups=g, **common) for g in (1, 64)]
