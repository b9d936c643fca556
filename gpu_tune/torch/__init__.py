"""gpu_tune in PyTorch: operators with gradients, modules, and whole models.

    import gpu_tune.torch as gtt
    y = gtt.linear(x, weight, bias, activation="gelu")     # our kernel or cuBLAS, whichever is known to be faster
    y = gtt.conv2d(x, w, padding=1, epilogue="bias+relu", bias=b)
    done = gtt.replace(model)                              # nn.Linear and nn.Conv2d by ours; print(done) says which
    gtt.restore(model)

PyTorch is imported by this package alone, and only where it is asked for: ``import gpu_tune.torch``. Everything works
under ``torch.compile(fullgraph=True)`` and autocast. See docs/torch.md.
"""

from __future__ import annotations

from . import autograd
from .functional import conv2d, linear, matmul, mlp
from .modules import Conv2d, Linear, Sequential
from .replacing import Replacement, replace, restore
from .rewriting import rewrite
from .routes import OnCpu, forget

autograd.register()

__all__ = [
    "Conv2d",
    "Linear",
    "OnCpu",
    "Replacement",
    "Sequential",
    "conv2d",
    "forget",
    "linear",
    "matmul",
    "mlp",
    "replace",
    "restore",
    "rewrite",
]
