#!/bin/sh
# LightGBM: rank_xendcg learns from queries in which all labels are equal, that is from noise; lambdarank does not.
#
# Packages   lightgbm 4.6.0, numpy 2.2.6, scipy 1.15.3 (Linux wheels, Python 3.10 to 3.13). No GPU.
# One guesses  A query whose rows are all equally good tells a ranker nothing: it adds nothing to the model.
# What happens  lambdarank makes one tree without a split. rank_xendcg draws random targets for every query, and fits 20 trees to them.
# Why it matters  Where every config of a space failed (a wrong driver, a broken template) its trials have one label. Added to good data
#              they pull the model's order towards chance, the more the more there are of them: leave such queries out.
#
# Seen (2026-11-30, x86_64):
#   lambdarank: 1 trees, scores differ by 0.000
#   rank_xendcg: 20 trees, scores differ by 0.702
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m pip install --quiet --disable-pip-version-check --target "$folder/packages" \
  lightgbm==4.6.0 numpy==2.2.6 scipy==1.15.3 2>/dev/null
cat >"$folder/equal.py" <<'PYTHON'
import sys

import lightgbm
import numpy as np

features, labels = np.random.default_rng(0).random((400, 4)), np.zeros(400)
spread = {}
for objective in ("lambdarank", "rank_xendcg"):
    data = lightgbm.Dataset(features, labels, group=[40] * 10)
    settings = {"objective": objective, "verbose": -1, "seed": 0, "min_data_in_leaf": 5, "num_threads": 1}
    model = lightgbm.train(settings, data, num_boost_round=20)
    spread[objective] = float(np.ptp(model.predict(features)))
    print(f"{objective}: {model.num_trees()} trees, scores differ by {spread[objective]:.3f}")
sys.exit(0 if spread["lambdarank"] == 0 and spread["rank_xendcg"] > 0.1 else 1)
PYTHON
if PYTHONPATH="$folder/packages" python3 "$folder/equal.py"; then
  echo "as described"
else
  echo "changed: this finding is closed"
  exit 1
fi
