"""The kernels that conformance compares, one special instruction each, with inputs that leave no freedom in the result.

Every case is a source, a launch plan and input arrays; what is compared is every byte of its ``out``. Products are of
small integers, so no order of summation shows; the approximate functions are compared with a tolerance instead.
"""

from __future__ import annotations

import numpy as np

from bench.conformance.case import Case
from bench.conformance.copies import floating_tiles, im2col_store, tma
from bench.conformance.matrices import matrices, mma, small_types, wgmma
from bench.conformance.scalar import rarer, scalar


def all_cases(seed: int = 5) -> list[Case]:
    """Every case, always the same for a seed."""
    rng = np.random.default_rng(seed)
    families = (scalar, matrices, mma, wgmma, tma, small_types, rarer, im2col_store, floating_tiles)
    return [case for family in families for case in family(rng)]
