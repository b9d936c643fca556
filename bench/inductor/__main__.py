"""The configs that PyTorch's Inductor tries for a matrix product, as far as ``matmul_mma`` can express them.

    python -m bench.inductor                        # what can be expressed, and why the others cannot; needs PyTorch
    python -m bench.inductor --predict --json inductor-mm.json

The list is read from the PyTorch that is installed (``torch._inductor.template_heuristics.triton``, the ``mm_configs``
of CUDA); any build of it, no GPU. A config states the block's tile, stages and warps; what else ``matmul_mma`` asks is
as Inductor's template has it (one block a tile, K not split, bands of 8 tiles) or the family's usual value, and of the
ways to arrange the warps the one whose tile is nearest to a square is taken. With ``--predict`` all of these, with
copies together (as Triton issues them) and spread over the k tile, the family's default and its seeds are compiled for
the chip and played for a few shapes. Nothing runs: times are what the performance model says of our kernels with those
tiles, not of Triton's.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpu_tune.cuda import nvrtc
from gpu_tune.cuda.device import Device, by_name
from gpu_tune.errors import GpuTuneError
from gpu_tune.model.performance.prediction import predict
from gpu_tune.space.knob import Config
from gpu_tune.templates.bound import BoundTemplate
from gpu_tune.templates.lib.mma.seeds import complete
from gpu_tune.templates.registry import bind
from gpu_tune.workload import Matmul

FAMILY = "matmul_mma"
SHAPES = (
    (512, 512, 512),
    (128, 512, 2048),
    (64, 12288, 12288),
    (128, 8192, 8192),
    (4096, 512, 2048),
    (1024, 4096, 4096),
    (4096, 14336, 4096),
    (4096, 4096, 4096),
)
"""m, n, k of small, narrow, middle and large products, bfloat16, layout nt. The last has room for every tile."""
NAMES = ("block_m", "block_n", "block_k", "num_stages", "num_warps")


@dataclass(frozen=True)
class Comparison:
    """Predicted seconds of one shape. ``default``, ``seed``: the family's default, and the fastest of default and
    seeds; ``inductor``: the fastest of Inductor's configs that can be expressed, ``tile`` which (:data:`NAMES`);
    ``played``: how many configs in all."""

    workload: str
    default: float
    seed: float
    inductor: float
    tile: tuple[int, ...]
    played: int


def inductors() -> list[tuple[int, ...]]:
    """Inductor's configs, each as :data:`NAMES`."""
    from torch._inductor.template_heuristics.triton import CUDAConfigHeuristic

    return [tuple(int(getattr(c, name)) for name in NAMES) for c in CUDAConfigHeuristic().mm_configs]


def expressed(tile: Sequence[int], bound: BoundTemplate) -> Config | str:
    """The family's config with that tile (:data:`NAMES`), or why there is none."""
    block_m, block_n, block_k, stages, warps = tile
    knob = {k.name: k.values for k in bound.template.knobs}
    asked = {"block_m": block_m, "block_n": block_n, "block_k": block_k, "slice_k": 1, "stages": stages}
    reason = f"no arrangement of {warps} warps whose tiles the family has"
    for warp_m, warp_n in sorted(_arrangements(block_m, block_n, warps), key=lambda tile: (sum(tile), -tile[0])):
        if warp_m not in knob["warp_m"] or warp_n not in knob["warp_n"]:
            continue
        for buffers in (2, 1):  # of fragments: two where a stage has as many k steps
            wanted = {**asked, "warp_m": warp_m, "warp_n": warp_n, "fragment_buffers": buffers}
            config = complete(wanted, bound.computed, bound.device, bound.template)
            if config is not None and all(config[name] == value for name, value in wanted.items()):
                return config
        reason = _broken(wanted, config, bound)
    return reason


