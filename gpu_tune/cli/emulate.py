"""``gpu-tune emulate``: a first look at any kernel, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from ..errors import InvalidInput, require
from . import options

_HELP = """Run one kernel of FILE (CUDA C++ or PTX) on the CPU and say what is wrong with it.

Each --arg is the kernel's next argument: float32[1024] (an array of random numbers), zeros:float32[64,64],
arange:int32[1024], data.npy (an array of that file), int32=5 or float32=0.5 (a number), or null (a null pointer).
"""


@click.command(help=_HELP)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--kernel", default="", help="Its name or a regular expression  [default: the only one].")
@click.option("--grid", default="1", show_default=True, help="Blocks: x, x,y or x,y,z.")
@click.option("--block", default="32", show_default=True, help="Threads of a block, likewise.")
@click.option("--cluster", default="1", show_default=True, help="Blocks of a cluster, likewise.")
@click.option("--shared", type=click.IntRange(0), default=0, show_default=True, help="Bytes of dynamic shared memory.")
@click.option("--arg", "args", multiple=True, help="An argument of the kernel, in order.")
@click.option("--cooperative", is_flag=True, help="All blocks are resident and may meet at a barrier of the grid.")
@click.option("--device", default="nvidia-h200", show_default=True, help="The chip that the source is compiled for.")
@click.option("--option", "compiler", multiple=True, help="An option for NVRTC, such as -Iinclude.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the data and the interleavings.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Interleavings that are tried.")
@click.option("--ignore", multiple=True, help="A kind of findings that is not reported.")
@click.option("--save", type=click.Path(file_okay=False, path_type=Path), help="Keep the arrays after the run here.")
@options.json_option
def command(
    file: Path,
    kernel: str,
    grid: str,
    block: str,
    cluster: str,
    shared: int,
    args: tuple[str, ...],
    cooperative: bool,
    device: str,
    compiler: tuple[str, ...],
    seed: int,
    seeds: int,
    ignore: tuple[str, ...],
    save: Path | None,
    as_json: bool,
) -> None:
    """Exit code 1 when an interleaving has errors or gives other results than the first."""
    from ..emulator import emulate

    rng = np.random.default_rng(seed)
    values = [_argument(text, rng) for text in args]
    source = file.read_text(errors="replace")
    run: dict[str, Any] = {"grid": _dims("grid", grid), "block": _dims("block", block), "args": values}
    run |= {"shared": shared, "cluster": _dims("cluster", cluster), "cooperative": cooperative}
    run |= {"device": device, "options": compiler, "ignore": ignore}
    options.announce_emulator()
    reports = [emulate(source, kernel, seed=seed + k, **run) for k in range(seeds)]
    first = reports[0]
    arrays = _results(first)
    differs = sorted({n for r in reports for n, a in _results(r).items() if a.tobytes() != arrays[n].tobytes()})
    findings = list({(f.kind, f.message): f for r in reports for f in r.findings}.values())
    if save is not None:
        try:
            save.mkdir(parents=True, exist_ok=True)
            for name, array in arrays.items():
                np.save(save / f"{name}.npy", array)
        except OSError as error:
            rule = f"cannot be written ({error.strerror or error})"
            raise InvalidInput("--save", str(save), rule, "name a folder that you can write") from None
    ok = all(r.ok for r in reports)
    if as_json:
        told = [{name: getattr(f, name) for name in ("kind", "level", "message", "count")} for f in findings]
        facts = {"ok": ok, "findings": told, "printed": first.printed, "steps": first.steps, "differs": differs}
        options.echo_json({**facts, "instructions": first.instructions, "seconds": sum(r.seconds for r in reports)})
    else:
        click.echo(first.printed, nl=False)
        for finding in findings:
            click.echo(str(finding))
        for name in differs:
            click.echo(f"{name} is not the same in every interleaving")
        for name, array in arrays.items():
            click.echo(f"{name}: {array.dtype} {list(array.shape)} {_shown(array)}")
        verdict = "no errors" if ok else "errors"
        seconds = sum(r.seconds for r in reports)
        click.echo(f"{verdict} in {seeds} interleavings; {first.steps} warp instructions each, {seconds:.2f} s")
    if not ok or differs:
        raise SystemExit(1)


def _results(report: Any) -> dict[str, np.ndarray]:
    return {f"arg{k}": a for k, a in enumerate(report.results) if a is not None}


def _shown(array: np.ndarray) -> str:
    flat = array.reshape(-1)
    return ", ".join(f"{x}" for x in flat[:6]) + (", ..." if flat.size > 6 else "")


def _dims(what: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise InvalidInput(f"--{what}", text, "is not one to three numbers", "write 4 or 4,2,1") from None


def _argument(text: str, rng: np.random.Generator) -> Any:
    """What an --arg says."""
    if text == "null":
        return None
    if text.endswith(".npy"):
        require(Path(text).exists(), "--arg", text, "does not exist")
        return np.load(text, allow_pickle=False)
    kind, colon, rest = text.partition(":")
    if not colon:
        kind, rest = "random", text
    name, bracket, sizes = rest.rstrip("]").partition("[")
    name, equals, number = name.partition("=")
    rule, remedy = "is no argument", "write float32[1024], zeros:float32[64,64], data.npy, int32=5 or null"
    require(bool(bracket) != bool(equals) and kind in ("random", "zeros", "arange"), "--arg", text, rule, remedy)
    try:
        dtype = _dtype(name)
        if equals:
            return dtype.type(float(number)) if dtype.kind not in "iub" else dtype.type(int(number, 0))
        shape = _dims("arg", sizes)
        require(min(shape) >= 0, "--arg", text, rule, remedy)
        return _array(kind, dtype, shape, rng)
    except (TypeError, ValueError, OverflowError, AttributeError):
        raise InvalidInput("--arg", text, rule, remedy) from None
    except MemoryError:
        raise InvalidInput("--arg", text, "is more than this machine's memory holds", "give a smaller one") from None


def _array(kind: str, dtype: np.dtype[Any], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if kind == "zeros":
        return np.zeros(shape, dtype)
    if kind == "arange":
        return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    if dtype.kind in "iub":
        return rng.integers(0, 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
