#!/bin/sh
# PyTorch: its FLOP counter counts nothing for attention on the CPU, for recurrent layers and for products with a vector.
#
# Package    torch 2.13.0 (the build for CPUs; the rules of the counter are the same in all builds).
# One guesses  torch.utils.flop_counter.FlopCounterMode tells the FLOPs of a model, whatever device it runs on: attention
#              is two batched products, an LSTM's step two products with its weights.
# What happens  The counter knows operators by name. scaled_dot_product_attention becomes
#              _scaled_dot_product_flash_attention_for_cpu there, which has no rule: 0. On the device "meta", and with
#              the backend MATH, the same call counts in full. mkldnn's LSTM and aten::mv have no rule either.
# Why it matters  A share of FLOPs taken from a count on the CPU leaves out just what a transformer does most at long
#              sequences; counted on a GPU the same model has more. Nothing is said.
#
# Seen (2026-11-30, x86_64):
#   attention: cpu 0, math 16384, meta 16384
#   lstm: cpu 0
#   matrix times vector: cpu 0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" "torch==2.13.0" \
  --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple 2>/dev/null

cat >"$folder/ask.py" <<'PYTHON'
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as attention
from torch.utils.flop_counter import FlopCounterMode


def counted(call):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


q = torch.zeros(1, 2, 16, 8)  # two products of 2 x 16 x 16 x 8 multiply-adds: 16384
meta = q.to("meta")
cpu = counted(lambda: attention(q, q, q))
with sdpa_kernel(SDPBackend.MATH):
    math = counted(lambda: attention(q, q, q))
print(f"attention: cpu {cpu}, math {math}, meta {counted(lambda: attention(meta, meta, meta))}")
print(f"lstm: cpu {counted(lambda: torch.nn.LSTM(8, 8)(torch.zeros(4, 1, 8)))}")
print(f"matrix times vector: cpu {counted(lambda: torch.zeros(64, 64) @ torch.zeros(64))}")
PYTHON

seen=$(PYTHONPATH="$folder" python3 "$folder/ask.py" 2>/dev/null)
echo "$seen"
case $seen in
*"attention: cpu 0, math 16384, meta 16384"*"lstm: cpu 0"*"matrix times vector: cpu 0"*) echo "as described" ;;
*) echo "changed: this finding is closed"; exit 1 ;;
esac
