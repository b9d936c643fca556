"""The store: winners published by one rename, damage as a logged miss, trust, lookup order, gc."""

import json
import logging
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace

import pytest

from gpu_tune import paths
from gpu_tune.errors import CorruptData, StoreError
from gpu_tune.plan import BufferArg, KernelStep, LaunchPlan, MemsetStep, ScalarArg
from gpu_tune.space.knob import Config
from gpu_tune.store import store
from gpu_tune.store import winner as winners
from gpu_tune.store.store import Store, Winner
from gpu_tune.trial import Candidate, Policy, Resources
from gpu_tune.workload import Conv2d, Matmul

CHIP = "nvidia-h200-132sm-141gb"
MATMUL = Matmul(64, 48, 32, epilogue="bias+clamp(-1.5,2)")
CONV = Conv2d(1, 8, 6, 6, 4, 1, 1)
STEP = KernelStep("matmul", (2, 3, 1), (128, 1, 1), (BufferArg("a"), ScalarArg("alpha", "float32")), 4096)


def winner(workload=MATMUL, tile=64, source="predicted", **more):
    body = dict(
        workload=workload,
        chip=CHIP,
        device="nvidia-h200",
        arch="sm_90a",
        template="matmul_simt",
        template_hash="abc",
        config=Config(tile=tile, swizzle=True),
        plan=LaunchPlan((MemsetStep("workspace", 64), STEP), 64, True),
        code=f"// tile {tile}\n__global__ void matmul() {{}}\n",
        cubin=b"\x7fELF" + bytes([tile % 256]) * 100,
        source=source,
        seconds=1.25e-5,
        samples=(1e-5, 1.5e-5),
        verdict={"winner": "ours", "ratio": 1.5},
        resources=Resources(40, notes=("C7510",)),
        policy=Policy("model"),
        environment={"nvrtc": [13, 0]},
        compiler=winners.Compiler("nvrtc", "13.0.88"),
        options=("--std=c++17",),
        finalists=(Candidate("matmul_simt", Config(tile=32)),),
        trials=9,
        created=3.0,
    )
    return Winner(**{**body, **more})


@pytest.fixture
def home(tmp_path):
    return Store(tmp_path / "kernels")


def test_a_winner_survives_publishing_and_is_three_readable_files(home):
    foreseen = dict(prediction={"dram": 1e-6, "waves": 2.0}, host_seconds=2e-6, open=("m",))
    for w in (winner(), winner(**foreseen), winner(CONV, view=CONV.views()[0], source="measured", complete=False)):
        path = home.publish(w)
        assert sorted(os.listdir(path)) == sorted(store.FILES)
        assert home.get(w.workload, CHIP, w.source) == w
    facts = json.loads((path / "launch.json").read_text())
    assert facts["format"] == 2 and facts["compiler"] == {"name": "nvrtc", "version": "13.0.88"}
    assert (
        facts["workload"]["op"] == "conv2d"
        and facts["config"] == {"tile": 64, "swizzle": True}
        and not facts["complete"]
    )
    assert [p for p in home.folder.rglob("*") if p.name.startswith(".")] == []


def test_predicted_never_answers_for_measured_nor_the_other_way(home):
    home.publish(winner(source="predicted"))
    assert home.get(MATMUL, CHIP, "measured") is None
    home.publish(winner(source="measured", tile=8))
    assert home.get(MATMUL, CHIP, "measured").config["tile"] == 8
    assert home.get(MATMUL, CHIP, "predicted").config["tile"] == 64
    shutil.copytree(home.path(MATMUL, CHIP, "predicted"), home.path(CONV, CHIP, "measured"))
    assert home.get(CONV, CHIP, "measured") is None  # a moved winner answers for nothing but itself


def test_other_workloads_and_chips_are_misses(home):
    home.publish(winner())
    assert home.get(replace(MATMUL, m=65), CHIP, "predicted") is None
    assert home.get(MATMUL, "nvidia-a100-108sm-80gb", "predicted") is None


def test_a_later_winner_replaces_an_earlier_one(home):
    for tile in (1, 2, 3):
        home.publish(winner(tile=tile))
        assert home.get(MATMUL, CHIP, "predicted").config["tile"] == tile
    assert len(list(home.entries())) == 1


