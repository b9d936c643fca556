"""``gpu_tune.predict``: the time of a kernel that is none of ours, from its machine code alone."""

from __future__ import annotations

import math
from pathlib import Path

from ...cuda import cubin as cubins
from ...cuda.device import DEFAULT, Device, by_name
from ...errors import InvalidInput, require
from .prediction import Prediction, predict_kernel

_Dim = int | tuple[int, ...]


def predict(
    cubin: bytes | str | Path,
    grid: _Dim,
    block: _Dim,
    *,
    kernel: str | None = None,
    shared_bytes: int = 0,
    trips: float = 1.0,
    dram_bytes: float = 0.0,
    device: Device | str | None = None,
) -> Prediction:
    """The time of one launch of a kernel in a cubin (of Triton, CuPy, CUTLASS, nvcc), from its instructions.

    ``cubin``: its bytes or its file, for ``device``'s architecture. ``kernel``: its name where the cubin has several.
    ``grid`` and ``block``: blocks and threads, up to three numbers. ``shared_bytes``: dynamic shared memory of a block.
    ``trips``: iterations of the hot loop (the one with most arithmetic) that a block runs. ``dram_bytes``: what the
    whole launch moves to and from DRAM; 0 where that is not to bound it.

    Limits. Machine code does not say what the lanes of an access share, so bank conflicts and scattered loads are not
    seen; branches other than the hot loop's are not taken; a time has no interval, because the kind of kernel was not
    judged: compare predictions of variants of one kernel, and do not quote one as seconds. InvalidInput names a cubin
    of another architecture or kernel, and numbers that are no launch; CorruptData a file that is no cubin.
    """
    data = cubin if isinstance(cubin, bytes) else Path(cubin).read_bytes()
    chip = by_name(device) if isinstance(device, str) else device or by_name(DEFAULT)
    found = cubins.read(data)
    if found.cc != chip.cc:
        rule = f"is of compute capability {found.cc / 10:.1f}, {chip.name} has {chip.cc / 10:.1f}"
        raise InvalidInput("cubin", f"{len(data)} bytes", rule, "compile it for this device, or name its own")
    names = list(found.kernels)
    if kernel is None and len(names) != 1:
        raise InvalidInput("kernel", None, f"is one of {', '.join(names) or 'none'}", "name it: kernel=...")
    name = kernel if kernel is not None else names[0]
    require(name in found.kernels, "kernel", name, f"is none of {', '.join(names)}", "name one of them")
    launch = [_three("grid", grid), _three("block", block)]
    most = chip.threads_per_block
    require(math.prod(launch[1]) <= most, "block", block, f"is more than {most} threads", "launch fewer")
    for subject, value in (("trips", trips), ("dram_bytes", dram_bytes), ("shared_bytes", shared_bytes)):
        real = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        require(real, subject, value, "is no finite number from 0 on", f"give {subject} as a number")
    return predict_kernel(
        data, name, launch[0], launch[1], chip, shared_bytes=shared_bytes, trips=trips, dram_bytes=dram_bytes
    )


def _three(subject: str, value: _Dim) -> tuple[int, int, int]:
    given = (value,) if isinstance(value, int) else tuple(value)
    sound = 1 <= len(given) <= 3 and all(type(n) is int and n > 0 for n in given)
    require(sound, subject, value, "is not one to three positive integers", "give blocks or threads, as in (128, 2)")
    x, y, z = (*given, 1, 1)[:3]
    return x, y, z
