"""Tune what is no kernel template: the tile sizes of a C program and the flags that its compiler is given.

    python examples/compiler_flags.py [TRIALS]

Each candidate is compiled with ``CC`` (or cc), run, checked by its sum, and timed by its own clock. Times of a busy
machine are noisy, so the fastest few are measured again before one is called the best.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gpu_tune as gt

SOURCE = r"""
#include <stdio.h>
#include <time.h>
enum { N = 128, REPEATS = 5 };
static float a[N][N], b[N][N], c[N][N];

int main(void) {
    for (int i = 0; i < N; ++i)
        for (int j = 0; j < N; ++j) { a[i][j] = (i + j) % 3; b[i][j] = (i - j) % 3; }
    for (int repeat = 0; repeat < REPEATS; ++repeat) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (int i = 0; i < N; ++i) for (int j = 0; j < N; ++j) c[i][j] = 0;
        for (int k0 = 0; k0 < N; k0 += TILE_K)
            for (int j0 = 0; j0 < N; j0 += TILE_N)
                for (int i = 0; i < N; ++i)
                    for (int k = k0; k < k0 + TILE_K; ++k)
                        for (int j = j0; j < j0 + TILE_N; ++j) c[i][j] += a[i][k] * b[k][j];
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%.9f\n", (end.tv_sec - begin.tv_sec) + 1e-9 * (end.tv_nsec - begin.tv_nsec));
    }
    double sum = 0;
    for (int i = 0; i < N; ++i) for (int j = 0; j < N; ++j) sum += c[i][j] * (1 + (i + 2 * j) % 7);
    printf("%.0f\n", sum);
    return 0;
}
"""

SPACE = gt.GridSpace(
    "tiled product in C",
    {
        "optimise": ("-O1", "-O2", "-O3"),
        "unroll": (False, True),
        "fast_math": (False, True),
        "tile_n": (8, 16, 32, 64, 128),
        "tile_k": (8, 16, 32, 64, 128),
    },
    constraints=[lambda tile_n, tile_k: 256 <= tile_n * tile_k <= 8192],
    default={"optimise": "-O2", "unroll": False, "fast_math": False, "tile_n": 32, "tile_k": 32},
)


class Program:
    """Compiles, runs and checks candidates in ``folder``."""

    def __init__(self, compiler: str, folder: Path) -> None:
        self.compiler, self.folder, self.sum = compiler, folder, ""
        (folder / "product.c").write_text(SOURCE)

    def measure(self, candidate: gt.Candidate) -> gt.Measurement:
        """Its repeats in seconds, or how it failed."""
        config = candidate.config
        flags = [str(config["optimise"]), f"-DTILE_N={config['tile_n']}", f"-DTILE_K={config['tile_k']}"]
        flags += ["-funroll-loops"] * bool(config["unroll"]) + ["-ffast-math"] * bool(config["fast_math"])
        program = self.folder / "product"
        command = [self.compiler, *flags, "-o", str(program), str(self.folder / "product.c")]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            return gt.Measurement.failed(candidate, built.stderr, status="compile_error")
        ran = subprocess.run([str(program)], capture_output=True, text=True)
        if ran.returncode:
            return gt.Measurement.failed(candidate, f"exit status {ran.returncode}")
        *times, total = ran.stdout.split()
        self.sum = self.sum or total  # of the default, which comes first
        if total != self.sum:
            return gt.Measurement.failed(candidate, f"sum {total}, not {self.sum}", status="wrong")
        return gt.Measurement.of(candidate, map(float, times))


def main() -> None:
    """Search, confirm the fastest, and say what the flags are worth."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        sys.exit("no C compiler found; name one in CC")
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    tuner = gt.Tuner(spaces=[SPACE], seed=0)
    with tempfile.TemporaryDirectory() as folder:
        program = Program(compiler, Path(folder))
        while len(tuner.observations) < trials and (batch := tuner.ask()):
            tuner.tell(map(program.measure, batch))
            print(f"{len(tuner.observations)} of {SPACE.count().valid} configs tried")
        while finalists := tuner.finalists(3, 2):
            tuner.tell(map(program.measure, finalists))
        default = program.measure(next(iter(tuner.defaults)))
    best = tuner.best
    if best is None or not default.ok:
        sys.exit("no config worked")
    print(f"best, confirmed: {best.time * 1e6:.0f} us with {best.candidate.config}")
    print(f"the default takes {default.time * 1e6:.0f} us, {default.time / best.time:.2f} times as long")


if __name__ == "__main__":
    main()
