"""The operators' formulas in float64, by PyTorch alone, and inputs for which they are exact in every data type."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gpu_tune.torch import calls

EPILOGUES = [
    "",
    "scale",
    "bias",
    "row_bias",
    "residual",
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "clamp(-2,3)",
    "bias+relu",
    "bias+gelu",
    "scale+bias+silu",
    "bias+residual+relu",
    "relu+residual+relu",
    "residual+gelu_tanh+bias",
    "clamp(-1,4)+scale+row_bias",
]
INEXACT = ("gelu", "silu")
EPS = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def integers(shape: tuple[int, ...], seed: int, largest: int = 2) -> Tensor:
    """Small integers, whose products and sums are exact in bfloat16 where few are added."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, shape, generator=generator).double()


def names(epilogue: str) -> list[str]:
    """The operands that an epilogue takes."""
    return [op for op in re.split(r"\+", epilogue) if op in ("scale", "bias", "row_bias", "residual")]


def operands(epilogue: str, rows: int, columns: int, out: tuple[int, ...]) -> dict[str, Tensor]:
    """One tensor for each."""
    made = {
        "scale": 2.0 ** integers((columns,), 3, 1),
        "bias": integers((columns,), 4),
        "row_bias": integers((rows,), 5),
        "residual": integers(out, 6),
    }
    return {n: made[n] for n in names(epilogue)}


def apply(y: Tensor, epilogue: str, given: dict[str, Tensor], per_channel: tuple[int, ...] = (-1,)) -> Tensor:
    """The epilogue of ``y``, in its data type."""
    for op in re.split(r"\+(?![^(]*\))", epilogue) if epilogue else ():
        if op == "scale":
            y = y * given[op].reshape(per_channel)
        elif op == "bias":
            y = y + given[op].reshape(per_channel)
        elif op == "row_bias":
            y = y + given[op][:, None]
        elif op == "residual":
            y = y + given[op]
        elif op.startswith("clamp"):
            y = y.clamp(*map(float, re.findall(r"-?\d+", op)))
        else:
            y = functional.gelu(y, approximate="tanh") if op == "gelu_tanh" else getattr(functional, op)(y)
    return y


def same(ours: Tensor, theirs: Tensor, exact: bool, dtype: torch.dtype) -> None:
    """Equal to the float64 formula: exactly where nothing has to be rounded, else within roundings of ``dtype``."""
    if exact:
        assert torch.equal(ours.double(), theirs), (ours, theirs)
    else:
        largest = theirs.abs().max().item()
        torch.testing.assert_close(ours.double(), theirs, rtol=8 * EPS[dtype], atol=8 * EPS[dtype] * largest)


def watched(monkeypatch: pytest.MonkeyPatch, field: str) -> list[str]:
    """What the products that are computed from now on have in that field of their calls."""
    asked: list[str] = []
    compute = calls.Product.by_torch
    monkeypatch.setattr(
        calls.Product, "by_torch", lambda call, *rest: asked.append(getattr(call, field)) or compute(call, *rest)
    )
    return asked
