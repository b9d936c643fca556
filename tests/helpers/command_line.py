"""The command line in this process, and the matmul that its tests tune."""

from __future__ import annotations

from click.testing import CliRunner

from gpu_tune.cli import main

ARGS = ["matmul", "--m", "32", "--n", "32", "--k", "32", "--dtype", "float32"]
KEY = "matmul-32x32x32-float32-nn"


def run(*args, code=0):
    result = CliRunner().invoke(main, list(args))
    assert "Traceback" not in result.output and (result.exception is None or isinstance(result.exception, SystemExit))
    assert result.exit_code == code, result.output
    return result
