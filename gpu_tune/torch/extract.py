"""The matrix products and convolutions of a PyTorch model, as workloads: what ``tune_model`` tunes.

``torch.export`` traces the model on its example inputs without computing anything. Nodes are read before they are
decomposed: decomposed, a linear layer on a transposed input is a batched product, and whether it is depends on
``requires_grad``. Every node that multiplies is either found, as a workload of ours, or named as left out with its
FLOPs and the reason. FLOPs are those of products (2 m n k), as ``torch.utils.flop_counter`` counts them; operations
between products have none.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import GpuTuneError, InvalidInput, require
from ..workload import MATH
from .extract_epilogues import FUSED
from .extract_walk import Walk
from .extraction import Extraction

REMEDY = "give a torch.nn.Module, or what torch.export.export(model, inputs) returns"


def extract(
    model: Any,
    example_inputs: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    math: Sequence[str] = (),
    fuse: str = "neighbours",
) -> Extraction:
    """The products and convolutions of one forward pass of ``model``, a ``torch.nn.Module`` or an ``ExportedProgram``.

    ``example_inputs``: the positional arguments of a call as a tuple (one tensor may stand alone), ``kwargs`` the
    named ones; their shapes, dtypes and strides decide the workloads, their values nothing. The model is taken in the
    mode (training or evaluation) it is in. ``math``: permissions for every workload they mean something for.
    ``fuse``: what becomes a part of a product's workload. ``neighbours``: a bias, batch norm, activation or residual
    that follows it; ``modules``: what :func:`gpu_tune.torch.replace` runs, the bias of a layer and an activation after
    it in an ``nn.Sequential``; ``none``: the bias of a layer alone.

    Raises
    InvalidInput when the model cannot be exported or nothing in it multiplies; the message has PyTorch's reason.
    """
    permitted = options(math, fuse)
    program = export(model, example_inputs, kwargs)
    walk = Walk(program, permitted, fuse)
    walk.graph(program.graph_module)
    layers, left_out = walk.layers(), walk.left_out()
    name = type(model).__name__ if isinstance(model, torch.nn.Module) else "the exported program"
    remedy = "give a model with a linear layer, a matrix product or a convolution"
    rule = "multiplies nothing for these inputs: its products have no elements"
    require(layers or left_out or not walk.empty, "model", name, rule, "give example inputs that are not empty")
    require(layers or left_out, "model", name, "has no matrix product and no convolution", remedy)
    return Extraction(name, layers, left_out, tuple(dict.fromkeys(walk.notes)))


def options(math: Any, fuse: Any) -> tuple[str, ...]:
    """The permissions, one or a sequence of them; InvalidInput for what is none, and for a ``fuse`` that is unknown."""
    require(fuse in FUSED, "fuse", fuse, "is unknown", f"use one of {', '.join(FUSED)}")
    given = (math,) if isinstance(math, str) else math
    remedy = f"use some of {', '.join(MATH)}"
    require(isinstance(given, (tuple, list)), "math", math, "is no sequence of permissions", remedy)
    unknown = [p for p in given if p not in MATH]
    require(not unknown, "math", unknown, "are no permissions", remedy)
    return tuple(given)


def export(model: Any, example_inputs: Any, kwargs: Mapping[str, Any] | None) -> Any:
    """The exported program of ``model``; InvalidInput with PyTorch's first words where that fails."""
    if isinstance(model, torch.export.ExportedProgram):
        return model
    require(isinstance(model, torch.nn.Module), "model", model, "is no PyTorch model", REMEDY)
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else example_inputs
    listed = isinstance(inputs, (tuple, list))
    remedy = "give the arguments of a call of the model as a tuple of tensors, such as (torch.zeros(1, 3, 224, 224),)"
    require(listed, "example inputs", inputs, "are no tuple", remedy)
    remedy = "give named arguments as a dict"
    require(kwargs is None or isinstance(kwargs, Mapping), "kwargs", kwargs, "are no mapping", remedy)
    try:
        with _quiet():
            return torch.export.export(model, tuple(inputs), dict(kwargs or {}), strict=False)
    except GpuTuneError:
        raise
    except Exception as error:  # whatever the model's code raises
        raise InvalidInput("model", type(model).__name__, *_refusal(error)) from error


def _refusal(error: Exception) -> tuple[str, str]:
    """(the rule, the remedy) for a model that PyTorch does not export."""
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    place = _place(error, lines)
    rule = (
        f"cannot be exported{place}: {type(error).__name__}: {lines[0].rstrip(' .:;,') if lines else 'no reason given'}"
    )
    if isinstance(error, GuardOnDataDependentSymNode):
        rule = f"cannot be exported{place}: its control flow depends on the values in a tensor"
        return rule, "use torch.cond or torch.where there, or tune the parts of the model that have none"
    return rule, "check the shapes and dtypes of the example inputs, and that torch.export.export takes the model"


def _place(error: Exception, lines: Sequence[str]) -> str:
    """Where in the model's own code an export failed: `` at model.py:12``; nothing where that is not known."""
    for line in lines:
        if line.startswith('File "') and ", line " in line and "torch/" not in line:
            name, number = line.split('"')[1], line.split(", line ")[1].split(",")[0]
            return f" at {os.path.basename(name)}:{number}"
    others = {Path(torch.__file__).parent, Path(__file__).parent, Path(os.__file__).parent}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if others.isdisjoint(file.parents) and file.is_file():
            return f" at {file.name}:{frame.lineno}"
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch logs and prints while it traces: an error says it once more, in one line. What the model
    prints in a pass that is traced to its end is printed after it."""
    loggers = [logging.getLogger(n) for n in logging.root.manager.loggerDict if n.startswith("torch")]
    before = [(logger, logger.disabled) for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    said = io.StringIO(), io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in before:
            logger.disabled = disabled
    sys.stdout.write(said[0].getvalue())
    sys.stderr.write(said[1].getvalue())
