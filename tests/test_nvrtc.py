import subprocess
import sys

import pytest

from gpu_tune import nvrtc
from gpu_tune.errors import CompileError

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC on this machine (install gpu_tune[cuda13])")
SOURCE = 'extern "C" __global__ void k(float* p) { p[threadIdx.x] = 1.0f; }\n'


def test_source_becomes_ptx_and_cubin_without_a_driver():
    assert ".entry k" in nvrtc.to_ptx(SOURCE, "sm_80").data.decode()
    cubin = nvrtc.to_cubin(SOURCE, "sm_90a")
    assert cubin.data[:4] == b"\x7fELF" and "registers" in cubin.log
    assert ".loc" in nvrtc.to_ptx(SOURCE, "sm_80", lineinfo=True).data.decode()


def test_a_compile_error_carries_the_compilers_words():
    with pytest.raises(CompileError, match="undeclared_thing"):
        nvrtc.to_ptx('extern "C" __global__ void k() { undeclared_thing(); }', "sm_80")


def test_every_architecture_of_the_table_is_accepted():
    assert {75, 80, 86, 89, 90, 120} <= set(nvrtc.architectures()) and nvrtc.version() >= (12, 0)


def test_importing_the_package_loads_no_gpu_library():
    code = (
        "import sys, gpu_tune.templates, gpu_tune.reference; "
        "print([m for m in sys.modules if m.split('.')[0] in ('cupy', 'lightgbm', 'cuda')])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