def test_replacing_works_where_directories_cannot_be_exchanged(home, monkeypatch):
    monkeypatch.setattr(store, "_exchange", lambda a, b: False)
    for tile in (1, 2, 3):
        home.publish(winner(tile=tile))
        assert home.get(MATMUL, CHIP, "predicted").config["tile"] == tile
    path = home.path(MATMUL, CHIP, "predicted")
    shutil.rmtree(path)  # the state in which a process killed between the two renames leaves the store
    assert home.get(MATMUL, CHIP, "predicted").config["tile"] == 2


@pytest.mark.parametrize("name", store.FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "empty", "link", "huge", "folder"])
def test_damage_is_a_logged_miss(home, name, damage, caplog, monkeypatch):
    file = home.publish(winner()) / name
    data = file.read_bytes()
    file.unlink()
    if damage == "link":
        (file.parent.parent / "elsewhere").write_bytes(data)
        file.symlink_to(file.parent.parent / "elsewhere")
    elif damage == "huge":
        monkeypatch.setitem(store.LIMITS, file.suffix, 10)
        file.write_bytes(data)
    elif damage == "folder":
        file.mkdir()
    elif damage != "missing":
        flipped = data[:20] + bytes([data[20] ^ 1]) + data[21:]
        file.write_bytes({"truncated": data[:-20], "flipped": flipped, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert home.get(MATMUL, CHIP, "predicted") is None
    assert "is damaged" in caplog.text and "gpu-tune gc" in caplog.text
    assert [e.winner for e in home.entries()] == [None]
    assert home.gc()[0] == 1 and list(home.entries()) == []


def test_hostile_launch_facts_with_a_right_hash_are_refused(home):
    facts = winner().to_json()
    for name, value in (
        ("plan", {"steps": []}),
        ("workload", {"op": "matmul", "m": 0}),
        ("source", "guessed"),
        ("chip", 3),
        ("config", 3),
        ("samples", ["x"]),
        ("policy", {"exec": "rm"}),
        ("view", {"workload": 1}),
        ("seconds", None),
        ("prediction", {"dram": "much"}),
        ("prediction", {"dram": float("nan")}),
        ("host_seconds", -1e-6),
        ("open", ["m", 3]),
        ("compiler", {"name": "nvrtc", "version": 13}),
        ("unheard_of", 1),
    ):
        body = {**facts, name: value}
        body.pop("hash")
        body["hash"] = winners.digest(winners.canonical(body))
        with pytest.raises(CorruptData):
            Winner.from_files(json.dumps(body).encode(), winner().code.encode(), winner().cubin)


def test_lookup_asks_the_explicit_store_then_the_users_then_the_shipped(tmp_path, monkeypatch):
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(tmp_path / "user"))
    monkeypatch.setattr(paths, "shipped", lambda: tmp_path / "shipped")
    assert store.lookup(MATMUL, CHIP, "predicted") is None
    (tmp_path / "shipped").mkdir(mode=0o755)
    Store(tmp_path / "shipped").publish(winner(tile=1))
    assert store.lookup(MATMUL, CHIP, "predicted")[0].config["tile"] == 1
    Store().publish(winner(tile=2))
    assert store.lookup(MATMUL, CHIP, "predicted")[0].config["tile"] == 2
    explicit = Store(tmp_path / "mine")
    explicit.publish(winner(tile=3))
    found, place = store.lookup(MATMUL, CHIP, "predicted", store=explicit)
    assert found.config["tile"] == 3 and place is explicit
    assert store.lookup(MATMUL, CHIP, "predicted", store=Store(tmp_path / "empty"))[0].config["tile"] == 2
    assert store.lookup(MATMUL, CHIP, "predicted", store=Store(tmp_path / "empty"), user=False)[0].config["tile"] == 1


def test_the_users_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("GPU_TUNE_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.root() == tmp_path / "gpu_tune"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert store.root() == tmp_path / "home/.cache/gpu_tune"
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", str(tmp_path / "own"))
    assert store.root() == tmp_path / "own"


def test_a_store_that_others_can_write_is_refused(home):
    path = home.publish(winner())
    for folder in (home.folder, path.parent, path):
        folder.chmod(0o777)
        with pytest.raises(StoreError, match="written by others"):
            home.get(MATMUL, CHIP, "predicted")
        folder.chmod(0o755)
    assert home.get(MATMUL, CHIP, "predicted") is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_store_that_others_own_is_refused(home):
    home.publish(winner())
    os.chown(home.folder, 12345, -1)
    with pytest.raises(StoreError, match="belongs to user id 12345"):
        home.get(MATMUL, CHIP, "predicted")
    with pytest.raises(StoreError, match="belongs to"):
        home.publish(winner())


def test_an_impossible_store_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="GPU_TUNE_CACHE_DIR"):
        Store(tmp_path / "file" / "kernels").publish(winner())


def _publish_forever(folder, offset):
    home, i = Store(folder), 0
    while True:
        home.publish(winner(tile=offset + i % 7))
        i += 1


def test_kill_9_while_publishing_never_leaves_half_a_winner(tmp_path):
    home = Store(tmp_path / "kernels")
    home.publish(winner(tile=0))
    context = multiprocessing.get_context("fork")
    for round_ in range(12):
        workers = [context.Process(target=_publish_forever, args=(home.folder, 10 * n)) for n in range(3)]
        for w in workers:
            w.start()
        try:
            end = time.monotonic() + 0.02 * (1 + round_ % 4)
            while time.monotonic() < end:
                assert home.get(MATMUL, CHIP, "predicted") is not None
        finally:
            for w in workers:
                os.kill(w.pid, signal.SIGKILL)
                w.join()
        assert home.get(MATMUL, CHIP, "predicted") is not None
    home.gc(older_than=-1)
    assert home.get(MATMUL, CHIP, "predicted") is not None
    assert len(list(home.folder.rglob("launch.json"))) == 1


def test_long_and_odd_names_stay_distinct_and_fit_the_file_system(home):
    long = [Matmul(64, 48, 32, epilogue="+".join(["clamp(-1.25,1000.5)"] * 20) + f"+clamp(0,{n})") for n in (1, 2)]
    paths = {home.publish(winner(w)) for w in long}
    assert len(paths) == 2 and all(len(p.name) < 255 for p in paths)
    assert [home.get(w, CHIP, "predicted").workload for w in long] == long
    assert home.path(MATMUL, "../../etc", "measured").is_relative_to(home.folder.resolve())


def test_gc_removes_what_is_damaged_and_old_and_nothing_that_answers(home):
    good, bad = home.publish(winner()), home.publish(winner(CONV))
    (bad / "kernel.cubin").write_bytes(b"damaged")
    waiting = winner(replace(MATMUL, m=80))
    os.rename(home.publish(waiting), home.path(waiting.workload, CHIP, "predicted").with_name(old_name(home, waiting)))
    (good.parent / ".tmp-host-1-abc").mkdir()
    (good.parent / f".old-{good.name}").mkdir()
    assert home.gc(older_than=-1)[0] == 3 and home.gc(older_than=-1)[0] == 0
    assert home.get(MATMUL, CHIP, "predicted") == winner() and not bad.exists()
    assert home.get(waiting.workload, CHIP, "predicted") == waiting, "its successor never arrived"


def old_name(home, w):
    return f".old-{home.path(w.workload, CHIP, 'predicted').name}"


def test_gc_spares_a_winner_that_replaces_a_damaged_one_meanwhile(home, monkeypatch):
    path = home.publish(winner(tile=1))
    (path / "kernel.cu").write_text("damaged")
    rename = os.rename

    def late(a, b):
        if str(a) == str(path):  # the moment before gc takes it away, somebody publishes
            monkeypatch.setattr(store.os, "rename", rename)
            home.publish(winner(tile=2))
        rename(a, b)

    monkeypatch.setattr(store.os, "rename", late)
    home.gc(older_than=-1)
    assert home.get(MATMUL, CHIP, "predicted") == winner(tile=2)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    monkeypatch.setenv("GPU_TUNE_CACHE_DIR", "~nobody-of-that-name/store")
    with pytest.raises(StoreError, match="set GPU_TUNE_CACHE_DIR"):
        paths.root()
