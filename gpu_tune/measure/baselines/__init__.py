"""Vendor libraries as baselines: the same inputs, permissions and timing policy as ours, interleaved with ours.

``cublas``: cublasGemmEx with its own choice. ``cublaslt``: the fastest of the 100 algorithms that its heuristic
proposes, with 32 MiB of workspace. ``cudnn``: the fastest of all plans of the cuDNN frontend; ``cudnn-first``: the one
that its heuristic puts first. ``torch``: PyTorch as its users call it. ``triton``: an autotuned Triton matmul.
What a library cannot fuse is done by one elementwise kernel of our own in the same graph where that is faster, and the
label says so. A baseline whose result is wrong does not compete, and says why. No library is required: each is looked
for when it is asked for.
"""

from .select import NAMES, names_for, prepare

__all__ = ["NAMES", "names_for", "prepare"]
