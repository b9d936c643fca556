#!/bin/sh
# PyTorch: an operator with a parameter named layout, choices or input_nodes cannot be autotuned by Inductor.
#
# Packages   torch 2.13.0 (TORCH='torch==2.13.0' for another build; that for CPUs is enough), NumPy, setuptools (Inductor
#              imports it); g++. No GPU.
# One guesses  torch._inductor.kernel.custom_op.register_custom_op_autotuning takes any operator: what its parameters are
#              called is its own affair, and their values are handed on as the operator's.
# What happens  The values are handed on by name, beside Inductor's own layout=, choices= and input_nodes= of
#              maybe_append_choice(). An operator with a parameter of such a name registers without a word, and each
#              compiled call of it is a TypeError about a function that the user never called. Eager mode does not show it.
# Why it matters  layout is what operators on matrices and images call their memory layout. The way out is another name.
#
# Seen (2026-11-30, torch 2.13.0+cpu, x86_64, Python 3.11; (Tensor x, Tensor w, str PARAMETER), one implementation beside its own):
#   form: right
#   layout: torch._inductor.select_algorithm.ExternKernelChoice.maybe_append_choice() got multiple values for keyword argument 'layout'
#   choices: torch._inductor.select_algorithm.ExternKernelChoice.maybe_append_choice() got multiple values for keyword argument 'choices'
#   input_nodes: torch._inductor.select_algorithm.ExternKernelChoice.maybe_append_choice() got multiple values for keyword argument 'input_nodes'
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/ask.py" <<'PYTHON'
import logging
import warnings

import torch
from torch._inductor.kernel.custom_op import CustomOpConfig, register_custom_op_autotuning

warnings.simplefilter("ignore")
logging.disable(logging.ERROR)  # of the timings of the choices


def by_transpose(x: torch.Tensor, w: torch.Tensor, **given: str) -> torch.Tensor:
    return x @ w.t()


def compiled(parameter: str) -> str:
    """What becomes of a compiled call of an operator (Tensor x, Tensor w, str PARAMETER) whose choices Inductor times."""
    schema = f"(Tensor x, Tensor w, str {parameter}) -> Tensor"
    op = torch.library.custom_op(f"finding::with_{parameter}", lambda x, w, how: x @ w.t(), mutates_args=(), schema=schema)
    op.register_fake(lambda x, w, how: x.new_empty(x.shape[0], w.shape[0]))
    register_custom_op_autotuning(op, configs=[CustomOpConfig(by_transpose)])
    call = getattr(torch.ops.finding, f"with_{parameter}").default
    x, w = torch.randn(4, 8), torch.randn(6, 8)
    try:
        y = torch.compile(lambda x, w: call(x, w, "nt"), fullgraph=True)(x, w)
    except Exception as error:
        return next(line.strip() for line in str(error).splitlines() if "TypeError" in line).split(": ", 2)[2]
    return "right" if torch.allclose(y, x @ w.t(), atol=1e-5) else "wrong"


said = {parameter: compiled(parameter) for parameter in ("form", "layout", "choices", "input_nodes")}
for parameter, result in said.items():
    print(f"{parameter}: {result}")
clash = {p: f"got multiple values for keyword argument '{p}'" in r for p, r in said.items()}
raise SystemExit(0 if said["form"] == "right" and all(clash[p] for p in clash if p != "form") else 1)
PYTHON

"${PYTHON:-python3}" -m venv "$folder/venv"
# shellcheck disable=SC2086  # TORCH may have options
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check setuptools numpy \
  ${TORCH:-torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu}
TORCHINDUCTOR_CACHE_DIR="$folder/inductor" "$folder/venv/bin/python" "$folder/ask.py" 2>/dev/null
