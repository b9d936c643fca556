"""Records: append-only segments, merged readers, torn and hostile lines, identities."""

import csv
import io
import json
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys

import pytest

from gpu_tune.errors import CorruptData, InvalidInput, StoreError
from gpu_tune.space.knob import Config
from gpu_tune.store import records as R
from gpu_tune.trial import Candidate, Measurement, Resources
from gpu_tune.workload import Conv2d, Matmul
from tests.helpers.processes import wait_until

MATMUL = Matmul(64, 48, 32)


def measurement(status="ok", source="measured", tile=64, **more):
    samples = (1e-5, 2e-5, 3e-5) if status == "ok" else ()
    body = {
        "resources": Resources(registers=40, threads=128, notes=("C7510",)),
        "environment": {"driver": "580"},
        **more,
    }
    return Measurement(Candidate("matmul_simt", Config(tile=tile)), status, source, samples=samples, **body)


def record(i=0, workload=MATMUL, chip="nvidia-h200-132sm-141gb", **more):
    return R.Record(workload, chip, "abc", measurement(tile=i, **more), time=1000.0 + i, run="run-1")


@pytest.fixture
def log(tmp_path):
    return R.Records(tmp_path / "records")


def test_a_record_survives_the_trip_through_its_line():
    foreseen = record(5, prediction={"dram": 1e-6})
    wrong = record(4, Conv2d(1, 8, 9, 9, 8, 3, 3, padding=1), status="wrong", reason='off by "one"\n')
    for r in (record(3), foreseen, wrong):
        assert R.parse(r.line()) == r
        assert r.line().count("\n") == 1


def test_readers_merge_the_segments_of_many_writers_in_time_order(log):
    others = [R.Records(log.folder) for _ in range(3)]
    for i in range(12):
        others[i % 3].append(record(i))
    assert [r.measurement.candidate.config["tile"] for r in log.read()] == list(range(12))
    assert len(log.segments()) == 3


def test_measured_and_predicted_never_mix(log):
    log.append(record(1))
    log.append(record(2, source="predicted"))
    log.append(record(3, source="replayed"))
    for source, tile in (("measured", 1), ("predicted", 2), ("replayed", 3)):
        assert [r.measurement.candidate.config["tile"] for r in log.read(source)] == [tile]
    with pytest.raises(InvalidInput, match="guessed"):
        log.read("guessed")


def test_chip_and_workload_filter(log):
    other = Matmul(64, 48, 33)
    log.append(record(1))
    log.append(record(2, other))
    log.append(record(3, chip="nvidia-a100-108sm-80gb"))
    assert [
        r.measurement.candidate.config["tile"] for r in log.read(chip="nvidia-h200-132sm-141gb", key=MATMUL.key)
    ] == [1]
    assert len(log.read(key=other.key)) == 1 and len(log.read(chip="nvidia-a100-108sm-80gb")) == 1


def test_a_torn_last_line_is_dropped_and_bad_lines_are_logged_misses(log, caplog):
    for i in range(3):
        log.append(record(i))
    path = log.segments()[0]
    lines = path.read_bytes().splitlines(keepends=True)
    hostile = [b"\n", b"not json\n", b'{"format":99}\n', b"[" * 5000 + b"\n", b"\xff\xfe\x00\n", b"null\n", b'"text"\n']
    broken = json.loads(lines[0])
    for name, value in (("measurement", 7), ("workload", {"op": "matmul", "m": -1}), ("time", "soon"), ("chip", 3)):
        hostile.append(json.dumps({**broken, name: value}).encode() + b"\n")
    path.write_bytes(lines[0] + b"".join(hostile) + lines[1] + lines[2][:-30])
    with caplog.at_level(logging.WARNING):
        assert [r.measurement.candidate.config["tile"] for r in log.read()] == [0, 1]
    assert len([m for m in caplog.messages if "is not a record" in m]) == len(hostile) - 1  # an empty line is nothing
    with pytest.raises(CorruptData):
        R.parse(lines[2][:-30].decode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("time",), float("nan")),  # would make the order of all records, and what is left of a budget, undefined
        (("time",), float("inf")),
        (("time",), 10**400),
        (("chip",), "\ud800"),
        (("workload", "alpha"), float("inf")),
        (("measurement", "prediction"), {"dram": float("inf")}),
        (("measurement", "prediction"), [1.0]),
        (("measurement", "samples"), [10**400]),
        (("measurement", "candidate", "config"), {"tile": []}),
        (("measurement", "candidate", "config"), {"tile": float("nan")}),
    ],
)
def test_numbers_and_texts_that_are_none_make_a_line_no_record(path, value, log, caplog):
    data = json.loads(record(1).line())
    place = data
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(CorruptData):
        R.parse(json.dumps(data))
    log.append(record(2))
    with open(log.segments()[0], "a") as file:
        file.write(json.dumps(data) + "\n")
    assert log.read() == [record(2)]


