"""A kernel read from its machine code in C++ and in Python: the same to the last bit."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from gpu_tune.cuda import cubin, nvrtc, sass
from gpu_tune.cuda.device import Device, by_name
from gpu_tune.cuda.operations import operation
from gpu_tune.errors import CorruptData
from gpu_tune.model.performance import KernelLanes, image, native
from gpu_tune.model.performance.code import Code
from gpu_tune.model.performance.code_in_cpp import CodeInCpp
from gpu_tune.model.performance.constants import architecture
from gpu_tune.plan import MainLoop
from gpu_tune.templates.registry import bind
from gpu_tune.workload import Conv2d, Matmul, Workload
from tests.helpers.emulator.snippets import needs_emulator, needs_nvrtc

pytestmark = [needs_emulator, needs_nvrtc, pytest.mark.usefixtures("compile_once")]
HALF = Matmul(1024, 1024, 1024, dtype="float16", layout="nt")
IMAGE = Conv2d(n=1, c=64, h=28, w=28, k=64, r=3, s=3, stride=1, padding=1, layout="nhwc", dtype="float16")


def kernel(name: str, workload: Workload, device: str) -> tuple[sass.Program, Device, int, MainLoop]:
    chip = by_name(device)
    bound = next(b for b in bind(workload, chip) if b.name == name)
    rendered = bound.render(bound.default())
    loop = rendered.estimate.loop
    assert loop is not None
    step = next(s for s in rendered.plan.kernels if s.kernel == loop.kernel)
    code = nvrtc.to_cubin(rendered.source, chip.arch).data
    return cubin.programs(code)[step.kernel], chip, step.threads // 32, loop


def lanes(program: sass.Program, rng: np.random.Generator) -> KernelLanes:
    """Figures of some of the program's accesses, as they may be."""
    shared, touched = (
        [int(i) for i in np.flatnonzero(program.is_(names)) if rng.random() < 0.8]
        for names in ("LDS STS LDSM LDGSTS", "LDG STG LDGSTS")
    )
    wavefronts, sectors, hits = (dict(zip(of, rng.random(len(of)).tolist())) for of in (shared, touched, touched))
    return KernelLanes({k: 1 + 7 * v for k, v in wavefronts.items()}, {k: 32 * v for k, v in sectors.items()}, hits)


def both(program: sass.Program, chip: Device, *more: Any) -> tuple[Code, CodeInCpp]:
    of = program, architecture(program.cc), chip, *more
    return Code(*of), CodeInCpp(native.library(), *of)


def assert_alike(python: Code, cpp: CodeInCpp) -> None:
    assert (python.work, python.body, python.bulk, python.kind) == (cpp.work, cpp.body, cpp.bulk, cpp.kind)
    for name in ("head", "body", "tail"):
        np.testing.assert_array_equal(getattr(python.path(), name), getattr(cpp.path(), name))
    np.testing.assert_array_equal(python.costs().integers, cpp.costs().integers)
    np.testing.assert_array_equal(python.costs().reals, cpp.costs().reals)


@pytest.mark.parametrize(
    ("name", "workload", "device"),
    [
        ("matmul_mma", HALF, "nvidia-a100"),
        ("matmul_simt", HALF, "nvidia-t4"),
        ("matmul_mma", HALF, "nvidia-rtx-5090"),
        ("matmul_wgmma", HALF, "nvidia-h100"),
        ("conv2d_igemm_mma", IMAGE, "nvidia-a100"),
    ],
)
def test_cpp_and_python_read_the_same(name: str, workload: Workload, device: str) -> None:
    program, chip, warps, loop = kernel(name, workload, device)
    rng = np.random.default_rng(len(program))
    split = functools.partial(MainLoop, **{**vars(loop), "parts": 3, "tail": 1})
    for known in (None, lanes(program, rng)):
        for declared in (None, loop, split(reads=(40 * loop.reads[0], loop.reads[1]))):  # with loops of copies unrolled
            python, cpp = both(program, chip, warps, known, declared)
            assert_alike(python, cpp)
    for blocks in (1, 2, 3):
        one, other = (vars(code.pace(blocks)).values() for code in (python, cpp))
        assert all(np.array_equal(a, b) for a, b in zip(one, other)), blocks


