"""Does the emulator do what the hardware does? Dumps of each special instruction, and what else only a GPU tells.

    python -m bench.conformance check                      on a machine with a GPU: dump, emulate, compare, and the rest
    python -m bench.conformance dump gpu.npz               the GPU's half (needs no C++ compiler)
    python -m bench.conformance emulate cpu.npz --cc 90    the emulator's half (needs no GPU)
    python -m bench.conformance compare cpu.npz gpu.npz

Compute capability 9.0 runs every case, others those that they have. ``check`` also tries what else only hardware tells:

* that NVRTC's cubins of every template's default load with this machine's driver and compute what the reference says
  (tensor maps by value, clusters, dynamic shared memory, argument order);
* the newest matmul template at 4096 and 8192 cubed (``--sizes``): its default and its seeds, verified and re-timed in
  interleaved CUDA graphs against the fastest algorithm of cuBLASLt, as the product confirms a winner;
* with ``--archive tests/bench/fixtures/hardware-cc90.npz`` the dump of the GPU is kept: a fixture from then on,
  with which ``tests/bench/test_conformance.py`` compares the emulator.

The emulator's semantics are written from NVIDIA's documents; **no dump of a GPU has confirmed them yet**.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bench.conformance.cases import Case, all_cases
from bench.conformance.gpu import Runner
from gpu_tune import emulator
from gpu_tune.cuda import device as devices
from gpu_tune.cuda import driver, nvrtc
from gpu_tune.cuda.device import Device
from gpu_tune.errors import GpuTuneError
from gpu_tune.measure.select import make_measurer
from gpu_tune.reference import NUMPY, compare, example_inputs, example_scalars
from gpu_tune.templates.base import Template, render
from gpu_tune.templates.registry import registry
from gpu_tune.trial import Candidate
from gpu_tune.workload import Conv2d, Matmul, Workload

Dump = dict[str, np.ndarray]
CHIPS = {
    75: "nvidia-t4",
    80: "nvidia-a100",
    86: "nvidia-rtx-3090",
    89: "nvidia-rtx-4090",
    90: "nvidia-h200",
    120: "nvidia-rtx-5090",
}


SIZES = (4096, 8192)
FLAGSHIPS = 8
"""Configs of the newest matmul template that compete at most."""
WRITTEN = ("out", "workspace")
"""The buffers that a case's kernel writes."""


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def emulated(cases: list[Case], chip: Device) -> Dump:
    """Every writable array of every case after an emulated run."""
    found: Dump = {}
    for case in cases:
        report = emulator.run_plan(case.source, case.plan, case.arrays, arch=chip.arch, device=chip)
        if report.findings:
            print(f"emulator, {case.name}: {report}", file=sys.stderr)
        found.update({f"{case.name}/{n}": _bytes(report.arrays[n]) for n in WRITTEN if n in case.arrays})
    return found


def on_gpu(cases: list[Case], chip: Device, runner: Runner) -> Dump:
    """The same on GPU 0. A case that fails to run is left out and said."""
    found: Dump = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        built = [pool.submit(nvrtc.to_cubin, case.source, chip.arch) for case in cases]
        for case, made in zip(cases, built):
            try:
                arrays = runner.run(made.result().data, case.plan, case.arrays, {})
            except GpuTuneError as error:
                print(f"GPU, {case.name}: {error}", file=sys.stderr, flush=True)
                continue
            found.update({f"{case.name}/{n}": _bytes(arrays[n]) for n in WRITTEN if n in arrays})
    return found


def differences(cases: list[Case], a: Dump, b: Dump) -> list[str]:
    """One line per case whose dumps differ, or that only one side has."""
    tolerances = {c.name: c.tolerance for c in cases}
    found = []
    for key in sorted(a.keys() | b.keys()):
        name = key.rsplit("/", 1)[0]
        if key not in a or key not in b:
            found.append(f"{key}: only in the {'second' if key in b else 'first'} dump")
        elif tolerances.get(name):
            x, y = (d[key].view(np.float32).astype(np.float64) for d in (a, b))
            worst = float(np.max(np.abs(x - y) / np.maximum(np.abs(x), 1e-30)))
            if not worst <= tolerances[name]:
                found.append(f"{key}: differs by {worst:.3g}, more than {tolerances[name]:.3g}")
        elif a[key].tobytes() != b[key].tobytes():
            x, y = a[key].reshape(-1), b[key].reshape(-1)
            wrong = np.flatnonzero(x != y) if x.size == y.size else np.arange(1)
            found.append(f"{key}: {len(wrong)} of {x.size} bytes differ, the first at {wrong[0]}")
    return found


def example(op: str) -> list[Workload]:
    """Small workloads with tails, one of which each template supports."""
    if op == "matmul":
        return [
            Matmul(200, 136, 328, dtype="bfloat16", layout="nt", epilogue="bias+gelu"),
            Matmul(77, 93, 45, dtype="float32"),
        ]
    return [
        Conv2d(2, 32, 14, 14, 48, 3, 3, padding=1, dtype=t, layout=y, math=m)
        for t in ("float16", "float32")
        for y in ("nhwc", "nchw")
        for m in ((), ("winograd",))
    ]


