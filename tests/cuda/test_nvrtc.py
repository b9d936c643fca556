"""NVRTC without a driver: PTX, cubins, its errors, and which of several libraries is taken."""

import importlib.metadata
import re
import subprocess
import sys

import pytest

from gpu_tune.cuda import driver, nvrtc
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
        "import sys; before = set(sys.modules); "  # a .pth file of cuda-bindings 12 imports some
        "import gpu_tune.templates, gpu_tune.reference; "
        "print([m for m in set(sys.modules) - before if m.split('.')[0] in ('cupy', 'lightgbm', 'cuda')])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_identity_has_the_patch_release_that_the_library_itself_tells():
    major, minor = nvrtc.version()
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", nvrtc.identity())
    assert found is not None and (int(found[1]), int(found[2])) == (major, minor)
    wheels = [d for d in importlib.metadata.distributions() if re.fullmatch("nvidia-cuda-nvrtc.*", d.metadata["Name"])]
    for wheel in wheels:  # where the library lies in a wheel, the wheel's version agrees
        if any(str(wheel.locate_file(f)) == nvrtc.library_path() for f in wheel.files or ()):
            assert wheel.version.startswith(nvrtc.identity())


def test_an_nvrtc_that_the_driver_supports_goes_before_a_newer_one(tmp_path, monkeypatch):
    for name in ("cu13/lib/libnvrtc.so.13", "cuda_nvrtc/lib/libnvrtc.so.12", "cu13/lib/libnvrtc.alt.so.13"):
        path = tmp_path / "nvidia" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    for variable in ("GPU_TUNE_NVRTC", "CUDA_PATH", "CUDA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    first = {}
    for major in (0, 12, 13):
        monkeypatch.setattr(driver, "supported_major", lambda m=major: m)
        found = [p for p in nvrtc.find("nvrtc") if str(tmp_path) in p]
        assert len(found) == 2
        first[major] = found[0][-2:]
    assert first == {0: "13", 12: "12", 13: "13"}


def test_the_drivers_version_is_asked_without_a_gpu(fake_cuda, monkeypatch):
    monkeypatch.setenv("FAKE_CUDA_NONE", "1")
    monkeypatch.setenv("FAKE_CUDA_VERSION", "12040")
    assert driver.supported_major() == 12
