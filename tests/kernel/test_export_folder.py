"""A folder of winners that travels: its manifest, what is refused, and one CMake package that is built and used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import gpu_tune as gt
from gpu_tune.cuda import driver
from gpu_tune.errors import CorruptData, InvalidInput, MeasureError, NotTuned, StoreError
from gpu_tune.kernel import export_cmake, export_folder
from gpu_tune.kernel.export_folder import open_export, publish, read_manifest
from gpu_tune.plan.size import any_of
from gpu_tune.store.winner_set import SizeRange
from tests.helpers.winners import H200, toy_set, toy_winner_for

ONE, TWO = gt.Matmul(20, 18, 16, dtype="float32"), gt.Matmul(24, 18, 16, dtype="float32")
OPEN = gt.Matmul(any_of(1, 64), 18, 16, dtype="float32")


@pytest.fixture(scope="module")
def winners(compile_once):
    return [toy_winner_for(ONE), toy_winner_for(TWO)]


@pytest.fixture
def folder(winners, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "library", lambda: None)
    return publish(tmp_path / "export", winners, {"model": "M", "chip": H200.chip, "source": "predicted"})


def test_another_machine_loads_it_as_a_store(folder, winners, tmp_path):
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    store = open_export(str(elsewhere), device="nvidia-h200")
    for winner in winners:
        assert gt.load(winner.workload, store=store, device="nvidia-h200", strict=True).winner == winner


def test_the_manifest_names_every_file_by_its_hash(folder):
    manifest = read_manifest(folder)
    rows = {row["workload"]: row for row in manifest["winners"]}
    assert set(rows) == {ONE.key, TWO.key} and manifest["chips"] == [H200.chip]
    assert all(set(row["files"]) == {"kernel.cu", "kernel.cubin", "launch.json"} for row in rows.values())
    assert manifest["models"] == [{"model": "M", "chip": H200.chip, "source": "predicted"}]


def test_a_second_export_adds_to_the_first_and_replaces_the_same_model(folder, winners):
    third = toy_winner_for(gt.Matmul(28, 18, 16, dtype="float32"))
    publish(folder, [third], {"model": "M", "chip": H200.chip, "source": "predicted", "layers": 1})
    manifest = read_manifest(folder)
    assert len(manifest["winners"]) == 3 and [m.get("layers") for m in manifest["models"]] == [1]
    open_export(folder)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda f, one: (one / "kernel.cubin").write_bytes(b"x"), "kernel.cubin does not match its hash"),
        (lambda f, one: (one / "launch.json").unlink(), "launch.json cannot be read"),
        (lambda f, one: (one / "more.cubin").write_bytes(b"x"), "more.cubin is not in the manifest"),
        (lambda f, one: shutil.copytree(one, one.with_name("other")), "other is not in the manifest"),
        (lambda f, one: (f / "manifest.json").write_text("{}"), "manifest.json"),
        (lambda f, one: (f / "manifest.json").unlink(), "name a folder that gpu-tune export wrote"),
        (lambda f, one: (f / "CMakeLists.txt").write_text("x"), "CMakeLists.txt is not in the manifest"),
        (
            lambda f, one: edit(f, lambda m: m["package"].update({"../x": ""}), True),
            "a file of the package lies outside",
        ),
        (lambda f, one: edit(f, lambda m: m["winners"].pop()), "does not match its hash"),
        (lambda f, one: edit(f, lambda m: m["winners"][0].update(path="../x"), True), "a winner lies outside"),
    ],
)
def test_damage_is_one_clear_error(folder, damage, words):
    damage(folder, folder / "predicted" / H200.chip / ONE.key)
    with pytest.raises(CorruptData) as error:
        open_export(folder)
    assert words in str(error.value)


def edit(folder, change, hashed=False):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    if hashed:
        manifest["hash"] = export_folder._hash(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_another_chip_and_a_real_gpu_are_refused(folder, monkeypatch):
    with pytest.raises(InvalidInput, match=rf"holds kernels for {H200.chip}, and the device is nvidia-a100"):
        open_export(folder, device="nvidia-a100")
    monkeypatch.setattr(export_folder, "select_device", lambda device: (H200, "measured"))
    with pytest.raises(
        InvalidInput, match="holds predicted winners alone, which do not answer where times are measured"
    ):
        open_export(folder)


def test_a_driver_that_is_too_old_is_refused_and_another_one_is_said(winners, tmp_path, monkeypatch, caplog):
    there = {"driver": "580.65.06"}
    compiled = replace(winners[0].compiler, version="13.0.88")
    measured = replace(winners[0], source="measured", environment=there, compiler=compiled)
    folder = publish(tmp_path / "export", [measured])
    monkeypatch.setattr(export_folder, "select_device", lambda device: (H200, "measured"))
    monkeypatch.setattr(driver, "version", lambda: (12, 9))
    with pytest.raises(MeasureError, match=r"was compiled by NVRTC 13.0.88, and this driver runs CUDA 12.9"):
        open_export(folder)
    monkeypatch.setattr(driver, "version", lambda: (13, 0))
    for here, said in (("580.65.06", False), ("590.11", True)):
        monkeypatch.setattr(export_folder.nvml, "display_version", lambda here=here: here)
        caplog.clear()
        open_export(folder)
        assert ("was timed under driver 580.65.06, and this is 590.11" in caplog.text) is said


def test_a_folder_of_other_things_is_left_alone(winners, tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(InvalidInput, match="holds other things than an export"):
        publish(tmp_path, winners)
    with pytest.raises(NotTuned):
        publish(tmp_path / "none", [])
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_others_can_write_is_not_trusted(folder):
    folder.chmod(0o777)
    with pytest.raises(StoreError, match="can be written by others"):
        open_export(folder)


INCLUDES = [str(p.parent) for base in sys.path for p in Path(base or ".").glob("nvidia/cu*/include/cuda.h")]
DRIVER = r"""
#include <cuda.h>
#include <cstdio>
#include <cstring>
extern "C" {
CUresult cuModuleLoadData(CUmodule* m, const void* p) {
    std::printf("load %d\n", std::memcmp(p, "\x7f" "ELF", 4));
    *m = (CUmodule)1;
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* f, CUmodule, const char*) { *f = (CUfunction)1; return CUDA_SUCCESS; }
CUresult cuMemsetD8Async(CUdeviceptr, unsigned char, size_t, CUstream) { return CUDA_SUCCESS; }
CUresult cuLaunchKernel(CUfunction, unsigned x, unsigned y, unsigned, unsigned b, unsigned, unsigned, unsigned,
                        CUstream, void**, void**) {
    std::printf("launch %u %u %u\n", x, y, b);
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute what, CUdevice device) {
    *value = what == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9
           : what == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? (device ? 114 : 132) : 0;
    return CUDA_SUCCESS;
}
}
"""
MAIN = """
#include <CHIP/kernels.hpp>
#include <cstdio>
template <typename K, typename B> int run(const void* cubin) {
    K kernel; B buffers;
    return kernel.load(cubin) || kernel.run(buffers, nullptr) || kernel.unload();
}
int main() {
    std::printf("fits %d %d\\n", (int)gpu_tune_chip_SPACE::check(0), (int)gpu_tune_chip_SPACE::check(1));
    if (run<gpu_tune_ONE::Kernel, gpu_tune_ONE::Buffers>(gpu_tune_ONE::cubin())) return 1;
    if (run<gpu_tune_TWO::Kernel, gpu_tune_TWO::Buffers>(gpu_tune_TWO::cubin())) return 1;
    gpu_tune_OPEN::Kernels set; gpu_tune_OPEN::Buffers buffers; buffers.m = 40;
    if (set.load({gpu_tune_OPEN::cubin(0), gpu_tune_OPEN::cubin(1)}) || set.run(buffers, nullptr)) return 1;
    return set.unload();
}
"""
CMAKE = """cmake_minimum_required(VERSION 3.16)
project(consumer LANGUAGES CXX)
{found}
add_executable(app main.cpp driver.cpp)
target_include_directories(app SYSTEM PRIVATE {include})
target_compile_options(app PRIVATE -Wall -Wextra -Werror)
target_link_libraries(app gpu_tune::kernels)
"""


@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("g++")), reason="no CMake or C++ compiler here")
@pytest.mark.skipif(not INCLUDES, reason="no cuda.h on this machine (install gpu_tune[cuda13])")
def test_the_cmake_package_of_a_folder_is_built_installed_and_used(folder, tmp_path, compile_once):
    publish(folder, [toy_set(OPEN, (16, 64), (SizeRange(1, 20, 0), SizeRange(21, 64, 1)))])
    export_cmake.write(folder)
    open_export(folder)  # what the package adds is no damage, and is in the manifest
    assert {Path(n).name for n in read_manifest(folder)["package"]} == {*export_folder.PACKAGE}
    for damaged in (
        "CMakeLists.txt",
        f"predicted/{H200.chip}/cubins.cpp",
        f"predicted/{H200.chip}/{ONE.key}/kernel.hpp",
    ):
        whole = (folder / damaged).read_text()
        (folder / damaged).write_text(whole + "\n")
        with pytest.raises(CorruptData, match=f"{damaged} does not match its hash"):
            open_export(folder)
        (folder / damaged).write_text(whole)
    installed = tmp_path / "installed"
    flags = [f"-DGPU_TUNE_CUDA_INCLUDE={INCLUDES[0]}", f"-DCMAKE_INSTALL_PREFIX={installed}"]
    cmake("-S", folder, "-B", tmp_path / "package", *flags)
    cmake("--build", tmp_path / "package", "--target", "install")
    chip = f"predicted/{H200.chip}"
    names = {"CHIP": chip, "SPACE": H200.chip.replace("-", "_")}
    names.update({n: w.key for n, w in (("ONE", ONE), ("TWO", TWO), ("OPEN", OPEN))})
    main = MAIN
    for name, text in names.items():
        main = main.replace(name, text if name == "CHIP" else "".join(c if c.isalnum() else "_" for c in text))
    for kind, found in (
        ("found", f'find_package(gpu_tune_kernels REQUIRED PATHS "{installed}" NO_DEFAULT_PATH)'),
        ("added", f'set(GPU_TUNE_CUDA_INCLUDE "{INCLUDES[0]}")\nadd_subdirectory("{folder}" kernels)'),
    ):
        source = tmp_path / kind
        source.mkdir()
        (source / "main.cpp").write_text(main)
        (source / "driver.cpp").write_text(DRIVER)
        (source / "CMakeLists.txt").write_text(CMAKE.format(found=found, include=INCLUDES[0]))
        cmake("-S", source, "-B", source / "build")
        cmake("--build", source / "build")
        out = subprocess.run([source / "build" / "app"], capture_output=True, text=True, check=True).stdout.split("\n")
        assert out[0] == "fits 0 209"  # this chip; CUDA_ERROR_NO_BINARY_FOR_GPU for another number of SMs
        assert out[1:5] == ["load 0", "launch 1 5 64", "load 0", "launch 1 6 64"]
        assert out[5:7] == ["load 0", "load 0"] and out[7].startswith("launch 1 10 64")


def cmake(*arguments):
    done = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
