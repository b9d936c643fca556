"""An exported folder as one CMake package: the headers of all its kernels, their cubins embedded, a library a chip.

    add_subdirectory(FOLDER)                        # or, once installed: find_package(gpu_tune_kernels)
    target_link_libraries(app gpu_tune::<chip>)     # gpu_tune::kernels where the folder is of one chip

What uses it brings <cuda.h> and links libcuda. GCC or Clang on Linux: cubins are embedded by the assembler.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .. import paths, text
from ..errors import NotTuned, StoreError
from ..store.store import Entry, Store
from ..store.winner import Winner
from .export_cpp import header, set_header
from .export_folder import MANIFEST, write_manifest

PACKAGE = "gpu_tune_kernels"


def write(folder: Path) -> None:
    """Write ``kernel.hpp`` beside each winner in ``folder``, a ``kernels.hpp`` and ``cubins.cpp`` a chip, and
    ``CMakeLists.txt``; a manifest that is there names them by their hashes then. NotTuned where there is no winner,
    StoreError when something cannot be written."""
    store = Store(folder)
    entries = [e for e in store.entries() if e.winner or e.winner_set]
    if not entries:
        raise NotTuned(f"{folder} holds no winner to make a package of")
    chips: dict[Path, list[Entry]] = {}
    for entry in entries:
        chips.setdefault(entry.path.parent, []).append(entry)
    for place, own in chips.items():
        for entry in own:
            write_header(entry)
        _write(place / "kernels.hpp", _chip_header(own))
        _write(place / "cubins.cpp", _chip_source(own))
    _write(store.folder / "CMakeLists.txt", _cmake(store.folder, chips))
    if (store.folder / MANIFEST).is_file():
        write_manifest(store.folder)


def write_header(entry: Entry) -> None:
    """Write ``kernel.hpp`` beside a winner, or a set of them."""
    w = entry.winner
    if entry.winner_set is not None:
        _write(entry.path / "kernel.hpp", set_header(entry.winner_set))
    elif w is not None:
        _write(entry.path / "kernel.hpp", header(w.plan, w.workload, chip=w.chip, view=w.view))


def _first(entry: Entry) -> Winner:
    if entry.winner is not None:
        return entry.winner
    assert entry.winner_set is not None
    return entry.winner_set.kernels[0]


def _space(entry: Entry) -> str:
    found = entry.winner or entry.winner_set
    assert found is not None
    return "gpu_tune_" + re.sub(r"\W", "_", found.workload.key)


def _cubins(entry: Entry) -> list[str]:
    """Names of the files with machine code."""
    if entry.winner_set is None:
        return ["kernel.cubin"]
    return [f"{i}.cubin" for i in range(len(entry.winner_set.kernels))]


def _chip_header(entries: Sequence[Entry]) -> str:
    """Includes every kernel's header, declares the cubins, and tells whether a device is the chip."""
    first = _first(entries[0])
    capability = re.match(r"sm_(\d+)(\d)", first.arch)
    units = re.search(r"-(\d+)sm-", first.chip)
    major, minor = (capability[1], capability[2]) if capability else ("0", "0")
    space = _chip_space(first.chip)
    lines = [
        f"// Every kernel for {first.chip}, and its cubin. Made by gpu_tune.",
        "#pragma once",
        "#include <cuda.h>",
        "",
        *(f'#include "{entry.path.name}/kernel.hpp"' for entry in entries),
        "",
    ]
    for entry in entries:
        count = len(_cubins(entry))
        name = "cubin(int kernel)" if entry.winner_set is not None else "cubin()"
        note = f"  // 0 to {count - 1}, for Kernels::load" if entry.winner_set is not None else "  // for Kernel::load"
        lines.append(f"namespace {_space(entry)} {{ const void* {name}; }}{note}")
    lines += [
        "",
        f"namespace {space} {{",
        f'constexpr const char* chip = "{first.chip}";',
        "",
        "// CUDA_SUCCESS where the device is this chip, CUDA_ERROR_NO_BINARY_FOR_GPU where it is another one.",
        "inline CUresult check(CUdevice device) {",
        "    int major = 0, minor = 0, units = 0;",
        "    CUresult status = cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);",
        "    if (status == CUDA_SUCCESS)",
        "        status = cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);",
        "    if (status == CUDA_SUCCESS)",
        "        status = cuDeviceGetAttribute(&units, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);",
        "    if (status != CUDA_SUCCESS) return status;",
        f"    const bool same = major == {major} && minor == {minor} && units == {units[1] if units else '0'};",
        "    return same ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;",
        "}",
        f"}}  // namespace {space}",
        "",
    ]
    return "\n".join(lines)


def _chip_space(chip: str) -> str:
    return "gpu_tune_chip_" + re.sub(r"\W", "_", chip)


