"""How many memory instructions of our kernels are known by their lanes' addresses, and what that costs.

    python -m bench.performance_model.lanes --variants 12 --seed 0

For each kernel family and device, random valid configs of ordinary workloads are compiled with line information, and
``gpu_tune.model.performance.lanes_of`` says what it knows: memory instructions matched (of all, and of those in the hot
loop), the share of wavefronts of shared memory that bank conflicts cost there, and its CPU time beside the compile's.
No GPU is needed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from gpu_tune.cuda import cubin as cubins
from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import Device, by_name
from gpu_tune.errors import GpuTuneError
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
    """What is known of one family's variants. ``costs``: CPU seconds of compile and of lanes, by variant."""

    variants: int = 0
    accesses: int = 0
    matched: int = 0
    hot: int = 0
    hot_matched: int = 0
    wavefronts: float = 0.0
    least: float = 0.0
    costs: list[tuple[float, float]] = field(default_factory=list)
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

    def row(self) -> list[str]:
        share = [100 * lanes / compiled for compiled, lanes in self.costs]
        conflicts = 1 - self.least / self.wavefronts if self.wavefronts else 0.0
        return [
            f"{self.variants}",
            f"{self.accesses}",
            _percent(self.matched, self.accesses),
            f"{self.hot}",
            _percent(self.hot_matched, self.hot),
            f"{100 * conflicts:.1f} %",
            f"{1e3 * statistics.median(lanes for _, lanes in self.costs):.1f}",
            f"{statistics.median(share):.1f} %",
            f"{np.quantile(share, 0.95):.1f} %",
        ]


HEAD = ("variants", "accesses", "matched", "hot", "matched", "conflicts", "ms", "of compile", "95 %")


def judge(template: Template, devices: Sequence[Device], count: int, seed: int) -> Tally:
    """The tally of ``count`` variants a device."""
    tally = Tally()
    for device in devices:
        for bound, rendered in variants(template, device, count, seed):
            start = time.process_time()
            cubin = nvrtc.to_cubin(rendered.source, device.arch, options=("-lineinfo",)).data
            compiled = time.process_time()
            sizes = {name: array.nbytes for name, array in bound.computed.arrays().items()}
            found = lanes_of(cubin, rendered.plan, sizes)
            tally.costs.append((compiled - start, time.process_time() - compiled))
            tally.variants += 1
            programs = cubins.programs(cubin)
            for kernel, lanes in found.items():
                tally.add(programs[kernel], lanes)
    return tally


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=12, help="of each family and device")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", action="append", help=f"default: {', '.join(DEVICES)}")
    parser.add_argument("families", nargs="*", help="default: all")
    asked = parser.parse_args(arguments)
    devices = [by_name(name) for name in asked.device or DEVICES]
    print(f"{'family':22}" + "".join(f"{name:>11}" for name in HEAD))
    for name, template in registry().items():
        if asked.families and name not in asked.families:
            continue
        tally = judge(template, devices, asked.variants, asked.seed)
        if not tally.variants:
            print(f"{name:22} computes none of the workloads on {', '.join(d.name for d in devices)}")
            continue
        print(f"{name:22}" + "".join(f"{value:>11}" for value in tally.row()), flush=True)
        for reason in dict.fromkeys(tally.reasons):
            print(f"  nothing is known of {tally.reasons.count(reason)} kernels: {reason}")


if __name__ == "__main__":
    main()
