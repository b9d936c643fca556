"""A PyTorch model tuned on the GPU: measured layers, the vendor's beside them, and the pass before and after."""

from __future__ import annotations

import pytest

import gpu_tune as gt

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")]


def test_a_model_is_measured_replaced_rewritten_and_exported(gpu, home, tmp_path, told):
    from gpu_tune import torch as gtt
    from tests.helpers.torch_models import TransformerBlock

    model = TransformerBlock(512, 8).half().cuda().eval()
    x = torch.randn(4, 256, 512, dtype=torch.half, device="cuda")
    tuned = gt.tune_model(model, x, trials=64, jobs=4)
    told(str(tuned))
    assert tuned.source == "measured" and all(r.kernel is not None and r.vendor is not None for r in tuned.results)
    assert {r.chosen for r in tuned.results} <= {"ours", "vendor"} and tuned.totals() is not None
    assert tuned.forward is not None and tuned.forward.layers == 4 and min(vars(tuned.forward).values()) > 0
    with torch.no_grad():
        expected, rewritten = model(x), gtt.rewrite(model, x)(x)
    torch.testing.assert_close(rewritten, expected, rtol=2e-2, atol=2e-2)
    store = gt.open_export(tuned.export(tmp_path / "export"))
    assert all(gt.load(w, store=store, strict=True).measured for w in tuned.kernels)
