#!/bin/sh
# CUDA 13 wheels: the include folder of the packages does not suffice for their own headers under NVRTC.
#
# Packages   nvidia-cuda-nvrtc 13.2.78, nvidia-cuda-runtime 13.2.75 and nvidia-cuda-cccl 13.2.75 (Linux wheels); Python with ctypes alone.
# One guesses  All three are in one folder, nvidia/cu13/include, as the wheels of CUDA 12 had an include folder each; so
#              -I with that folder finds what they hold. <nv/target>, which is CCCL's, is found there and seems to prove it.
# What happens  <nv/target> is there twice; all else of CCCL (<cuda/std/...>, <cuda/barrier>, CUB) is below include/cccl alone, which nvcc
#              adds by itself and NVRTC does not. <cooperative_groups.h>, a header of the runtime, includes <cuda/std/type_traits>: it fails
#              with the folder that it lies in. Without the package nvidia-cuda-cccl, which the runtime's does not ask for, it fails at
#              <nv/target>. With both folders it compiles. cuda_fp16.h, cuda_bf16.h and cuda_fp8.h need neither.
# Why it matters  Who compiles kernels at run time tests with cuda_fp16.h, ships, and breaks at the first kernel with a grid barrier.
#
# Seen (2026-11-30, x86_64):
#   runtime alone,      include:               cuda_fp16.h compiles; nv/target nv/target; cooperative_groups.h nv/target; cuda/barrier cuda/barrier
#   runtime and CCCL,   include:               cuda_fp16.h compiles; nv/target compiles; cooperative_groups.h cuda/std/type_traits; cuda/barrier cuda/barrier
#   runtime and CCCL,   include, include/cccl: cuda_fp16.h compiles; nv/target compiles; cooperative_groups.h compiles; cuda/barrier compiles
# (behind a header: what was not found)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/ask.py" <<'PYTHON'
import ctypes
import glob
import re
import sys

root, *folders = sys.argv[1:]
(path,) = (p for p in glob.glob(root + "/nvidia/cu13/lib/libnvrtc.so.13*") if "alt" not in p)
nvrtc = ctypes.CDLL(path)
options = ["--gpu-architecture=compute_90", *(f"-I{root}/nvidia/cu13/{folder}" for folder in folders)]
told = []
for header in ("cuda_fp16.h", "nv/target", "cooperative_groups.h", "cuda/barrier"):
    source = f'#include <{header}>\nextern "C" __global__ void empty() {{}}'.encode()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"k.cu", 0, None, None) == 0
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
    assert nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)) == 0
    log = ctypes.create_string_buffer(size.value)
    assert nvrtc.nvrtcGetProgramLog(program, log) == 0
    missing = re.search(r'open source file "([^"]+)"', log.value.decode())
    told.append(f"{header} {(missing[1] if missing else 'fails') if failed else 'compiles'}")
print("; ".join(told))
PYTHON

install() { # install FOLDER PACKAGE...
  into=$1
  shift
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/$into" "$@" 2>/dev/null
}
install bare nvidia-cuda-nvrtc==13.2.78 nvidia-cuda-runtime==13.2.75
install whole nvidia-cuda-nvrtc==13.2.78 nvidia-cuda-runtime==13.2.75 nvidia-cuda-cccl==13.2.75

changed=0
check() { # check WORDS EXPECTED WHERE FOLDER...
  words=$1 expected=$2
  shift 2
  found=$(python3 "$folder/ask.py" "$folder/$1" $2)
  echo "$words $found"
  [ "$found" = "$expected" ] || changed=1
}
check "runtime alone,      include:              " \
  "cuda_fp16.h compiles; nv/target nv/target; cooperative_groups.h nv/target; cuda/barrier cuda/barrier" bare "include"
check "runtime and CCCL,   include:              " \
  "cuda_fp16.h compiles; nv/target compiles; cooperative_groups.h cuda/std/type_traits; cuda/barrier cuda/barrier" whole "include"
check "runtime and CCCL,   include, include/cccl:" \
  "cuda_fp16.h compiles; nv/target compiles; cooperative_groups.h compiles; cuda/barrier compiles" whole "include include/cccl"
[ "$changed" = 0 ] && echo "as described" || echo "changed: this finding is closed"
exit "$changed"
