"""Records: every trial as it ended, append-only.

Rules. Truth is JSON lines, one segment file a writer (host-pid-uuid), one ``os.write`` a record, so that writers
never meet and ``cat`` merges two machines. Readers merge all segments, drop a torn last line and skip a corrupt one,
saying so in the log. Measured, predicted and replayed trials live in folders of their own and never mix.

Three identities. *choice*: template hash + workload + chip, what a winner answers for (``Record.choice``).
*measurement*: choice + driver + NVRTC + policy, what makes two times comparable: a run resumes only from such trials,
the others teach the models. *artifact*: source + options + NVRTC, what makes a cubin reusable (``compile_key``).
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import logging
import math
import os
import re
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import paths
from ..errors import CorruptData, GpuTuneError, InvalidInput, StoreError
from ..space.knob import Knob
from ..trial import MEASURED, PREDICTED, REPLAYED, Measurement
from ..workload import Workload, from_dict, to_dict
from .recorded_space import Recorded, from_measurements

log = logging.getLogger(__name__)
FORMAT = 1
SOURCES = (MEASURED, PREDICTED, REPLAYED)


@dataclass(frozen=True)
class Record:
    """One trial as stored: the measurement and what it was made for. ``time`` is seconds since the epoch.

    ``workload`` is what the template computed (for a view: the view's workload). ``run`` names the tuning that made it.
    """

    workload: Workload
    chip: str
    template_hash: str
    measurement: Measurement
    time: float = 0.0
    run: str = ""

    @property
    def source(self) -> str:
        """``measured``, ``predicted`` or ``replayed``."""
        return self.measurement.source

    @property
    def choice(self) -> str:
        """Identity of the choice that this record speaks for."""
        return choice_id(self.template_hash, self.workload, self.chip)

    def line(self) -> str:
        """One JSON line; ``parse`` inverts it. Identity comes first, so that readers can filter before they parse."""
        return (
            json.dumps(
                {
                    "format": FORMAT,
                    "chip": self.chip,
                    "key": self.workload.key,
                    "template_hash": self.template_hash,
                    "time": round(self.time, 3),
                    "run": self.run,
                    "workload": to_dict(self.workload),
                    "measurement": self.measurement.to_json(),
                },
                separators=(",", ":"),
                default=_plain,
            )
            + "\n"
        )


def parse(line: str) -> Record:
    """The record in one JSON line; CorruptData on anything else."""
    try:
        data = json.loads(line)
        if "\\ud" in line:  # an escaped surrogate: half a character is no text
            json.dumps(data, ensure_ascii=False).encode()
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"format {data.get('format') if isinstance(data, dict) else None!r} is not {FORMAT}")
        for name in ("chip", "template_hash", "run"):
            if not isinstance(data[name], str):
                raise TypeError(f"{name} is not text")
        when = float(data["time"])
        if not math.isfinite(when):
            raise ValueError(f"time {when} is not seconds since the epoch")
        return Record(
            from_dict(data["workload"]),
            data["chip"],
            data["template_hash"],
            Measurement.from_json(data["measurement"]),
            when,
            data["run"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, GpuTuneError) as error:
        raise CorruptData(f"record: {type(error).__name__} {error}") from error


def choice_id(template_hash: str, workload: Workload, chip: str) -> str:
    """Identity of a choice: which template as it now is, computing what, on which chip (16 hex digits)."""
    return _digest("choice", template_hash, workload.key, chip)


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


@dataclass
class Records:
    """The records below ``folder`` (default: the user's). Reading never fails on content; writing may (StoreError)."""

    folder: Path = field(default_factory=lambda: paths.root() / "records")
    _open: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder).expanduser().absolute()

    def prepare(self) -> None:
        """Make the folder; StoreError when it cannot be written or trusted."""
        paths.prepare(self.folder)

    def append(self, record: Record) -> None:
        """Write ``record`` with one system call: it is in the file whole, or as a line that readers skip."""
        descriptor = self._segment(record.source)
        data = record.line().encode()
        try:
            written = os.write(descriptor, data)
            if written != len(data):
                self.close()  # what comes next, when there is space again, goes to a segment without a torn line
                raise OSError(28, "no space left")
        except OSError as error:
            raise StoreError(
                f"records in {str(self.folder)!r} cannot be written: {error.strerror}; free some space or set "
                "GPU_TUNE_CACHE_DIR"
            ) from error

    def read(self, source: str = MEASURED, *, chip: str | None = None, key: str | None = None) -> list[Record]:
        """All records of ``source``, oldest first, of one chip and workload key if given. Bad lines are logged."""
        marks = [f'"{name}":{json.dumps(value)}' for name, value in (("chip", chip), ("key", key)) if value is not None]
        found: list[Record] = []
        for path in self.segments(source):
            found.extend(_read_segment(path, marks))
        wanted = (r for r in found if chip in (None, r.chip) and key in (None, r.workload.key))
        return sorted(wanted, key=lambda r: r.time)  # the marks may stand elsewhere in a line, too

    def segments(self, source: str = MEASURED) -> list[Path]:
        """The segment files of ``source``; StoreError when the folder is not to be trusted."""
        if source not in SOURCES:
            raise InvalidInput("records source", source, "is unknown", f"use one of {', '.join(SOURCES)}")
        folder = self.folder / source
        for path in (self.folder, folder):
            paths.check_trusted(path)
        return sorted(folder.glob("*.jsonl")) if folder.is_dir() else []

    def close(self) -> None:
        """Close the segments this object writes. Records are in the file from ``append`` on; nothing is buffered."""
        for descriptor, pid in self._open.values():
            if pid == os.getpid():
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._open.clear()

    def _segment(self, source: str) -> int:
        descriptor, pid = self._open.get(source, (-1, -1))
        if pid == os.getpid():  # after a fork the child writes a segment of its own
            return descriptor
        paths.prepare(self.folder)
        folder = paths.prepare(self.folder / source)
        host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "host"
        path = folder / f"{host}-{os.getpid()}-{uuid.uuid4().hex[:12]}.jsonl"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"records {str(path)!r} cannot be made: {error.strerror}; set GPU_TUNE_CACHE_DIR to a folder "
                "that you can write"
            ) from error
        self._open[source] = (descriptor, os.getpid())
        return descriptor


