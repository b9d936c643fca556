"""The command line: ``gpu-tune tune|tune-model|bench|show|records|replay|verify|emulate|export|doctor|gc``.

Exit codes: 0 done; 1 the answer is no (a wrong kernel, nothing tuned, a lost device); 2 bad input or an unusable store;
3 a bug of gpu_tune itself; 130 interrupted. Results go to standard output (``--json``: as JSON alone), progress and
messages to standard error.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from typing import Any

import click

from .. import __version__
from ..errors import GpuTuneError, MeasureError, NotTuned, WrongResult

COMMANDS = {
    "tune": "Find the fastest checked kernel for a workload, and keep it.",
    "tune-model": "Tune every product and convolution of a PyTorch model.",
    "bench": "Compare with the vendor libraries over a suite of shapes.",
    "show": "Show a space, a search, or a stored kernel.",
    "records": "List, export and import the trials kept so far.",
    "replay": "Search a recorded space again, without a GPU.",
    "verify": "Check random variants of a template, or an emitted kernel, on the emulator.",
    "emulate": "Run any CUDA or PTX kernel on the CPU, and say what is wrong with it.",
    "export": "Publish winners into a folder, for a repository or for C++.",
    "doctor": "Say what was found on this machine and what is missing.",
    "gc": "Remove damaged winners, leftovers of killed runs and compiled candidates.",
}


def _command(name: str) -> click.Command:
    found: click.Command = importlib.import_module(f".{name.replace('-', '_')}", __name__).command
    return found


def _by_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: Python before 3.12 makes a RuntimeError of what ends a class's definition."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


class Commands(click.Group):
    """Loads a command's module when it is named, so that ``--help`` and errors are quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GpuTuneError as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(1 if isinstance(error, (WrongResult, NotTuned, MeasureError)) else 2) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise SystemExit(130) from None
        except BrokenPipeError:  # the reader of a pipe has gone: nothing to say
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except Exception as error:
            if _by_interrupt(error):
                click.echo("interrupted", err=True)
                raise SystemExit(130) from None
            if ctx.params.get("verbose"):
                raise
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{os.path.basename(frame.filename)}:{frame.lineno}"
            remark = "This is a bug of gpu_tune; gpu-tune -v ... shows all of it."
            click.echo(f"Internal error at {place}: {error!r}. {remark}", err=True)
            raise SystemExit(3) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gpu-tune")
@click.option("-v", "--verbose", count=True, help="Log more (twice: everything).")
def main(verbose: int) -> None:
    """Tune CUDA matmul and conv2d kernels: verified, readable, reusable.

    Without a GPU, candidates are really compiled and winners really executed (on an emulator); only times are
    predicted, and say so.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.getLogger("gpu_tune").setLevel(level)
