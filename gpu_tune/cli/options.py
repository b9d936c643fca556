"""Options that several commands share: workloads with ranges, devices, stores, output."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click

from .. import text
from ..errors import InvalidInput, require
from ..kernel.emit import figure
from ..plan.size import parse
from ..store.store import Store
from ..store.winner_set import WinnerSet
from ..trial import PREDICTED
from ..workload import REQUIRED, Conv2d, Matmul, Workload

MOST_WORKLOADS = 100_000
_HELP = {
    "m": "Rows of A and of the result; 1..8192: any number of them, known when the kernel is called.",
    "n": "Columns of B and of the result.",
    "k": "Length of the sum.",
    "batch": "Matrices in a batch.",
    "dtype": "Data type of the inputs.",
    "out_dtype": "Data type of the result.",
    "layout": "nn, nt, tn, tt (matmul); nchw, nhwc (conv2d).",
    "lda": "Elements between rows of A.",
    "ldb": "Elements between rows of B.",
    "ldc": "Elements between rows of C and the result.",
    "alignment": "Bytes that every address is a multiple of.",
    "alpha": "1, or any.",
    "beta": "0, 1, or any.",
    "epilogue": "Operations after the sum, such as bias+gelu or scale+clamp(0,6).",
    "scales": "none, tensor, row_col or block128 (int8 and float8 data).",
    "math": "What is permitted beyond strict arithmetic, joined by +: tf32, winograd ...",
    "deterministic": "Whether results must be equal from run to run.",
    "stride": "Stride: 2, or rows x columns: 2x1 (not 2,1).",
    "padding": "Padding: 1, rows x columns: 1x2 (not 1,2), or top, bottom, left, right: 0x1x0x1.",
    "dilation": "Dilation: 1, or rows x columns.",
    "groups": "Groups of channels.",
    "direction": "fprop, dgrad (gradient of the image) or wgrad (of the filters); sizes are those of fprop.",
    "weights": "plain or pretransformed.",
}
_CONV_HELP = {
    "n": "Images.",
    "c": "Input channels.",
    "h": "Rows of an image.",
    "w": "Columns of an image.",
    "k": "Output channels.",
    "r": "Rows of the filter.",
    "s": "Columns of the filter.",
    "beta": "0, 1, or any: what wgrad multiplies an existing gradient by, and adds.",
}
_PAIRS = ("stride", "padding", "dilation")
_CLASSES: dict[str, Any] = {"matmul": Matmul, "conv2d": Conv2d}


def workload_options(op: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds an option for every field of the workload ``op``; the command gets ``workloads``, a list."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(**values: Any) -> Any:
            given = {f.name: values.pop(f"workload_{f.name}") for f in fields(_CLASSES[op])}
            return function(workloads=expand(op, {n: v for n, v in given.items() if v is not None}), **values)

        for f in reversed(fields(_CLASSES[op])):
            flag, required = f"--{f.name.replace('_', '-')}", f.name in REQUIRED[op]
            help_ = (_CONV_HELP if op == "conv2d" else {}).get(f.name) or _HELP[f.name]
            details: dict[str, Any] = {"required": required, "metavar": "N" if required else "VALUE"}
            if f.name == "deterministic":
                flag, details = f"{flag}/--no-deterministic", {"default": None}
            elif not required and f.default not in (MISSING, "", (), 0):
                help_ += f"  [default: {f.default}]"
            run = click.option(flag, f"workload_{f.name}", help=help_, **details)(run)
        return run

    return decorate


def expand(op: str, texts: dict[str, Any]) -> list[Workload]:
    """The workloads that option texts mean; numbers may be ranges ``512:4096:512`` (both ends in) or lists, and one may
    be left open: ``1..8192``."""
    kinds = {f.name: str(f.type) for f in fields(_CLASSES[op])}
    whole = [n for n in texts if kinds[n] == "int"]
    open_ = {n: [size] for n in whole if (size := parse(str(texts[n]), f"--{n}")) is not None}
    only = _CLASSES[op].openable
    for name in open_:
        rule = f"leaves a size open, which only --{only} of a {op} can be"
        require(
            name == only, f"--{name}", texts[name], rule, "give numbers: 512, or 512:4096:512 for several workloads"
        )
    choices = {name: _values(name, kinds[name], text) for name, text in texts.items() if name not in open_} | open_
    count, most = math.prod(map(len, choices.values())), MOST_WORKLOADS
    require(count <= most, "workloads", count, f"are more than {most}", "use shorter ranges")
    points = itertools.product(*choices.values())
    return list(dict.fromkeys(_CLASSES[op](**dict(zip(choices, point))) for point in points))


def _values(name: str, kind: str, text: Any) -> list[Any]:
    if name == "math":
        return [tuple(p for p in text.split("+") if p)]
    if name == "epilogue" or isinstance(text, bool):
        return [text]
    parts = text.split(",")
    if name in _PAIRS:
        one = len(parts) == 1 or any("x" in part for part in parts)  # else a pair is meant as likely as two workloads
        remedy = f"write {'x'.join(parts)} for one workload, or a list such as 1x1,2x2 for several"
        require(one, f"--{name}", text, "is a list, whose every number would be a workload of its own", remedy)
        return [_pair(name, part) for part in parts]
    return [n for part in parts for n in numbers(f"--{name.replace('_', '-')}", part)] if kind == "int" else parts


def numbers(option: str, words: str, open_size: str = "an open size stands alone, as in 1..8192") -> list[int]:
    """``7``, or ``start:stop`` and ``start:stop:step`` with both ends in; ``open_size``: the remedy for ``1..8192``."""
    try:
        parts = [int(p) for p in words.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1:
        return parts
    step = parts[2] if len(parts) == 3 else 1
    if len(parts) not in (2, 3) or step < 1 or parts[1] < parts[0]:
        several = "write 512, or 1,2,4, or 512:4096:512"
        remedy = open_size if ".." in words else several
        raise InvalidInput(option, words, "is not a number, a list or a range", remedy)
    if (parts[1] - parts[0]) // step >= MOST_WORKLOADS:
        raise InvalidInput(option, words, f"has more than {MOST_WORKLOADS} values", "use a larger step")
    return list(range(parts[0], parts[1] + 1, step))


def _pair(name: str, text: str) -> Any:
    try:
        values = tuple(int(p) for p in text.split("x"))
    except ValueError:
        raise InvalidInput(f"--{name}", text, "is not a number or numbers joined by x", "write 1, or 1x2") from None
    return values[0] if len(values) == 1 else values


device_option = click.option(
    "--device", metavar="NAME", help="A chip by name, such as nvidia-h200; default: the GPU here, else a model."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON alone on standard output.")
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="The search is a function of seed and records."
)
store_option = click.option(
    "--store",
    metavar="FOLDER",
    callback=lambda context, option, folder: Store(folder or None),
    help="Winners go here instead of the user's store.",
)
"""The command gets a Store: the named one, else the user's."""


