#!/bin/sh
# NVRTC: where a cubin keeps the number of barriers that a kernel uses moved between CUDA 12.9 and 13.
#
# Packages   nvidia-cuda-nvrtc-cu12 12.9.86, nvidia-cuda-nvrtc 13.0.88 (Linux wheels; no GPU is needed).
# One guesses  A cubin is an ELF file whose per-kernel facts are records of .nv.info.KERNEL, the number of barriers among
#              them (attribute 0x4C), as every cubin of CUDA 13 has it.
# What happens  12.9 writes no such record. Bits 20 to 26 of the section flags of .text.KERNEL hold the number there, and
#              13 leaves those bits at 0. The ABI version of the file (byte 8) is 7 and 8; the compute capability moved
#              in the file's flags too, from the low byte to the second.
# Why it matters  A reader written by looking at one of them takes every kernel of the other for one without a barrier
#              (or for another architecture), and says nothing: occupancy and checks of launch bounds come out wrong.
#
# Seen (2026-11-30, x86_64), a kernel for sm_80 that uses barriers 0 to 3:
#   12.9.86: ABI 7, record none, flags of the code say 4, file flags 0x500550
#   13.0.88: ABI 8, record says 4, flags of the code say 0, file flags 0x6005004
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/ask.py" <<'PYTHON'
import ctypes
import glob
import struct
import sys

for name in ("libnvrtc-builtins.so", "libnvrtc.so"):  # the first by its path: the second does not look beside itself
    library = ctypes.CDLL(glob.glob(f"{sys.argv[1]}/**/{name}.*", recursive=True)[0])
source = b"""extern "C" __global__ void k(float* x) {
  __shared__ float s[128]; s[threadIdx.x] = x[threadIdx.x]; __syncthreads();
  asm volatile("bar.sync 3, 128;"); x[threadIdx.x] = s[127 - threadIdx.x]; }"""
program, size = ctypes.c_void_p(), ctypes.c_size_t()
assert library.nvrtcCreateProgram(ctypes.byref(program), source, b"k.cu", 0, None, None) == 0
options = (ctypes.c_char_p * 1)(b"--gpu-architecture=sm_80")
assert library.nvrtcCompileProgram(program, 1, options) == 0
assert library.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
code = ctypes.create_string_buffer(size.value)
assert library.nvrtcGetCUBIN(program, code) == 0
data = code.raw
(flags,), (table,) = struct.unpack_from("<I", data, 48), struct.unpack_from("<Q", data, 40)
_, count, names = struct.unpack_from("<HHH", data, 58)
rows = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * i) for i in range(count)]
text = rows[names][4]
by_name = {data[text + r[0] : data.index(b"\0", text + r[0])].decode(): r for r in rows}
info, at, record = by_name[".nv.info.k"], 0, "none"
while at < info[5]:
    form, attribute, value = struct.unpack_from("<BBH", data, info[4] + at)
    record = f"says {value & 0xFF}" if attribute == 0x4C else record
    at += 4 + (value if form == 4 else 0)
print(f"ABI {data[8]}, record {record}, flags of the code say {by_name['.text.k'][2] >> 20 & 0x7F}, file flags {flags:#x}")
PYTHON

seen=""
for wheel in nvidia-cuda-nvrtc-cu12==12.9.86 nvidia-cuda-nvrtc==13.0.88; do
  python3 -m pip install --quiet --disable-pip-version-check --target "$folder/$wheel" "$wheel" 2>/dev/null
  line="${wheel##*==}: $(python3 "$folder/ask.py" "$folder/$wheel")"
  echo "$line"
  seen="$seen$line;"
done
expected="12.9.86: ABI 7, record none, flags of the code say 4, file flags 0x500550;"
expected="${expected}13.0.88: ABI 8, record says 4, flags of the code say 0, file flags 0x6005004;"
[ "$seen" = "$expected" ] && echo "as described" || { echo "changed: this finding is closed"; exit 1; }
