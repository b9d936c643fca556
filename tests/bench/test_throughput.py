"""One cold tuning taken apart: the parts are the whole, nothing is timed twice, and a model's times are called so."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests_support import gt_replace, toy_template

from gpu_tune.space.knob import Knob

PATH = Path(__file__).parents[2] / "bench" / "throughput.py"


@pytest.fixture(scope="module")
def throughput() -> Any:
    specification = importlib.util.spec_from_file_location("bench_throughput", PATH)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["bench_throughput"] = module
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["gpu", "modelled"])
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
    for room in ("gpu_tune.where", "gpu_tune.measure.base"):
        monkeypatch.setattr(f"{room}.registry", lambda: {"toy": gt_replace(base, knobs=knobs)})
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
    assert ("a model: times are estimates" in told) == (kind == "modelled")
    assert (found["device_idle_share"] is None) == (kind == "modelled")
