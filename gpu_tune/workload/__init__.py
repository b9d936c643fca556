"""Workloads: what to compute. Frozen, validated, hashable, with a readable ``key``. Plain data."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from .. import text
from ..errors import InvalidInput, require
from ..plan.size import Size, any_of, label, parse
from .conv2d import Conv2d
from .matmul import Matmul, View
from .operation import DTYPES, FP8, ITEMSIZE, MATH, OUT_DTYPES, SCALES, ArraySpec, dtype_name

__all__ = [
    "DTYPES",
    "FP8",
    "ITEMSIZE",
    "MATH",
    "OUT_DTYPES",
    "REQUIRED",
    "SCALES",
    "ArraySpec",
    "Conv2d",
    "Matmul",
    "View",
    "Workload",
    "accepting",
    "any_of",
    "dtype_name",
    "from_dict",
    "require_workload",
    "to_dict",
    "tune_command",
]

Workload = Matmul | Conv2d
REQUIRED = {"matmul": ("m", "n", "k"), "conv2d": ("n", "c", "h", "w", "k", "r", "s")}
"""Fields without a default."""


def from_dict(data: Mapping[str, Any]) -> Workload:
    """The workload that ``to_dict`` wrote (an open size may be text, ``1..8192``); InvalidInput on anything else."""
    classes: dict[str, Any] = {"matmul": Matmul, "conv2d": Conv2d}
    require(isinstance(data, Mapping), "workload", data, "is not an object with op and the workload's fields")
    op = data.get("op")
    require(isinstance(op, str) and op in classes, "workload op", op, f"is not one of {tuple(classes)}")
    cls = classes[str(op)]
    known = {f.name for f in fields(cls)}
    for name in data:
        valid = name == "op" or name in known
        require(valid, f"{cls.__name__} field", name, "is unknown", f"use {', '.join(sorted(known))}")
    body = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k != "op"}
    try:
        body.update({k: text.from_json(Size, v, name=k) for k, v in body.items() if isinstance(v, Mapping)})
        field = cls.openable
        body.update({k: parse(v) or v for k, v in body.items() if k == field and isinstance(v, str)})
        return cls(**body)
    except (TypeError, RecursionError) as error:
        raise InvalidInput(cls.__name__, dict(data), f"cannot be built: {error}") from None


def to_dict(workload: Workload) -> dict[str, Any]:
    """A plain dict (JSON-ready) of every field, with ``op``."""
    return text.to_json(workload)


def require_workload(workload: object) -> Workload:
    """``workload`` itself; InvalidInput when it is none."""
    if isinstance(workload, Workload):
        return workload
    raise InvalidInput("workload", workload, "is not a Matmul or Conv2d", "give one, such as gpu_tune.Matmul(m, n, k)")


def tune_command(workload: Workload, device: str | None = None) -> str:
    """The shell command that tunes ``workload``."""
    parts = ["gpu-tune", "tune", workload.op]
    needed: dict[str, Any] = {name: getattr(workload, name) for name in (*REQUIRED[workload.op], "dtype", "layout")}
    plain = type(workload)(**needed)
    for f in fields(workload):
        value, flag = getattr(workload, f.name), f.name.replace("_", "-")
        if f.name not in (*REQUIRED[workload.op], "dtype", "layout") and value == getattr(plain, f.name):
            continue
        if isinstance(value, bool):
            parts.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        value = label(value) if isinstance(value, Size) else value
        joint = "+" if f.name == "math" else "x"
        parts += [f"--{flag}", shlex.quote(joint.join(map(str, value)) if isinstance(value, tuple) else str(value))]
    return " ".join([*parts, *(["--device", device] if device else [])])


def accepting(workload: Workload) -> Iterator[Workload]:
    """Other workloads whose kernels accept every call of ``workload``, the nearest first."""
    words = any(op.bits and op.writes for op in workload.ops)
    least = max(ITEMSIZE[workload.dtype], ITEMSIZE[workload.out_dtype], 4 if words else 1)
    alignments = [a for a in (256, 128, 64, 32, 16, 8, 4, 2, 1) if least <= a <= workload.alignment]
    scalars: list[dict[str, Any]] = [{}]
    accumulates = isinstance(workload, Matmul) or workload.direction == "wgrad"
    if accumulates and workload.out_dtype != "int32":
        more = {"alpha": "any"} if isinstance(workload, Matmul) and workload.alpha == "1" else {}
        scalars += [more] if more else []
        general = [{**more, "beta": "any"}, *([{"beta": "any"}] if more else [])]
        scalars += general if workload.beta == "0" else []
    for scaling, alignment in itertools.product(scalars, alignments):
        asked = replace(workload, alignment=alignment, deterministic=True, **scaling)
        if asked != workload:
            yield asked
