"""Records: every trial as it ended, append-only.

Rules. Truth is JSON lines, one segment file a writer (host-pid-uuid), one ``os.write`` a record, so that writers
never meet and ``cat`` merges two machines. Readers merge all segments, drop a torn last line and skip a corrupt one,
saying so in the log. Measured, predicted and replayed trials live in folders of their own and never mix.

Three identities. *choice*: template hash + workload + chip, what a winner answers for. *measurement*: choice + driver +
NVRTC + policy, what makes two times comparable: a run resumes only from such trials, the others teach the models.
*artifact*: source + options + NVRTC, what makes a cubin reusable (``compile_key``).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import paths
from ..errors import InvalidInput, StoreError, require
from ..space.knob import Knob
from ..text import check_format, from_json, other_format, read_lines, refused, to_json
from ..trial import MEASURED, PREDICTED, SOURCES, Measurement
from ..workload import Workload
from .recorded_space import Recorded, RecordedTrial
from .winner import FORMAT, FORMAT_1_PREDICTED, READERS

log = logging.getLogger(__name__)


def opened_records(records: Records | Path | str | None) -> Records:
    """Records that were given as such, by their folder's name, or (None) the user's; InvalidInput on anything else."""
    if records is None or isinstance(records, Records):
        return Records() if records is None else records
    if not isinstance(records, str | os.PathLike) or "\0" in str(records):
        raise InvalidInput("records", records, "are neither Records nor a folder", "give gpu_tune.Records(folder)")
    return Records(Path(records))


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

    def line(self) -> str:
        """One JSON line; ``parse`` inverts it. Identity comes first, so that readers can filter before they parse."""
        first = {"format": FORMAT, "chip": self.chip, "key": self.workload.key}
        body = to_json(replace(self, time=round(self.time, 3)))
        return json.dumps({**first, **body}, separators=(",", ":")) + "\n"


def parse(line: str) -> Record:
    """The record in one JSON line; OtherFormat for one of another format, CorruptData on anything else."""
    with refused("record"):
        data = json.loads(line)
        check_format(data, FORMAT)
        if "\\ud" in line:  # an escaped surrogate: half a character is no text
            json.dumps(data, ensure_ascii=False).encode()
        return from_json(Record, {k: v for k, v in data.items() if k not in ("format", "key")}, READERS)


@dataclass
class Records:
    """The records below ``folder`` (default: the user's). Reading never fails on content; writing may (StoreError)."""

    folder: Path = field(default_factory=lambda: paths.root() / "records")
    _segments: dict[str, paths.LineFile] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder).expanduser().absolute()

    def prepare(self) -> None:
        """Make the folder; StoreError when it cannot be written or trusted."""
        paths.prepare(self.folder)

    def append(self, record: Record) -> None:
        """Write ``record`` into the segment of this object; StoreError when that fails."""
        try:
            if record.source not in self._segments:
                self.prepare()
                self._segments[record.source] = paths.LineFile(self.folder / record.source)
            self._segments[record.source].append(record.line())
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
            try:
                found.extend(read_text(path.read_bytes().decode(errors="replace"), str(path), marks))
            except OSError as error:
                log.warning("records %s cannot be read (%s): skipped", path, error.strerror)
        if source == PREDICTED and (self.folder / FORMAT_1_PREDICTED).is_dir():
            log.warning("records in %s: %s", self.folder / FORMAT_1_PREDICTED, other_format(1, FORMAT))
        wanted = (r for r in found if chip in (None, r.chip) and key in (None, r.workload.key))
        return sorted(wanted, key=lambda r: r.time)  # the marks may stand elsewhere in a line, too

    def segments(self, source: str = MEASURED) -> list[Path]:
        """The segment files of ``source``; StoreError when the folder is not to be trusted."""
        require(source in SOURCES, "records source", source, "is unknown", f"use one of {', '.join(SOURCES)}")
        folder = self.folder / source
        for path in (self.folder, folder):
            paths.check_trusted(path)
        return sorted(folder.glob("*.jsonl")) if folder.is_dir() else []

    def close(self) -> None:
        """Close the segments this object writes. Records are in the file from ``append`` on; nothing is buffered."""
        for segment in self._segments.values():
            segment.close()


def read_text(text: str, name: str, marks: Sequence[str] = ()) -> Iterator[Record]:
    """The records in JSON-lines ``text`` that hold all ``marks``; bad lines are skipped with a warning that names
    ``name`` and the line."""
    return read_lines(text, name, lambda line: parse(line) if all(mark in line for mark in marks) else None)


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
                "warm_seconds": statistics.median(m.warm_samples) if m.warm_samples else "",
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


def as_recorded(records: Iterable[Record]) -> Recorded:
    """Records of one template, workload and chip as a recorded space (for T4 and Kernel Tuner files, and for replay).

    The last record of a config counts. InvalidInput when there are none or they are of several kinds.
    """
    found = list(records)
    kinds = sorted({(r.measurement.candidate.template, r.workload.key, r.chip) for r in found})
    require(kinds, "records", ..., "there are none of that kind", "gpu-tune records lists what there is")
    several = "; ".join(" ".join(k) for k in kinds[:5]) + (" ..." if len(kinds) > 5 else "")
    told = f"are of {len(kinds)} kinds ({several})"
    require(len(kinds) == 1, "records", len(found), told, "choose one with --template, --workload and --chip")
    last = {r.measurement.candidate.config.key: r.measurement for r in found}
    values: dict[str, set[tuple[str, Any]]] = {name: set() for name in found[-1].measurement.candidate.config}
    for m in last.values():
        for name, value in m.candidate.config.items():
            rule = "is a knob of some records only"
            require(name in values, "records", name, rule, "choose those of one template version")
            values[name].add((str(type(value)), value))
    knobs = [Knob(n, tuple(value for _, value in sorted(v)), "as recorded") for n, v in values.items()]
    template, key, chip = kinds[0]
    trials = tuple(RecordedTrial.of(m) for m in last.values() if m.status != "pruned")  # those have no result at all
    return Recorded(f"{template} {key}", chip, tuple(knobs), trials)
