"""Features: configs as numbers for a model.

Knob features (``Encoder``). Ordinal numeric knobs become log2 of the value where all are positive (the value itself
otherwise), labels their place in the list. Pairwise sums and differences of the logs are log products and log ratios: a
tree then splits on "threads" or "aspect" at one cut, which pays most when few configs have been measured. Where an
integer knob has values that are not powers of two (48, 80, 96), its factors of two are a feature of their own:
alignment and divisibility go by them, not by size.

Hardware features (``launch_features``): what an expert would compute about a config before compiling it, for any
template. They mean the same across workloads and chips, which is what lets a model trained on one serve another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cuda.device import PEAK_KIND, Device
from ..workload import ITEMSIZE, Conv2d, Matmul, Workload
from .knob import Knob

OVERHEAD_REGISTERS = 32
"""Registers a thread is taken to need beside its accumulators (addresses, fragments, loop state)."""
LINE = 1 << 16
"""Bytes beyond which alignment is taken to make no difference: vector loads and sectors end at 128, but lines whole
pages apart also meet in the same parts of the caches."""
STRIP = 8
"""Tiles high that the strips are taken to be in which blocks follow one another."""


class Encoder:
    """Maps index rows (n, knobs) to features (n, ``len(names)``) float32. ``knobs`` with one value carry nothing and
    are left out.
    """

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self._columns: list[tuple[int, NDArray[np.float32], bool]] = []
        self._twos: list[tuple[int, NDArray[np.float32]]] = []
        self.names: list[str] = []
        logs: dict[int, str] = {}
        for column, knob in enumerate(knobs):
            if len(knob.values) < 2:
                continue
            flags = [isinstance(v, bool) for v in knob.values]
            numeric = all(isinstance(v, (int, float)) for v in knob.values) and not any(flags)
            name, values = knob.name, np.arange(len(knob.values), dtype=np.float64)
            if numeric or all(flags):
                values = np.array(knob.values, dtype=np.float64)
            if numeric and knob.ordinal and values.min() > 0:
                logs[len(self.names)] = name
                name, values = f"log2 {name}", np.log2(values)
                whole = [v for v in knob.values if isinstance(v, int)]
                if len(whole) == len(knob.values) and any(v & (v - 1) for v in whole):
                    twos = np.array([(v & -v).bit_length() - 1 for v in whole], dtype=np.float32)
                    if twos.any():
                        self._twos.append((column, twos))
            self.names.append(name)
            self._columns.append((column, values.astype(np.float32), not knob.ordinal and len(knob.values) > 2))
        pairs = list(itertools.combinations(logs, 2))
        self._left, self._right = [a for a, _ in pairs], [b for _, b in pairs]
        self.names += [f"log2 {logs[a]}{sign}{logs[b]}" for sign in "*/" for a, b in pairs]
        self.names += [f"twos of {knobs[column].name}" for column, _ in self._twos]

    def coordinates(self, rows: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Rows as points of a unit cube (n, d): ordinal knobs by value (log2 where positive), labels one-hot."""
        parts = []
        for column, values, label in self._columns:
            if label:
                parts.append(np.eye(len(values), dtype=np.float32)[rows[:, column]] * np.float32(0.5**0.5))
            else:
                unit = (values - values.min()) / (values.max() - values.min())
                parts.append(unit[rows[:, column]][:, None])
        parts += [(twos / twos.max())[rows[:, column]][:, None] for column, twos in self._twos]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 1), dtype=np.float32)

    def __call__(self, rows: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Features of index rows."""
        base = np.empty((len(rows), len(self._columns)), dtype=np.float32)
        for i, (column, values, _) in enumerate(self._columns):
            base[:, i] = values[rows[:, column]]
        left, right = base[:, self._left], base[:, self._right]
        twos = [values[rows[:, column]][:, None] for column, values in self._twos]
        return np.concatenate([base, left + right, left - right, *twos], axis=1)


@dataclass(frozen=True)
class LaunchSummary:
    """What the features need to know of a config, whoever renders it. ``threads`` and ``accumulators`` are per block
    and per thread, ``shared_bytes`` per block, ``tile_*`` in elements of the matrix product, ``kind`` names the peak
    rate that the multiplications run at (see ``Device.peak_flops``).
    """

    threads: int
    blocks: int
    shared_bytes: int
    accumulators: int
    tile_m: float
    tile_n: float
    tile_k: float = 1.0
    stages: float = 1.0
    split_k: float = 1.0
    workspace_bytes: int = 0
    kernels: int = 1
    cluster: int = 1
    kind: str = ""


def launch_features(launch: LaunchSummary, workload: Workload, device: Device) -> dict[str, float]:
    """Features by name from plain numbers: for configs of this project's templates and for those of any
    other tiled matrix product."""
    m, n, k, batch = gemm_shape(workload)
    item, out_item = ITEMSIZE[workload.dtype], ITEMSIZE[workload.out_dtype]
    tile_m, tile_n, tile_k, split = launch.tile_m, launch.tile_n, launch.tile_k, launch.split_k
    registers = min(device.registers_per_thread, launch.accumulators + OVERHEAD_REGISTERS)
    resident = device.resident_blocks(launch.threads, registers, launch.shared_bytes)
    waves = launch.blocks / (device.sm_count * max(resident, 1))
    outputs = m * n * batch * split / launch.blocks
    down, across = math.ceil(m / tile_m), math.ceil(n / tile_n)
    tiles = down * across * batch
    padded = tiles * tile_m * tile_n / (m * n * batch)
    written = m * n * batch * out_item * (2 * split - 1)
    through_l2 = tiles * (tile_m + tile_n) * k * item + written
    together = min(down * across, device.sm_count * max(resident, 1))  # blocks that share what they read
    columns = min(math.ceil(together / min(STRIP, down)), across)
    wave_bytes = (min(math.ceil(together / columns), down) * tile_m + columns * tile_n) * k / split * item
    traffic = math.ceil(tiles * split / together) * wave_bytes + written
    through_shared = tiles * tile_m * tile_n * k * item / max(1.0, math.sqrt(max(launch.accumulators, 1)))
    peak = device.peak_flops(launch.kind or PEAK_KIND[workload.dtype]) or device.peak_flops("fp32")
    compute = workload.flops * padded / peak / (waves / math.ceil(waves)) if waves else 0.0
    memory = through_l2 / (4.0 * device.bandwidth)
    least = max(workload.flops / peak, workload.bytes / device.bandwidth)
    return {
        "log2 threads": _log(launch.threads),
        "log2 shared bytes": _log(launch.shared_bytes),
        "accumulators": float(launch.accumulators),
        "resident blocks": float(resident),
        "occupancy": resident * launch.threads / device.threads_per_sm,
        "log2 blocks": _log(launch.blocks),
        "log2 waves": _log(waves),
        "last wave share": waves / math.ceil(waves),
        "log2 workspace": _log(launch.workspace_bytes),
        "kernels": float(launch.kernels),
        "cluster": float(launch.cluster),
        "log2 outputs per block": _log(outputs),
        "log2 outputs per thread": _log(outputs / launch.threads),
        "tile intensity": tile_m * tile_n / (tile_m + tile_n),
        "log2 tile ratio": _log(tile_m / tile_n),
        "padded work": padded,
        "log2 L2 bytes": _log(through_l2),
        "L2 bytes per useful byte": through_l2 / workload.bytes,
        "log2 k steps": _log(k / (tile_k * split)),
        "log2 bytes in flight": _log(launch.stages * (tile_m + tile_n) * tile_k * item * max(resident, 1)),
        "log2 shared bytes read": _log(through_shared),
        "compute bound": compute / max(compute + memory, 1e-30),
        "log2 bound seconds": _log(max(compute, memory)),
        "log2 M": _log(m),
        "log2 N": _log(n),
        "log2 K": _log(k),
        "log2 batch": _log(batch),
        "item bytes": float(item),
        "out bytes": float(out_item),
        "log2 flops": _log(workload.flops),
        "log2 intensity": _log(workload.flops / workload.bytes),
        "SMs": float(device.sm_count),
        "log2 bandwidth per SM": _log(device.bandwidth / device.sm_count),
        "log2 flops per byte of device": _log(peak / device.bandwidth),
        "shared bytes per SM": float(device.shared_bytes_per_sm),
        "L2 bytes": float(device.l2_bytes),
        "padded k": math.ceil(k / (tile_k * split)) * tile_k * split / k,
        **operands(workload),
        "SM balance": launch.blocks / (device.sm_count * math.ceil(launch.blocks / device.sm_count)),
        "log2 blocks per SM": _log(math.ceil(launch.blocks / device.sm_count)),
        "log2 memory bytes per useful byte": _log(traffic / workload.bytes),
        "log2 memory time over least time": _log(traffic / device.bandwidth / least),
        "log2 wave bytes per L2 byte": _log(wave_bytes / device.l2_bytes),
    }


def gemm_shape(workload: Workload) -> tuple[int, int, int, int]:
    """(m, n, k, batch) of the matrix product that the workload is or implies (implicit GEMM; groups are the batch)."""
    if isinstance(workload, Matmul):
        return workload.m, workload.n, workload.k, workload.batch
    return (*workload.product, workload.groups)


def operands(workload: Workload) -> dict[str, float]:
    """Of the matrix product's A and B: whether memory runs down their columns (1, a transposed matrix) or along their
    rows (0); then log2 of the bytes that each line of their memory is aligned to, at most ``LINE``. Which loads are
    possible, and whether they fill sectors, goes by these."""
    item = ITEMSIZE[workload.dtype]
    if isinstance(workload, Matmul):
        a, b = (float(c == "t") for c in workload.layout)
        strides = workload.lda, workload.ldb
    elif workload.direction != "fprop":
        a, b, strides = _backward_operands(workload)
    elif workload.layout == "nhwc":  # pixels x channels; filters lie as filters x channels
        a, b, strides = 0.0, 1.0, (workload.c, workload.c // workload.groups)
    else:  # channels x pixels
        a, b, strides = 1.0, 1.0, (workload.w, workload.c // workload.groups * workload.r * workload.s)
    first, second = (_log(math.gcd(stride * item, LINE)) for stride in strides)
    return {"A transposed": a, "B transposed": b, "log2 A alignment": first, "log2 B alignment": second}


def _backward_operands(w: Conv2d) -> tuple[float, float, tuple[int, int]]:
    """Whether A and B of a gradient are transposed, and the elements of their lines: see :func:`operands`."""
    filters = w.c // w.groups * (1 if w.layout == "nhwc" else w.r * w.s)
    if w.direction == "dgrad":  # dy: pixels x k; filters lie as k x channels
        return (0.0, 0.0, (w.k, filters)) if w.layout == "nhwc" else (1.0, 0.0, (w.q, filters))
    return (1.0, 0.0, (w.k, w.c)) if w.layout == "nhwc" else (0.0, 1.0, (w.q, w.w))


def distance(a: Workload, b: Workload) -> float:
    """How far apart two workloads of one operation are: log2 ratios of their shapes, and 4 for each other field that
    differs.
    """
    if a.op != b.op:
        return math.inf
    shape = sum(abs(_log(x) - _log(y)) for x, y in zip(gemm_shape(a), gemm_shape(b)))
    fields = ("dtype", "out_dtype", "layout", "scales", "math", "direction")
    return (
        shape + 4.0 * sum(getattr(a, f, "") != getattr(b, f, "") for f in fields) + (0.5 * (a.epilogue != b.epilogue))
    )


def _log(value: float) -> float:
    return math.log2(value) if value > 0 else -1.0
