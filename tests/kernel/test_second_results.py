"""Calls of a kernel that writes more than its result, on the emulator; on the virtual GPU see test_prepared.py."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_tune.cuda import driver
from gpu_tune.cuda.device import by_name
from gpu_tune.dispatch import matmul
from gpu_tune.errors import InvalidInput
from gpu_tune.kernel.kernel import TunedKernel
from gpu_tune.reference import example_inputs, results
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.registry import registry
from gpu_tune.workload import Matmul
from tests.helpers.winners import winner


def saving() -> TunedKernel:
    """The default of matmul_simt, which saves bits and sums its result."""
    w = Matmul(9, 18, 16, dtype="float32", epilogue="relu(aux)+dbias")
    bound = BoundTemplate(registry()["matmul_simt"], w, by_name("nvidia-h200"))
    rendered = bound.render(bound.space().default())
    return TunedKernel(winner(w, rendered.source, rendered.plan))


def test_a_kernel_with_several_results_returns_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver, "library", lambda: None)
    kernel = saving()
    given = example_inputs(kernel.workload, 0)
    expected = results(kernel.workload, given)
    out, aux, dbias = kernel.emulate(given["a"], given["b"])
    into = {"out": np.zeros_like(out), "aux": np.full_like(aux, 0xAA)}
    again = kernel.emulate(given["a"], given["b"], **into)
    assert again[0] is into["out"] and again[1] is into["aux"]
    for made in ((out, aux, dbias), again):
        np.testing.assert_allclose(made[0], expected["out"], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(made[1], expected["aux"])
        np.testing.assert_allclose(made[2], expected["dbias"], rtol=1e-5, atol=1e-5)
    into["aux"].flags.writeable = False
    with pytest.raises(InvalidInput, match=r"aux: .* is read-only"):
        kernel.emulate(given["a"], given["b"], **into)
    with pytest.raises(InvalidInput, match=r"aux\.shape"):
        kernel.emulate(given["a"], given["b"], aux=aux[:3])


def test_results_that_share_memory_are_refused_on_the_cpu():
    kernel = saving()
    given, out = example_inputs(kernel.workload, 0), np.zeros((9, 18), np.float32)
    for name, other in (("out", out), ("a", given["a"])):
        shared = other.ravel()[:18]
        with pytest.raises(InvalidInput, match=f"dbias: .* overlaps {name}; give it memory of its own"):
            kernel.emulate(given["a"], given["b"], out=out, dbias=shared)
        with pytest.raises(InvalidInput, match=f"dbias: .* overlaps {name}; give it memory of its own"):
            matmul(given["a"], given["b"], epilogue="relu(aux)+dbias", out=out, dbias=shared)
