"""Warp instructions a second, all checks on, against an earlier commit in the same run and on the same PTX.

    python -m bench.emulator.speed --rounds 5          # some minutes; needs git, g++ and NVRTC

Wanted: mma.sync and wgmma + TMA kernels at 2 times the earlier commit, SIMT at 1.3 times, and a kernel that stores C
through TMA at no less than half of the same kernel with ordinary stores. CPU time of one process, the best of several
seeds; the versions take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BEFORE = "0fc5959"
MARKS = {"simt": 1.3, "mma": 2.0, "wgmma": 2.0}
SHARE = 0.5
"""Of the speed with ordinary stores, what the one with TMA stores has to keep."""


def problems() -> dict[str, Any]:
    """By name: the PTX, the launch plan as JSON and the arrays by name."""
    from gpu_tune.cuda import device, nvrtc
    from gpu_tune.reference import allocate, example_inputs
    from gpu_tune.space.knob import Config, Value
    from gpu_tune.templates.base import render
    from gpu_tune.templates.registry import registry
    from gpu_tune.workload import Matmul

    h100 = device.by_name("h100")
    long, short = (Matmul(1024, n, k, dtype="bfloat16", layout="nt") for n, k in ((512, 512), (1024, 64)))
    tries: dict[str, tuple[str, Matmul, dict[str, Value]]] = {
        "simt": ("matmul_simt", Matmul(256, 256, 256, dtype="float32"), {}),
        "mma": ("matmul_mma", Matmul(512, 512, 512, dtype="bfloat16", layout="nt"), {}),
        "wgmma": ("matmul_wgmma", long, {}),
        "wgmma, short K, TMA store": ("matmul_wgmma", short, {"epilogue_store": "staged"}),
        "wgmma, short K, plain store": ("matmul_wgmma", short, {"epilogue_store": "direct"}),
    }
    made = {}
    for name, (template_name, workload, changes) in tries.items():
        template = registry()[template_name]
        chosen = Config(template.default(workload, h100), **changes)
        ptx = nvrtc.to_ptx(render(template, chosen, workload, h100), h100.arch, lineinfo=True).data.decode()
        arrays = {**example_inputs(workload), "out": allocate(workload.arrays()["out"])}
        made[name] = (ptx, template.plan(chosen, workload, h100).to_json(), arrays)
    return made


def child(data: str, seeds: int) -> None:
    """In a version's own process: one line of JSON, instructions a second by name."""
    from gpu_tune import emulator
    from gpu_tune.plan import LaunchPlan

    fastest: dict[str, float] = {}
    for name, (ptx, plan, arrays) in pickle.loads(Path(data).read_bytes()).items():
        module, steps = emulator.Module.load(ptx), LaunchPlan.from_json(plan)
        for seed in range(seeds):
            start = time.process_time()
            report = module.run(steps, arrays, seed=seed)
            fastest[name] = max(fastest.get(name, 0.0), report.steps / (time.process_time() - start))
            assert not report.findings, report
    print(json.dumps(fastest))


def measured(root: Path, data: Path, seeds: int) -> dict[str, float]:
    env = {**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", str(data), "--seeds", str(seeds)]
    done = subprocess.run(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.emulator.speed", description=__doc__)
    parser.add_argument("--before", default=BEFORE, help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.seeds)
    with tempfile.TemporaryDirectory() as folder:
        earlier, data = Path(folder) / "earlier", Path(folder) / "problems"
        data.write_bytes(pickle.dumps(problems()))
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(earlier), options.before], check=True)
        try:
            before: dict[str, float] = {}
            now: dict[str, float] = {}
            for _ in range(options.rounds):
                for root, best in ((earlier, before), (ROOT, now)):
                    for name, speed in measured(root, data, options.seeds).items():
                        best[name] = max(best.get(name, 0.0), speed)
        finally:
            subprocess.run([*git, "remove", "--force", str(earlier)], check=True)
    for name, speed in now.items():
        ratio = speed / before[name]
        mark = f" (mark: {MARKS[name]}: {'met' if ratio >= MARKS[name] else 'missed'})" if name in MARKS else ""
        print(f"{name}: {before[name] / 1e6:.2f} -> {speed / 1e6:.2f} M/s, {ratio:.2f} times{mark}")
    stores = [now[f"wgmma, short K, {kind} store"] for kind in ("TMA", "plain")]
    share = stores[0] / stores[1]
    print(f"TMA store of C: {share:.2f} of plain stores (mark: {SHARE}: {'met' if share >= SHARE else 'missed'})")


if __name__ == "__main__":
    main()
