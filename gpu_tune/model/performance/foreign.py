"""``gpu_tune.predict``: the time of a kernel that is none of ours, from its machine code alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...cuda import cubin as cubins
from ...cuda.device import DEFAULT, KNOWN, Device, by_name
from ...emulator import unavailable_reason
from ...errors import CorruptData, EmulationError, InvalidInput, require
from ...plan import Arg, BufferArg, KernelStep, LaunchPlan, ScalarArg
from ...plan.size import whole
from .lanes import KernelLanes, l1_bytes, lanes_of
from .prediction import Prediction, predict_kernel

log = logging.getLogger(__name__)
_Dim = int | tuple[int, ...]
MOST = 2.0**63
MOST_BLOCKS, MOST_THREADS = (2**31 - 1, 65535, 65535), (1024, 1024, 64)
"""(x, y, z); CUDA programming guide, table "Technical specifications per compute capability"."""
_APART = 256
"""Arrays start at multiples of so many bytes, as cudaMalloc's do."""


def predict(
    cubin: bytes | bytearray | memoryview | str | Path,
    grid: _Dim,
    block: _Dim,
    *,
    kernel: str | None = None,
    shared_bytes: int = 0,
    trips: float = 1.0,
    dram_bytes: float = 0.0,
    arguments: Sequence[int | np.generic | np.ndarray] | None = None,
    device: Device | str | None = None,
) -> Prediction:
    """The time of one launch of a kernel in a cubin (of Triton, CuPy, CUTLASS, nvcc), from its instructions.

    ``cubin``: its bytes or its file, for ``device``'s architecture, as ``nvcc -cubin -arch=sm_90 -lineinfo`` and NVRTC
    make one; of a Triton kernel it is ``compiled.asm["cubin"]``. ``kernel``: its name where the cubin has several, of a
    C++ kernel without ``extern "C"`` the mangled one or, where that is clear, the name alone.
    ``grid`` and ``block``: blocks and threads, up to three numbers. ``shared_bytes``: dynamic shared memory of a block.
    ``trips``: iterations of the hot loop (the one with most arithmetic) that a block runs. ``dram_bytes``: what the
    whole launch moves to and from DRAM; 0 where that is not to bound it.

    ``arguments``: an entry for each parameter of the kernel: for a pointer the bytes of its array (an int, or a NumPy
    array, whose values do not matter), for a number its value as a NumPy scalar of its width, such as
    ``np.int32(4096)``. With them, and with a cubin that holds
    its PTX and line information (``-lineinfo`` of nvcc and NVRTC; Triton's do), one block is run on zeros by the
    emulator to see what the lanes of each access share.

    Limits. Machine code does not say what the lanes of an access share: without ``arguments``, without line information
    and for accesses that the block in the middle of the grid does not make (where zeros as data lead elsewhere, say),
    bank conflicts and scattered loads are not seen. That PTX is one that the emulator runs, and that parameters are
    pointers and numbers of 4 or 8 bytes, is required for it: structs and tensor maps by value are not taken. A warning
    is logged where ``arguments`` were of no use. Branches other than the hot loop's are not taken; a time has no
    interval, because the kind of kernel was not judged: compare predictions of variants of one kernel, and do not quote
    one as seconds. InvalidInput names a cubin of another architecture or kernel, numbers that are no launch, and
    arguments that are not the kernel's, a file that cannot be read; CorruptData a file that is no cubin.
    """
    data = bytes(cubin) if isinstance(cubin, bytes | bytearray | memoryview) else _read(cubin)
    known = device is None or isinstance(device, (str, Device))
    require(known, "device", device, "is neither a name nor a Device", f"name one, as in device={DEFAULT!r}")
    chip = device if isinstance(device, Device) else by_name(device or DEFAULT)
    what = _not_a_cubin(data)
    require(not what, "cubin", f"{len(data)} bytes", f"are {what}", "compile it: nvcc -cubin -arch=sm_90 -lineinfo")
    found = cubins.read(data)
    if found.cc != chip.cc:
        rule = f"is of compute capability {found.cc / 10:.1f}, {chip.name} has {chip.cc / 10:.1f}"
        fitting = [name for name, d in KNOWN.items() if d.cc == found.cc]
        other = f"name its own (device={' or '.join(map(repr, fitting))})" if fitting else "name its own"
        raise InvalidInput("cubin", f"{len(data)} bytes", rule, f"compile it for this device, or {other}")
    name = _named(kernel, list(found.kernels))
    launch = [_three("grid", grid, MOST_BLOCKS), _three("block", block, MOST_THREADS)]
    most = chip.threads_per_block
    require(math.prod(launch[1]) <= most, "block", block, f"is more than {most} threads", "launch fewer")
    for subject, value in (("trips", trips), ("dram_bytes", dram_bytes), ("shared_bytes", shared_bytes)):
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        real = number and bool(0 <= value <= MOST)
        require(real, subject, value, f"is no number in 0..{MOST:g}", f"give {subject} as a number")
    whole_bytes = isinstance(whole(shared_bytes), int)
    require(whole_bytes, "shared_bytes", shared_bytes, "is no whole number of bytes", "give an integer")
    taken = found.kernels[name]
    if taken.static_shared_bytes > chip.shared_bytes_per_block:  # which no compiler makes
        raise CorruptData(
            f"cubin: {name} declares {taken.static_shared_bytes:,} bytes of static shared memory, {chip.name} "
            f"has {chip.shared_bytes_per_block:,} for a block; compile it again"
        )
    held = int(shared_bytes) + taken.static_shared_bytes
    if not chip.resident_blocks(math.prod(launch[1]), taken.registers, held):
        rule = f"threads of {taken.registers} registers and {held} bytes of shared memory are more than an SM has"
        remedy = f"launch smaller blocks; {chip.name} has {chip.shared_bytes_per_block} bytes of shared memory for one"
        raise InvalidInput("block", math.prod(launch[1]), rule, remedy)
    lanes = None
    if arguments is not None:
        args, nbytes = _bound(arguments, found.kernels[name], chip)
        step = KernelStep(name, launch[0], launch[1], args, int(shared_bytes))
        lanes = _lanes(data, step, nbytes, found.kernels[name], chip)
    return predict_kernel(
        data, name, launch[0], launch[1], chip,
        shared_bytes=shared_bytes, trips=trips, dram_bytes=dram_bytes, lanes=lanes,
    )  # fmt: skip


