"""Kernels that another compiler made: what Triton's PTX does on the emulator, against NumPy. Skipped without Triton.

Triton compiles for a target that is not there, so that no GPU is needed; it is no dependency of the project.
"""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.helpers.emulator.snippets import messages, needs_emulator, result, run

triton: Any = pytest.importorskip("triton", reason="Triton is not installed")
import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

pytestmark = needs_emulator


@triton.jit
def product(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, INEXACT: tl.constexpr):
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    sums = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        x = tl.load(a + rm[:, None] * K + (k + rk)[None, :], mask=rm[:, None] < M, other=0.0)
        y = tl.load(b + rn[None, :] * K + (k + rk)[:, None], mask=rn[None, :] < N, other=0.0)
        sums = tl.dot(x, y, sums, max_num_imprecise_acc=INEXACT)
    tl.store(c + rm[:, None] * N + rn[None, :], sums, mask=(rm[:, None] < M) & (rn[None, :] < N))


@triton.jit
def softmax(x, y, cols, BLOCK: tl.constexpr):
    at = tl.program_id(0) * cols + tl.arange(0, BLOCK)
    inside = tl.arange(0, BLOCK) < cols
    v = tl.load(x + at, mask=inside, other=-float("inf"))
    v = tl.exp(v - tl.max(v, 0))
    tl.store(y + at, v / tl.sum(v, 0), mask=inside)


@triton.jit
def normalise(x, y, cols, BLOCK: tl.constexpr):
    at = tl.program_id(0) * cols + tl.arange(0, BLOCK)
    inside = tl.arange(0, BLOCK) < cols
    v = tl.load(x + at, mask=inside, other=0.0)
    d = tl.where(inside, v - tl.sum(v, 0) / cols, 0.0)
    tl.store(y + at, d * tl.rsqrt(tl.sum(d * d, 0) / cols + 1e-5), mask=inside)


@triton.jit
def attention(q, k, v, o, length, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rd = tl.arange(0, D)
    x = tl.load(q + rm[:, None] * D + rd[None, :])
    most = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    sums = tl.zeros((BM, D), tl.float32)
    for start in range(0, length, BN):
        rn = start + tl.arange(0, BN)
        p = tl.dot(x, tl.load(k + rn[None, :] * D + rd[:, None]))
        above = tl.maximum(most, tl.max(p, 1))
        p = tl.exp(p - above[:, None])
        shrink = tl.exp(most - above)
        total = total * shrink + tl.sum(p, 1)
        sums = tl.dot(p.to(tl.float16), tl.load(v + rn[:, None] * D + rd[None, :]), sums * shrink[:, None])
        most = above
    tl.store(o + rm[:, None] * D + rd[None, :], sums / total[:, None])


@triton.jit
def counts(x, y, BLOCK: tl.constexpr, BINS: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(y + tl.arange(0, BINS), tl.histogram(tl.load(x + at), BINS))


@triton.jit
def sines(x, y, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.sin(tl.load(x + at)))


POINTERS = {
    "float8_e4m3fn": "*fp8e4nv",
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "float32": "*fp32",
    "int32": "*i32",
    "int8": "*i8",
}


def emulate(function: Any, arch: int, arrays: list[np.ndarray], sizes: list[int], grid: Any, **constants: Any) -> Any:
    """``function`` compiled for ``arch`` and run: pointers first, then sizes, then constants."""
    names, options = function.arg_names, {n: constants.pop(n) for n in ("num_warps", "num_stages") if n in constants}
    kinds = [*(POINTERS[str(a.dtype)] for a in arrays), *(["i32"] * len(sizes))]
    signature = {n: kinds[i] if i < len(kinds) else "constexpr" for i, n in enumerate(names)}
    source = ASTSource(
        function,
        signature,
        {(names.index(n),): v for n, v in constants.items()},
        {
            (i,): [["tt.divisibility", 16]]
            for i in range(len(kinds))
            if i < len(arrays) or sizes[i - len(arrays)] % 16 == 0
        },
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    ptx = compiled.asm["ptx"]
    spare = ptx[: ptx.index(")")].count(".param") - len(kinds)  # Triton's own scratch pointers
    return run(
        ptx,
        re.search(r"\.entry (\w+)", ptx)[1],  # type: ignore[index]
        arrays,
        [*sizes, *[np.uint64(0)] * spare],
        grid=grid,
        block=32 * compiled.metadata.num_warps,
        shared=compiled.metadata.shared,
    )


def matrices(dtype: Any, m: int, n: int, k: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-3, 4, (rows, k)).astype(dtype) for rows in (m, n))
    return [a, b, np.zeros((m, n), np.float32)]


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, ml_dtypes.float8_e4m3fn], ids=str)
def test_products(arch: int, dtype: Any) -> None:
    if arch == 80 and dtype is ml_dtypes.float8_e4m3fn:
        arch = 89
    m, n, k = 100, 144, 160 if np.dtype(dtype).itemsize > 1 else 128
    arrays = matrices(dtype, m, n, k)
    report = emulate(product, arch, arrays, [m, n, k], (2, 3), BM=64, BN=64, BK=32, INEXACT=0, num_stages=3)
    assert np.array_equal(result(report, 2), arrays[0].astype(np.float32) @ arrays[1].astype(np.float32).T)