def _add_families(context: click.Context, option: click.Parameter, folders: tuple[str, ...]) -> None:
    """Name ``folders`` in the environment, where worker processes find them, too."""
    for folder in folders:
        remedy = "name a folder that holds <name>.py and <name>.cu.j2"
        require(Path(folder).is_dir(), "--templates", folder, "is not a folder", remedy)
    if folders:
        from ..templates.outside import VARIABLE

        known = filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys((*(os.path.abspath(f) for f in folders), *known)))


templates_option = click.option(
    "--templates",
    metavar="FOLDER",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_add_families,
    help="Also use the kernel families (pairs of <name>.py and <name>.cu.j2) in this folder; may be repeated.",
)


def read_text(option: str, name: str, remedy: str) -> str:
    """The text of the file that an option names; InvalidInput when it cannot be read."""
    try:
        return text.read(name)
    except OSError as error:
        raise InvalidInput(option, name, f"cannot be read ({error.strerror})", remedy) from error


def check_report(name: str) -> None:
    """InvalidInput unless an HTML page can be written to ``name`` and matplotlib is there to draw its figures."""
    path = Path(name).absolute()
    require(path.parent.is_dir(), "--report", name, "is in a folder that does not exist", "make it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidInput("--report", name, "cannot be written", "name another file")
    require(
        importlib.util.find_spec("matplotlib"), "--report", name, "needs matplotlib", "pip install 'gpu_tune[report]'"
    )


def echo_json(value: Any) -> None:
    """``value`` as JSON on standard output."""
    click.echo(json.dumps(value, indent=1, sort_keys=True, default=str))


def console() -> Any:
    """A rich console on standard output that leaves numbers as they are."""
    from rich.console import Console

    return Console(highlight=False)


def print_lines(title: str, lines: Iterable[tuple[str, str]]) -> None:
    """Named texts (rich's markup) below a title, each wrapped beside its name."""
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, value)
    console().print(table)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    right: Collection[str] = (),
    lines: bool = True,
    apart: Collection[str] = (),
) -> None:
    """Print a table. ``right``: the columns of numbers; ``lines``: whether it has a frame; ``apart``: the columns that
    get a line of their own where the terminal is too narrow for all."""
    from ..report.tables import Table

    console().print(Table(columns, list(rows), title, right, lines, apart))