def _named(kernel: str | None, names: Sequence[str]) -> str:
    """The kernel that is meant: the only one, one by its name in the cubin, or one whose mangled name has that name."""
    require(bool(names), "cubin", ..., "has no kernel", "compile one that has a __global__ function")
    has = f"the cubin has {', '.join(names)}"
    if kernel is None:
        require(len(names) == 1, "kernel", ..., f"is not named, and {has}", "name one: kernel=...")
        return names[0]
    require(isinstance(kernel, str), "kernel", kernel, "is no name", f"give its name as text; {has}")
    if kernel in names:
        return kernel
    plain = kernel.split("<")[0].split("(")[0].split("::")[-1].strip()
    fitting = [n for n in names if plain and n.startswith("_Z") and f"{len(plain)}{plain}" in n]
    rule = "fits several kernels of the cubin" if len(fitting) > 1 else "is no kernel of the cubin"
    require(len(fitting) == 1, "kernel", kernel, rule, f"name one of {', '.join(fitting or names)}")
    return fitting[0]


def _not_a_cubin(data: bytes) -> str:
    """What other compilers' output ``data`` is; empty where it may be a cubin."""
    if data[:4] == b"\x50\xed\x55\xba":
        return "a fat binary, not a cubin"
    if b".version" in data[:4096] and b".target" in data[:4096] and data[:4] != b"\x7fELF":
        return "PTX, not a cubin"
    if b"__global__" in data and data[:4] != b"\x7fELF":
        return "source code, not a cubin"
    return ""


def _read(cubin: str | Path) -> bytes:
    remedy = "name a cubin, or give its bytes"
    require(isinstance(cubin, (str, Path)), "cubin", type(cubin).__name__, "is neither bytes nor a file's name", remedy)
    text = str(cubin)
    what = _not_a_cubin(text.encode()) or ("text, not the name of a file" if "\n" in text else "")
    compiled = "compile it (nvcc -cubin -arch=sm_90 -lineinfo), and name the cubin or give its bytes"
    require(not what, "cubin", f"{text.strip()[:40]}...", f"is {what}", compiled)
    try:
        return Path(cubin).read_bytes()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise InvalidInput("cubin", str(cubin), f"cannot be read ({said})", remedy) from None


