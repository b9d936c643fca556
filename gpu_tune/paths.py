"""Where gpu_tune keeps things, which folders it trusts, and how files are written there: whole, or line by line.

``GPU_TUNE_CACHE_DIR`` names the user's folder, else ``$XDG_CACHE_HOME/gpu_tune``, else ``~/.cache/gpu_tune``. Below it:
``records/`` (trials), ``kernels/`` (winners). What lies there is run on the GPU, so the trust boundary is ownership and
mode: a folder that somebody else owns or can write is refused.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import logging
import os
import pwd
import re
import socket
import stat
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from .errors import StoreError

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).parent


def root() -> Path:
    """The user's folder (it may not exist yet); StoreError when the user has no home and names none."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative path is ignored
        base = "~/.cache"
    name = os.environ.get("GPU_TUNE_CACHE_DIR") or f"{base}/gpu_tune"
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError as error:  # as in a container whose user has no entry and no HOME
        raise StoreError(
            f"store {name!r} has no place: {error}; set GPU_TUNE_CACHE_DIR to a folder that you can write"
        ) from error


def shipped() -> Path:
    """The folder of shipped winners: ``kernels/`` in an installed package, or beside the package in a checkout."""
    inside = PACKAGE / "kernels"
    return inside if inside.is_dir() else PACKAGE.parent / "kernels"


def check_trusted(folder: Path) -> None:
    """Raise StoreError when somebody else owns ``folder`` or can write into it. A missing folder passes."""
    try:
        info = os.stat(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(
            f"store {str(folder)!r} cannot be read: {error.strerror}; choose another folder with GPU_TUNE_CACHE_DIR"
        ) from error
    if not stat.S_ISDIR(info.st_mode):
        raise StoreError(f"store {str(folder)!r} is not a folder; move it away or set GPU_TUNE_CACHE_DIR")
    if info.st_uid not in (os.geteuid(), 0):
        raise StoreError(
            f"store {str(folder)!r} belongs to {_user(info.st_uid)}, so its kernels are not trusted; "
            "set GPU_TUNE_CACHE_DIR to a folder of your own"
        )
    by_group = info.st_mode & stat.S_IWGRP and not _private_group(info.st_gid)
    if by_group or info.st_mode & stat.S_IWOTH:
        raise StoreError(
            f"store {str(folder)!r} can be written by others (mode {stat.S_IMODE(info.st_mode):03o}), so its "
            f"kernels are not trusted; run: chmod go-w '{folder}'"
        )


def prepare(folder: Path) -> Path:
    """Make ``folder`` (private to the user) where it is missing, and return it; StoreError when it cannot be used."""
    try:
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"store {str(folder)!r} cannot be made: {error.strerror or error}; set GPU_TUNE_CACHE_DIR to a "
            "folder that you can write"
        ) from error
    check_trusted(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(
            f"store {str(folder)!r} is not writable; set GPU_TUNE_CACHE_DIR to a folder that you can write"
        )
    return folder


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A new, private file beside ``path``, which takes its place by one rename when the block ends well, and is removed
    otherwise; ``durable``: its content is on disk before. OSError as the file system raises it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    os.close(handle)
    try:
        yield Path(name)
        if durable:
            _sync(name)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _sync(name: str) -> None:
    handle = os.open(name, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_SEAL = b"\ngpu_tune sha256 "


def seal(path: Path) -> None:
    """Append to a file what tells that it is whole: loaders of objects and libraries ignore what follows their end."""
    body = path.read_bytes()
    with path.open("ab") as file:
        file.write(_SEAL + hashlib.sha256(body).hexdigest().encode())


def sealed(path: Path) -> bytes | None:
    """The content of a file that was sealed; None where there is none, or it is cut or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body, mark, digest = data[: -64 - len(_SEAL)], data[-64 - len(_SEAL) : -64], data[-64:]
    return body if mark == _SEAL and hashlib.sha256(body).hexdigest().encode() == digest else None


_complained: set[str] = set()


def cannot_keep(what: str, folder: Path, error: Exception) -> None:
    """Warn, once in a process for each ``what``, that it cannot be kept in ``folder``; the work goes on without."""
    if what not in _complained:
        _complained.add(what)
        log.warning("%s cannot be kept in %s (%s): going on without", what, folder, error)


class LineFile:
    """Appends lines to a file of its own in ``folder`` (host-pid-uuid), each with one system call: writers never meet,
    and a line is in the file whole, or torn as its last one. Thread-safe; a forked child starts another file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file, self._pid, self._lock = -1, -1, threading.Lock()

    def append(self, line: str, *, sync: bool = False) -> None:
        """Write ``line``; with ``sync`` it is on disk when this returns. StoreError or OSError when that fails."""
        data = line.encode()
        with self._lock:
            if self._pid != os.getpid():
                host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "host"
                path = prepare(self.folder) / f"{host}-{os.getpid()}-{uuid.uuid4().hex[:12]}.jsonl"
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                self._pid = os.getpid()
            if os.write(self._file, data) != len(data):
                self.close()  # what comes next, when there is space again, goes to a file without a torn line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file; a later line starts another. Nothing is buffered."""
        if self._pid == os.getpid():
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._pid = -1


def _private_group(gid: int) -> bool:
    """Whether the group holds the user alone (Debian's and Ubuntu's user groups, whose umask leaves folders 0775)."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user id {uid}"
