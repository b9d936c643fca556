"""Backward epilogues: the reference and what the dispatchers ask PyTorch for, against PyTorch's autograd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from gpu_tune import reference
from gpu_tune.errors import InvalidInput
from gpu_tune.measure import vendor
from gpu_tune.torch import ops
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
        summed: Any = replace(w, epilogue=f"{name}+dbias")
        axes = reference.summed_axes(w, expected.ndim)
        sums = reference.results(summed, arrays)["dbias"]
        np.testing.assert_allclose(sums, expected.sum(axes).numpy(), rtol=1e-4, atol=1e-4)  # a bias's gradient
        if isinstance(w, Matmul):
            found, dbias = vendor.run(summed, "torch", tensors, {}, None)
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(dbias.numpy(), expected.sum(axes).numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_tanh", "silu"])
def test_a_step_of_random_layers_is_autograds(name: str) -> None:
    """Forward with ``bias+NAME(aux)``, backward with ``dNAME`` from what that saved."""
    rng, turns = np.random.default_rng(7), 25
    for turn in range(turns):
        m, n, k = (int(v) for v in rng.integers(1, 140, 3))
        fields: dict[str, Any] = dict(batch=(1, 2)[turn % 2], dtype="float32")
        w: Matmul | Conv2d = Matmul(m, n, k, epilogue=f"bias+{name}(aux)", **fields)
        back: Matmul | Conv2d = Matmul(m, n, 8, epilogue=f"d{name}", **fields)
        if turn % 3 == 2:
            size = dict(zip("nchwk", (int(v) for v in rng.integers(1, 12, 5))))
            layout = ("nhwc", "nchw")[turn % 2]
            w = Conv2d(**size, r=1, s=1, layout=layout, dtype="float32", epilogue=f"bias+{name}(aux)")
            grown = dict(n=w.n, c=w.k, h=w.h, w=w.w, k=8, r=1, s=1, layout=layout, dtype="float32")
            back = Conv2d(**grown, epilogue=f"d{name}", direction="dgrad")
        given = {n: rng.standard_normal(spec.shape) for n, spec in w.arrays().items() if n not in w.outputs}
        product = torch.from_numpy(reference.products(w, given)[0])
        vector = torch.from_numpy(given["bias"])
        shaped = vector.reshape(-1, 1, 1) if isinstance(w, Conv2d) and w.layout == "nchw" else vector
        z = (product + shaped).requires_grad_()
        y = FORWARD[f"d{name}"](z)
        found = reference.results(w, given)
        np.testing.assert_allclose(found["out"], y.detach().numpy(), rtol=1e-6, atol=1e-6)
        upstream = {n: rng.standard_normal(back.arrays()[n].shape) for n in back.inputs}
        dy = torch.from_numpy(reference.products(back, upstream)[0])
        (expected,) = torch.autograd.grad(y, z, dy)
        gradient = reference.reference(back, {**upstream, "aux": found["aux"]})
        np.testing.assert_allclose(gradient, expected.numpy(), rtol=1e-5, atol=1e-5)  # from values saved in float32
        if isinstance(w, Matmul):  # PyTorch's own arrays: the same two results
            tensors = {n: torch.from_numpy(a.astype(np.float32)) for n, a in given.items()}
            aux = torch.zeros(found["aux"].shape, dtype=torch.uint8 if name == "relu" else torch.float32)
            for given_aux in ({}, {"aux": aux}):
                out, saved_too = vendor.run(w, "torch", {**tensors, **given_aux}, {}, None)
                np.testing.assert_allclose(out.numpy(), found["out"], rtol=1e-4, atol=1e-4)
                assert reference.compare({"aux": saved_too.numpy()}, w, {n: t.numpy() for n, t in tensors.items()}).ok
            assert saved_too is aux


def test_masks_of_convolutions_are_unpacked_as_the_reference_does() -> None:
    w = Conv2d(2, 9, 3, 5, 4, 1, 1, dtype="float32", epilogue="drelu", direction="dgrad")
    packed = np.random.default_rng(1).integers(0, 256, w.arrays()["aux"].shape, dtype=np.uint8)
    shape = torch.Size(w.arrays()["out"].shape)
    found = vendor.bits(w, torch, "torch", torch.from_numpy(packed), shape)
    assert np.array_equal(found.numpy(), reference.mask(w, packed))
    again = vendor.packed_bits(w, torch, "torch", found).numpy()
    assert np.array_equal(reference.mask(w, again), found.numpy()) and again.shape == packed.shape


def test_operators_with_one_result_refuse_them() -> None:
    for epilogue in ("dgelu", "relu(aux)", "relu+dbias"):
        with pytest.raises(InvalidInput, match="backward operation"):
            ops.matmul(torch.ones(4, 4), torch.ones(4, 4), *[None] * 5, "nn", 1.0, 0.0, epilogue, None, "")
