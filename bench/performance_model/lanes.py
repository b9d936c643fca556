"""How many memory instructions of our kernels are known by their lanes' addresses, and what a prediction costs.

    python -m bench.performance_model.lanes --variants 12 --seed 0 --json lanes.json

For each kernel family and device, random valid configs of ordinary workloads are compiled with line information, and
``gpu_tune.model.performance.lanes_of`` says what it knows: memory instructions matched (of all, and of those in the hot
loop), and the share of wavefronts of shared memory that bank conflicts cost there. Then the CPU time of a prediction
beside the compile's in the same process, by family and over all variants of all families: (a) decoding and playing
alone (``predict``), (b) the same with the lanes' addresses, for which one block is emulated (``lanes_of``). Either
knows nothing of the variant; which comes first changes from one variant to the next. No GPU is needed.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gpu_tune.cuda import cubin as cubins
from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import Device, by_name
from gpu_tune.errors import GpuTuneError
from gpu_tune.model.performance import main_step, predict
from gpu_tune.model.performance.lanes import KernelLanes, lanes_of
from gpu_tune.templates.base import Template
from gpu_tune.templates.bound import BoundTemplate, Rendered
from gpu_tune.templates.registry import registry
from gpu_tune.verify.draw import random_config
from gpu_tune.workload import Conv2d, Matmul, Workload

DEVICES = ("nvidia-a100", "nvidia-h200")
_DTYPES = ("float16", "bfloat16", "float32", "int8", "float8_e4m3")
_MATH = ((), ("tf32",), ("winograd",))
_MATMUL: tuple[dict[str, Any], ...] = (
    {"m": 4096, "n": 4096, "k": 4096},
    {"m": 512, "n": 2048, "k": 1024},
    {"m": 1000, "n": 2048, "k": 520},
)
_CONV: tuple[dict[str, Any], ...] = (
    {"n": 16, "c": 64, "h": 56, "w": 56, "k": 64, "r": 3, "s": 3, "padding": 1},
    {"n": 8, "c": 128, "h": 28, "w": 28, "k": 256, "r": 1, "s": 1},
    {"n": 4, "c": 64, "h": 32, "w": 32, "k": 96, "r": 5, "s": 5, "padding": 2, "stride": 2},
    {"n": 8, "c": 96, "h": 56, "w": 56, "k": 96, "r": 3, "s": 3, "padding": 1, "groups": 96},
    {"n": 8, "c": 96, "h": 28, "w": 28, "k": 96, "r": 5, "s": 5, "padding": 2, "groups": 96},
    {"n": 8, "c": 64, "h": 28, "w": 28, "k": 64, "r": 3, "s": 3, "padding": 1, "direction": "dgrad"},
    {"n": 8, "c": 64, "h": 28, "w": 28, "k": 64, "r": 3, "s": 3, "padding": 1, "direction": "wgrad"},
)


def workloads() -> Iterator[Workload]:
    """Ordinary sizes in every layout, dtype and permission that makes a workload."""
    kinds = [(Matmul, _MATMUL, ("nn", "nt", "tn", "tt")), (Conv2d, _CONV, ("nhwc", "nchw"))]
    for kind, sizes, layouts in kinds:
        for size, layout, dtype, math in product(sizes, layouts, _DTYPES, _MATH):
            try:
                yield kind(**size, layout=layout, dtype=dtype, math=math)
            except GpuTuneError:
                continue


def variants(template: Template, device: Device, count: int, seed: int) -> Iterator[tuple[BoundTemplate, Rendered]]:
    """Up to ``count`` random configs, each of another workload; a pure function of ``seed``."""
    rng = np.random.default_rng([seed, *template.name.encode(), *device.name.encode()])
    known = [w for w in workloads() if template.supported(w, device) is True]
    for i in rng.permutation(len(known)):
        config = random_config(template, known[i], device, rng)
        if config is None:
            continue
        bound = BoundTemplate(template, known[i], device)
        yield bound, bound.render(config)
        count -= 1
        if not count:
            return


@dataclass
class Tally:
    """What is known of one family's variants. ``costs``: CPU seconds of the compile, of a prediction without lanes, of
    the lanes, and of a prediction with them, by variant."""

    variants: int = 0
    accesses: int = 0
    matched: int = 0
    hot: int = 0
    hot_matched: int = 0
    wavefronts: float = 0.0
    least: float = 0.0
    costs: list[tuple[float, float, float, float]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(self, program: cubins.Program, found: KernelLanes) -> None:
        for name in ("accesses", "matched", "hot", "hot_matched"):
            setattr(self, name, getattr(self, name) + getattr(found, name))
        first, last = program.hot_loop or (0, len(program) - 1)
        for index, wavefronts in found.shared.items():
            if first <= index <= last:
                self.wavefronts += wavefronts
                self.least += min(wavefronts, max(1.0, program.width[index] / 4))
        if found.reason:
            self.reasons.append(found.reason)

    def shares(self) -> dict[str, float]:
        """Of accesses that are known, of the hot loop's, and of its wavefronts that bank conflicts cost."""
        return {
            "known": self.matched / max(1, self.accesses),
            "hot": self.hot_matched / max(1, self.hot),
            "conflicts": 1 - self.least / self.wavefronts if self.wavefronts else 0.0,
        }

    def row(self) -> list[str]:
        found = cost(self.costs)
        return [
            f"{self.variants}",
            *(f"{share:.1%}" for share in self.shares().values()),
            f"{found['compile ms']:.0f}",
            f"{found['alone']['ms']:.1f}",
            f"{found['alone']['median']:.1%}",
            f"{found['alone']['95 %']:.1%}",
            f"{found['with lanes']['ms']:.1f}",
            f"{found['with lanes']['median']:.1%}",
            f"{found['with lanes']['95 %']:.1%}",
        ]


