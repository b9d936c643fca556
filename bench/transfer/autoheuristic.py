"""Timings of Triton's matrix products as PyTorch's AutoHeuristic logs them, read as groups of trials.

A log is one line of JSON (``name`` mm, ``device_capa``, ``shared_memory``), then CSV: m, k, n, dtypes, strides in
elements, contiguity, whether TF32 was used, ``choice`` (``extern_mm`` for the vendor library, or
``type=triton_BLOCK-M=64_BLOCK-K=32_BLOCK-N=64_numstages=2_numwarps=4``) and ``feedback``, milliseconds; ``inf`` is a
config that failed. A log names no product: its chip is taken to be the first of the device table with its compute
capability. Lines that repeat a shape and choice are repeats of one measurement; its time is their median.
Logs come from strangers: anything amiss is one CorruptData naming the file, the line and the rule.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_tune.cuda.device import KNOWN, Device
from gpu_tune.errors import CorruptData, InvalidInput
from gpu_tune.space.features import Encoder, LaunchSummary, launch_features
from gpu_tune.space.knob import Knob
from gpu_tune.store.interchange import files
from gpu_tune.workload import ITEMSIZE, Matmul

VENDOR = "extern_mm"
KNOBS = ("block_m", "block_k", "block_n", "stages", "warps")
COLUMNS = (
    "m",
    "k",
    "n",
    "mat1_dtype",
    "mat2_dtype",
    "mat1_stride_0",
    "mat1_stride_1",
    "mat2_stride_0",
    "mat2_stride_1",
    "using_tf32",
    "choice",
    "feedback",
)
_CHOICE = re.compile(
    r"type=triton_BLOCK-M=(\d{1,5})_BLOCK-K=(\d{1,5})_BLOCK-N=(\d{1,5})_numstages=(\d{1,3})_numwarps=(\d{1,3})"
)
_TF32 = {"True": ("tf32",), "False": (), "not_float_32": ()}
_GUARD = "give a log as PyTorch wrote it"

Config = tuple[int, int, int, int, int]
"""Values of KNOBS."""


@dataclass
class Shape:
    """One product on one chip: milliseconds, in the order of the lines, of each config and of the vendor library."""

    workload: Matmul
    device: Device
    runs: dict[Config, list[float]] = field(default_factory=dict)
    vendor: list[float] = field(default_factory=list)

    def times(self) -> NDArray[np.float64]:
        """Seconds of each config, the median of its repeats; nan where it failed."""
        found = [float(np.median(t)) for t in self.runs.values()]
        return np.array([t * 1e-3 if math.isfinite(t) else math.nan for t in found])

    @property
    def vendor_seconds(self) -> float:
        """The vendor library's median, nan where it was not timed."""
        return float(np.median(self.vendor)) * 1e-3 if self.vendor else math.nan


def read(paths: Sequence[str]) -> list[Shape]:
    """Every shape of the logs, those of several logs of one chip together, in a fixed order. InvalidInput for a file
    that cannot be read, CorruptData for a damaged one."""
    shapes: dict[tuple[str, str], Shape] = {}
    for path in paths:
        _read(path, shapes)
    return [shapes[key] for key in sorted(shapes)]


def describe(shapes: Sequence[Shape]) -> tuple[list[NDArray[np.float32]], tuple[str, ...]]:
    """Features of each shape's configs, one array (configs, f) a shape, and their names: of the knobs and of the
    hardware, as the search has them for this project's templates."""
    values = [sorted({config[i] for s in shapes for config in s.runs}) for i in range(len(KNOBS))]
    encoder = Encoder([Knob(name, tuple(v), name) for name, v in zip(KNOBS, values)])
    place = [{value: i for i, value in enumerate(v)} for v in values]
    out: list[NDArray[np.float32]] = []
    names = encoder.names
    for s in shapes:
        rows = np.array([[p[v] for p, v in zip(place, config)] for config in s.runs], dtype=np.uint16)
        hardware = [launch_features(launch(c, s.workload), s.workload, s.device) for c in s.runs]
        own = np.array([list(h.values()) for h in hardware], dtype=np.float32)
        out.append(np.concatenate([encoder(rows), own], axis=1))
        names = [*encoder.names, *hardware[0]]
    return out, tuple(names)


