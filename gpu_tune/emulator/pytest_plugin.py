"""A pytest fixture for tests of CUDA kernels on machines without a GPU.

    def test_scale(emulated_gpu):
        x = np.arange(100, dtype=np.float32)
        (y,) = emulated_gpu(SOURCE, "scale", grid=1, block=128, args=[x, np.float32(2), np.int32(100)])
        assert np.array_equal(y, 2 * x)

Installed with gpu_tune; pytest finds it by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


class EmulatedGpu:
    """Call it to run a kernel under several interleavings; the test fails at the first with an error.

    ``seeds``: how many. Advice (what PTX allows and is seldom meant) is kept in ``advice`` and fails nothing.
    """

    def __init__(self, seeds: int = 3) -> None:
        self.seeds = seeds
        self.advice: list[Any] = []
        self.reports: list[Any] = []

    def __call__(
        self,
        source_or_ptx: str,
        kernel: str = "",
        grid: int | Sequence[int] = 1,
        block: int | Sequence[int] = 1,
        args: Sequence[Any] = (),
        **options: Any,
    ) -> tuple[Any, ...]:
        """The arrays among ``args`` after the run, in their order. See :func:`gpu_tune.emulate` for the rest.

        The results are those of the first interleaving; that the others give the same bits is checked unless
        ``same=False`` is passed (atomics on floats, for one, may add up in any order).
        """
        from . import emulate

        first: tuple[Any, ...] = ()
        same: bool = options.pop("same", True)
        seed = options.pop("seed", 0)
        for number in range(self.seeds):
            report = emulate(source_or_ptx, kernel, grid, block, args, seed=seed + number, **options)
            self.reports.append(report)
            self.advice += [f for f in report.findings if f.level != "error"]
            if not report.ok:
                told = "\n".join(map(str, report.errors))
                pytest.fail(f"the emulator, seed {seed + number}:\n{told}", pytrace=False)
            results = tuple(a for a in report.results if a is not None)
            if number == 0:
                first = results
            elif same and any(a.tobytes() != b.tobytes() for a, b in zip(first, results)):
                pytest.fail(f"seeds {seed} and {seed + number} give different results", pytrace=False)
        return first


@pytest.fixture
def emulated_gpu() -> EmulatedGpu:
    """Runs CUDA or PTX kernels on the CPU, with every access checked; skips where no C++ compiler is installed."""
    from . import unavailable_reason

    if reason := unavailable_reason():
        pytest.skip(reason)
    return EmulatedGpu()
