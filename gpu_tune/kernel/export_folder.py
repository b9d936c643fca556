"""A folder of winners that travels: a store with a manifest, which says what it holds, for which chips, and every hash.

Another machine opens it by :func:`open_export`, which refuses what is damaged, incomplete, tuned for another chip, or
compiled for a newer CUDA than the driver there runs. The store that it returns serves ``load``, ``matmul``, ``conv2d``
and ``gpu_tune.torch``.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import paths, text
from ..cuda import driver, nvml
from ..cuda.device import Device
from ..errors import CorruptData, InvalidInput, MeasureError, NotTuned, StoreError, require
from ..store.select import select_device
from ..store.store import Entry, Store
from ..store.winner import Winner, canonical, digest
from ..store.winner_set import WinnerSet
from ..text import check_format, refused
from ..trial import MEASURED

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
FORMAT = 1
OWN = ("kernel.hpp",)
"""Files beside a winner that are made from it: a part of the CMake package where there is one."""
PACKAGE = ("CMakeLists.txt", "kernels.hpp", "cubins.cpp", *OWN)
"""The files of a CMake package, by their names; the manifest has them apart from the winners'."""


def require_free(folder: Path) -> None:
    """InvalidInput unless ``folder`` is empty, missing, or holds an earlier export."""
    remedy = "name an empty or a new folder"
    require(folder.is_dir() or not folder.exists(), "export", str(folder), "is not a folder", remedy)
    with_manifest = (folder / MANIFEST).is_file()
    others = folder.is_dir() and not with_manifest and any(folder.iterdir())
    require(not others, "export", str(folder), "holds other things than an export", remedy)


def publish(folder: Path, winners: Sequence[Winner | WinnerSet], model: Mapping[str, Any] | None = None) -> Path:
    """Put ``winners`` into ``folder``, beside those of an earlier export, and write its manifest. ``model``: facts of
    what they were tuned for, kept as they are. NotTuned for no winner, InvalidInput for a folder of other things."""
    require_free(folder)
    if not winners:
        raise NotTuned("there is no kernel to export; tune first")
    store = Store(folder)
    store.prepare()
    for winner in winners:
        store.publish(winner)
    write_manifest(folder, [] if model is None else [model])
    return store.folder


