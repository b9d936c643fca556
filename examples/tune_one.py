"""Tune one matmul and look at what came out: time, verdict, checks, and the emitted CUDA source.

    python examples/tune_one.py

Without a GPU, candidates are really compiled and the best one is really executed, by the emulator; times are predicted.
"""

from __future__ import annotations

import gpu_tune as gt


def main() -> None:
    """Tune for four trials, which is enough to see how it goes and too few to find the best."""
    workload = gt.Matmul(m=64, n=48, k=32, dtype="float32", epilogue="bias+relu")
    kernel = gt.tune(workload, trials=4, seed=0)
    print(f"{workload.key} on {kernel.chip}")
    print(f"{kernel.template}: {kernel.seconds * 1e6:.3g} us ({kernel.winner.source}) with")
    print(" ".join(f"{knob}={value}" for knob, value in kernel.config.items()))
    for check in kernel.verdict["checks"]:
        print(f"checked by the {check['by']}: {check['detail']}")
    print(kernel.source.split("*/")[0] + "*/")
    print(f"... the whole source: {kernel.path}/kernel.cu")


if __name__ == "__main__":
    main()
