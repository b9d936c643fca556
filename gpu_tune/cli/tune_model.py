"""``gpu-tune tune-model module:function``: tune every product and convolution of a PyTorch model."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from ..errors import GpuTuneError, InvalidInput, require
from ..trial import PREDICTED
from . import options

SAYS = "return (model, example_inputs) or (model, example_inputs, kwargs)"


@click.command(help="Tune every matrix product and convolution of a PyTorch model, with one budget for all.")
@click.argument("target", metavar="MODULE:FUNCTION")
@click.option("--seconds", type=float, help="Seconds for all layers, recorded runs included  [default: 600].")
@click.option("--trials", type=int, help="Trials of all layers at most, recorded ones included.")
@click.option("--list", "only_list", is_flag=True, help="Only list what is found and what is left out.")
@click.option("--math", default="", help="What is permitted beyond strict arithmetic, joined by +: tf32, winograd ...")
@click.option(
    "--fuse",
    type=click.Choice(["neighbours", "modules", "none"]),
    default="neighbours",
    show_default=True,
    help="What becomes a part of a kernel: all that follows it and fits, what replaced modules run, or a bias alone.",
)
@options.seed_option
@options.device_option
@click.option("--jobs", type=click.IntRange(1), help="Compilers at work at a time  [default: all CPUs].")
@click.option("--force", is_flag=True, help="Start afresh, whatever is recorded.")
@click.option("--export", "folder", metavar="FOLDER", help="Also write the winners and a manifest to this folder.")
@click.option("--cpp", is_flag=True, help="With --export: a CMake package, too.")
@options.store_option
@options.templates_option
@options.json_option
def command(
    target: str,
    only_list: bool,
    math: str,
    fuse: str,
    folder: str | None,
    cpp: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """FUNCTION takes no arguments and returns the model and the arguments of a call: (model, example_inputs), where
    example_inputs is a tuple of tensors. MODULE is a module's name or the path of a Python file."""
    from ..store.select import select_device
    from ..tuner.model_text import show, show_found
    from ..tuner.tune_model import extracted, supported, tune_model
    from ..tuner.tuned_model import TunedModel

    device, source = select_device(settings["device"])
    require(folder is not None or not cpp, "--cpp", ..., "needs a folder to write to", "add --export FOLDER")
    if folder is not None:
        from ..kernel.export_folder import require_free

        require_free(Path(folder))
    permitted = tuple(p for p in math.split("+") if p)
    model, inputs, kwargs = called(target)
    if only_list:
        found, _ = supported(extracted(model, inputs, kwargs, math=permitted, fuse=fuse), device, None)
        if as_json:
            listed = TunedModel(found, (), device.chip, device.name, source, True, 0.0, 0, "").to_json()
            rows = [(v.workload.key, v.count, list(v.names), found.share(v.flops)) for v in found.layers]
            layers = [dict(zip(("workload", "count", "names", "flops_share"), row)) for row in rows]
            options.echo_json(
                {k: listed[k] for k in ("model", "flops", "flops_found", "left_out")} | {"layers": layers}
            )
        else:
            show_found(found, options.console(), device.chip)
        return
    if source == PREDICTED and not as_json:
        told = f"No GPU: times are predicted for {device.name}. Kernels are really compiled and executed."
        click.echo(told, err=True)
    tuned = tune_model(model, inputs, kwargs=kwargs, math=permitted, fuse=fuse, progress=not as_json, **settings)
    if as_json:
        options.echo_json(tuned.to_json())
    else:
        show(tuned, options.console())
    if folder is not None:
        path = tuned.export(folder, cpp=cpp)
        click.echo(f"exported to {path}", err=as_json)
    if not tuned.complete:
        click.echo("interrupted: the same command goes on where it stopped", err=True)
        raise SystemExit(130)


def called(target: str) -> tuple[Any, Any, Mapping[str, Any] | None]:
    """(model, example inputs, named inputs) that the function ``target`` names returns; InvalidInput otherwise."""
    name, colon, function = target.rpartition(":")
    rule, remedy = "names no function", "write MODULE:FUNCTION, such as models:resnet, or path/to/file.py:resnet"
    require(colon and name and function, "model", target, rule, remedy)
    module = _module(name, target)
    made: Callable[[], Any] | None = getattr(module, function, None)
    own = (n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__)
    near = ", ".join(sorted(own)[:8])
    require(callable(made), "model", target, f"names no function of {name}", f"it has {near or 'none'}")
    assert made is not None
    try:
        result = made()
    except GpuTuneError:
        raise
    except Exception as error:  # whatever the user's code raises
        rule = f"raised {type(error).__name__}: {_first_line(error)}"
        raise InvalidInput("model", target, rule, f"call {function}() in Python to see where") from error
    if not isinstance(result, (tuple, list)) or len(result) not in (2, 3):
        size = f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
        rule = f"returned {type(result).__name__}{size}, not a model and its example inputs"
        raise InvalidInput("model", target, rule, SAYS)
    return result[0], result[1], result[2] if len(result) == 3 else None


def _module(name: str, target: str) -> ModuleType:
    """The module of that name (the working folder is looked in first), or of that file."""
    try:
        if name.endswith(".py"):
            path = Path(name)
            require(path.is_file(), "model", target, f"is in {name}, which is no file", "name a Python file")
            sys.path.insert(0, str(path.parent.absolute()))
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)
            spec.loader.exec_module(module)
            return module
        sys.path.insert(0, os.getcwd())
        return importlib.import_module(name)
    except GpuTuneError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or name
        whose = "there is no such module" if missing.partition(".")[0] == name.partition(".")[0] else f"needs {missing}"
        remedy = "run from the folder that holds it, or give the path of the file"
        remedy = remedy if whose.startswith("there") else f"pip install {missing.partition('.')[0]}"
        raise InvalidInput("model", target, f"cannot be imported: {whose}", remedy) from error
    except Exception as error:
        rule = f"cannot be imported: {type(error).__name__}: {_first_line(error)}"
        raise InvalidInput("model", target, rule, f"import {name} in Python to see where") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(" .:;,")