def run_template(template: Template, chip: Device, runner: Runner) -> tuple[bool, str]:
    """The default kernel of a template on the GPU, against the reference: whether it is right, and in words."""
    workload = next((w for w in example(template.op) if template.supported(w, chip) is True), None)
    if workload is None:
        return True, "supports none of the examples here"
    config = template.default(workload, chip)
    plan = template.plan(config, workload, chip)
    cubin = nvrtc.to_cubin(render(template, config, workload, chip), chip.arch).data
    arrays, scalars, out = example_inputs(workload), example_scalars(workload), workload.arrays()["out"]
    arrays["out"] = np.zeros(out.shape, NUMPY[out.dtype])
    if plan.workspace_bytes:
        arrays["workspace"] = np.zeros(plan.workspace_bytes, np.uint8)
    result = runner.run(cubin, plan, arrays, scalars)["out"]
    verdict = compare(result, workload, arrays, scalars, numerics=template.numerics(config, workload))
    return verdict.ok, str(verdict)


def against_vendor(chip: Device, workload: Matmul, rounds: int = 11) -> tuple[bool, str]:
    """A product by the newest matmul template: is it right, and how fast beside cuBLASLt.

    The default and the seeds compete; each is verified before it is timed. Right: none of them was wrong or failed.
    """
    able = [t for t in registry().values() if t.op == "matmul" and t.supported(workload, chip) is True]
    template = max(able, key=lambda t: t.min_cc)
    configs = dict.fromkeys([template.default(workload, chip), *template.seeds(workload, chip)])
    candidates = [Candidate(template.name, c) for c in configs if not template.violations(c, workload, chip)]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu_tune-conformance-"))
        opened: Any = make_measurer(workload, kind="gpu", store=folder, baselines=("cublaslt",))
        found = stack.enter_context(opened).finals(candidates[:FLAGSHIPS], rounds=rounds)
    bad = [f"{c.name}: {c.status} {c.reason}" for c in found.finalists if c.candidate is not None and not c.ok]
    lines = [f"{template.name}: {found}"]
    for finalist in found.finalists:
        if finalist.samples:
            seconds = float(np.median(finalist.samples))
            rate = f"{seconds * 1e6:.1f} us, {workload.flops / seconds / 1e12:.0f} TFLOP/s"
            lines.append(f"  {finalist.label or finalist.name}: {rate}")
    return found.winner is not None and not bad, "\n".join([*lines, *(f"  {b}" for b in bad)])


def check(sizes: Sequence[int] = SIZES, archive: Path | None = None) -> int:
    """Everything on this machine's GPU; 0 when all agrees. ``archive``: where the GPU's dump goes."""
    chip = driver.detect_device()
    if chip is None:
        print("no GPU: 'emulate' is the half that runs here, and nothing is confirmed by it", file=sys.stderr)
        return 2
    cases = [c for c in all_cases() if c.runs_on(chip.cc)]
    found = []
    with Runner() as runner:
        dump = on_gpu(cases, chip, runner)
        if archive is not None:
            archive.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(archive, **dump)  # type: ignore[arg-type]
        print(f"{chip.product}: {len(cases)} cases, {len({k.rsplit('/', 1)[0] for k in dump})} of them ran", flush=True)
        checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
            (t.name, functools.partial(run_template, t, chip, runner))
            for t in registry().values()
            if chip.cc >= t.min_cc and t.only_cc in (0, chip.cc)
        ]
        for size in sizes:
            large = Matmul(size, size, size, dtype="bfloat16", layout="nt")
            checks.append((large.key, functools.partial(against_vendor, chip, large)))
        for name, run in checks:
            try:
                right, told = run()
            except GpuTuneError as error:
                right, told = False, f"failed: {error}"
            print(f"{name}: {told}", flush=True)
            found += [] if right else [f"{name}: {told}"]
    try:  # last, as it needs no GPU, but a C++ compiler: the archive allows it anywhere
        differ = differences(cases, emulated(cases, chip), dump)
    except GpuTuneError as error:
        print(f"not compared with the emulator: {error}")
        return 1
    print("".join(f"  {line}\n" for line in differ), end="")
    print(f"{len(cases)} cases, {len({d.rsplit('/', 1)[0] for d in differ})} differ from the emulator")
    return 1 if found or differ else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.conformance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    everything = verbs.add_parser("check")
    everything.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="large products, against cuBLASLt")
    everything.add_argument("--archive", type=Path, help="keep the GPU's dump here")
    verbs.add_parser("dump").add_argument("file", type=Path)
    emulate = verbs.add_parser("emulate")
    emulate.add_argument("file", type=Path)
    emulate.add_argument("--cc", type=int, default=90, choices=CHIPS)
    both = verbs.add_parser("compare")
    both.add_argument("first", type=Path)
    both.add_argument("second", type=Path)
    options = parser.parse_args()
    if options.verb == "check":
        return check(options.sizes, options.archive)
    if options.verb == "compare":
        with np.load(options.first) as a, np.load(options.second) as b:
            found = differences(all_cases(), dict(a), dict(b))
            print("".join(f"{line}\n" for line in found) + f"{len(a.files)} arrays, {len(found)} differ")
        return 1 if found else 0
    chip = driver.detect_device() if options.verb == "dump" else devices.by_name(CHIPS[options.cc])
    if chip is None:
        print("no GPU", file=sys.stderr)
        return 2
    cases = [c for c in all_cases() if c.runs_on(chip.cc)]
    if options.verb == "dump":
        with Runner() as runner:
            dump = on_gpu(cases, chip, runner)
    else:
        dump = emulated(cases, chip)
    np.savez_compressed(options.file, **dump)  # type: ignore[arg-type]
    print(f"{len(cases)} cases, {len(dump)} arrays written to {options.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
