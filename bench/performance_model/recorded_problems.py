"""What recorded spaces of three published kernels timed: sizes, launches and loops, for kernels of our own.

The kernels beside (``recorded_kernels/*.cu``) are written to the parameters that the spaces name, not copied from what
was timed: loops may be unrolled, guarded and addressed differently there. What the spaces say beside times was heeded:
configs that fail for want of registers mean that no launch bounds limit them, and compiles that take six times as long
for a tile of 16 outputs as for one mean that the loops over the filter are unrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpu_tune.space.knob import Config

FOLDER = Path(__file__).with_name("recorded_kernels")
Knobs = Mapping[str, int]
Dims = tuple[int, int]


@dataclass(frozen=True)
class Problem:
    """One kernel at one size.

    ``file``: of ``FOLDER``. ``defines``: macros beside the knobs. ``block`` and ``grid``: threads and blocks of a
    config. ``marker``: an operation of the machine code of which one iteration of the main loop executes ``per_step``
    (by config), and ``steps`` iterations run: what tells how far the compiler unrolled it. ``arguments``: as
    ``gpu_tune.predict`` takes them. ``dram_bytes``: read and written at least.
    """

    kernel: str
    file: str
    defines: Mapping[str, int]
    block: Callable[[Knobs], Dims]
    grid: Callable[[Knobs], Dims]
    marker: str
    per_step: Callable[[Knobs], int]
    steps: int
    arguments: Callable[[Knobs], tuple[int | np.generic, ...]]
    dram_bytes: float

    def source(self, config: Config) -> str:
        """The kernel's text for a config: knobs are macros."""
        macros = {**self.defines, **knobs(config)}
        lines = [f"#define {name} {value}" for name, value in macros.items()]
        return "\n".join([*lines, (FOLDER / self.file).read_text()])


def knobs(config: Config) -> dict[str, int]:
    """The values of a config, which are whole numbers in all of these spaces."""
    return {name: int(value) for name, value in config.items()}


def _tile(k: Knobs) -> Dims:
    return k["block_size_x"] * k["tile_size_x"], k["block_size_y"] * k["tile_size_y"]


def _over(size: Dims, tile: Dims) -> Dims:
    return -(-size[0] // tile[0]), -(-size[1] // tile[1])


def _flat(k: Knobs) -> Dims:
    return k["block_size_x"], k["block_size_y"]


def convolution(width: int, height: int) -> Problem:
    """A 15 x 15 filter (``filter_width``, ``filter_height``) of floats."""

    def arguments(k: Knobs) -> tuple[int | np.generic, ...]:
        (across, down), (w, h) = _over((width, height), _tile(k)), _tile(k)
        filtered = k["filter_width"], k["filter_height"]
        padded = (across * w + filtered[0] - 1) * (down * h + filtered[1] - 1)
        return 4 * width * height, 4 * padded, 4 * filtered[0] * filtered[1]

    return Problem(
        "convolution_kernel", "convolution.cu", {"image_width": width, "image_height": height}, _flat,
        lambda k: _over((width, height), _tile(k)), "FFMA",
        lambda k: k["filter_width"] * k["tile_size_x"] * k["tile_size_y"], 15, arguments, 8.0 * width * height,
    )  # fmt: skip


def pnpoly(points: int, vertices: int = 600) -> Problem:
    """``points`` tested against a polygon. Each edge takes one division, which has one reciprocal (MUFU)."""
    return Problem(
        "cn_pnpoly", "pnpoly.cu", {"VERTICES": vertices}, lambda k: (k["block_size_x"], 1),
        lambda k: (-(-points // (k["block_size_x"] * k["tile_size"])), 1), "MUFU", lambda k: 1, vertices,
        lambda k: (4 * points, 8 * points, np.int32(points)), 12.0 * points,
    )  # fmt: skip


def dedispersion(samples: int, dms: int, channels: int = 1536) -> Problem:
    """``samples`` of ``dms`` dispersion measures from 8-bit samples of ``channels``, which are twice as many each: the
    delays reach that far."""
    pitch = 2 * samples + 4096
    return Problem(
        "dedispersion_kernel", "dedispersion.cu",
        {"SAMPLES": samples, "DMS": dms, "CHANNELS": channels, "PITCH": pitch}, _flat,
        lambda k: _over((samples, dms), _tile(k)), "FADD", lambda k: k["tile_size_x"] * k["tile_size_y"], channels,
        lambda k: (channels * pitch, 4 * samples * dms, np.float32(0), np.float32(0.02)),
        float(channels * 1.3 * samples + 4 * samples * dms),
    )  # fmt: skip


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "convolution_kernel": convolution,
    "cn_pnpoly": pnpoly,
    "dedispersion_kernel": dedispersion,
}
"""By the kernel's name in a space; called with its problem size."""
