"""The store: winners, one directory each.

Rules. ``<chip>/<workload key>/`` holds ``kernel.cu``, ``kernel.cubin`` and ``launch.json``, or of a workload with an
open size the files of a set (:mod:`.winner_set`); predicted winners live
below ``predicted/`` and never answer for a real device. A directory is written under another name and published by one
rename, so no reader ever sees half of one; who loses a race keeps using what it built. Whatever is malformed or damaged
(every file has its hash) is a miss that is logged, never an error. Nothing in a store is unpickled or evaluated. A
store that others own or can write is refused. Which winner is best was decided by who published it, never by readers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import paths
from ..errors import CorruptData, InvalidInput, StoreError
from ..paths import root
from ..plan.size import MOST, any_of, label, lower, upper
from ..text import OtherFormat, other_format
from ..trial import MEASURED, PREDICTED
from ..workload import Workload
from .winner import FORMAT, FORMAT_1_PREDICTED, Winner, digest
from .winner_set import INDEX, WinnerSet

log = logging.getLogger(__name__)
FILES = ("kernel.cu", "kernel.cubin", "launch.json")
LIMITS = {".cu": 16 << 20, ".cubin": 256 << 20, ".json": 16 << 20}
"""Bytes of each kind of file beyond which a file is malformed: a store cannot exhaust the memory of who reads it."""


NO_CHIPS = (PREDICTED, FORMAT_1_PREDICTED)
"""Folders of a store that hold chips, and are none."""


@dataclass(frozen=True)
class Entry:
    """A winner's directory. ``winner`` is None when it is ``damaged`` or of another format (as ``problem`` says), when
    there is none, or where a set of winners lies there (``winner_set``)."""

    path: Path
    winner: Winner | None = None
    winner_set: WinnerSet | None = None
    problem: str = ""
    damaged: bool = False


class Store:
    """The winners below ``folder`` (default: the user's). ``trusted``: its ownership need not be checked."""

    def __init__(self, folder: Path | str | None = None, *, trusted: bool = False) -> None:
        self.folder = Path(folder).expanduser().absolute() if folder is not None else root() / "kernels"
        self.trusted = trusted

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"

    def prepare(self) -> None:
        """Make the folder; StoreError when it cannot be written or trusted."""
        paths.prepare(self.folder)

    def path(self, workload: Workload, chip: str, source: str = MEASURED) -> Path:
        """Where the winner for ``workload`` on ``chip`` lies, whether it exists or not."""
        base = self.folder / PREDICTED if source == PREDICTED else self.folder
        return base / _name(chip) / _name(workload.key)

    def get(self, workload: Workload, chip: str, source: str = MEASURED) -> Winner | None:
        """The winner, or None; one that is damaged or of another format is logged and None. StoreError when the store
        is not to be trusted."""
        found = self._get(workload, chip, source)
        return found if isinstance(found, Winner) else None

    def get_set(self, workload: Workload, chip: str, source: str = MEASURED) -> WinnerSet | None:
        """The set of winners for a workload with an open size, or None; as :meth:`get`."""
        found = self._get(workload, chip, source)
        return found if isinstance(found, WinnerSet) else None

    def sets_of(self, workload: Workload, chip: str, source: str = MEASURED) -> Iterator[WinnerSet]:
        """The sets whose workload is ``workload`` but for the size that they leave open, the narrowest first."""
        start = f"{workload.op}-{label(getattr(workload, workload.openable))}"
        name, here = _name(workload.key), self.path(workload, chip, source).parent
        found = []
        for path in here.glob(f"{workload.op}-*..*{name[len(start) :]}") if name.startswith(start) else ():
            bounds = re.match(r"(\d{1,10})\.\.(\d{1,10})(?=x)", path.name[len(workload.op) + 1 :])
            low, high = (int(bounds[1]), int(bounds[2])) if bounds else (1, 0)
            if 1 <= low < high <= MOST:
                found.append((high - low, low, high))
        for _, low, high in sorted(found):
            made = self.get_set(workload.resized(any_of(low, high)), chip, source)
            if made is not None:
                yield made

    def _get(self, workload: Workload, chip: str, source: str) -> Winner | WinnerSet | None:
        path = self.path(workload, chip, source)
        self._check(path)
        for place in (path, path.with_name(f".old-{path.name}")):
            entry = _read(place)
            winner = entry.winner or entry.winner_set
            if entry.problem:
                remedy = "; gpu-tune gc removes it" if entry.damaged else ""
                _warn_once(place, f"winner {place} {entry.problem}: ignored{remedy}")
            if winner and (winner.workload, winner.chip, winner.source) == (workload, chip, source):
                return winner
            if winner:
                log.warning(
                    "winner %s is for %s on %s (%s), not for what its place says: ignored",
                    place,
                    winner.workload.key,
                    winner.chip,
                    winner.source,
                )
        if source == PREDICTED:
            before = self.folder / FORMAT_1_PREDICTED / path.relative_to(self.folder / PREDICTED)
            if before.is_dir():
                log.warning("winner %s has %s", before, other_format(1, FORMAT))
        return None

    def publish(self, winner: Winner | WinnerSet) -> Path:
        """Put ``winner`` in its place by one rename, over an earlier one; the path. StoreError if that fails."""
        path = self.path(winner.workload, winner.chip, winner.source)
        for folder in (*reversed([p for p in path.parents if p == self.folder or self.folder in p.parents]),):
            paths.prepare(folder)
        temporary = path.parent / f".tmp-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        try:
            temporary.mkdir(mode=0o700)
            for name, content in _contents(winner).items():
                with open(temporary / name, "xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            temporary.chmod(0o755)
            _swap_in(temporary, path)
        except OSError as error:
            raise StoreError(
                f"winner {str(path)!r} cannot be written: {error.strerror or error}; free some space or set "
                "GPU_TUNE_CACHE_DIR to a folder that you can write"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return path

    def entries(self) -> Iterator[Entry]:
        """Every winner directory, measured and predicted, damaged ones and those of another format included."""
        self._check(self.folder)
        for path in (*sorted(self.folder.glob("*/*")), *sorted((self.folder / PREDICTED).glob("*/*"))):
            if path.is_dir() and not path.name.startswith(".") and path.parent.name not in NO_CHIPS:
                entry = _read(path)
                if entry.winner or entry.winner_set or entry.problem:
                    yield entry

    def gc(self, *, older_than: float = 3600.0) -> tuple[int, int]:
        """Remove damaged winners and what killed writers left (older than that many seconds); (directories, bytes).

        Winners of another format stay, and are logged. So does an ``.old-`` winner whose successor never arrived: it
        still answers for it.
        """
        paths.prepare(self.folder)
        doomed = []
        for entry in self.entries():
            if entry.damaged and (dead := _withdrawn(entry.path)):
                doomed.append(dead)
            elif entry.problem and not entry.damaged:
                log.warning("winner %s %s", entry.path, entry.problem)
        for pattern in ("*/.tmp-*", "*/.old-*", "*/.dead-*"):
            for base in (self.folder, self.folder / PREDICTED):
                for path in base.glob(pattern):
                    answers = path.name.startswith(".old-") and not path.with_name(path.name[5:]).exists()
                    with contextlib.suppress(OSError):
                        if time.time() - path.stat().st_mtime > older_than and not answers:
                            doomed.append(path)
        doomed = list(dict.fromkeys(doomed))
        size = sum(map(_bytes, doomed))
        for path in doomed:
            shutil.rmtree(path, ignore_errors=True)
        return len(doomed), size

    def size(self) -> int:
        """Bytes of everything in the store."""
        return _bytes(self.folder)

    def _check(self, path: Path) -> None:
        if not self.trusted:
            for folder in (self.folder, *(p for p in path.parents if self.folder in p.parents), path):
                paths.check_trusted(folder)


def opened(store: Store | Path | str | None) -> Store | None:
    """A store that was given as such or by its folder's name; InvalidInput on anything else."""
    if store is None or isinstance(store, Store):
        return store
    if not isinstance(store, str | os.PathLike) or "\0" in str(store):
        raise InvalidInput("store", store, "is neither a Store nor a folder", "give gpu_tune.Store(folder)")
    return Store(store)


def lookup(
    workload: Workload, chip: str, source: str = MEASURED, *, store: Store | None = None, user: bool = True
) -> tuple[Winner, Store] | None:
    """The winner and where it came from: ``store`` if given, then the user's (with ``user``), then the shipped ones."""
    for place in _places(store, user):
        winner = place.get(workload, chip, source)
        if winner is not None:
            return winner, place
    return None


def lookup_set(
    workload: Workload, chip: str, source: str = MEASURED, *, store: Store | None = None, user: bool = True
) -> tuple[WinnerSet, Store] | None:
    """The narrowest set that serves every size of ``workload``, open or not, and where it is; as :func:`lookup`."""
    asked = getattr(workload, workload.openable)
    for place in _places(store, user):
        for found in place.sets_of(workload, chip, source):
            low, high = found.size.bounds
            if low <= lower(asked) and upper(asked) <= high:
                return found, place
    return None


def _places(store: Store | None, user: bool) -> list[Store]:
    """Where winners are looked for, in this order."""
    own = [store] if store is not None else []
    users = [Store()] if user or not own else []
    users = [place for place in users if place.folder not in {o.folder for o in own}]
    return [*own, *users, Store(paths.shipped(), trusted=True)]  # the shipped folder: as trusted as our code


def _read(path: Path) -> Entry:
    """What lies there: a winner, what is wrong with it, or neither where there is none."""
    problem = ""
    for attempt in range(100):
        changed = _changed(path)
        try:
            found = _load(path)
            return Entry(path, found) if isinstance(found, Winner) else Entry(path, winner_set=found)
        except OtherFormat as error:
            return Entry(path, problem=f"has {error}")
        except FileNotFoundError:
            if not path.exists():
                return Entry(path)
            problem = "a file is missing"
        except (CorruptData, OSError) as error:
            problem = str(error)
        if attempt > 1 and changed == _changed(path):
            break
        time.sleep(0.01)  # a publisher has just replaced it, or removes what it replaced
    return Entry(path, problem=f"is damaged ({problem})", damaged=True)


_warned: dict[Path, tuple[int, str]] = {}


def _warn_once(path: Path, message: str) -> None:
    """Log what is wrong there, unless that was said of the folder as it is: one call looks in several ways."""
    said = (_changed(path), message)
    if _warned.get(path) != said:
        _warned[path] = said
        log.warning("%s", message)


def _changed(path: Path) -> int:
    """When the folder's entries changed last, or another folder took its place; 0 where there is none."""
    with contextlib.suppress(OSError):
        return path.stat().st_ctime_ns
    return 0


def _withdrawn(path: Path) -> Path | None:
    """The damaged winner under another name; None where a publisher has replaced it by a good one meanwhile."""
    dead = path.with_name(f".dead-{uuid.uuid4().hex[:12]}")
    try:
        os.rename(path, dead)
    except OSError:
        return None
    if not _read(dead).damaged:
        with contextlib.suppress(OSError):  # there is a still newer one: this one is removed
            os.rename(dead, path)
            return None
    return dead


def _contents(winner: Winner | WinnerSet) -> dict[str, bytes]:
    """The files of a winner's directory, by name."""
    if isinstance(winner, WinnerSet):
        return winner.files()
    return {
        "kernel.cu": winner.code.encode(),
        "kernel.cubin": winner.cubin,
        "launch.json": (json.dumps(winner.to_json(), indent=1, sort_keys=True) + "\n").encode(),
    }


def _load(path: Path) -> Winner | WinnerSet:
    """Read all files through one directory handle, so that a replacement in between cannot mix two winners."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(FileNotFoundError):
            index = _read_file(INDEX, handle)
            return WinnerSet.from_files(index, lambda name: _read_member(name, handle))
        contents = {name: _read_file(name, handle) for name in FILES}
    finally:
        os.close(handle)
    return Winner.from_files(contents["launch.json"], contents["kernel.cu"], contents["kernel.cubin"])


def _read_member(name: str, handle: int) -> bytes:
    try:
        return _read_file(name, handle)
    except FileNotFoundError:
        raise CorruptData(f"{name} is missing") from None


def _read_file(name: str, handle: int) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(file.fileno())
        if info.st_mode & 0o002 or info.st_uid not in (os.geteuid(), 0):
            raise CorruptData(f"{name} belongs to others or can be written by them, so it is not trusted")
        limit = LIMITS[Path(name).suffix]
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CorruptData(f"{name} is larger than {limit} bytes")
    return data


def _swap_in(temporary: Path, path: Path) -> None:
    """Rename ``temporary`` to ``path``. An earlier winner there is exchanged in the same call where the kernel can."""
    for _ in range(100):
        try:
            os.rename(temporary, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if _exchange(temporary, path):
            return  # temporary now holds the old winner; the caller removes it
        old = path.with_name(f".old-{path.name}")
        dead = path.with_name(f".dead-{uuid.uuid4().hex[:12]}")
        with contextlib.suppress(OSError):
            os.rename(old, dead)
        with contextlib.suppress(OSError):
            os.rename(path, old)  # readers look here too, should this process die now
        shutil.rmtree(dead, ignore_errors=True)
    raise StoreError(f"winner {str(path)!r} is being replaced by others without end; try again")


def _exchange(a: Path, b: Path) -> bool:
    """Swap two directories by one renameat2(RENAME_EXCHANGE) (Linux 3.15; not on every network file system)."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_fdcwd, rename_exchange = -100, 2
    return call(at_fdcwd, os.fsencode(a), at_fdcwd, os.fsencode(b), rename_exchange) == 0


def _name(text: str) -> str:
    """``text`` as a file name: unchanged where it is one, else with a hash that keeps it distinct."""
    clean = re.sub(r"[^A-Za-z0-9.+=_\-]", "_", text)
    if clean == text and len(text) <= 200 and not text.startswith("."):
        return text
    return f"{clean.lstrip('.')[:180]}-{digest(text.encode())[:16]}"


def _bytes(folder: Path) -> int:
    """Bytes of all files below ``folder``; others may remove some meanwhile."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(base, name)).st_size
    return total
