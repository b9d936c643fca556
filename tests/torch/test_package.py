"""The package is imported by those who ask for it alone."""

from __future__ import annotations

import subprocess
import sys


def test_gpu_tune_imports_torch_only_where_it_is_asked_for() -> None:
    code = "import sys, gpu_tune.cli, gpu_tune; gpu_tune.matmul; a = 'torch' in sys.modules; import gpu_tune.torch; "
    done = subprocess.run([sys.executable, "-c", code + "print(a)"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