def _arrangements(block_m: int, block_n: int, warps: int) -> Iterator[tuple[int, int]]:
    for along_m in range(1, warps + 1):
        if warps % along_m == 0 and block_m % along_m == 0 and block_n % (warps // along_m) == 0:
            yield block_m // along_m, block_n // (warps // along_m)


def _broken(wanted: Mapping[str, Any], config: Config | None, bound: BoundTemplate) -> str:
    """What stands against ``wanted``: rules that it breaks, all else being as it is in ``config`` or by default."""
    base = config or bound.default()
    violations = bound.violations(Config({**base, **wanted}))
    return "; ".join(violations) or "no valid values of the other knobs"


def seconds(config: Config, bound: BoundTemplate) -> float:
    """Predicted seconds of one call."""
    rendered = bound.render(config)
    cubin = nvrtc.to_cubin(rendered.source, bound.device.arch).data
    return predict(cubin, rendered.plan, rendered.estimate, bound.computed, bound.device).seconds


def family(shape: tuple[int, int, int], device: Device) -> BoundTemplate:
    """``matmul_mma`` for a bfloat16 product of layout nt."""
    return next(b for b in bind(Matmul(*shape, dtype="bfloat16", layout="nt"), device) if b.name == FAMILY)


def compare(tiles: Sequence[tuple[int, ...]], bound: BoundTemplate) -> Comparison:
    """Compile and play default, seeds and Inductor's configs."""
    space = bound.space()
    seeds = list(dict.fromkeys(c for c in (space.default(), *space.seeds()) if c is not None))
    theirs: dict[Config, tuple[int, ...]] = {}
    for tile in tiles:
        config = expressed(tile, bound)
        if not isinstance(config, str):
            both = (config, Config({**config, "copy_schedule": "spread"}))
            theirs.update((c, tile) for c in both if not bound.violations(c))
    found = {c: seconds(c, bound) for c in (*seeds, *theirs)}
    best = min(theirs, key=lambda c: found[c])
    ours = min(found[c] for c in seeds)
    return Comparison(bound.computed.key, found[seeds[0]], ours, found[best], theirs[best], len(found))


def save(file: Path | None, facts: Mapping[str, Any], rows: Sequence[Comparison]) -> None:
    """Write what is known so far, where a file is named."""
    if file is not None:
        file.write_text(json.dumps({**facts, "rows": [asdict(c) for c in rows]}, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.inductor", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="nvidia-a100", help="the chip (default: nvidia-a100)")
    parser.add_argument("--predict", action="store_true", help="compile and play them for a few shapes")
    parser.add_argument("--json", type=Path, help="write every figure here")
    given = parser.parse_args(argv)
    try:
        import torch

        tiles = inductors()
    except ImportError as error:
        print(f"error: Inductor's configs: cannot be read: {error}; pip install torch (any build)", file=sys.stderr)
        return 2
    try:
        device = by_name(given.device)
        large = family(SHAPES[-1], device)
        listed = [(tile, expressed(tile, large)) for tile in tiles]
        usable = [tile for tile, config in listed if not isinstance(config, str)]
        print(f"PyTorch {torch.__version__}: {len(tiles)} configs, {len(usable)} can be {FAMILY}'s on {device.name}")
        for tile, config in listed:
            words = config if isinstance(config, str) else f"warp tile {config['warp_m']} x {config['warp_n']}"
            print(f"  {'x'.join(map(str, tile[:3])):<12} {tile[3]} stages, {tile[4]} warps: {words}")
        facts = {
            "source": "predicted",
            "caution": "nothing ran: our kernels with those tiles, as the performance model plays them, not Triton's",
            "torch": torch.__version__,
            "nvrtc": ".".join(map(str, nvrtc.version())),
            "device": device.name,
            "dtype": "bfloat16",
            "configs": [
                {**dict(zip(NAMES, tile)), "left_out": config if isinstance(config, str) else None}
                for tile, config in listed
            ],
        }
        rows: list[Comparison] = []
        for shape in SHAPES if given.predict else ():
            rows.append(c := compare(usable, family(shape, device)))
            print(
                f"predicted, {c.workload}: default {c.default * 1e6:.1f} us, best seed {c.seed * 1e6:.1f}, best of "
                f"Inductor's {c.inductor * 1e6:.1f} ({c.tile}): {c.seed / c.inductor:.3f}",
                flush=True,
            )
            save(given.json, facts, rows)
        save(given.json, facts, rows)
    except GpuTuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if rows:
        for name in ("default", "seed"):
            ratio = math.exp(sum(math.log(getattr(c, name) / c.inductor) for c in rows) / len(rows))
            print(f"geometric mean of {name} over the best of Inductor's, predicted times: {ratio:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