def _read_segment(path: Path, marks: Sequence[str]) -> Iterator[Record]:
    try:
        text = path.read_bytes().decode(errors="replace")
    except OSError as error:
        log.warning("records %s cannot be read (%s): skipped", path, error.strerror)
        return
    yield from read_text(text, str(path), marks)


def read_text(text: str, name: str, marks: Sequence[str] = ()) -> Iterator[Record]:
    """The records in JSON-lines ``text``; each bad line is skipped with a warning that names ``name`` and the line."""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line or any(mark not in line for mark in marks):
            continue
        try:
            yield parse(line)
        except CorruptData as error:
            if number == len(lines):
                log.info("%s: the last line is torn (a writer was killed): dropped", name)
            else:
                log.warning("%s line %d is not a record (%s): skipped", name, number, str(error)[:200])


CSV_COLUMNS = (
    "time",
    "source",
    "chip",
    "workload",
    "template",
    "template_hash",
    "status",
    "seconds",
    "warm_seconds",
    "samples",
    "registers",
    "spill_bytes",
    "static_shared_bytes",
    "dynamic_shared_bytes",
    "threads",
    "cubin_hash",
    "reason",
    "config",
    "run",
    "record",
)


def to_csv(records: Iterable[Record]) -> str:
    """A table, one row a record: median seconds, resources; samples and config as JSON text. Failures have no time.

    The last column holds the whole record as JSON, so that :func:`from_csv` loses nothing.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for r in records:
        m = r.measurement
        resources = {
            n: getattr(m.resources, n) for n in CSV_COLUMNS if m.resources is not None and hasattr(m.resources, n)
        }
        writer.writerow(
            {
                "time": round(r.time, 3),
                "source": m.source,
                "chip": r.chip,
                "workload": r.workload.key,
                "template": m.candidate.template,
                "template_hash": r.template_hash,
                "status": m.status,
                "seconds": m.time if m.ok else "",
                "warm_seconds": _median(m.warm_samples),
                "samples": json.dumps(m.samples),
                "cubin_hash": m.cubin_hash,
                "reason": m.reason,
                "config": m.candidate.config.key,
                "run": r.run,
                "record": r.line().rstrip("\n"),
                **resources,
            }
        )
    return out.getvalue()


def from_csv(text: str, name: str) -> Iterator[Record]:
    """The records in a table that ``to_csv`` wrote, rows dropped or sorted at will; bad rows are skipped, saying so."""
    with contextlib.suppress(csv.Error):
        rows = [row.get("record") or "" for row in csv.DictReader(io.StringIO(text, newline=""))]
        yield from read_text("".join(f"{row}\n" for row in rows), name)


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def _median(samples: Sequence[float]) -> Any:
    return sorted(samples)[len(samples) // 2] if samples else ""


def _plain(value: Any) -> Any:
    """JSON for what measurers put into ``environment``: NumPy scalars, mappings, paths."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def as_recorded(records: Iterable[Record]) -> Recorded:
    """Records of one template, workload and chip as a recorded space (for T4 and Kernel Tuner files, and for replay).

    The last record of a config counts. InvalidInput when there are none or they are of several kinds.
    """
    found = list(records)
    kinds = sorted({(r.measurement.candidate.template, r.workload.key, r.chip) for r in found})
    if len(kinds) != 1:
        several = "; ".join(" ".join(k) for k in kinds[:5]) + (" ..." if len(kinds) > 5 else "")
        if not kinds:
            raise InvalidInput(
                "records", rule="there are none of that kind", remedy="gpu-tune records lists what there is"
            )
        told = f"are of {len(kinds)} kinds ({several})"
        raise InvalidInput("records", len(found), told, "choose one with --template, --workload and --chip")
    last = {r.measurement.candidate.config.key: r.measurement for r in found}
    values: dict[str, list[Any]] = {name: [] for name in found[-1].measurement.candidate.config}
    for m in last.values():
        for name, value in m.candidate.config.items():
            if name not in values:
                raise InvalidInput(
                    "records", name, "is a knob of some records only", "choose those of one template version"
                )
            if not any(type(v) is type(value) and v == value for v in values[name]):
                values[name].append(value)
    knobs = [Knob(n, tuple(sorted(v, key=lambda x: (str(type(x)), x))), "as recorded") for n, v in values.items()]
    template, key, chip = kinds[0]
    return from_measurements(list(last.values()), knobs, f"{template} {key}", chip)
