"""Compare float64 references of dgrad and wgrad with PyTorch's CPU autograd on random problems.

Also compares the vendor's path (``aten::convolution_backward``, in float32). Needs PyTorch (any build, no GPU); exits
with 1 where a problem differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.gradients import predicted, spills, sums, sweeps
from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import by_name
from gpu_tune.errors import GpuTuneError, InvalidInput
from gpu_tune.measure import vendor
from gpu_tune.reference import example_inputs, reference
from gpu_tune.workload import Conv2d

WIDE, SINGLE = 1e-11, 1e-4
"""Largest difference over the largest element that float64 and float32 sums of at most some thousand products have."""


def draw(direction: str, rng: np.random.Generator) -> Conv2d:
    """A small random problem, any stride, padding, dilation, groups and layout."""
    while True:
        groups = int(rng.choice([1, 1, 2, 3]))
        n, c, h, w, k, r, s = (int(rng.integers(1, most)) for most in (4, 5, 13, 13, 5, 5, 5))
        stride, dilation = (tuple(rng.integers(1, most, 2).tolist()) for most in (5, 4))
        more: dict[str, Any] = {"beta": str(rng.choice(["0", "1"]))} if direction == "wgrad" else {}
        more.update(padding=tuple(rng.integers(0, 4, 4).tolist()), layout=str(rng.choice(["nchw", "nhwc"])))
        more.update(stride=stride, dilation=dilation, groups=groups, dtype="float32", direction=direction)
        try:
            return Conv2d(n, c * groups, h, w, k * groups, r, s, **more)
        except InvalidInput:  # the filter does not fit into the image
            continue


def autograd(torch: Any, w: Conv2d, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The gradient in the workload's layout, by differentiating ``torch.nn.functional.conv2d`` in float64."""

    def first(array: np.ndarray) -> Any:
        tensor = torch.from_numpy(np.asarray(array).astype(np.float64))
        return (tensor.permute(0, 3, 1, 2) if w.layout == "nhwc" else tensor).contiguous()

    image = first(arrays["x"]) if "x" in arrays else torch.zeros(w.n, w.c, w.h, w.w, dtype=torch.float64)
    filters = first(arrays["w"]) if "w" in arrays else torch.zeros(w.k, w.c // w.groups, w.r, w.s, dtype=torch.float64)
    wanted = image if w.direction == "dgrad" else filters
    wanted.requires_grad_()
    top, bottom, left, right = w.padding
    padded = torch.nn.functional.pad(image, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, filters, None, w.stride, 0, w.dilation, w.groups)
    (found,) = torch.autograd.grad(y, wanted, first(arrays["dy"]))
    result: np.ndarray = (found.permute(0, 2, 3, 1) if w.layout == "nhwc" else found).numpy()
    return result + np.asarray(arrays["c"]).astype(np.float64) if w.beta == "1" else result


def predictions(devices: list[str], chosen: list[str], target: Path | None) -> int:
    """Print (and write to ``target``) what the default configs are predicted to take; exit code."""
    found = []
    try:
        named = [layer for suite in chosen for layer in predicted.layers(suite)] or predicted.usual()
        for device in map(by_name, devices):
            print(f"{device.name}, default configs, every time predicted", flush=True)
            for row in predicted.outlook(named, device):
                found.append(row)
                print(predicted.line(row), flush=True)
    except GpuTuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write(target, "predicted", [asdict(row) for row in found])
    return 0


def summing(devices: list[str], target: Path | None) -> int:
    """Print (and write to ``target``) what ``dbias`` is predicted to take, in an epilogue and behind it; exit code."""
    found: list[sums.Row] = []
    try:
        for device in map(by_name, devices):
            print(f"{device.name}, default configs, every time predicted: without sums, by two kernels, fused; ratio")
            for row in sums.rows(device):
                found.append(row)
                print(row, flush=True)
    except GpuTuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write(target, "predicted", [asdict(row) for row in found])
    for family in sorted({row.template for row in found}):
        ratios = [row.behind / row.fused for row in found if row.template == family]
        print(f"{family}: two kernels take {np.exp(np.mean(np.log(ratios))):.3f} times as long (geometric mean)")
    return 0


def spilling(devices: list[str], seeds: bool, drawn: int, target: Path | None) -> int:
    """Print (and write to ``target``) registers and spills; exit code: 1 where a config spills."""
    found: list[spills.Row] = []
    try:
        for line in spills.lines(devices, spills.WORKLOADS, seeds, drawn, found):
            print(line, flush=True)
    except GpuTuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write(target, "assembled", [asdict(row) for row in found])
    return int(any(row.spilled for row in found))


def sweeping(directions: list[str], variants: int, seed: int, workers: int | None, target: Path | None) -> int:
    """Print (and write to ``target`` after every family) what random variants found; exit code: 1 where one fails."""
    found: list[sweeps.Swept] = []
    try:
        for direction in directions:
            names = sweeps.families(direction)
            for family, count in zip(names, sweeps.shares(variants, names)):
                row, report = sweeps.swept(direction, family, count, seed, workers)
                found.append(row)
                print(row, *map(str, report.classes.values()), sep="\n    ", flush=True)
                write(target, "emulated", [asdict(row) for row in found])
            print(f"{direction}: {sum(row.variants for row in found if row.direction == direction)} variants had")
            print(*sweeps.coverage([row for row in found if row.direction == direction]), sep="\n", flush=True)
    except GpuTuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(any(row.failures or row.variants == 0 for row in found))


def write(target: Path | None, source: str, rows: list[dict[str, Any]]) -> None:
    """The file of a run, where one was asked for."""
    if target:
        data = {"source": source, "nvrtc": ".".join(map(str, nvrtc.version())), "rows": rows}
        target.write_text(json.dumps(data, indent=1) + "\n")


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.gradients", description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=200, help="a direction")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--predict", metavar="DEVICE", action="append", help="predicted times of a few layers instead")
    parser.add_argument(
        "--suite",
        action="append",
        help="with --predict: layers of this suite (may be repeated; default: six of ResNet-50, nine of MobileNet)",
    )
    parser.add_argument("--spills", action="store_true", help="what ptxas says of defaults and seeds instead")
    parser.add_argument("--defaults", action="store_true", help="with --spills: of defaults alone")
    parser.add_argument("--random", metavar="N", type=int, default=0, help="with --spills: of N random configs a layer")
    parser.add_argument(
        "--sweep", metavar="N", type=int, help="check N random variants a direction by emulator instead"
    )
    parser.add_argument("--sums", metavar="DEVICE", action="append", help="predicted times of dbias instead")
    parser.add_argument("--direction", choices=sweeps.DIRECTIONS, help="with --sweep: this one (default: both)")
    parser.add_argument("--workers", type=int, help="with --sweep: processes (default: the cores)")
    parser.add_argument("--device", action="append", help=f"with --spills (default: {', '.join(spills.DEVICES)})")
    parser.add_argument("--json", type=Path, help="with one of these: write every figure here")
    options = parser.parse_args()
    if options.sums:
        return summing(options.sums, options.json)
    if options.sweep:
        directions = [options.direction] if options.direction else list(sweeps.DIRECTIONS)
        return sweeping(directions, options.sweep, options.seed, options.workers, options.json)
    if options.spills:
        return spilling(options.device or list(spills.DEVICES), not options.defaults, options.random, options.json)
    if options.predict:
        return predictions(options.predict, options.suite or [], options.json)
    try:
        import torch
    except ImportError as error:
        print(f"needs PyTorch: {error}", file=sys.stderr)
        return 2
    wrong = 0
    for direction in ("dgrad", "wgrad"):
        rng, worst = np.random.default_rng([options.seed, *direction.encode()]), [0.0, 0.0]
        for number in range(options.problems):
            w = draw(direction, rng)
            arrays = example_inputs(w, number)
            expected, truth = autograd(torch, w, arrays), reference(w, arrays)
            tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
            served = vendor.run(w, "torch", tensors, {}, None).double().numpy()
            scale = max(1.0, float(np.abs(expected).max()))
            errors = [float(np.abs(found - expected).max()) / scale for found in (truth, served)]
            worst = [max(pair) for pair in zip(worst, errors)]
            if errors[0] > WIDE or errors[1] > SINGLE:
                wrong += 1
                print(f"differs: {w.key}: reference {errors[0]:.2g}, vendor {errors[1]:.2g}")
        told = f"largest difference {worst[0]:.2g} (reference), {worst[1]:.2g} (vendor, float32)"
        print(f"{direction}: {options.problems} problems, {told}")
    return 1 if wrong or not options.problems else 0


if __name__ == "__main__":
    sys.exit(main())
