"""The package is imported by those who ask for it alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import conftest


def test_gpu_tune_imports_torch_only_where_it_is_asked_for() -> None:
    code = "import sys, gpu_tune.cli, gpu_tune; gpu_tune.matmul; a = 'torch' in sys.modules; import gpu_tune.torch; "
    done = subprocess.run([sys.executable, "-c", code + "print(a)"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("asked", "there", "lines"), [("tests", False, 1), ("tests", True, 0), ("tests/cli", False, 0)]
)
def test_a_run_without_pytorch_says_in_one_line_what_it_left_out(monkeypatch, asked, there, lines) -> None:
    monkeypatch.setattr(conftest, "TORCH", there)
    said: list[str] = []
    root = Path(conftest.__file__).parents[1]
    config = SimpleNamespace(args=[asked], invocation_params=SimpleNamespace(dir=root))
    conftest.pytest_terminal_summary(SimpleNamespace(write_line=said.append), config)
    assert len(said) == lines and all("tests/torch" in s and "make test-torch" in s for s in said)
    left_out = conftest.pytest_ignore_collect(conftest.NEEDS_TORCH)
    assert bool(left_out) is not there
