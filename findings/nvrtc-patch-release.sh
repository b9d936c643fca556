#!/bin/sh
# NVRTC: nvrtcVersion does not tell patch releases apart.
#
# Packages   nvidia-cuda-nvrtc 13.2.51, 13.2.78 and 13.2.86 (Linux wheels); Python with ctypes alone.
# One guesses  nvrtcVersion() names the compiler, so it can key a cache of compiled kernels and a record of timings.
# What happens  It gives major and minor alone: three releases of the compiler answer (13, 2). The PTX that each makes does: a comment in its header ends in the full release.
# Why it matters  A patch release is another compiler, and may make other code. A tuner that keys cubins or timings by
#              nvrtcVersion mixes what different compilers made without a word.
#
# Seen (2026-11-29, x86_64):
#   nvidia-cuda-nvrtc 13.2.51: nvrtcVersion (13, 2), PTX says V13.2.51
#   nvidia-cuda-nvrtc 13.2.78: nvrtcVersion (13, 2), PTX says V13.2.78
#   nvidia-cuda-nvrtc 13.2.86: nvrtcVersion (13, 2), PTX says V13.2.86
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/ask.py" <<'PYTHON'
import ctypes
import glob
import re
import sys

(path,) = (p for p in glob.glob(sys.argv[1] + "/nvidia/cu13/lib/libnvrtc.so.13*") if "alt" not in p)
nvrtc = ctypes.CDLL(path)
major, minor, program, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p(), ctypes.c_size_t()
assert nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0
source = b'extern "C" __global__ void fill(float* out) { out[threadIdx.x] = 1.0f; }'
assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"fill.cu", 0, None, None) == 0
options = (ctypes.c_char_p * 1)(b"--gpu-architecture=compute_90")
assert nvrtc.nvrtcCompileProgram(program, 1, options) == 0
assert nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)) == 0
text = ctypes.create_string_buffer(size.value)
assert nvrtc.nvrtcGetPTX(program, text) == 0
print(f"({major.value}, {minor.value})", re.search(rb"^// Cuda compilation tools.* (V[\d.]+)", text.value, re.M)[1].decode())
PYTHON

changed=0
for release in 13.2.51 13.2.78 13.2.86; do
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/$release" \
    "nvidia-cuda-nvrtc==$release" 2>/dev/null
  found=$(python3 "$folder/ask.py" "$folder/$release")
  echo "nvidia-cuda-nvrtc $release: nvrtcVersion ${found% *}, PTX says ${found##* }"
  [ "$found" = "(13, 2) V$release" ] || changed=1
done
[ "$changed" = 0 ] && echo "as described" || echo "changed: this finding is closed"
exit "$changed"
