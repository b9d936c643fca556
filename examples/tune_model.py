"""Tune every product of a small PyTorch model with one budget, and export what came out as one folder.

    python examples/tune_model.py

Needs PyTorch. Without a GPU times are predicted, and nothing is said of the vendor's kernels.
"""

from __future__ import annotations

import tempfile

import torch
from torch import nn

import gpu_tune as gt


class Block(nn.Module):
    """Attention and a feed-forward part, as in a transformer, with products of 32 by 32 at most."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.down(nn.functional.gelu(self.up(x)))


def main() -> None:
    """Tune for a few trials, which is enough to see how it goes and too few to find the best."""
    tuned = gt.tune_model(Block().eval(), torch.zeros(1, 16, 32), trials=8, seed=0)
    print(tuned)
    for workload, kernel in tuned.kernels.items():
        print(f"{workload.key}: {kernel.path}/kernel.cu")
    with tempfile.TemporaryDirectory() as folder:
        store = gt.open_export(tuned.export(f"{folder}/block", cpp=True))
        workload = next(iter(tuned.kernels))
        print(f"from the exported folder: {gt.load(workload, store=store, strict=True)}")


if __name__ == "__main__":
    main()
