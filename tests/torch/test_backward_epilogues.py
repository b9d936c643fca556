"""Backward epilogues: the reference and what the dispatchers ask PyTorch for, against PyTorch's autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from gpu_tune import reference
from gpu_tune.errors import InvalidInput
from gpu_tune.measure import vendor
from gpu_tune.torch import matmul
from gpu_tune.workload import Conv2d, Matmul

FORWARD = {
    "drelu": functional.relu,
    "drelu(out)": functional.relu,
    "dgelu": functional.gelu,
    "dgelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
    "dsilu": functional.silu,
}


def saved(w: Matmul | Conv2d, name: str, z: torch.Tensor) -> np.ndarray:
    """What the forward pass keeps of ``z``, which an activation was given."""
    if name != "drelu":
        return (z.relu() if name == "drelu(out)" else z).numpy().copy()
    bits = (z > 0).numpy()
    spec = w.arrays()["aux"]
    if isinstance(w, Matmul):
        room = np.zeros((*bits.shape[:-1], 8 * spec.shape[-1]), bool)
        room[..., : bits.shape[-1]] = bits
    else:
        room = np.zeros(8 * spec.shape[0], bool)
        room[: bits.size] = bits.reshape(-1)
    return np.packbits(room, axis=-1, bitorder="little")


@pytest.mark.parametrize("name", FORWARD)
def test_gradients_of_random_problems_are_autograds(name: str) -> None:
    rng = np.random.default_rng(5)
    for turn in range(40):
        m, n, k = (int(v) for v in rng.integers(1, 150, 3))
        batch, layout = (1, 2)[turn % 2], ("nhwc", "nchw")[turn // 2 % 2]
        w: Matmul | Conv2d = Matmul(m, n, k, batch=batch, dtype="float32", epilogue=name)
        if turn % 4 == 3:
            size = dict(zip("nchwk", (int(v) for v in rng.integers(1, 12, 5))))
            w = Conv2d(**size, r=1, s=1, layout=layout, dtype="float32", epilogue=name, direction="dgrad")
        shapes = w.arrays()
        z = torch.from_numpy(rng.standard_normal(shapes["out"].shape)).requires_grad_()
        arrays = {n: rng.standard_normal(shapes[n].shape) for n in w.inputs}
        product = torch.from_numpy(reference.products(w, arrays)[0])
        (expected,) = torch.autograd.grad(FORWARD[name](z), z, product)
        arrays["aux"] = saved(w, name, z.detach())
        np.testing.assert_allclose(reference.reference(w, arrays), expected.numpy(), rtol=1e-12, atol=1e-12)
        tensors = {n: torch.from_numpy(a if a.dtype == np.uint8 else a.astype(np.float32)) for n, a in arrays.items()}
        if isinstance(w, Matmul):
            found = vendor.run(w, "torch", tensors, {}, None)
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)


def test_masks_of_convolutions_are_unpacked_as_the_reference_does() -> None:
    w = Conv2d(2, 9, 3, 5, 4, 1, 1, dtype="float32", epilogue="drelu", direction="dgrad")
    packed = np.random.default_rng(1).integers(0, 256, w.arrays()["aux"].shape, dtype=np.uint8)
    shape = torch.Size(w.arrays()["out"].shape)
    found = vendor.bits(w, torch, "torch", torch.from_numpy(packed), shape)
    assert np.array_equal(found.numpy(), reference.mask(w, packed))


def test_operators_with_gradients_of_their_own_refuse_them() -> None:
    with pytest.raises(InvalidInput, match="backward operation"):
        matmul(torch.ones(4, 4), torch.ones(4, 4), epilogue="dgelu")
