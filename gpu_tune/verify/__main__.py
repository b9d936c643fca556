"""``python -m gpu_tune.verify TEMPLATE|kernel.cu``: the same as ``gpu-tune verify``."""

from __future__ import annotations

import argparse
import sys

from ..errors import GpuTuneError
from . import check_case, sweep, verify_kernel


def main() -> int:
    """0: nothing failed; 1: something did; 2: bad input."""
    parser = argparse.ArgumentParser(prog="python -m gpu_tune.verify", description=__doc__)
    parser.add_argument("target", help="a template's name, or the path of an emitted kernel.cu")
    parser.add_argument("--variants", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="stop drawing variants after this long")
    parser.add_argument("--workers", type=int, help="processes (default: the cores)")
    parser.add_argument("--case", help="the JSON of one variant, from a failing class's command")
    options = parser.parse_args()
    try:
        if options.case:
            report = check_case(options.target, options.case)
        elif options.target.endswith(".cu") or "/" in options.target:
            report = verify_kernel(options.target, seeds=options.variants, seed=options.seed)
        else:
            report = sweep(
                options.target,
                variants=options.variants,
                seed=options.seed,
                seconds=options.seconds,
                workers=options.workers,
            )
    except GpuTuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.text())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
