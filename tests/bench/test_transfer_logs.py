"""AutoHeuristic's logs in bench.transfer: a made-up log of a made-up rule, and broken ones."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gpu_tune.cuda.device import by_name
from gpu_tune.errors import CorruptData, GpuTuneError, InvalidInput
from gpu_tune.space.features import LaunchSummary, launch_features
from gpu_tune.workload import Matmul

ROOT = Path(__file__).parents[2]
HEAD = (
    "m,k,n,mat1_dtype,mat2_dtype,mat1_stride_0,mat1_stride_1,mat2_stride_0,mat2_stride_1,mat1_iscontig,mat2_iscontig,"
    "using_tf32,choice,feedback"
)
CONFIGS = [(m, k, n, s, w) for m in (16, 64, 128) for n in (32, 128) for k in (32, 64) for s in (2, 4) for w in (4,)]
SHAPES = 24
CHIPS = {"nvidia-a100": ([8, 0], 166912), "nvidia-h100": ([9, 0], 232448)}


def script(name: str) -> ModuleType:
    return importlib.import_module(f"bench.{name}")


AUTOHEURISTIC, TRANSFER = script("transfer.autoheuristic"), script("transfer.__main__")


def meta(chip: str = "nvidia-a100", **changes: object) -> str:
    capability, shared = CHIPS[chip]
    return json.dumps({"shared_memory": shared, "device_capa": capability, "name": "mm", **changes})


def name(config: tuple[int, ...]) -> str:
    m, k, n, stages, warps = config
    return f"type=triton_BLOCK-M={m}_BLOCK-K={k}_BLOCK-N={n}_numstages={stages}_numwarps={warps}"


def line(m: int, k: int, n: int, choice: str, time: float, trans: bool = False) -> str:
    strides = f"1,{m}" if trans else f"{k},1"
    return f"{m},{k},{n},torch.float16,torch.float16,{strides},{n},1,True,True,not_float_32,{choice},{time}"


def log(path: Path, chip: str = "nvidia-a100", seed: int = 0) -> str:
    """SHAPES sizes in two layouts, three repeats with 0.5 % noise: time is padded work over the SMs, and slow loads
    for narrow tiles; the vendor library takes as long as a middling config."""
    rng, device = np.random.default_rng(seed), by_name(chip)
    shapes = np.random.default_rng(7).integers(1, 64, (SHAPES, 3)) * 32
    lines = [meta(chip), HEAD]
    for m, k, n in shapes.tolist():
        for trans in (False, True):
            times = []
            for bm, bk, bn, stages, _ in CONFIGS:
                blocks = math.ceil(m / bm) * math.ceil(n / bn)
                work = math.ceil(blocks / device.sm_count) * bm * bn * (1 + 8 / stages / min(bm, bn)) * k
                times.append(1e-6 * (work * (1.1 if trans and bk == 32 else 1.0) + 200 * math.ceil(k / bk)))
            runs = [*zip(map(name, CONFIGS), times), ("extern_mm", float(np.median(times)))]
            for _ in range(3):
                lines += [line(m, k, n, c, t * rng.lognormal(0, 0.005), trans) for c, t in runs]
            lines.append(line(m, k, n, name((256, 64, 256, 5, 8)), math.inf, trans))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.slow
def test_shapes_and_chips_are_left_out_of_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = [log(tmp_path / f"{chip}.txt", chip, i) for i, chip in enumerate(CHIPS)]
    out = tmp_path / "out.json"
    assert TRANSFER.main([*logs, "--json", str(out)]) == 0
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    rows = {(r["left out"], r["chip"]): r["result"] for r in found["rows"]}
    a100, h100 = by_name("nvidia-a100").chip, by_name("nvidia-h100").chip
    assert set(rows) == {
        *((w, c) for w in ("shapes", "chips", "both") for c in (a100, h100)),
        ("chips", "each"),
        ("both", "each"),
    }
    for r in rows.values():
        assert r["left_out"] == SHAPES and r["groups"] % (2 * SHAPES) == 0
        for k in ("1", "3", "5"):
            low, high = r["top"][k]["interval"]
            assert low <= r["top"][k]["mean"] <= high <= 1
        assert r["top"]["1"]["mean"] > r["random"]["1"]["mean"] + 0.1
        assert r["top"]["1"]["mean"] <= r["top"]["3"]["mean"] <= r["top"]["5"]["mean"]
    assert rows["shapes", a100]["top"]["1"]["mean"] > 0.93
    for fact in found["logs"]:
        assert fact["groups"] == 2 * SHAPES == fact["vendor"]["shapes"] and fact["trials"] == 2 * SHAPES * 25
        assert fact["vendor"]["wins"] == 1.0 and fact["vendor"]["ratio"] > 1.0
        assert fact["by_other_repeats"]["shapes"] == 2 * SHAPES and 0.97 < fact["by_other_repeats"]["mean"] < 1.0
    assert "vendor" in printed and found["versions"]["lightgbm"] and found["command"][1:3] == logs


@pytest.mark.slow
def test_settings_are_chosen_on_other_shapes_than_are_held(tmp_path: Path) -> None:
    shapes: dict[str, int] = {}
    for part in ("all", "development", "held"):
        out = tmp_path / f"{part}.json"
        assert TRANSFER.main([log(tmp_path / "a.txt"), "--part", part, "--leave", "shapes", "--json", str(out)]) == 0
        (row,) = json.loads(out.read_text())["rows"]
        shapes[part] = row["result"]["left_out"]
    assert shapes["development"] + shapes["held"] == shapes["all"] == SHAPES and shapes["held"] > 3


def test_a_log_becomes_products_with_median_times(tmp_path: Path) -> None:
    path, one, two = tmp_path / "a.txt", CONFIGS[0], CONFIGS[1]
    times = [(one, 3.0), (one, 1.0), (one, 2.0), (two, math.inf)]
    lines = [line(96, 72, 40, name(c), t, trans=True) for c, t in times] + [line(96, 72, 40, "extern_mm", 4.0, True)]
    tf32 = lines[0].replace("float16", "float32").replace("not_float_32", "True")
    path.write_text("\n".join([meta(), HEAD, *lines, "", tf32]) + "\n")
    half, single = sorted(AUTOHEURISTIC.read([str(path)]), key=lambda s: s.workload.dtype)
    assert half.workload == Matmul(96, 40, 72, dtype="float16", layout="tn")
    assert single.workload == Matmul(96, 40, 72, dtype="float32", layout="tn", math=("tf32",))
    assert half.times()[0] == 2e-3 and np.isnan(half.times()[1]) and half.vendor_seconds == 4e-3
    assert AUTOHEURISTIC.vendor([half, single]) == pytest.approx({"shapes": 1, "wins": 1.0, "ratio": 2.0})
    features, names = AUTOHEURISTIC.describe([half, single])
    device, launch = by_name("nvidia-a100"), AUTOHEURISTIC.launch(two, half.workload)
    computed = launch_features(launch, half.workload, device)
    assert [len(x) for x in features] == [2, 1] and names[-len(computed) :] == (*computed,)
    assert features[0][1, names.index("log2 stages")] == np.log2(two[3])
    own = features[0][1, -len(computed) :]
    assert launch == LaunchSummary(128, 12, (two[0] + two[2]) * two[1] * 2 * (two[3] - 1), 4, 16, 32, two[1], two[3])
    assert own.tolist() == np.array([*computed.values()], dtype=np.float32).tolist()
    ratio = features[1][0, names.index("log2 flops per byte of device")]
    assert ratio == np.float32(np.log2(device.peak_flops("tf32") / device.bandwidth))


GOOD = line(96, 72, 40, name(CONFIGS[0]), 1.0)


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("", CorruptData, "line 1: is not AutoHeuristic's metadata"),
        ("[]", CorruptData, "line 1: is not AutoHeuristic's metadata"),
        (meta(device_capa=8), CorruptData, "line 1: is not AutoHeuristic's metadata"),
        (meta(name="mixed_mm"), CorruptData, "line 1: logs the operation 'mixed_mm'"),
        (meta(device_capa=[3, 5]), InvalidInput, "line 1: device_capa: [3, 5] is of no chip"),
        (meta(shared_memory=1), CorruptData, "line 1: shared_memory 1 is not the 166912 bytes"),
        (meta(), CorruptData, "line 2: has not exactly one column 'm'"),
        (f"{meta()}\n{HEAD},m\n{GOOD},1", CorruptData, "line 2: has not exactly one column 'm'"),
        (f"{meta()}\n{HEAD}\n", CorruptData, "has no timings"),
        (f"{meta()}\n{HEAD}\n{GOOD}\n{GOOD[:40]}", CorruptData, "line 4: has 7 fields, its head 14"),
        (f'{meta()}\n{HEAD}\n"{GOOD}', CorruptData, "is not CSV"),
        (f"{meta()}\n{HEAD}\n{GOOD.replace('96', '-96')}", CorruptData, "line 3: m '-96' is not a whole number"),
        (f"{meta()}\n{HEAD}\n{GOOD.replace('96', '0')}", CorruptData, "line 3: is no product"),
        (f"{meta()}\n{HEAD}\n{GOOD.replace('torch.float16,72', 'torch.int8,72')}", CorruptData, "line 3: multiplies"),
        (f"{meta()}\n{HEAD}\n{GOOD.replace('torch.float16', 'torch.complex64')}", CorruptData, "complex64"),
        (f"{meta()}\n{HEAD}\n{GOOD.replace('72,1,', '72,2,')}", CorruptData, "line 3: mat1 has strides 72 and 2"),
        (f"{meta()}\n{HEAD}\n{GOOD.replace(',40,1,', ',39,1,')}", CorruptData, "line 3: mat2 has strides 39 and 1"),
        (f"{meta()}\n{HEAD}\n{GOOD.replace('not_float_32', 'maybe')}", CorruptData, "line 3: using_tf32 'maybe'"),
        (f"{meta()}\n{HEAD}\n{GOOD.replace('type=triton', 'type=cutlass')}", CorruptData, "line 3: choice"),
        (f"{meta()}\n{HEAD}\n{GOOD.replace('M=16', 'M=0')}", CorruptData, "line 3: choice"),
        *(
            (f"{meta()}\n{HEAD}\n{GOOD[:-3]}{bad}", CorruptData, f"line 3: feedback {bad!r} is not milliseconds")
            for bad in ("0.0", "-1.0", "nan", "fast", "")
        ),
    ],
)
def test_broken_logs_are_one_error_that_names_file_and_line(
    tmp_path: Path, text: str, kind: type[GpuTuneError], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.txt"
    path.write_text(text)
    read: Callable[[list[str]], object] = AUTOHEURISTIC.read
    with pytest.raises(kind) as caught:
        read([str(path)])
    assert says in str(caught.value) and str(caught.value).startswith(str(path)) and "; " in str(caught.value)
    assert TRANSFER.main([str(path)]) == 2
    assert capsys.readouterr().out == f"error: {caught.value}\n"


def test_a_missing_log_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a file that can be read"):
        AUTOHEURISTIC.read([str(tmp_path / "none.txt")])
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptData, match="not UTF-8"):
        AUTOHEURISTIC.read([str(tmp_path / "binary.txt")])