def config_text(template: str, config: Mapping[str, Any]) -> str:
    """The knobs of a config and their values, in the order in which the template declares them where it is known, with
    blanks at which a line may break."""
    from ..templates.registry import registry

    family = registry().get(template)
    order = [name for name in (family.knob if family else ()) if name in config]
    names = dict.fromkeys((*order, *config))
    return " ".join(f"{name}={config[name]}" for name in names)


def announce_emulator() -> None:
    """Say on standard error that the emulator is built now, where that is so; CompilerMissing where it cannot be."""
    from ..emulator import build

    if not build.ready():
        build.announce()


def whole_numbers(option: str, text: str | None) -> list[int] | None:
    """The numbers in ``16,64,256`` (or ranges, as :func:`numbers`); None where nothing is given."""
    remedy = "write the sizes to tune, as in 1,16,256; bounds belong to the size that is open, as in --m 1..8192"
    return None if text is None else [n for part in text.split(",") for n in numbers(option, part, remedy)]


def set_facts(winners: WinnerSet, path: Path | None) -> dict[str, Any]:
    """What a set of winners holds, as plain data."""
    name = winners.size.name
    ranges = []
    for part in winners.ranges:
        kernel = winners.kernels[part.kernel]
        tuned = getattr(kernel.workload, name)
        told = kernel.seconds > 0 and (winners.source != PREDICTED or bool(kernel.environment.get("judged")))
        ranges.append(
            {
                "least": part.least,
                "most": part.most,
                "tuned": tuned,
                "template": kernel.template,
                "config": dict(kernel.config),
                "figure": figure(kernel.seconds, winners.source, kernel.environment),
                "seconds": kernel.seconds if told else None,
                "ours": part.ours,
                "judged": list(part.judged),
                "file": f"{part.kernel}.cu",
            }
        )
    return {
        "workload": winners.workload.key,
        "chip": winners.chip,
        "source": winners.source,
        "open": name,
        "sizes": list(winners.sizes),
        "ranges": ranges,
        "trials": winners.trials,
        "spent": winners.spent,
        "complete": winners.complete,
        "path": str(path) if path else None,
    }


def print_set(facts: dict[str, Any]) -> None:
    """The ranges of a set of winners, and below each kernel's first one its config."""
    from rich.padding import Padding
    from rich.text import Text

    name = facts["open"]
    console().print(Text(f"{facts['workload']} on {facts['chip']}", "italic"))
    shown: set[str] = set()
    known = "predicted" if facts["source"] == PREDICTED else "timed"
    for r in facts["ranges"]:
        sizes = f"{r['least']}..{r['most']}" if r["most"] > r["least"] else str(r["least"])
        words = f"{r['file']}, {r['template']}, {known} at {r['tuned']}"
        vendor = "" if r["ours"] == "unknown" else f"; {r['ours']} than the vendor library"
        console().print(Text.assemble((f"{name} = {sizes}", "bold"), f"  {words}{vendor}"))
        if r["file"] not in shown:
            told = Text(f"{r['figure']} at {name} = {r['tuned']}\n").append(
                config_text(r["template"], r["config"]), "bright_black"
            )
            console().print(Padding(told, (0, 0, 0, 2)))
        shown.add(r["file"])
    mark = "predicted, not measured" if facts["source"] == PREDICTED else "measured"
    sizes = ", ".join(map(str, facts["sizes"]))
    rest = "" if facts["complete"] else " (interrupted: the same call goes on)"
    console().print(f"{mark}; tuned at {name} = {sizes}, {facts['trials']} trials in {facts['spent']:.1f} s{rest}")
    console().print(f"[bright_black]kernels[/bright_black]  {facts['path'] or 'not kept'}", soft_wrap=True)
