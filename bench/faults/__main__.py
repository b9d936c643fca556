"""What faults cost: processes killed while they publish, append and tune; full, read-only and foreign stores; a machine
that misbehaves during tunings (``disturb``: see :mod:`bench.faults.disturb`).

    python -m bench.faults                              # 1,000 kills each; figures, and bench/results/faults.json
    python -m bench.faults --kills 50 --only publish,append --json /tmp/faults.json
    python -m bench.faults --only disturb --faults 200  # 200 disturbed tunings

Real processes, real signals, real files. ``lost``: something that was acknowledged (published, appended, reported by
``on_trial``) before the kill and cannot be read after it. ``corrupt``: something that reads as what nobody wrote.
Both must be 0. ``interrupted``: kills that demonstrably hit a publication in progress (it left half a folder).
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.faults.disturb import disturb
from bench.faults.kills import kill_appenders, kill_publishers, kill_tunings, sixteen
from bench.faults.stores import full_disk, hostile, not_ours


def run(kills: int, only: Sequence[str], folder: Path, seed: int = 0, faults: int = 200) -> dict[str, Any]:
    """The figures of each part."""
    logging.disable(logging.WARNING)  # each damaged file is told in the log, thousands here
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "publish": lambda p: kill_publishers(kills, p, seed),
        "append": lambda p: kill_appenders(kills, p, seed),
        "tune": lambda p: kill_tunings(max(2, kills // 100), p, seed),
        "sixteen": lambda p: sixteen(max(0.5, kills / 200), p),
        "full": full_disk,
        "notours": not_ours,
        "hostile": lambda p: hostile(10 * kills, p, seed),
        "disturb": lambda p: disturb(faults, p, seed),
    }
    figures: dict[str, Any] = {}
    for name in only or parts:
        start = time.monotonic()
        figures[name] = parts[name](folder / name)
        figures[name]["seconds"] = round(time.monotonic() - start, 1)
        print(f"{name:8s} " + ", ".join(f"{k} {v}" for k, v in figures[name].items()), flush=True)
    logging.disable(logging.NOTSET)
    return figures


def faultless(figures: dict[str, Any]) -> bool:
    """Whether nothing was lost and nothing corrupt in any part, and strangers were refused as they should be."""
    clean = all(not f.get("lost") and not f.get("corrupt") and not f.get("left_after_gc") for f in figures.values())
    return clean and all(f.get("right") == f.get("asked") for f in figures.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when something was lost or corrupt."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--only", default="", help="parts, by comma: publish, append, tune, sixteen, full, ...")
    parser.add_argument("--faults", type=int, default=200, help="disturbed tunings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).parents[1] / "results" / "faults.json")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gpu_tune-faults-") as folder:
        figures = run(given.kills, [n for n in given.only.split(",") if n], Path(folder), given.seed, given.faults)
    good = faultless(figures)
    print("nothing lost, nothing corrupt" if good else "SOMETHING WAS LOST OR CORRUPT")
    where = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}"}
    date = time.strftime("%Y-%m-%d", time.gmtime())
    given.json.write_text(json.dumps({"date": date, **where, "faultless": good, **figures}, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
