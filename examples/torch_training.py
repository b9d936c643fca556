"""Train a PyTorch model whose layers are computed by gpu_tune, compiled and under autocast; then give it back.

    python examples/torch_training.py

Needs PyTorch. On a GPU our kernels run where they are known to be faster (tune the workloads that are printed); without
one PyTorch computes the same on the CPU, and a warning says so.
"""

from __future__ import annotations

import torch
from torch import nn

import gpu_tune as gt
import gpu_tune.torch as gtt

GRADIENTS = {"nn": (64, 256, 32), "tn": (32, 256, 64)}


def main() -> None:
    """Replace, compile, train, compare with PyTorch, restore."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(256, 32), nn.GELU(),
        nn.Linear(32, 10),
    ).to(device, memory_format=torch.channels_last)  # fmt: skip
    images = torch.randn(64, 3, 16, 16, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (64,), device=device)
    expected = model(images).detach()

    print(gtt.replace(model))
    compiled = torch.compile(model, fullgraph=True, backend="inductor" if device == "cuda" else "aot_eager")
    print(f"largest difference to PyTorch: {(compiled(images) - expected).abs().max().item():.1e}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(compiled(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(f"loss: {losses[0]:.2f} -> {losses[-1]:.2f}")

    forward = gt.Matmul(64, 32, 256, dtype=torch.bfloat16, layout="nt", epilogue="bias+gelu(aux)")
    backward = [gt.Matmul(*sizes, dtype=torch.bfloat16, layout=letters) for letters, sizes in GRADIENTS.items()]
    fused = gt.Matmul(64, 32, 10, dtype=torch.bfloat16, layout="nn", epilogue="dgelu+dbias")
    print("the first linear layer's products:", *(w.key for w in (forward, *backward)), sep="\n  ")
    print(f"the second one's gradient, the activation's and the first one's bias's in it:\n  {fused.key}")
    print("restored:", ", ".join(gtt.restore(model)))


if __name__ == "__main__":
    main()
