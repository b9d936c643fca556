"""Load a kernel, tuned or not, and compute with it.

    python examples/load_and_run.py

``load`` answers from the store, without a search. For a workload that nobody tuned it compiles the default config, and
says so. Without a GPU the emulator computes the result on the CPU: exact, and slow.
"""

from __future__ import annotations

import numpy as np

import gpu_tune as gt


def main() -> None:
    """Load, show the launch plan, run, and compare with NumPy."""
    workload = gt.Matmul(m=64, n=48, k=32, dtype="float32", epilogue="bias+relu")
    kernel = gt.load(workload)
    print(f"{kernel.template} for {kernel.chip}: {kernel.match}")
    for step in kernel.plan.steps:
        print(step)
    rng = np.random.default_rng(0)
    a, b, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 32), (32, 48), (48,)))
    c = np.asarray(kernel(a, b, bias=bias))
    wanted = np.maximum(a.astype(np.float64) @ b + bias, 0)
    print(f"largest error: {np.abs(c - wanted).max():.1e}")


if __name__ == "__main__":
    main()
