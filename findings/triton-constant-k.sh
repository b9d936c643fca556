#!/bin/sh
# Triton: a constexpr K makes ptxas unroll the main loop of a matrix product wholly, up to some 33 steps.
#
# Packages   triton 3.0.0 (Linux wheel, Python 3.8 to 3.12; it brings ptxas 12.4); setuptools. No GPU.
# One guesses  Sizes given as tl.constexpr specialise addresses and masks; the loop over K stays a loop, as its PTX has it.
# What happens  ptxas sees the number of trips and leaves no loop where it is small: K = 2048 (32 steps) makes 2.4 times the code of
#              K = 4096 (64 steps), and takes three times as long; with wgmma (sm_90a, 128x128 tiles) 43 s instead of 0.4.
# Why it matters  PyTorch's Inductor bakes sizes in: what a config's kernel is, its instruction footprint and its compile time depend on
#              the shape, and a cubin compiled for one K says little about the loop of another.
#
# Seen (2026-11-29, x86_64):
#   K = 2048: 74080 bytes of cubin
#   K = 4096: 31456 bytes of cubin
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/product.py" <<'PYTHON'
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import AttrsDescriptor


@triton.jit
def product(a, b, c, K: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inner = tl.arange(0, BLOCK)
    a_at = a + rows[:, None] * K + inner[None, :]
    b_at = b + inner[:, None] * SIZE + columns[None, :]
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for _ in range(0, K, BLOCK):
        total += tl.dot(tl.load(a_at), tl.load(b_at))
        a_at += BLOCK
        b_at += BLOCK * SIZE
    tl.store(c + rows[:, None] * SIZE + columns[None, :], total.to(tl.float16))


half = "*fp16"
source = ASTSource(
    product,
    signature={0: half, 1: half, 2: half},
    constants={3: int(sys.argv[1]), 4: 4096, 5: 64},
    attrs=AttrsDescriptor(divisible_by_16=(0, 1, 2), equal_to_1=()),
)
made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 4, "num_stages": 3})
print(len(made.asm["cubin"]))
PYTHON

python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/packages" \
  triton==3.0.0 filelock setuptools 2>/dev/null
ask() { PYTHONPATH="$folder/packages" TRITON_CACHE_DIR="$folder/cache" python3 "$folder/product.py" "$1"; }
short=$(ask 2048)
long=$(ask 4096)
echo "K = 2048: $short bytes of cubin"
echo "K = 4096: $long bytes of cubin"
if [ "$short" -gt $((long * 3 / 2)) ]; then
  echo "as described"
else
  echo "changed: this finding is closed"
  exit 1
fi
