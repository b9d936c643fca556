"""Which of a block's tiles, stages and warps ``matmul_mma`` expresses, and what is said where it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.inductor import __main__ as BENCH
from gpu_tune.cuda.device import by_name

LARGE = (4096, 4096, 4096)


@pytest.mark.parametrize(
    ("tile", "warps"),
    [
        ((128, 128, 64, 5, 8), (64, 32)),
        ((128, 128, 32, 3, 4), (64, 64)),
        ((64, 32, 128, 5, 4), (32, 16)),
        ((64, 64, 16, 2, 4), (32, 32)),
    ],
)
def test_a_tile_becomes_the_config_that_it_says(tile: tuple[int, ...], warps: tuple[int, int]) -> None:
    bound = BENCH.family(LARGE, by_name("nvidia-a100"))
    config = BENCH.expressed(tile, bound)
    assert not isinstance(config, str) and not bound.violations(config)
    told = [config[name] for name in ("block_m", "block_n", "block_k", "stages", "warp_m", "warp_n", "slice_k")]
    assert told == [*tile[:4], *warps, 1] and config["split_k"] == 1 and config["raster_group"] == 8
    assert (tile[0] // warps[0]) * (tile[1] // warps[1]) == tile[4]


@pytest.mark.parametrize(
    ("tile", "words"),
    [
        ((32, 32, 32, 1, 2), "stages_supported"),
        ((128, 256, 64, 4, 8), "stages_fit"),
        ((16, 16, 64, 3, 8), "no arrangement of 8 warps"),
    ],
)
def test_what_cannot_be_expressed_has_a_reason(tile: tuple[int, ...], words: str) -> None:
    reason = BENCH.expressed(tile, BENCH.family(LARGE, by_name("nvidia-a100")))
    assert isinstance(reason, str) and words in reason


def test_the_large_tile_fits_an_h100() -> None:
    assert not isinstance(BENCH.expressed((128, 256, 64, 4, 8), BENCH.family(LARGE, by_name("nvidia-h100"))), str)


def test_the_list_of_the_pytorch_at_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch._inductor.template_heuristics.triton", reason="needs a PyTorch that has it")
    out = tmp_path / "out.json"
    assert BENCH.main(["--json", str(out)]) == 0
    data = json.loads(out.read_text())
    assert data["source"] == "predicted" and not data["rows"] and len(data["configs"]) > 10
    usable = sum(c["left_out"] is None for c in data["configs"])
    assert f"{len(data['configs'])} configs, {usable} can be matmul_mma's" in capsys.readouterr().out