def test_damaged_cubins_are_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    workload, chip = HALF, by_name("nvidia-a100")
    bound = next(b for b in bind(workload, chip) if b.name == "matmul_mma")
    rendered = bound.render(bound.default())
    whole, name = nvrtc.to_cubin(rendered.source, chip.arch).data, rendered.plan.kernels[0].kernel
    rng, refused = np.random.default_rng(5), 0

    def read(cubin: bytes, library: Any) -> tuple[Any, ...]:
        monkeypatch.setattr(native, "library", lambda: library)
        try:
            found = image.kernel_code.__wrapped__(cubin, name)
        except CorruptData as error:
            return (str(error),)
        return found.registers, found.static_shared_bytes, found.program.cc, found.program.code

    library = native.library()
    assert read(whole, library) == read(whole, None) and len(read(whole, library)) == 4
    for _ in range(150):
        body = bytearray(whole)
        for _ in range(rng.integers(1, 5)):  # of the header, or of section tables, records and symbols at the end
            body[rng.integers(*((0, 64) if rng.random() < 0.2 else (len(body) - 3000, len(body))))] = rng.integers(256)
        damaged = bytes(body[: rng.integers(len(body))] if rng.random() < 0.1 else body)
        assert read(damaged, library) == read(damaged, None)
        refused += len(read(damaged, library)) == 1
    assert 0 < refused < 150


def test_lanes_of_other_code_are_refused() -> None:
    program, chip, warps, _ = kernel("matmul_mma", HALF, "nvidia-a100")
    for known in (KernelLanes({len(program): 2.0}), KernelLanes(sectors={-1 - len(program): 4.0})):
        of = program, architecture(80), chip, warps, known, None
        with pytest.raises(IndexError):
            Code(*of).costs()
        with pytest.raises(IndexError, match="instructions"):
            CodeInCpp(native.library(), *of)


def branch(apart: int, cc: int, guard: int) -> int:
    """The first word of BRA to ``apart`` instructions behind the next one."""
    offset = 4 * apart if cc >= 90 else 16 * apart
    target = (offset >> 8 << 34) | (offset & 0xFF) << 16 if cc >= 90 else offset << 32
    return (target | guard << 12 | 0x947) % 2**64


@pytest.mark.parametrize("device", ["nvidia-t4", "nvidia-a100", "nvidia-h100", "nvidia-rtx-5090"])
def test_cpp_and_python_read_any_bits_alike(device: str) -> None:
    """Random branches, guards, matrix shapes and barriers in code that no compiler would write."""
    program, _, warps, loop = kernel("matmul_mma", HALF, "nvidia-a100")
    chip, loops, tails = by_name(device), 0, 0
    cc, rng = chip.cc, np.random.default_rng(chip.cc)
    numbers = [n for n in range(512) if not operation(n, cc).startswith("?") and n != 0x14D]
    for _ in range(6):
        words = np.frombuffer(program.code, np.uint64).reshape(-1, 2)[:300].copy()
        words ^= rng.integers(0, 1 << 63, words.shape, np.uint64) & rng.integers(0, 1 << 63, words.shape, np.uint64)
        words[:, 0] = words[:, 0] & ~np.uint64(0x1FF) | rng.choice(numbers, len(words)).astype(np.uint64)
        for at, to in zip(rng.choice(len(words), 12, replace=False).tolist(), rng.choice(len(words), 12).tolist()):
            words[at, 0] = branch((to - at - 1), cc, int(rng.choice([7, 0])))
        code = sass.decode(words.tobytes(), cc)
        python, cpp = both(code, chip, warps, None, MainLoop(**{**vars(loop), "parts": 2, "tail": 1}))
        assert_alike(python, cpp)
        loops, tails = loops + len(code.loops), tails + len(python.path().tail)
    assert loops > 12 and tails
