"""The command line: ``gpu-tune tune|bench|show|records|replay|verify|export|doctor|gc``.

Exit codes: 0 done; 1 the answer is no (a wrong kernel, nothing tuned, a lost device); 2 bad input or an unusable store;
3 a bug of gpu_tune itself; 130 interrupted. Results go to standard output (``--json``: as JSON alone), progress and
messages to standard error.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

from .. import __version__
from ..errors import GpuTuneError, MeasureError, NotTuned, WrongResult

COMMANDS = {
    "tune": ("tune", "Find the fastest checked kernel for a workload, and keep it."),
    "bench": ("bench", "Compare with the vendor libraries over a suite of shapes."),
    "show": ("show", "Show a space, a search, or a stored kernel."),
    "records": ("records", "List, export and import the trials kept so far."),
    "replay": ("replay", "Search a recorded space again, without a GPU."),
    "verify": ("verify", "Check random variants of a template, or an emitted kernel, on the emulator."),
    "export": ("export", "Publish winners into a folder, for a repository or for C++."),
    "doctor": ("doctor", "Say what was found on this machine and what is missing."),
    "gc": ("gc", "Remove damaged winners, leftovers of killed runs and compiled candidates."),
}


class Commands(click.Group):
    """Loads a command's module when it is named, so that ``--help`` and errors are quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        import importlib

        command: click.Command = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __name__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

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
            if ctx.params.get("verbose"):
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{os.path.basename(where.filename)}:{where.lineno}"
            click.echo(
                f"Internal error at {place}: {error!r}. This is a bug of gpu_tune; gpu-tune -v ... shows all of it.",
                err=True,
            )
            raise SystemExit(3) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gpu-tune")
@click.option("-v", "--verbose", count=True, help="Log more (twice: everything).")
def main(verbose: int) -> None:
    """Tune CUDA matmul and conv2d kernels: verified, readable, reusable.

    Without a GPU, candidates are really compiled and winners really executed (on an emulator); only times are
    predicted, and say so.
    """
    import logging

    level = logging.ERROR if verbose == 0 else logging.INFO if verbose == 1 else logging.DEBUG
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("gpu_tune").setLevel(min(level, logging.WARNING) if verbose else logging.WARNING)


__all__ = ["main"]