def _chip_source(entries: Sequence[Entry]) -> str:
    """Embeds every cubin; GPU_TUNE_FOLDER is the folder that this file lies in."""
    lines = [
        "// The machine code of every kernel, as constant data. Made by gpu_tune.",
        '#include "kernels.hpp"',
        "",
        "#define EMBED(symbol, file)                                                  \\",
        '    asm(".section .rodata\\n.balign 64\\n.global " #symbol "\\n.hidden " #symbol "\\n" \\',
        '        #symbol ":\\n.incbin \\"" GPU_TUNE_FOLDER "/" file "\\"\\n.byte 0\\n.previous\\n"); \\',
        '    extern "C" __attribute__((visibility("hidden"))) const unsigned char symbol[]',
        "",
    ]
    prefix = _chip_space(_first(entries[0]).chip)
    for number, entry in enumerate(entries):
        names = _cubins(entry)
        symbols = [f"{prefix}_{number}_{i}" for i in range(len(names))]
        lines += [f'EMBED({s}, "{entry.path.name}/{name}");' for s, name in zip(symbols, names)]
        if entry.winner_set is None:
            body = f"const void* cubin() {{ return {symbols[0]}; }}"
        else:
            table = ", ".join(symbols)
            body = (
                f"const void* cubin(int kernel) {{ static const void* const all[] = {{{table}}}; return all[kernel]; }}"
            )
        lines += [f"namespace {_space(entry)} {{ {body} }}", ""]
    return "\n".join(lines)


def _cmake(folder: Path, chips: dict[Path, list[Entry]]) -> str:
    """One library a chip, which can be added as a subfolder or installed and found."""
    lines = [
        "# Tuned kernels as a CMake package. Made by gpu_tune.",
        "cmake_minimum_required(VERSION 3.16)",
        f"project({PACKAGE} LANGUAGES CXX)",
        "",
        'set(GPU_TUNE_CUDA_INCLUDE "" CACHE PATH "Folder of cuda.h, where the CUDA toolkit is not found by itself")',
        "if(NOT GPU_TUNE_CUDA_INCLUDE)",
        "  find_package(CUDAToolkit QUIET)",
        "  set(GPU_TUNE_CUDA_INCLUDE ${CUDAToolkit_INCLUDE_DIRS})",
        "endif()",
        "",
    ]
    targets = []
    for place, entries in chips.items():
        relative, chip = place.relative_to(folder).as_posix(), _first(entries[0]).chip
        name = relative.replace("/", "-")
        target = f"{PACKAGE}_{name}"
        targets.append((target, name))
        cubins = [f"{relative}/{e.path.name}/{c}" for e in entries for c in _cubins(e)]
        headers = [f"{relative}/{e.path.name}/kernel.hpp" for e in entries]
        lines += [
            f"# {chip}",
            f'add_library({target} STATIC "{relative}/cubins.cpp")',
            f"add_library(gpu_tune::{name} ALIAS {target})",
            f"set_target_properties({target} PROPERTIES EXPORT_NAME {name} POSITION_INDEPENDENT_CODE ON)",
            f"target_compile_features({target} PUBLIC cxx_std_11)",
            f'target_compile_definitions({target} PRIVATE GPU_TUNE_FOLDER="${{CMAKE_CURRENT_SOURCE_DIR}}/{relative}")',
            f"target_include_directories({target} PUBLIC",
            '  "$<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}>"',
            f'  "$<INSTALL_INTERFACE:include/{PACKAGE}>")',
            f"target_include_directories({target} SYSTEM PUBLIC",
            '  "$<BUILD_INTERFACE:${GPU_TUNE_CUDA_INCLUDE}>")',
            f'set_source_files_properties("{relative}/cubins.cpp" PROPERTIES OBJECT_DEPENDS',
            '  "' + ";".join(f"${{CMAKE_CURRENT_SOURCE_DIR}}/{c}" for c in cubins) + '")',
            f"install(TARGETS {target} EXPORT {PACKAGE} ARCHIVE DESTINATION lib)",
            f'install(FILES "{relative}/kernels.hpp" DESTINATION "include/{PACKAGE}/{relative}")',
            *(f'install(FILES "{h}" DESTINATION "include/{PACKAGE}/{Path(h).parent}")' for h in headers),
            "",
        ]
    if len(targets) == 1:
        target, name = targets[0]
        lines += [
            f"add_library({PACKAGE} INTERFACE)",
            f"add_library(gpu_tune::kernels ALIAS {PACKAGE})",
            f"set_target_properties({PACKAGE} PROPERTIES EXPORT_NAME kernels)",
            f"target_link_libraries({PACKAGE} INTERFACE {target})",
            f"install(TARGETS {PACKAGE} EXPORT {PACKAGE})",
            "",
        ]
    lines += [
        f"install(EXPORT {PACKAGE} NAMESPACE gpu_tune:: FILE {PACKAGE}Config.cmake DESTINATION lib/cmake/{PACKAGE})",
        "",
    ]
    return "\n".join(lines)


def _write(path: Path, content: str) -> None:
    try:
        with paths.replacing(path) as new:
            text.write(new, content)
            new.chmod(0o644)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
