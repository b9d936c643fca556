"""What the emulator costs and how far it can be trusted: the figures, printed with the marks they are held to.

    python -m bench.emulator --variants 300 --mutants

Emulation against compilation, shapes and seeds a second on PTX that is already there, milliseconds of one 128x128x64
problem, false alarms among random variants that are right, and (``--mutants``) the share of broken synchronisation
instructions that is noticed. Times are of this machine and of one core, whatever else it is doing; milliseconds of CPU
do not count that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from gpu_tune import emulator
from gpu_tune.cuda import device, nvrtc
from gpu_tune.reference import NUMPY, allocate, example_inputs
from gpu_tune.templates.base import Template, render
from gpu_tune.templates.registry import registry
from gpu_tune.verify.sweep import sweep
from gpu_tune.workload import Matmul

SMALL = Matmul(128, 128, 64, dtype="bfloat16", layout="nt")


def small_problem(template: Template, repeats: int = 20) -> str:
    """Milliseconds of one 128x128x64 problem on loaded PTX, all checks on, by seeds early and late."""
    chip = next((d for d in device.KNOWN.values() if template.supported(SMALL, d) is True), None)
    if chip is None or template.op != "matmul":
        return ""
    config = template.default(SMALL, chip)
    module = emulator.Module.load(render(template, config, SMALL, chip), chip.arch)
    plan, out = template.plan(config, SMALL, chip), SMALL.arrays()["out"]
    arrays = {**example_inputs(SMALL), "out": allocate(out)}
    assert out.dtype in NUMPY
    times, busy = [], []
    for seed in range(repeats):
        start, cpu = time.perf_counter(), time.process_time()
        report = module.run(plan, arrays, seed=seed, device=chip)
        times.append(time.perf_counter() - start)
        busy.append(time.process_time() - cpu)
        assert report.ok, report
    wall, cpu = (1e3 * statistics.median(t) for t in (times, busy))
    return f"{template.name} on {chip.name}: {wall:.1f} ms ({cpu:.1f} of CPU), {report.steps} warp instructions"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.emulator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("templates", nargs="*", default=sorted(registry()))
    parser.add_argument("--variants", type=int, default=60, help="random variants of each template")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutants", action="store_true", help="also run bench.mutation")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; NVRTC {'.'.join(map(str, nvrtc.version()))}")
    emulator.Module.load('extern "C" __global__ void empty() {}', "sm_80")  # builds the emulator where it is not built
    ptx = emulated = alarms = variants = runs = 0.0
    for name in options.templates:
        report = sweep(name, variants=options.variants, seed=options.seed, workers=0, assemble_every=0)
        stage = {n: report.stage_seconds.get(n, 0.0) / report.variants for n in ("ptx", "emulator", "references")}
        ptx, emulated = ptx + stage["ptx"] * report.variants, emulated + stage["emulator"] * report.variants
        variants, runs = variants + report.variants, runs + report.runs
        alarms += sum(c.count for c in report.classes.values())
        print(
            f"{name}: {report.variants} variants; a variant's PTX {stage['ptx']:.3f} s, three runs "
            f"{stage['emulator']:.3f} s, references {stage['references']:.3f} s; {len(report.classes)} kinds of failure"
        )
        print("".join(f"  {c}\n" for c in report.classes.values()), end="")
    if ptx > 0.02 * variants:
        share = 100 * emulated / ptx
        print(f"emulation against compilation: three runs {share:.0f} %, one run {share / 3:.0f} % (mark: 25 %)")
    else:
        print("compilation: PTX was in the cache; set GPU_TUNE_CACHE_DIR to an empty folder to time it")
    print(f"(shape, seed) runs on PTX that is there: {runs / emulated:.0f} a second and core")
    for name in options.templates:
        if line := small_problem(registry()[name]):
            print(f"128x128x64, {line} (mark: 20 ms)")
    print(f"failures among {variants:.0f} random variants: {alarms:.0f} (mark: no false alarm in 2000)")
    if options.mutants:
        subprocess.run([sys.executable, "-m", "bench.mutation", *options.templates], check=True)


if __name__ == "__main__":
    main()
