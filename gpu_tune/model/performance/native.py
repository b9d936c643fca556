"""The C++ of the model, in one library with the emulator's; everything that it does has a twin in Python."""

from __future__ import annotations

import functools
import warnings
from typing import Any

from ...emulator import build
from ...errors import CompilerMissing, EmulationError


@functools.cache
def library() -> Any:
    """The library; None where there is no compiler for it."""
    try:
        return build.library()
    except CompilerMissing:
        return None
    except (EmulationError, OSError) as error:
        warnings.warn(f"the performance model plays in Python, slowly: {error}", RuntimeWarning, stacklevel=2)
        return None
