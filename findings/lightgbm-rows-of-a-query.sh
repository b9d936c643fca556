#!/bin/sh
# LightGBM: a ranker takes no query of more than 10,000 rows, and says so on standard output whatever its verbosity.
#
# Packages   lightgbm 4.6.0, numpy 2.2.6, scipy 1.15.3 (Linux wheels, Python 3.10 to 3.13). No GPU.
# One guesses  A query (group) may have as many rows as the data has; with verbose=-1 nothing is printed.
# What happens  10,001 rows of one query are LightGBMError at the first iteration, and a [Fatal] line reaches the screen. 10,000 are fine.
# Why it matters  Tuners that rank the trials of one search space with a query a space lose their model at the 10,001st trial: where
#              the error is taken for "no model yet", the search goes on without one and nobody notices.
#
# Seen (2026-11-30, x86_64):
#   10000 rows: trained
#   10001 rows: LightGBMError: Number of rows 10001 exceeds upper limit of 10000 for a query
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m pip install --quiet --disable-pip-version-check --target "$folder/packages" \
  lightgbm==4.6.0 numpy==2.2.6 scipy==1.15.3 2>/dev/null
cat >"$folder/rows.py" <<'PYTHON'
import sys

import lightgbm
import numpy as np

rng = np.random.default_rng(0)
features, labels = rng.random((10_001, 3)), rng.integers(0, 5, 10_001)
ends = []
for rows in (10_000, 10_001):
    data = lightgbm.Dataset(features[:rows], labels[:rows], group=[rows])
    try:
        lightgbm.train({"objective": "lambdarank", "verbose": -1}, data, num_boost_round=2)
        ends.append("trained")
    except lightgbm.basic.LightGBMError as error:
        ends.append(f"LightGBMError: {error}")
    print(f"{rows} rows: {ends[-1]}")
sys.exit(0 if ends[0] == "trained" and "upper limit of 10000" in ends[1] else 1)
PYTHON
if PYTHONPATH="$folder/packages" python3 "$folder/rows.py"; then
  echo "as described"
else
  echo "changed: this finding is closed"
  exit 1
fi
