"""One cold tuning taken apart: the parts are the whole, nothing is timed twice, and a model's times are called so."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpu_tune.space.knob import Knob
from tests.helpers.winners import toy_template


@pytest.fixture(scope="module")
def throughput() -> Any:
    return importlib.import_module("bench.throughput.__main__")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpu", "predicted"])
def test_shares_add_up_and_no_binary_is_timed_twice(
    throughput: Any,
    kind: str,
    fake_cuda: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
):
    base = toy_template()
    knobs = tuple(Knob(k.name, ("none",), "") if k.name == "fault" else k for k in base.knobs)
    monkeypatch.setattr("gpu_tune.templates.registry.registry", lambda: {"toy": replace(base, knobs=knobs)})
    out = tmp_path / "t.json"
    size = ["matmul", "20", "18", "16", "--dtype", "float32", "--layout", "nn", "--trials", "12", "--jobs", "1"]
    throughput.main([*size, "--kind", kind, "--json", str(out)])
    found, told = json.loads(out.read_text()), capsys.readouterr().out
    assert sum(found["loop"].values()) == pytest.approx(1.0) and min(found["loop"].values()) >= 0
    assert found["loop"]["search"] > 0 and found["loop"]["wait"] > 0 and found["seconds"]["compile"] > 0
    assert found["timed_twice"] == 0 and 0 < found["timed"] <= found["trials"] == 12
    assert found["timed"] + found["statuses"].get("duplicate", 0) == sum(
        n for s, n in found["statuses"].items() if s in ("ok", "duplicate")
    )
    assert found["seconds_to_95_percent"] <= found["wall_seconds"]
    assert ("times are predicted" in told) == (kind == "predicted")
    assert (found["device_idle_share"] is None) == (kind == "predicted")