def test_the_filter_looks_at_the_record_not_at_what_else_its_line_holds(log):
    told = {"chip": "nvidia-a100-108sm-80gb", "key": "matmul-1x1x1-float16-nn"}
    log.append(record(1, environment=told))
    assert not log.read(chip=told["chip"]) and not log.read(key=told["key"])
    assert log.read(chip="nvidia-h200-132sm-141gb", key=MATMUL.key) == [record(1, environment=told)]


def test_every_prefix_of_a_segment_reads_as_a_prefix_of_the_records(log):
    for i in range(3):
        log.append(record(i))
    data = log.segments()[0].read_text()
    ends = [i + 1 for i, c in enumerate(data) if c == "\n"]
    for cut in range(0, len(data) + 1, 7):
        whole = sum(end <= cut for end in ends)
        found = len(list(R.read_text(data[:cut], "cut")))
        assert found in (whole, whole + 1) and (found == whole or data[cut - 1] == "}")


def _append_forever(folder, start):
    log, i = R.Records(folder), 0
    while True:
        log.append(record(start + i))
        i += 1


def test_kill_9_while_appending_loses_no_earlier_record(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_forever, args=(tmp_path / "r", 10**6 * n)) for n in range(3)]
    for w in workers:
        w.start()
    log = R.Records(tmp_path / "r")

    def all_append() -> bool:
        sizes = [p.stat().st_size for p in log.segments()] if (tmp_path / "r").exists() else []
        return len(sizes) >= 3 and min(sizes) > 10_000

    assert wait_until(all_append)
    for w in workers:
        os.kill(w.pid, signal.SIGKILL)
        w.join()
    tiles = sorted(r.measurement.candidate.config["tile"] for r in log.read())
    for n in range(3):
        mine = [t % 10**6 for t in tiles if t // 10**6 == n]
        assert mine == list(range(len(mine))) and mine


def test_a_forked_child_writes_a_segment_of_its_own(log):
    log.append(record(0))
    pid = os.fork()
    if pid == 0:
        try:
            log.append(record(1))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    log.append(record(2))
    assert [p.read_text().count("\n") for p in log.segments()] in ([1, 2], [2, 1])


def test_a_full_disk_is_one_clear_error_and_damages_nothing(log):
    log.append(record(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.segments()[0].stat().st_size + 40, hard))
        with pytest.raises(StoreError, match=r"cannot be written.*free some space"):
            log.append(record(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    log.append(record(2))
    tiles = [r.measurement.candidate.config["tile"] for r in log.read()]
    assert tiles == [0, 2], "what was written once there was space again is not glued to the torn line"


def test_an_unwritable_or_foreign_folder_is_refused(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StoreError, match="GPU_TUNE_CACHE_DIR"):
        R.Records(blocked / "records").append(record())
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    with pytest.raises(StoreError, match=r"written by others.*chmod go-w"):
        R.Records(loose).append(record())
    with pytest.raises(StoreError, match="written by others"):
        R.Records(loose).read()


def test_csv_has_one_row_a_record_and_no_time_for_a_failure(log):
    rows = list(
        csv.DictReader(io.StringIO(R.to_csv([record(1), record(2, status="run_timeout", reason="10 s, no end")])))
    )
    assert [r["status"] for r in rows] == ["ok", "run_timeout"]
    assert float(rows[0]["seconds"]) == 2e-5 and rows[1]["seconds"] == "" and rows[1]["reason"] == "10 s, no end"
    assert list(R.from_csv(R.to_csv([record(1), record(2)]), "t.csv")) == [record(1), record(2)]
    assert list(R.from_csv("a,b\n1,2\n", "t.csv")) == []
    assert rows[0]["registers"] == "40" and json.loads(rows[0]["config"]) == {"tile": 1}


def test_records_need_no_gpu_package():
    code = "import sys, gpu_tune.store.records, gpu_tune.store.store\n"
    code += 'print([m for m in ("cupy", "lightgbm") if m in sys.modules])'
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
