#!/bin/sh
# cuda-bindings: a CUtensorMap of Python's is not aligned as the driver demands.
#
# Packages   cuda-bindings 13.5.0 and 12.9.10 (Linux wheels, Python 3.11 or newer).
# One guesses  cuda.bindings.driver.cuTensorMapEncodeTiled returns a tensor map that can be encoded and passed: cuda.h
#              declares CUtensorMap with an alignment of 64 bytes (128 in newer headers), and says of tensorMap that it
#              "must be aligned to 64 bytes".
# What happens  The object holds the map inside itself, at an address that is a multiple of 16, seldom of 64; the encode functions
#              make such an object and let the driver write there.
# Why it matters  The driver may refuse (CUDA_ERROR_INVALID_VALUE) or store with aligned instructions. What needs tensor
#              maps has to call the function that cuGetProcAddress gives, on memory of its own.
#
# Seen (2026-11-29, x86_64, Python 3.11):
#   cuda-bindings 13.5.0: 50 of 200 tensor maps are aligned to 64 bytes
#   cuda-bindings 12.9.10: 0 of 200 tensor maps are aligned to 64 bytes
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/ask.py" <<'PYTHON'
from cuda.bindings import driver

maps = [driver.CUtensorMap() for _ in range(200)]
print(sum(int(m.getPtr()) % 64 == 0 for m in maps))
PYTHON

changed=0
for release in 13.5.0 12.9.10; do
  python3 -m pip install --quiet --disable-pip-version-check --target "$folder/$release" "cuda-bindings==$release" 2>/dev/null
  aligned=$(PYTHONPATH="$folder/$release" python3 "$folder/ask.py")
  echo "cuda-bindings $release: $aligned of 200 tensor maps are aligned to 64 bytes"
  [ "$aligned" -lt 200 ] || changed=1
done
[ "$changed" = 0 ] && echo "as described" || echo "changed: this finding is closed"
exit "$changed"
