"""Example inputs, the float64 reference of every workload, and the bound a result is compared with.

All in NumPy on the host. bfloat16 and float8 arrays use ml_dtypes.
"""

from .compare import Comparison, compare
from .exact import products, reduction_length
from .inputs import allocate, example_inputs, example_scalars
from .numerics import NUMPY, cast
from .rounding import EPS, Bounds, bounds, reference

__all__ = [
    "EPS",
    "NUMPY",
    "Bounds",
    "Comparison",
    "allocate",
    "bounds",
    "cast",
    "compare",
    "example_inputs",
    "example_scalars",
    "products",
    "reduction_length",
    "reference",
]