HEAD = (
    ("variants", 9), ("known", 8), ("hot", 8), ("conflicts", 10), ("compile ms", 12), ("(a) ms", 8), ("median", 8),
    ("95 %", 7), ("(b) ms", 8), ("median", 8), ("95 %", 7),
)  # fmt: skip
MARKS = {"median": 0.03, "95 %": 0.15}
"""Of the compile's CPU time that a prediction may add."""
WAYS = {"alone": "(a) decoding and playing alone", "with lanes": "(b) with lanes' addresses"}


def cost(costs: Sequence[tuple[float, float, float, float]]) -> dict[str, Any]:
    """Of (compile, prediction without lanes, lanes, prediction with them) seconds by variant: for each of WAYS shares
    of the compile's time and the median in milliseconds."""
    compiled, alone, lanes, played = np.array(costs).T
    found: dict[str, Any] = {"variants": len(costs), "compile ms": 1e3 * float(np.median(compiled))}
    for way, spent in (("alone", alone), ("with lanes", lanes + played)):
        share = spent / compiled
        found[way] = {
            "median": float(np.median(share)),
            "95 %": float(np.quantile(share, 0.95)),
            "ms": 1e3 * float(np.median(spent)),
        }
    return found


def judge(template: Template, devices: Sequence[Device], count: int, seed: int) -> Tally:
    """The tally of ``count`` variants a device."""
    tally = Tally()
    for device in devices:
        for bound, rendered in variants(template, device, count, seed):
            to_cubin = functools.partial(nvrtc.to_cubin, rendered.source, device.arch, options=("-lineinfo",))
            compiled, made = _timed(to_cubin)
            cubin, plan = made.data, rendered.plan
            sizes = {name: array.nbytes for name, array in bound.computed.arrays().items()}
            kernels = {main_step(plan, rendered.estimate).kernel}
            rest = plan, rendered.estimate, bound.computed, device
            again = cubin + b"\0"  # a byte behind the ELF makes it new to the caches, and nothing else

            def alone(again: bytes = again, rest: tuple[Any, ...] = rest) -> float:
                return _timed(functools.partial(predict, again, *rest))[0]

            first = alone() if tally.variants % 2 else None
            took, found = _timed(functools.partial(lanes_of, cubin, plan, sizes, kernels=kernels))
            played, _ = _timed(functools.partial(predict, cubin, *rest, lanes=found))
            tally.costs.append((compiled, alone() if first is None else first, took, played))
            tally.variants += 1
            programs = cubins.programs(cubin)
            for kernel, lanes in found.items():
                tally.add(programs[kernel], lanes)
    return tally


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and the result. Garbage of what ran before is not this work's cost, nor are the processor's caches,
    which a search of the whole heap for it would empty: what lives on is left out of further collections."""
    gc.collect()
    gc.freeze()
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=12, help="of each family and device")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", action="append", help=f"default: {', '.join(DEVICES)}")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("families", nargs="*", help="default: all")
    asked = parser.parse_args(arguments)
    devices = [by_name(name) for name in asked.device or DEVICES]
    print(f"{'family':18}" + "".join(f"{name:>{wide}}" for name, wide in HEAD))
    tallies: dict[str, Tally] = {}
    for name, template in registry().items():
        if asked.families and name not in asked.families:
            continue
        tally = judge(template, devices, asked.variants, asked.seed)
        if not tally.variants:
            print(f"{name:18} computes none of the workloads on {', '.join(d.name for d in devices)}")
            continue
        tallies[name] = tally
        print(f"{name:18}" + "".join(f"{v:>{wide}}" for v, (_, wide) in zip(tally.row(), HEAD)), flush=True)
        for reason in dict.fromkeys(tally.reasons):
            print(f"  nothing is known of {tally.reasons.count(reason)} kernels: {reason}")
    if not tallies:
        return
    whole = cost([row for tally in tallies.values() for row in tally.costs])
    load, processors = os.getloadavg(), os.cpu_count()
    print(f"\nCPU time beside that of the compile ({whole['compile ms']:.0f} ms), {whole['variants']} variants:")
    for way, words in WAYS.items():
        found = whole[way]
        verdicts = ((n, found[n], mark, "met" if found[n] <= mark else "MISS") for n, mark in MARKS.items())
        print(f"  {words:32}" + ", ".join(f"{n} {share:.1%} ({v}, mark {m:.0%})" for n, share, m, v in verdicts))
    busy = " ".join(f"{n:.1f}" for n in load)
    print(f"load of the machine's {processors} processors over 1, 5 and 15 minutes: {busy}")
    if asked.json:
        rows = {name: {**cost(tally.costs), **tally.shares()} for name, tally in tallies.items()}
        found = {"families": rows, "all": whole, "marks": MARKS, "load": load, "processors": processors}
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
