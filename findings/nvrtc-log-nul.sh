#!/bin/sh
# NVRTC: the log of a compile that fails in ptxas holds a NUL byte in its middle, before the error.
#
# Packages   nvidia-cuda-nvrtc 13.0.88 (Linux wheel). No GPU.
# One guesses  nvrtcGetProgramLog gives a C string: what comes before the first NUL is all of it.
# What happens  With --ptxas-options=-v the report of ptxas ends in a NUL of its own, and "ptxas error : ..." follows behind it.
# Why it matters  Readers that stop at the NUL (C strings, ctypes' .value, printf) show a report that sounds like success and lose
#              the reason; readers that take the whole buffer show a reason that begins with a byte nobody can see.
#
# Seen (2026-11-30, x86_64):
#   compile: 6 (NVRTC_ERROR_COMPILATION)
#   up to the first NUL: 6 lines, the error among them: False
#   in the whole buffer: the error among them: True
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/packages" nvidia-cuda-nvrtc==13.0.88 2>/dev/null
cat >"$folder/log.py" <<'PYTHON'
import ctypes
import glob
import sys

(library,) = glob.glob(sys.argv[1] + "/nvidia/**/libnvrtc.so.13", recursive=True)
(builtins,) = glob.glob(sys.argv[1] + "/nvidia/**/libnvrtc-builtins.so.13.*[0-9]", recursive=True)
ctypes.CDLL(builtins, ctypes.RTLD_GLOBAL)  # NVRTC looks for it by name alone
nvrtc = ctypes.CDLL(library)
source = b"""extern "C" __global__ void f(int* a) {
    __shared__ int s[20000];  // 80,000 bytes: ptxas refuses
    s[threadIdx.x] = a[0]; __syncthreads(); a[1] = s[threadIdx.x ^ 1];
}"""
program, size = ctypes.c_void_p(), ctypes.c_size_t()
nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"f.cu", 0, None, None)
options = (ctypes.c_char_p * 2)(b"--gpu-architecture=sm_80", b"--ptxas-options=-v")
code = nvrtc.nvrtcCompileProgram(program, 2, options)
nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
log = ctypes.create_string_buffer(size.value)
nvrtc.nvrtcGetProgramLog(program, log)
first, error = log.value, b"uses too much shared data"
print(f"compile: {code} (NVRTC_ERROR_COMPILATION)")
print(f"up to the first NUL: {len(first.splitlines())} lines, the error among them: {error in first}")
print(f"in the whole buffer: the error among them: {error in log.raw}")
sys.exit(0 if code == 6 and error not in first and error in log.raw else 1)
PYTHON
if python3 "$folder/log.py" "$folder/packages"; then
  echo "as described"
else
  echo "changed: this finding is closed"
  exit 1
fi