def _bound(
    arguments: Sequence[int | np.generic | np.ndarray], taken: cubins.KernelFacts, device: Device
) -> tuple[tuple[Arg, ...], int]:
    """The arguments as a plan has them, every array a part of buffer ``a``; and the bytes of that buffer."""
    listed = isinstance(arguments, Sequence) and not isinstance(arguments, str)
    require(listed, "arguments", arguments, "are no list", "give an entry for each parameter, in order")
    params = sorted(taken.params, key=lambda p: p.offset)
    rule = f"are not the {len(params)} parameters of kernel {taken.name!r}"
    require(len(arguments) == len(params), "arguments", len(arguments), rule, "give an entry for each, in order")
    args: list[Arg] = []
    end = 0
    for place, (value, param) in enumerate(zip(arguments, params)):
        subject, given = f"argument {place}", type(value).__name__
        rule = f"is for a parameter of {param.size} bytes: pointers and numbers of 4 or 8 bytes are taken alone"
        require(param.size in (4, 8), subject, given, rule, "leave `arguments` out")
        if isinstance(value, np.ndarray):
            value = int(value.nbytes)
        if isinstance(value, np.generic):
            number = isinstance(value, np.number) and value.nbytes in (4, 8)
            require(
                number, subject, given, "is no number of 4 or 8 bytes", "structs and maps are not taken: see predict"
            )
            bits = int.from_bytes(value.tobytes(), "little")
            args.append(ScalarArg(f"p{place}", f"uint{8 * value.nbytes}", bits))
            width = value.nbytes
        else:
            sound = type(value) is int and value >= 0
            kind = "float32" if given == "float" else "int32"
            remedy = f"give an array or its bytes, or a number's value as np.{kind}(...)"
            require(sound, subject, value, "is neither a size nor a NumPy scalar", remedy)
            rule = f"is the size of an array, whose address takes 8 bytes; the parameter has {param.size}"
            require(param.size == 8, subject, value, rule, "give a number as np.int32(...) or np.float32(...)")
            args.append(BufferArg("a", end))
            end += -(-value // _APART) * _APART
            rule = f"bytes do not fit, with the arrays before them, into the {device.memory_bytes} of {device.name}"
            require(end <= device.memory_bytes, subject, value, rule, "give the bytes of arrays that a launch can have")
            width = 8
        fits = width == param.size
        require(fits, subject, given, f"takes {width} bytes, the parameter has {param.size}", "give one of its width")
    return tuple(args), end


def _lanes(
    cubin: bytes, step: KernelStep, nbytes: int, taken: cubins.KernelFacts, device: Device
) -> KernelLanes | None:
    """What the lanes of the kernel's accesses share; None, with a warning, where that cannot be known."""
    reason = unavailable_reason()
    if not reason:
        shared = step.shared_bytes + taken.static_shared_bytes
        l1 = l1_bytes(device, shared, device.resident_blocks(step.threads, taken.registers, shared))
        try:
            found = lanes_of(cubin, LaunchPlan((step,)).check(), {"a": nbytes}, l1_bytes=l1).get(step.kernel)
        except EmulationError as error:
            reason = str(error)
        else:
            if found is not None and not found.reason:
                return found
            reason = found.reason if found is not None else "the kernel has no line information"
    log.warning("kernel %s: what the lanes of its accesses share is not known: %s", step.kernel, reason)
    return None


def _three(subject: str, value: _Dim, most: tuple[int, int, int]) -> tuple[int, int, int]:
    given = [whole(n) for n in (value if isinstance(value, Sequence) else (value,))]
    sound = 1 <= len(given) <= 3 and all(type(n) is int and n > 0 for n in given)
    require(sound, subject, value, "is not one to three positive integers", "give blocks or threads, as in (128, 2)")
    fits = all(n <= limit for n, limit in zip(given, most))
    require(fits, subject, value, f"is more than {most} of x, y and z, which CUDA allows", "launch fewer")
    x, y, z = (*given, 1, 1)[:3]
    return x, y, z