def launch(config: Config, w: Matmul) -> LaunchSummary:
    """What Triton's matmul makes of a config. Loads in flight take ``stages - 1`` buffers of shared memory: the logs'
    failures agree with that."""
    block_m, block_k, block_n, stages, warps = config
    threads = 32 * warps
    return LaunchSummary(
        threads=threads,
        blocks=math.ceil(w.m / block_m) * math.ceil(w.n / block_n),
        shared_bytes=max(1, stages - 1) * (block_m + block_n) * block_k * ITEMSIZE[w.dtype],
        accumulators=max(1, block_m * block_n // threads),
        tile_m=block_m,
        tile_n=block_n,
        tile_k=block_k,
        stages=stages,
        kind="tf32" if "tf32" in w.math else "",
    )


def _read(path: str, shapes: dict[tuple[str, str], Shape]) -> None:
    if not Path(path).is_file():
        raise InvalidInput("AutoHeuristic log", path, "is not a file that can be read", _GUARD)
    lines = files.read(path).splitlines()
    device = _device(path, lines[0] if lines else "")
    rows = csv.reader(lines[1:], strict=True)
    head: list[str] = next(rows, [])
    missing = [c for c in COLUMNS if head.count(c) != 1]
    if missing:
        raise CorruptData(f"{path} line 2: has not exactly one column {missing[0]!r}; {_GUARD}")
    at = {c: head.index(c) for c in COLUMNS}
    choice, feedback = at.pop("choice"), at.pop("feedback")
    known: dict[tuple[str, ...], Shape] = {}
    configs: dict[str, Config] = {}
    try:
        for row in rows:
            if not row:
                continue
            where = f"{path} line {rows.line_num + 1}"
            if len(row) != len(head):
                raise CorruptData(f"{where}: has {len(row)} fields, its head {len(head)}; {_GUARD}")
            problem = tuple(row[i] for i in at.values())
            shape = known.get(problem)
            if shape is None:
                workload = _workload(where, dict(zip(at, problem)))
                shape = shapes.setdefault((device.chip, workload.key), Shape(workload, device))
                known[problem] = shape
            time = _time(where, row[feedback])
            if row[choice] == VENDOR:
                shape.vendor.append(time)
                continue
            config = configs.get(row[choice])
            if config is None:
                config = configs[row[choice]] = _config(where, row[choice])
            shape.runs.setdefault(config, []).append(time)
    except csv.Error as error:
        raise CorruptData(f"{path} line {rows.line_num + 1}: is not CSV ({error}); {_GUARD}") from error
    if not known:
        raise CorruptData(f"{path}: has no timings below its head; {_GUARD}")


def _device(path: str, line: str) -> Device:
    try:
        meta: Any = json.loads(line)
        capability = tuple(meta["device_capa"])
        name, shared = meta["name"], meta["shared_memory"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptData(
            f"{path} line 1: is not AutoHeuristic's metadata, an object with name, device_capa and shared_memory; "
            f"{_GUARD}"
        ) from error
    if name != "mm":
        raise CorruptData(f"{path} line 1: logs the operation {str(name)[:40]!r}; give logs of mm")
    found = next((d for d in KNOWN.values() if d.compute_capability == capability), None)
    if found is None:
        raise InvalidInput(
            f"{path} line 1: device_capa",
            meta["device_capa"],
            "is of no chip in the device table",
            "give logs of one of " + ", ".join(sorted({f"{d.cc // 10}.{d.cc % 10}" for d in KNOWN.values()})),
        )
    if shared != found.shared_bytes_per_block:
        raise CorruptData(
            f"{path} line 1: shared_memory {str(shared)[:40]} is not the {found.shared_bytes_per_block} bytes a block "
            f"has with compute capability {found.cc / 10}; {_GUARD}"
        )
    return found


def _workload(where: str, f: dict[str, str]) -> Matmul:
    numbers = {}
    for name in ("m", "n", "k", "mat1_stride_0", "mat1_stride_1", "mat2_stride_0", "mat2_stride_1"):
        if not re.fullmatch(r"\d{1,12}", f[name]):
            raise CorruptData(f"{where}: {name} {f[name][:40]!r} is not a whole number; {_GUARD}")
        numbers[name] = int(f[name])
    if f["mat1_dtype"] != f["mat2_dtype"]:
        raise CorruptData(f"{where}: multiplies {f['mat1_dtype'][:40]} by {f['mat2_dtype'][:40]}; {_GUARD}")
    if f["using_tf32"] not in _TF32:
        raise CorruptData(f"{where}: using_tf32 {f['using_tf32'][:40]!r} is not one of {', '.join(_TF32)}; {_GUARD}")
    m, n, k = numbers["m"], numbers["n"], numbers["k"]
    a, lda = _layout(where, "mat1", numbers, m, k)
    b, ldb = _layout(where, "mat2", numbers, k, n)
    dtype = f["mat1_dtype"].removeprefix("torch.")
    math_ = _TF32[f["using_tf32"]] if dtype == "float32" else ()
    try:
        return Matmul(m, n, k, dtype=dtype, layout=a + b, lda=lda, ldb=ldb, math=math_)
    except InvalidInput as error:
        raise CorruptData(f"{where}: is no product that is known here ({error}); {_GUARD}") from error


def _layout(where: str, name: str, numbers: dict[str, int], rows: int, columns: int) -> tuple[str, int]:
    """'n' or 't' and the elements between rows (columns, when transposed)."""
    down, across = numbers[f"{name}_stride_0"], numbers[f"{name}_stride_1"]
    if across == 1 and (down >= columns or rows == 1):
        return "n", max(down, columns)
    if down == 1 and (across >= rows or columns == 1):
        return "t", max(across, rows)
    raise CorruptData(f"{where}: {name} has strides {down} and {across}; one must be 1, the other span a row; {_GUARD}")


def _config(where: str, choice: str) -> Config:
    found = _CHOICE.fullmatch(choice)
    block_m, block_k, block_n, stages, warps = (int(v) for v in found.groups()) if found else (0,) * len(KNOBS)
    if not all((block_m, block_k, block_n, stages, warps)):
        raise CorruptData(f"{where}: choice {choice[:80]!r} is neither {VENDOR} nor a Triton config; {_GUARD}")
    return block_m, block_k, block_n, stages, warps


def _time(where: str, text: str) -> float:
    try:
        time = float(text)
    except ValueError:
        time = math.nan
    if not time > 0:
        raise CorruptData(f"{where}: feedback {text[:40]!r} is not milliseconds above zero (or inf); {_GUARD}")
    return time


def vendor(shapes: Iterable[Shape]) -> dict[str, float]:
    """How the best Triton config compares with the vendor library: ``shapes`` timed by both, ``wins`` the share where
    Triton's best is faster, ``ratio`` the geometric mean of vendor time over the best's."""
    ratios = []
    for s in shapes:
        times = s.times()
        if np.isfinite(times).any() and math.isfinite(s.vendor_seconds):
            ratios.append(s.vendor_seconds / float(np.nanmin(times)))
    values = np.array(ratios)
    return {
        "shapes": len(values),
        "wins": float((values > 1).mean()) if len(values) else math.nan,
        "ratio": float(np.exp(np.log(values).mean())) if len(values) else math.nan,
    }


def reachable(shapes: Iterable[Shape]) -> dict[str, float]:
    """Top 1 of a choice by what the other repeats of the same measurements say: best time of one repeat over that
    repeat's time of the config that is best in the mean of the others, as geometric mean and 5 % quantile over
    ``shapes`` with three repeats of their own (logs also hold copies of one measurement, which say nothing of noise).
    """
    found = []
    for s in shapes:
        runs = [t[:3] for t in s.runs.values() if len(t) >= 3 and all(math.isfinite(v) for v in t[:3])]
        times = np.array(runs)
        if len(runs) < 2 or np.mean(times.min(axis=1) == times.max(axis=1)) > 0.5:
            continue
        for i in range(3):
            choice = int(np.argmin(np.delete(times, i, axis=1).mean(axis=1)))
            found.append(float(times[:, i].min() / times[choice, i]))
    values = np.array(found)
    return {
        "shapes": len(values) // 3,
        "mean": float(np.exp(np.log(values).mean())) if len(values) else math.nan,
        "low": float(np.quantile(values, 0.05)) if len(values) else math.nan,
    }
