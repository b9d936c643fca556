"""Three models in plain torch, no downloads: a transformer block with attention, ResNet-50, a U-Net."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class TransformerBlock(nn.Module):
    """Pre-norm attention and a feed-forward part, with residuals around both; the product of a tied head at the end."""

    def __init__(self, width: int = 512, heads: int = 8, vocabulary: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.embed = nn.Embedding(vocabulary, width) if vocabulary else None
        if self.embed is not None:
            self.head = nn.Linear(width, vocabulary, bias=False)
            self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.embed is not None:
            x = self.embed(x)
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(attended)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x) if self.embed is not None else x


class Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: Any = None
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.shortcut is None else self.shortcut(x)
        return self.relu(y)


class ResNet(nn.Module):
    """ResNet-50 with ``depths`` (3, 4, 6, 3)."""

    def __init__(self, depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks, channels = [], width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                own = width * 2**stage
                blocks.append(Bottleneck(channels, own, 2 if stage and not i else 1))
                channels = 4 * own
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


class UNet(nn.Module):
    """A U-Net with transposed convolutions on the way up and skip connections by concatenation."""

    def __init__(self, channels: int = 3, width: int = 64, depth: int = 4, classes: int = 2) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.downs = nn.ModuleList(_double(a, b) for a, b in zip([channels, *widths[:-1]], widths))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * b, b, 2, stride=2) for b in reversed(widths[:-1]))
        self.joins = nn.ModuleList(_double(2 * b, b) for b in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for down in self.downs:
            x = down(x if not kept else F.max_pool2d(x, 2))
            kept.append(x)
        for up, join, skip in zip(self.ups, self.joins, reversed(kept[:-1])):
            x = join(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


def _double(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(b, b, 3, padding=1), nn.ReLU(inplace=True)
    )


def models() -> dict[str, tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    """The three at their usual sizes, without memory for their weights (on the device ``meta``), with their inputs."""
    with torch.device("meta"):
        made: dict[str, tuple[nn.Module, tuple[torch.Tensor, ...]]] = {
            "transformer block": (TransformerBlock(vocabulary=32000), (torch.zeros(4, 256, dtype=torch.long),)),
            "ResNet-50": (ResNet(), (torch.zeros(8, 3, 224, 224),)),
            "U-Net": (UNet(), (torch.zeros(1, 3, 256, 256),)),
        }
    return {name: (model.eval(), inputs) for name, (model, inputs) in made.items()}
