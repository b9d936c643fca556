"""gpu_tune: a GPU kernel autotuner for CUDA matmul and conv2d.

    import gpu_tune as gt
    kernel = gt.tune(gt.Matmul(m=4096, n=4096, k=4096, dtype="bfloat16", layout="nt", epilogue="bias+gelu"))
    c = kernel(a, b, bias=bias)          # CuPy, PyTorch, anything with DLPack or __cuda_array_interface__
    kernel = gt.load(gt.Matmul(...))     # later, anywhere: from the store, no compiler, no search
    y = gt.matmul(x, w, layout="nt")     # our kernel or the vendor library, whichever the stored verdict says is faster

Names are loaded when they are first used, so that the import is fast and needs no GPU package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dispatch import conv2d, load, matmul
    from .emulator.arguments import Pointer, Struct, TensorMap
    from .emulator.launch import Session, emulate
    from .errors import (
        CompileError,
        CompilerMissing,
        CorruptData,
        EmulationError,
        GpuTuneError,
        InvalidConfig,
        InvalidInput,
        MeasureError,
        NotTuned,
        StoreError,
        TemplateError,
        Unsupported,
        WrongResult,
    )
    from .kernel.export_folder import open_export
    from .kernel.kernel import EmulatedResult, TunedKernel
    from .model.performance.foreign import predict
    from .plan.size import any_of
    from .search.history import History
    from .search.search import Tuner
    from .space.grid_space import GridSpace
    from .space.knob import Knob
    from .store.records import Records
    from .store.store import Store
    from .trial import Candidate, Measurement
    from .tuner.tune import tune
    from .tuner.tune_model import tune_model
    from .workload import Conv2d, Matmul


__version__ = "0.1.0"

_HOMES = {
    "dispatch": ("conv2d", "load", "matmul"),
    "errors": (
        "CompileError",
        "CompilerMissing",
        "CorruptData",
        "EmulationError",
        "GpuTuneError",
        "InvalidConfig",
        "InvalidInput",
        "MeasureError",
        "NotTuned",
        "StoreError",
        "TemplateError",
        "Unsupported",
        "WrongResult",
    ),
    "emulator.arguments": ("Pointer", "Struct", "TensorMap"),
    "emulator.launch": ("Session", "emulate"),
    "kernel.export_folder": ("open_export",),
    "kernel.kernel": ("EmulatedResult", "TunedKernel"),
    "model.performance.foreign": ("predict",),
    "search.history": ("History",),
    "search.search": ("Tuner",),
    "plan.size": ("any_of",),
    "space.grid_space": ("GridSpace",),
    "space.knob": ("Knob",),
    "store.records": ("Records",),
    "store.store": ("Store",),
    "trial": ("Candidate", "Measurement"),
    "tuner.tune": ("tune",),
    "tuner.tune_model": ("tune_model",),
    "workload": ("Conv2d", "Matmul"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Candidate",
    "CompileError",
    "CompilerMissing",
    "Conv2d",
    "CorruptData",
    "EmulatedResult",
    "EmulationError",
    "GpuTuneError",
    "GridSpace",
    "History",
    "InvalidConfig",
    "InvalidInput",
    "Knob",
    "Matmul",
    "MeasureError",
    "Measurement",
    "NotTuned",
    "Pointer",
    "Records",
    "Session",
    "Store",
    "StoreError",
    "Struct",
    "TemplateError",
    "TensorMap",
    "TunedKernel",
    "Tuner",
    "Unsupported",
    "WrongResult",
    "any_of",
    "conv2d",
    "emulate",
    "load",
    "matmul",
    "open_export",
    "predict",
    "tune",
    "tune_model",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
