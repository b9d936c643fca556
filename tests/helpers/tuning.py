"""A small matmul tuned with the toy template."""

from __future__ import annotations

import gpu_tune as gt

WORKLOAD = gt.Matmul(20, 18, 16, dtype="float32")
CHIP = "nvidia-h200-132sm-141gb"


def tune(templates, trials=12, **more):
    return gt.tune(WORKLOAD, trials=trials, templates=templates, jobs=1, **more)
