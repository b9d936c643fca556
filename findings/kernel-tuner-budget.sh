#!/bin/sh
# Kernel Tuner: max_fevals counts repeats of a config when it tunes live, and only distinct configs when it replays a cache file.
#
# Package    kernel_tuner 1.5.0, with its C backend (a C compiler; no GPU is needed).
# One guesses  A strategy that is given max_fevals=12 tries as many configs live as in simulation mode, since the one is there to predict the other.
# What happens  The sequential runner takes an evaluation off the budget for each config asked for, one that is in its cache included; the simulation
#              runner only when it sees a config for the first time. A strategy that asks for each config three times tries 4 live and 12 replayed.
# Why it matters  Strategies that often come back to a config (simulated annealing, genetic algorithms, local search) look better in simulation than
#              they are live at the same budget. Compare searchers by distinct configs, and say so.
#
# Seen (2026-11-30, x86_64):
#   distinct configs of 12 evaluations: live 4, replayed 12
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" "kernel_tuner==1.5.0" 2>/dev/null

cat >"$folder/count.py" <<'PYTHON'
import contextlib
import io
import sys
import warnings

import numpy as np
from kernel_tuner import tune_kernel
from kernel_tuner.strategies.wrapper import OptAlg, OptAlgWrapper

warnings.simplefilter("ignore")
SOURCE = "extern \"C\" float work(float *x) { x[0] = a; return 1.0f + a; }"


class Thrice(OptAlg):
    """Asks for each config three times."""

    def __call__(self, func, searchspace):
        for config in searchspace.list:
            for _ in range(3):
                func(config)


def tried(**how):
    with contextlib.redirect_stdout(io.StringIO()):
        results, _ = tune_kernel(
            "work", SOURCE, 1, [np.zeros(1, np.float32)], {"a": list(range(1, 25))}, lang="C", cache=sys.argv[1],
            strategy=how.pop("strategy", OptAlgWrapper(Thrice())), strategy_options=how.pop("options", {"max_fevals": 12}), **how,
        )  # fmt: skip
    return len({r["a"] for r in results})


live = tried()
tried(strategy="brute_force", options={})
replayed = tried(simulation_mode=True)
print(f"distinct configs of 12 evaluations: live {live}, replayed {replayed}")
raise SystemExit(0 if (live, replayed) == (4, 12) else 1)
PYTHON

if PYTHONPATH="$folder" python3 "$folder/count.py" "$folder/cache.json"; then
  echo "as described"
else
  echo "changed: this finding is closed"
  exit 1
fi