def write_manifest(folder: Path, models: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write the manifest of what lies in ``folder`` now; ``models`` are added to those it names already."""
    kept: list[Any] = []
    if (folder / MANIFEST).is_file():
        try:
            kept = [m for m in read_manifest(folder).get("models", ()) if _of(m) not in {_of(new) for new in models}]
        except CorruptData as error:
            log.warning("%s: a new one is written", error)
    entries = [e for e in Store(folder).entries() if e.winner or e.winner_set]
    rows = [_row(folder, entry) for entry in entries]
    made = {
        "format": FORMAT,
        "created": time.time(),
        "chips": sorted({row["chip"] for row in rows}),
        "winners": rows,
        "package": _package(folder, rows),
        "models": [*kept, *models],
    }
    made = {**text.to_json(made), "hash": ""}
    made["hash"] = _hash(made)
    try:
        with paths.replacing(folder / MANIFEST, durable=True) as new:
            text.write(new, json.dumps(made, indent=1, sort_keys=True) + "\n")
            new.chmod(0o644)
    except OSError as error:
        raise StoreError(f"{folder / MANIFEST} cannot be written: {error.strerror or error}") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an exported folder; CorruptData when it is damaged or missing."""
    path = folder / MANIFEST
    try:
        content = text.read(path)
    except OSError as error:
        why = error.strerror or str(error)
        raise CorruptData(f"{path} cannot be read ({why}); name a folder that gpu-tune export wrote") from error
    with refused(f"{path}"):
        data = json.loads(content)
        check_format(data, FORMAT)
        if data.get("hash") != _hash(data):
            raise ValueError("it does not match its hash")
        if not all(_inside(name) and isinstance(h, str) for name, h in data.get("package", {}).items()):
            raise ValueError("a file of the package lies outside")
        for row in data["winners"]:
            if not all(isinstance(row[name], str) for name in ("path", "chip", "source", "workload", "arch")):
                raise TypeError("a winner is not described by texts")
            if not _inside(row["path"]):
                raise ValueError(f"a winner lies outside: {row['path']!r}")
            if not all("/" not in name and isinstance(h, str) for name, h in row["files"].items()):
                raise ValueError("a file is no plain name")
        return dict(data)


def faults(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What is not as the manifest says: files that are missing, changed or not named in it. Empty where all is well."""
    found = []
    named = set()
    for row in manifest["winners"]:
        here = folder / row["path"]
        named.add(here)
        found += [fault for name, h in row["files"].items() for fault in _fault(folder, f"{row['path']}/{name}", h)]
        known = {*row["files"], *OWN}
        extra = [n for n in (os.listdir(here) if here.is_dir() else ()) if n not in known]
        found += [f"{row['path']}/{name} is not in the manifest" for name in sorted(extra)]
    if "package" in manifest:
        found += [fault for name, h in manifest["package"].items() for fault in _fault(folder, name, h)]
        there = _package_files(folder, manifest["winners"])
        found += [f"{name} is not in the manifest" for name in there if name not in manifest["package"]]
    for entry in Store(folder).entries():
        if entry.path not in named:
            found.append(f"{entry.path.relative_to(folder)} is not in the manifest")
    return found


def _fault(folder: Path, name: str, expected: str) -> list[str]:
    """What is wrong with one file, in a list; an empty one where nothing is."""
    try:
        return [] if digest((folder / name).read_bytes()) == expected else [f"{name} does not match its hash"]
    except OSError as error:
        return [f"{name} cannot be read ({error.strerror})"]


def _inside(path: str) -> bool:
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _package_files(folder: Path, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The files of the CMake package that are there: the folder's, those of each chip, a header beside each winner."""
    winners = [Path(row["path"]) for row in rows]
    folders = {Path(), *(path.parent for path in winners), *winners}
    return sorted((f / n).as_posix() for f in folders for n in PACKAGE if (folder / f / n).is_file())


def _package(folder: Path, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {name: digest((folder / name).read_bytes()) for name in _package_files(folder, rows)}


def open_export(folder: Path | str, *, device: Device | str | None = None) -> Store:
    """The store in an exported ``folder``, once it is checked: every hash, the chip, and the CUDA version.

    For this machine's GPU, or the named ``device``. A driver other than the one that winners were timed under is
    logged: kernels run as they are, and their comparison with the vendor's libraries may have changed.

    Raises
    CorruptData when the folder is damaged or is no export, InvalidInput when it holds nothing for the device,
    MeasureError when the driver is too old for its kernels, StoreError when others own or can write it.
    """
    path = Path(folder).expanduser().absolute()
    require(path.is_dir(), "export", str(folder), "is not a folder", "name one that gpu-tune export wrote")
    paths.check_trusted(path)
    manifest = read_manifest(path)
    wrong = faults(path, manifest)
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise CorruptData(f"export {str(path)!r} is damaged: {wrong[0]}{more}; copy the folder again")
    chosen, source = select_device(device)
    rows = [r for r in manifest["winners"] if r["chip"] == chosen.chip]
    if not rows:
        rule = f"holds kernels for {', '.join(manifest['chips']) or 'no chip'}, and the device is {chosen.chip}"
        raise InvalidInput("export", str(path), rule, "tune the model on this chip, or name the device")
    usable = [r for r in rows if r["source"] == source]
    if not usable:
        rule = f"holds {rows[0]['source']} winners alone, which do not answer where times are {source}"
        raise InvalidInput("export", str(path), rule, "tune the model on this GPU")
    if source == MEASURED:
        _check_driver(usable)
    return Store(path)


def _check_driver(rows: Iterable[Mapping[str, Any]]) -> None:
    """MeasureError where the driver is older than what compiled the kernels; another one than timed them is logged."""
    major, minor = driver.version()
    for row in rows:
        compiled = str(row.get("compiler") or "").partition(".")[0]
        if compiled.isdigit() and int(compiled) > major:
            told = (
                f"{row['workload']} was compiled by NVRTC {row['compiler']}, and this driver runs CUDA {major}.{minor}"
            )
            raise MeasureError(f"{told}; update the driver, or tune here")
    here = nvml.display_version()
    timed = sorted({str(row.get("driver")) for row in rows if row.get("driver")} - {here})
    if here and timed:
        log.warning(
            "the export was timed under driver %s, and this is %s: its kernels run, what is faster may have changed",
            ", ".join(timed),
            here,
        )


def _row(folder: Path, entry: Entry) -> dict[str, Any]:
    """What the manifest says of one winner, or of a set."""
    found = entry.winner or entry.winner_set
    assert found is not None
    first = found if isinstance(found, Winner) else found.kernels[0]
    return {
        "workload": found.workload.key,
        "chip": found.chip,
        "arch": first.arch,
        "source": found.source,
        "path": entry.path.relative_to(Store(folder).folder).as_posix(),
        "seconds": first.seconds if isinstance(found, Winner) else None,
        "ours": first.verdict.get("ours") if isinstance(found, Winner) else None,
        "compiler": first.compiler.version,
        "driver": str(first.environment.get("driver") or ""),
        "files": {p.name: digest(p.read_bytes()) for p in sorted(entry.path.iterdir()) if p.name not in OWN},
    }


def _of(model: Mapping[str, Any]) -> tuple[Any, ...]:
    return model.get("model"), model.get("chip"), model.get("source")


def _hash(manifest: Mapping[str, Any]) -> str:
    return digest(canonical({k: v for k, v in manifest.items() if k != "hash"}))
