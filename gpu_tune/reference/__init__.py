"""Example inputs, the float64 reference of every workload, and the bound a result is compared with.

All in NumPy on the host. bfloat16 and float8 arrays use ml_dtypes.
"""

from .derivatives import derivative, mask
from .inputs import POISON, allocate, changed_gaps, elements, example_inputs, example_scalars
from .rounding import (
    EPS,
    NUMPY,
    Bounds,
    Comparison,
    Numerics,
    activation,
    bounds,
    cast,
    compare,
    factors,
    inside,
    products,
    reduction_length,
    reference,
)

__all__ = [
    "EPS",
    "NUMPY",
    "POISON",
    "Bounds",
    "Comparison",
    "Numerics",
    "activation",
    "allocate",
    "bounds",
    "cast",
    "changed_gaps",
    "compare",
    "derivative",
    "elements",
    "example_inputs",
    "example_scalars",
    "factors",
    "inside",
    "mask",
    "products",
    "reduction_length",
    "reference",
]
