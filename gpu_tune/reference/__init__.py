"""Example inputs, the float64 reference of every workload, and the bound a result is compared with.

All in NumPy on the host. bfloat16 and float8 arrays use ml_dtypes.
"""

from .inputs import allocate, example_inputs, example_scalars
from .numerics import EPS, NUMPY, cast
from .rounding import Bounds, Comparison, activation, bounds, compare, factors, products, reduction_length, reference

__all__ = [
    "EPS",
    "NUMPY",
    "Bounds",
    "Comparison",
    "activation",
    "allocate",
    "bounds",
    "cast",
    "compare",
    "example_inputs",
    "example_scalars",
    "factors",
    "products",
    "reduction_length",
    "reference",
]
