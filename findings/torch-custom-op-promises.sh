#!/bin/sh
# PyTorch: what a custom operator's fake implementation promises is believed, and a backward formula alone makes forward mode zero.
#
# Packages   torch 2.13.0 (TORCH='torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu' for the smaller build for CPUs),
#              NumPy, setuptools (Inductor imports it); g++. No GPU.
# One guesses  (1) A compiled graph checks an operator's result against the fake implementation, as it does for strides: another data
#              type is an error. (2) An operator with register_autograd raises in forward mode, which it has no formula for.
# What happens  (1) Inductor asserts size and stride, never the data type, and reads the memory as what was promised: float64 where float32
#              was promised gives garbage, and no error. (2) torch.func.jvp gives zeros, and no error.
# Why it matters  (1) shows neither in eager mode nor with backend="aot_eager". One function must give the data type to both, every data
#              type needs a test with Inductor (or opcheck, which does compare them). (2) is a wrong derivative.
#
# Seen (2026-11-30, x86_64, Python 3.11):
#   1. compiled: [256.0, 256.0, 256.0, 256.0, 1.0, 1.0, 1.0, 1.0], where [2.0, ...] is right
#   2. the derivative of 2 x in forward mode: [0.0, 0.0, 0.0]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/promises.py" <<'PYTHON'
import warnings

import torch
from torch.library import Library, register_autograd, register_fake

warnings.simplefilter("ignore")
kept = Library("finding", "DEF")
kept.define("widen(Tensor x) -> Tensor")
kept.impl("widen", lambda x: x.double(), "CPU")
register_fake("finding::widen", lambda x: torch.empty_like(x), lib=kept)
kept.define("twice(Tensor x) -> Tensor")
kept.impl("twice", lambda x: x * 2, "CPU")
register_fake("finding::twice", lambda x: torch.empty_like(x), lib=kept)
register_autograd("finding::twice", lambda ctx, g: g * 2, lib=kept)

found = torch.compile(lambda x: torch.ops.finding.widen(x) * 2, fullgraph=True)(torch.ones(8)).tolist()
print(f"1. compiled: {found}, where [2.0, ...] is right")
_, tangent = torch.func.jvp(torch.ops.finding.twice, (torch.ones(3),), (torch.ones(3),))
print(f"2. the derivative of 2 x in forward mode: {tangent.tolist()}")
raise SystemExit(0 if found != [2.0] * 8 and tangent.tolist() == [0.0] * 3 else 1)
PYTHON

"${PYTHON:-python3}" -m venv "$folder/venv"
# shellcheck disable=SC2086  # TORCH may have options
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check setuptools numpy ${TORCH:-torch==2.13.0}
TORCHINDUCTOR_CACHE_DIR="$folder/inductor" "$folder/venv/bin/python" "$folder/promises.py"