def test_partial_sums_of_fp8_read_before_their_wait() -> None:
    """True by PTX's rules, see ``test_wgmma_registers.py``; gone when a Triton commits and waits for each of them."""
    arrays = matrices(ml_dtypes.float8_e4m3fn, 64, 64, 128)
    report = emulate(product, 90, arrays, [64, 64, 128], 1, BM=64, BN=64, BK=64, INEXACT=32, num_stages=2)
    if report.ok:
        assert np.array_equal(report.arrays["x"], arrays[0].astype(np.float32) @ arrays[1].astype(np.float32).T)
    else:
        assert {f.kind for f in report.findings} == {"wgmma"} and "no wgmma.wait_group" in messages(report)


@pytest.mark.parametrize("arch", [80, 90])
def test_rows(arch: int) -> None:
    x = np.random.default_rng(1).standard_normal((5, 700)).astype(np.float32)
    e = np.exp(x - x.max(1, keepdims=True))
    got = result(emulate(softmax, arch, [x, np.zeros_like(x)], [700], 5, BLOCK=1024), 1)
    np.testing.assert_allclose(got, e / e.sum(1, keepdims=True), rtol=1e-5)
    got = result(emulate(normalise, arch, [x, np.zeros_like(x)], [700], 5, BLOCK=1024), 1)
    centred = x - x.mean(1, keepdims=True)
    np.testing.assert_allclose(got, centred / np.sqrt(x.var(1, keepdims=True) + 1e-5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("warps", [4, 8])
def test_attention(arch: int, warps: int) -> None:
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((256, 64)).astype(np.float16) for _ in range(3))
    q /= 8
    out = np.zeros((256, 64), np.float32)
    got = result(emulate(attention, arch, [q, k, v, out], [256], 2, BM=128, BN=64, D=64, num_warps=warps), 3)
    p = np.exp(q.astype(np.float64) @ k.astype(np.float64).T)
    np.testing.assert_allclose(got, p / p.sum(1, keepdims=True) @ v, atol=2e-3)


@pytest.mark.parametrize("arch", [80, 90])
def test_histogram_and_long_arguments(arch: int) -> None:
    x = np.random.default_rng(3).integers(0, 64, 1024).astype(np.int32)
    got = result(emulate(counts, arch, [x, np.zeros(64, np.int32)], [], 2, BLOCK=512, BINS=64), 1)
    assert np.array_equal(got, np.bincount(x, minlength=64))
    angles = (np.random.default_rng(4).standard_normal(256) * 1e5).astype(np.float32)  # sin reduces them in 96 bits
    got = result(emulate(sines, arch, [angles, np.zeros_like(angles)], [], 1, BLOCK=256), 1)
    np.testing.assert_allclose(got, np.sin(angles.astype(np.float64)), atol=1e-6)
