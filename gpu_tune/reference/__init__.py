"""Example inputs, the float64 reference of every workload, and the bound a result is compared with.

All in NumPy on the host. bfloat16 and float8 arrays use ml_dtypes.
"""

from .comparison import Comparison, compare
from .dtypes import NUMPY, cast
from .exact import products, reduction_length
from .inputs import allocate, example_inputs, example_scalars
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
