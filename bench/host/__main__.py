"""What a call costs the host: CPU time, on a driver that does nothing, against an earlier commit in the same run.

    python -m bench.host                            # about a minute; needs git, g++ and cuda.h, and no GPU
    python -m bench.host --rounds 40 --json bench/results/host.json

``kernel(a, b, out=out)`` with CuPy-like arrays is wanted at 1/6 of the earlier commit's time, ``bound.launch()`` at
1/15 (of that same call), ``gt.matmul`` that picks our kernel at 1/10, and ``import gpu_tune`` at no more than before
(two equal imports differ by up to 5 %). A call of a set of kernels for any size is wanted at no more than 1.3 times an
exact kernel's. On a GPU, ``kernel(...)`` is wanted at no more than ``cupy.matmul``'s host time, and ``bound.launch()``
at a third of it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_tune.cuda import driver
from tests.helpers import virtual_gpu

ROOT = Path(__file__).parents[2]
BEFORE = "0fc5959"
CALL, SET, MATMUL, LAUNCH, IMPORT = (
    "kernel(a, b, out=out)",
    "kernels(a, b, out=out)",
    "gt.matmul(a, b, layout='nt', out=out)",
    "bound.launch()",
    "import gpu_tune",
)
MARKS = ((CALL, CALL, 1 / 6), (LAUNCH, CALL, 1 / 15), (MATMUL, MATMUL, 1 / 10), (IMPORT, IMPORT, 1.05))
"""What is timed now, what it is compared with in the earlier commit, and the share of that which is wanted."""
SET_SHARE = 1.3
"""What a call of a set of kernels for any size may cost of a call of an exact one, both now."""
GPU_MARKS = ((CALL, "cupy.matmul", 1.0), (LAUNCH, "cupy.matmul", 1 / 3))


class Version:
    """One version's calls, timed in a process of its own."""

    def __init__(self, root: Path, folder: Path, library: Path) -> None:
        self.root = root
        home = folder / "home"
        home.mkdir(parents=True, mode=0o700)
        self.env = {**os.environ, "PYTHONPATH": str(root), "GPU_TUNE_CACHE_DIR": str(home)}
        self.env["GPU_TUNE_LIBCUDA"] = str(library)
        script = str(Path(__file__).with_name("calls.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, str(root)], cwd=root, env=self.env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        if (said := self._line()) != "ready":
            raise SystemExit(f"bench.host: the calls of {root} did not start: {said or 'see above'}")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def round(self) -> dict[str, float]:
        """Microseconds of CPU a call."""
        assert self.process.stdin is not None
        print("round", file=self.process.stdin, flush=True)
        return {name: ns / 1e3 for name, ns in json.loads(self._line()).items()}

    def importing(self) -> float:
        """Microseconds of CPU that ``import gpu_tune`` takes in a new process."""
        code = "import time; t = time.process_time(); import gpu_tune; print(time.process_time() - t)"
        told = subprocess.run(
            [sys.executable, "-c", code], cwd=self.root, env=self.env, check=True, capture_output=True
        )
        return 1e6 * float(told.stdout)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def without_gpu(rounds: int, commit: str) -> dict[str, dict[str, float]]:
    """Median microseconds of CPU, by version (``before``, ``now``) and call; rounds of the two alternate."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = virtual_gpu.build(folder)
        if library is None:
            raise SystemExit("bench.host needs g++ and cuda.h: pip install nvidia-cuda-runtime")
        (folder / "before").mkdir()
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(folder / "before")], input=archive, check=True)
        roots = {"before": folder / "before", "now": ROOT}
        versions = {v: Version(root, folder / f"of {v}", library) for v, root in roots.items()}
        samples: dict[str, list[dict[str, float]]] = {v: [] for v in versions}
        try:
            for _ in range(rounds):
                for which, version in versions.items():
                    samples[which].append({**version.round(), IMPORT: version.importing()})
        finally:
            for version in versions.values():
                version.close()
    return {v: {n: statistics.median(s[n] for s in taken) for n in taken[0]} for v, taken in samples.items()}


def on_gpu(rounds: int) -> dict[str, float]:
    """Median microseconds that the host takes to issue one call, with CuPy's own arrays, on this machine's GPU."""
    import time
    import warnings

    import cupy  # type: ignore[import-not-found,unused-ignore]

    import gpu_tune as gt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernel = gt.load(gt.Matmul(256, 512, 1024, dtype="float16", layout="nt"))
    a, b = (cupy.zeros(s, cupy.float16) for s in ((256, 1024), (512, 1024)))
    out, plain = cupy.zeros((256, 512), cupy.float16), b.T
    bound = kernel.bind(a, b, out=out)
    calls: dict[str, Callable[[], Any]] = {
        CALL: lambda: kernel(a, b, out=out), LAUNCH: bound.launch, "cupy.matmul": lambda: cupy.matmul(a, plain, out=out)
    }  # fmt: skip
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            cupy.cuda.Device().synchronize()
            start = time.perf_counter()
            for _ in range(100):
                call()
            samples[name].append((time.perf_counter() - start) * 1e4)
    return {name: statistics.median(taken[1:]) for name, taken in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds, each of 3,000 calls of a kind (default: 20)")
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT", help=f"what to compare with (default: {BEFORE})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found to FILE")
    options = parser.parse_args()
    found = without_gpu(options.rounds, options.before)
    rows = [(now, found["now"][now], then, found["before"][then], share) for now, then, share in MARKS]
    rows.append((SET, found["now"][SET], f"{CALL} now", found["now"][CALL], SET_SHARE))
    gpu: dict[str, float] = {}
    if driver.device_count():
        gpu = on_gpu(options.rounds)
        rows += [(f"{now} on the GPU", gpu[now], then, gpu[then], share) for now, then, share in GPU_MARKS]
    failed = 0
    for name, taken, other, theirs, share in rows:
        met = taken <= share * theirs
        failed += not met
        verdict = f"1/{theirs / taken:.1f} (wanted: 1/{1 / share:.2g}), {'met' if met else 'MISSED'}"
        print(f"{name:38} {taken:9.2f} us   {other:38} {theirs:9.2f} us   {verdict}")
    if not gpu:
        print(f"on a GPU: skipped ({driver.missing() or 'no GPU'})")
    if options.json:
        facts = {"before": options.before, "rounds": options.rounds, "python": sys.version.split()[0]}
        options.json.write_text(json.dumps({**facts, "microseconds": found, "gpu": gpu}, indent=1) + "\n")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
