"""Compiled variants in a folder, compiling those that lack, and what the product's model says of them."""

from __future__ import annotations

import json
import math
import subprocess
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.performance_model.variants import kind, requests, variant
from bench.transfer.autoheuristic import Config, Shape
from gpu_tune.errors import InvalidInput
from gpu_tune.model.performance import Lanes, predict
from gpu_tune.model.performance.lanes import lanes_of
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan, MainLoop, ResourceEstimate
from gpu_tune.templates.lib.common import matmul_walks
from gpu_tune.workload import ITEMSIZE

KERNEL = "matmul"
GROUP = 8
"""Rows of tiles that the kernel's raster walks together."""


@dataclass(frozen=True)
class Code:
    """One compiled variant: ``cubin`` empty where it does not compile; ``shared``: dynamic bytes a block; ``cpu``:
    seconds of the compile."""

    cubin: bytes
    shared: int = 0
    cpu: float = math.nan


@dataclass
class Cubins:
    """A folder that ``triton_matmul.py`` filled."""

    folder: Path
    index: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str) -> Cubins:
        """InvalidInput where ``folder`` has no index."""
        path = Path(folder) / "index.jsonl"
        if not path.is_file():
            raise InvalidInput("folder of cubins", folder, "has no index.jsonl", "fill it with --compile PYTHON")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return cls(Path(folder), {row["name"]: row for row in rows})

    def covers(self, s: Shape) -> bool:
        """Whether every variant of a shape was compiled (or refused by the compiler)."""
        return all(variant(s, config).name in self.index for config in s.runs)

    def code(self, name: str) -> Code:
        """A variant's code; KeyError for one that was not compiled."""
        row = self.index[name]
        if "error" in row:
            return Code(b"")
        return Code((self.folder / f"{name}.cubin").read_bytes(), row["shared"], row["cpu"])


def compile_missing(shapes: Sequence[Shape], folder: str, python: str, jobs: int) -> int:
    """Compile what ``shapes`` lack in ``folder`` with the interpreter ``python``, in ``jobs`` processes; how many
    variants were asked for."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    index = Path(folder) / "index.jsonl"
    known = {json.loads(line)["name"] for line in index.read_text().splitlines()} if index.is_file() else set()
    wanted = [r for r in requests(shapes) if r["name"] not in known]
    script = str(Path(__file__).with_name("triton_matmul.py"))
    workers = []
    for i in range(min(jobs, len(wanted))):
        worker = subprocess.Popen([python, script, folder], stdin=subprocess.PIPE, text=True)
        assert worker.stdin is not None
        workers.append((worker, "".join(json.dumps(r) + "\n" for r in wanted[i::jobs])))
    with ThreadPoolExecutor(max(1, len(workers))) as pool:  # each waits for one: a pipe holds 64 KB
        failed = [code for code in pool.map(_feed, workers) if code]
    if failed:
        raise InvalidInput("interpreter for Triton", python, f"left with exit status {failed[0]}", "see its message")
    return len(wanted)


def _feed(pair: tuple[subprocess.Popen[str], str]) -> int:
    worker, text = pair
    worker.communicate(text)
    return worker.returncode


def launch(s: Shape, config: Config, shared: int) -> tuple[LaunchPlan, ResourceEstimate]:
    """How the kernel is launched for a shape, and what its main loop does."""
    w = s.workload
    block_m, block_k, block_n, stages, warps = config
    down, across, steps = math.ceil(w.m / block_m), math.ceil(w.n / block_n), math.ceil(w.k / block_k)
    item = ITEMSIZE[w.dtype]
    step = KernelStep(
        KERNEL,
        (down * across, 1, 1),
        (32 * warps, 1, 1),
        tuple(BufferArg(name) for name in ("a", "b", "out")),
        shared,
    )
    loop = MainLoop(
        KERNEL,
        steps,
        macs=float(block_m * block_n * block_k),
        tiles=(down, across, 1),
        reads=(float(block_m * w.k * item), float(block_n * w.k * item)),
        band=GROUP,
        stages=stages,
        walks=matmul_walks(w, block_m, block_n, block_k),
    )
    return LaunchPlan((step,)), ResourceEstimate(32 * warps, shared, 0, 0, loop)


def predictions(
    shapes: Sequence[Shape], cubins: Cubins, jobs: int = 1, lanes: Collection[str] = (), **options: Any
) -> list[Predicted]:
    """The model's word on every config of every shape. ``lanes``: kinds of arithmetic whose lanes' addresses are
    recorded. ``options``: of ``gpu_tune.model.performance.predict``."""
    by_name: dict[str, list[tuple[int, int]]] = defaultdict(list)
    configs = [list(s.runs) for s in shapes]
    for i, s in enumerate(shapes):
        for j, config in enumerate(configs[i]):
            by_name[variant(s, config).name].append((i, j))
    names = sorted(by_name)
    work = [
        (
            cubins,
            name,
            [(shapes[i].workload, shapes[i].device, configs[i][j]) for i, j in by_name[name]],
            lanes,
            options,
        )
        for name in names
    ]
    found = [Predicted.empty(len(c)) for c in configs]
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            rows = list(pool.map(_variant, work, chunksize=8))
    else:
        rows = [_variant(w) for w in work]
    for name, of in zip(names, rows):
        for (i, j), (terms, limiter) in zip(by_name[name], of):
            found[i].put(j, terms, limiter)
    return found


@dataclass
class Predicted:
    """Of one shape's configs, in the order of its ``runs``: ``seconds`` (inf: does not fit or compile), all terms by
    name, and the ``limiters``."""

    seconds: NDArray[np.float64]
    terms: list[dict[str, float]]
    limiters: list[str]

    @classmethod
    def empty(cls, n: int) -> Predicted:
        return cls(np.full(n, math.inf), [{} for _ in range(n)], [""] * n)

    def put(self, at: int, terms: Mapping[str, float], limiter: str) -> None:
        self.terms[at], self.limiters[at] = dict(terms), limiter
        self.seconds[at] = terms.get("seconds", math.inf)


def _variant(
    work: tuple[Cubins, str, list[tuple[Any, Any, Config]], Collection[str], dict[str, Any]],
) -> list[tuple[dict[str, float], str]]:
    cubins, name, asked, with_lanes, options = work
    code = cubins.code(name)
    if not code.cubin:
        return [({}, "") for _ in asked]
    out: list[tuple[dict[str, float], str]] = []
    lanes: Lanes | None = None
    for workload, device, config in asked:
        s = Shape(workload, device)
        plan, estimate = launch(s, config, code.shared)
        if code.shared > device.shared_bytes_per_block:
            out.append(({}, ""))
            continue
        if lanes is None and kind(workload) in with_lanes:
            lanes = lanes_for(code.cubin, plan, s)
        found = predict(code.cubin, plan, estimate, workload, device, lanes=lanes, **options)
        out.append((found.terms(), found.limiter))
    return out


def lanes_for(cubin: bytes, plan: LaunchPlan, s: Shape) -> Lanes:
    """The addresses of the kernel's lanes, from the PTX that its cubin holds."""
    w = s.workload
    sizes = {name: spec.nbytes for name, spec in w.arrays().items() if name in ("a", "b", "out")}
    return lanes_of(cubin, plan, sizes)
