"""Example inputs, the float64 reference of every workload, and the bound a result is compared with.

All in NumPy on the host. bfloat16 and float8 arrays use ml_dtypes.
"""

from .compare import Comparison, compare, inside
from .derivatives import derivative, mask, observed, packed, passes
from .inputs import POISON, allocate, changed_gaps, elements, empty_results, example_inputs, example_scalars
from .rounding import (
    EPS,
    NUMPY,
    Bounds,
    Numerics,
    activation,
    bounds,
    cast,
    factors,
    products,
    reduction_length,
    reference,
    results,
    summed_axes,
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
    "empty_results",
    "example_inputs",
    "example_scalars",
    "factors",
    "inside",
    "mask",
    "observed",
    "packed",
    "passes",
    "products",
    "reduction_length",
    "reference",
    "results",
    "summed_axes",
]
